"""Which completions of a PPO run are kept to be looked at, and the rows of `completions.jsonl` that keep them.

A row is a solution (`rlstep.steps.records`), so that whatever reads solutions reads the file. What PPO knows beside
that is in its `extra`, under `ppo`, next to what else is known of the problem::

    {"problem_id": "update-41-problem-3", "sample": 5, "prompt": "...", "completion": "...", "reference": "3",
     "finished": true, "steps": [[0, 10], [10, 20]], "labels": [1, 0], "answer": "3", "correct": true,
     "scores": {"prm": [0.9, 0.2]},
     "extra": {"ppo": {"update": 41, "samples": 3936, "chosen": "evenly through the batch", "step_rewards": [0.4, -0.3],
                       "outcome": 1.0, "guards": [null, null], "withheld_by": null, "own": {}, "cut_by": []}}}

The training set has no ids: a problem is named by the update, and by its place in that update's batch, from 0.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, fields

from rlstep.policy.rewards.scored import ScoredBatch, ScoredCompletion
from rlstep.runtime.errors import DataError
from rlstep.steps.records import Solution, shown, solution_of
from rlstep.steps.sources import Row

COMPLETIONS = "completions.jsonl"
PPO = "ppo"  # the key in `extra`
EVEN, TELLING = 6, 3  # completions of a batch
EVENLY, TELLINGLY = "evenly through the batch", "wrong, with the highest step rewards"


def choose(scored: Sequence[ScoredCompletion]) -> dict[str, list[int]]:
    """Which completions of a batch are shown, by the reason: an even sample, and where rewards were gamed, if any."""
    last, count = len(scored) - 1, min(EVEN, len(scored))
    even = [round(k * last / max(count - 1, 1)) for k in range(count)]
    wrong = [row for row, worth in enumerate(scored) if not worth.correct and row not in even]
    wrong.sort(key=lambda row: -sum(scored[row].step_rewards))
    return {EVENLY: even, TELLINGLY: wrong[:TELLING]}


@dataclass(frozen=True)
class Paid:
    """When a completion was sampled, and what PPO paid for it.

    Attributes:
        update: counted from 1.
        samples: completions that were sampled for training by the end of the update's batch.
        chosen: why it was kept: `EVENLY` or `TELLINGLY`.
        step_rewards: by the credit scheme, guarded and weighted, from the first step on; may be shorter than the steps.
        outcome: the outcome's reward.
        guards: for each step the guard that withheld its reward, or None.
        withheld_by: the guard that withheld every positive step reward, or None.
        own: what each of the user's own rewards gave, by name.
        cut_by: the verifiers for which it was too long.
    """

    update: int
    samples: int
    chosen: str
    step_rewards: list[float | None]
    outcome: float | None
    guards: list[str | None]
    withheld_by: str | None
    own: dict[str, float | None]
    cut_by: list[str]


def solution_row(
    batch: ScoredBatch, row: int, chosen: str, batch_size: int, num_generations: int, prompt_format: dict | None
) -> dict:
    """The row of one completion.

    Args:
        batch: of all ranks, a problem's samples one after the other.
        row: its place in the batch.
        chosen: why it is kept.
        batch_size: completions per update.
        num_generations: samples per problem.
        prompt_format: how prompts are written for the policy, as rows of solutions have it.
    """
    worth = batch.scored[row]
    count = len(worth.steps)
    scores = {}
    if worth.step_scores is not None:
        read = _finite(worth.step_scores[:count])
        scores["prm"] = read + [None] * (count - len(read))  # steps that did not fit into the PRM
    paid = Paid(
        update=batch.update,
        samples=batch.update * batch_size,
        chosen=chosen,
        step_rewards=_finite(worth.step_rewards),
        outcome=_finite([worth.outcome])[0],
        guards=list(worth.guards),
        withheld_by=worth.withheld_by,
        own=dict(zip(worth.own, _finite(worth.own.values()), strict=True)),
        cut_by=worth.cut_by or [],
    )
    problem, sample = divmod(row, num_generations)
    solution = Solution(
        problem_id=f"update-{batch.update}-problem-{problem}",
        prompt=batch.prompts[row],
        completion=batch.completions[row],
        reference=batch.references[row],
        sample=sample,
        finished=batch.finished[row],
        steps=worth.steps,
        labels=worth.labels if len(worth.labels) == count else None,
        answer=worth.answer,
        correct=worth.correct,
        scores=scores,
        prompt_format=prompt_format,
        extra=batch.extras[row] | {PPO: asdict(paid)},
    )
    return solution.to_row()


def _finite(values) -> list[float | None]:
    """Numbers as JSON has them: NaN and infinities, which it has not, are None."""
    return [float(value) if math.isfinite(value) else None for value in values]


# --- Reading.


def _is_number_or_none(value) -> bool:
    return value is None or isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _is_text_or_none(value) -> bool:
    return value is None or isinstance(value, str)


def _is_count(value) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1


def _is_list(value, holds: Callable) -> bool:
    return isinstance(value, list) and all(holds(item) for item in value)


_HOLDS = {
    "update": (_is_count, "a whole number from 1"),
    "samples": (_is_count, "a whole number from 1"),
    "chosen": (lambda v: isinstance(v, str), "text"),
    "step_rewards": (lambda v: _is_list(v, _is_number_or_none), "a list of finite numbers or null"),
    "outcome": (_is_number_or_none, "a finite number or null"),
    "guards": (lambda v: _is_list(v, _is_text_or_none), "a list of names or null"),
    "withheld_by": (_is_text_or_none, "a name or null"),
    "own": (
        lambda v: isinstance(v, dict) and all(_is_number_or_none(value) for value in v.values()),
        "a mapping of names to finite numbers or null",
    ),
    "cut_by": (lambda v: _is_list(v, lambda name: isinstance(name, str)), "a list of names"),
}


def completion_of(row: Row) -> tuple[Solution, Paid]:
    """A row's solution, and what PPO paid for it.

    Raises:
        DataError: the row is malformed.
    """
    solution = solution_of(row)
    given = solution.extra.get(PPO)
    place = f"extra.{PPO}"
    if not isinstance(given, dict):
        raise DataError(row.source, row.number, place, f"expected a mapping, got {shown(given)}.")
    for field in fields(Paid):
        holds, wanted = _HOLDS[field.name]
        if field.name not in given:
            raise DataError(row.source, row.number, f"{place}.{field.name}", "missing.")
        if not holds(given[field.name]):
            problem = f"expected {wanted}, got {shown(given[field.name])}."
            raise DataError(row.source, row.number, f"{place}.{field.name}", problem)
    if unknown := sorted(given.keys() - _HOLDS.keys()):
        raise DataError(row.source, row.number, f"{place}.{unknown[0]}", "unknown field.")
    return solution, Paid(**given)
