"""Monte-Carlo values of the states at the starts of steps, from rollouts of the policy (VinePPO, 2410.01679).

The value of a state is the mean return of K completions sampled from it: their outcome, and the rewards of the steps
that they add. States that several samples share, as all of a problem share its prompt, are rolled out once.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from rlstep.policy.rewards.scored import ScoredCompletion

# (prefixes as token ids, new tokens at most) -> K continuations of each, as token ids.
Sampler = Callable[[list[list[int]], int], list[list[list[int]]]]
# (the batch's rows that the completions belong to, completions as token ids) -> what the completions are worth.
Scorer = Callable[[list[int], list[list[int]]], list[ScoredCompletion]]


@dataclass
class State:
    """A prompt with the first steps of a completion.

    Attributes:
        row: one of the rows that pass through it.
        steps: how many steps have been written.
        prompt_ids, written: the prompt's tokens and those of the steps.
        places: (row, step) of all that pass through it.
    """

    row: int
    steps: int
    prompt_ids: list[int]
    written: list[int]
    places: list[tuple[int, int]] = field(default_factory=list)


def states(
    prompts: Sequence[list[int]], completions: Sequence[list[int]], step_ends: Sequence[Sequence[int]]
) -> list[State]:
    """The distinct states at the starts of all steps; a row without steps has its prompt alone.

    Args:
        prompts, completions: token ids, without padding.
        step_ends: for each completion the index of each step's last token.
    """
    by_text: dict[tuple, State] = {}
    for row, (prompt, completion, ends) in enumerate(zip(prompts, completions, step_ends, strict=True)):
        starts = [0, *(end + 1 for end in ends[:-1])] if ends else [0]
        for step, start in enumerate(starts):
            key = (tuple(prompt), tuple(completion[:start]))
            state = by_text.setdefault(key, State(row, step, prompt, completion[:start]))
            state.places.append((row, step))
    return list(by_text.values())


def roll_out(
    todo: Sequence[State], sample: Sampler, budget: int, batch_states: int, batches: int
) -> list[list[list[int]]]:
    """K completions of each state, the state's own steps included, as token ids.

    Long states come first, so that each batch is given no more new tokens than its shortest state has left.

    Args:
        todo: the states.
        sample: generates.
        budget: tokens of a completion, the state's own included; longer ones are cut.
        batch_states: states per call of `sample`.
        batches: calls in all, which may be more than these states need: under ZeRO-3 all ranks have to generate equally
            often.
    """
    order = sorted(range(len(todo)), key=lambda index: -len(todo[index].written))
    completions: list[list[list[int]]] = [[] for _ in todo]
    for number in range(batches):
        batch = order[number * batch_states : (number + 1) * batch_states]
        chosen = [todo[index] for index in batch or order[:1]]
        left = max(1, budget - min(len(state.written) for state in chosen))
        continuations = sample([state.prompt_ids + state.written for state in chosen], left)
        for index, of_state in zip(batch, continuations, strict=False):
            completions[index] = [(todo[index].written + new)[:budget] for new in of_state]
    return completions


def returns_of(todo: Sequence[State], rollouts: Sequence[list[list[int]]], score: Scorer) -> list[list[float]]:
    """For each state the returns of its rollouts; all rollouts are scored in one call."""
    flat = [(state.row, ids) for state, of_state in zip(todo, rollouts, strict=True) for ids in of_state]
    scored = iter(score([row for row, _ in flat], [ids for _, ids in flat]))
    return [
        returns([next(scored) for _ in of_state], state.steps) for state, of_state in zip(todo, rollouts, strict=True)
    ]


def returns(scored: Sequence[ScoredCompletion], steps: int) -> list[float]:
    """What each rollout earned after its first `steps` steps: the rewards of its further steps, and its outcome."""
    return [sum(row.step_rewards[steps:]) + row.outcome for row in scored]


def values(todo: Sequence[State], earned: Sequence[list[float]], rows: int) -> Tensor:
    """(B, S) mean returns at the starts of each row's steps, 0 where a row has no such step.

    Args:
        todo: the states.
        earned: for each state the returns of its rollouts.
        rows: B.
    """
    width = 1 + max(step for state in todo for _, step in state.places)
    values_BS = torch.zeros(rows, width)
    for state, of_state in zip(todo, earned, strict=True):
        for row, step in state.places:
            values_BS[row, step] = sum(of_state) / len(of_state)
    return values_BS
