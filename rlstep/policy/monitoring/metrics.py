"""What is measured on every batch of completions; `rlstep.policy.monitoring.glossary` says what each metric tells.

`batch_metrics` gives single values, not means: they go into the trainer's lists, whose means it logs. A metric of
completions has one value per completion, one of steps one per step, one of groups one per group. So a last, smaller
batch of an evaluation weighs as much as its rows do, and several batches average as one large batch would.
"""

import math
from collections import defaultdict
from collections.abc import Sequence

import torch

from rlstep.core.aggregate import solution_score, vote_weight
from rlstep.core.process_sets import process_sets, set_sizes
from rlstep.core.rewards import pad_steps
from rlstep.policy.rewards.scored import ScoredCompletion
from rlstep.steps.trees import prefix_numbers

POSITIONS = 12  # positions with their own metric; later ones share one
# Guards that withhold single steps (rlstep.policy.rewards.guards). All are logged, so that curves include zeros.
STEP_GUARDS = ("after_answer", "filler", "max_step_chars", "max_steps", "repeats", "restated")
_SAME = 1e-6  # a PRM's scores of one text differ by as much from batch to batch


def batch_metrics(
    scored: Sequence[ScoredCompletion],
    completions: Sequence[str],
    group_size: int,
    tokens: Sequence[int],
    finished: Sequence[bool] | None = None,
) -> dict[str, list[float]]:
    """Values to extend the trainer's lists with, by name (`glossary.METRICS` says what each is); no list is empty.

    Args:
        scored: (B,) of all ranks, a problem's samples together.
        completions: (B,) their texts, which the spans refer to.
        group_size: samples per problem; with 1 there are no groups to measure.
        tokens: (B,) completion tokens.
        finished: (B,) whether the policy ended the completion itself; None if unknown.

    Raises:
        ValueError: the arguments have different lengths, or B is not a multiple of the group size.
    """
    rows = {"scored completions": scored, "completions": completions, "tokens": tokens}
    rows |= {} if finished is None else {"finished flags": finished}
    if len({len(values) for values in rows.values()}) > 1:
        listed = ", ".join(f"{len(values)} {name}" for name, values in rows.items())
        raise ValueError(f"{listed}: give one of each per row.")
    if len(scored) % group_size:
        raise ValueError(f"{len(scored)} rows are not a multiple of {group_size} samples per problem.")
    metrics: dict[str, list[float]] = defaultdict(list)
    _rewards(scored, group_size, metrics)
    for row in scored:
        for name, value in row.own.items():
            metrics[f"reward/own/{name}"].append(float(value))
    _shared(scored, completions, group_size, metrics)
    _accuracy(scored, metrics)
    for row, text, length in zip(scored, completions, tokens, strict=True):
        _prm(row, metrics)
        _steps(row, text, length, metrics)
    _guards(scored, metrics)
    metrics["completions/cut"] = _cut(scored)
    metrics["completions/without_answer"] = [float(not row.answered) for row in scored]
    if finished is not None:
        metrics["completions/truncated"] = [float(not done) for done in finished]
    return {name: values for name, values in metrics.items() if values}


def rollout_metrics(scored: Sequence[ScoredCompletion], finished: Sequence[bool]) -> dict[str, list[float]]:
    """The same for vine's rollouts, which are no completions of the batch: one value per rollout; no list is empty.

    Args:
        scored: what each rollout is worth.
        finished: whether the policy ended it itself.
    """
    metrics = {"vine/cut": _cut(scored), "vine/truncated": [float(not done) for done in finished]}
    return {name: values for name, values in metrics.items() if values}


def _cut(scored: Sequence[ScoredCompletion]) -> list[float]:
    """For each completion that verifiers read, 1 where it was too long for one of them, else 0."""
    return [float(bool(row.cut_by)) for row in scored if row.cut_by is not None]


def _rewards(scored: Sequence[ScoredCompletion], group_size: int, metrics: dict[str, list[float]]) -> None:
    for row in scored:
        metrics["reward/process"].append(float(sum(row.step_rewards)))
        metrics["reward/outcome"].append(float(row.outcome))
        for position, reward in enumerate(row.step_rewards, start=1):
            metrics[f"reward/step_at_{_position(position)}"].append(float(reward))
    if group_size > 1:
        groups = (scored[start : start + group_size] for start in range(0, len(scored), group_size))
        metrics["reward/no_signal"] = [float(_all_alike(group)) for group in groups]


def _shared(
    scored: Sequence[ScoredCompletion], completions: Sequence[str], group_size: int, metrics: dict[str, list[float]]
) -> None:
    """Of which steps a problem's samples say something by themselves (`rlstep.core.process_sets`)."""
    numbers = prefix_numbers(completions, [row.steps for row in scored])
    if group_size < 3 or not any(numbers):
        return  # of two samples neither or both have a step
    ids_BS, mask_BS = pad_steps([torch.tensor(of_row, dtype=torch.long) for of_row in numbers])
    sizes_BS = set_sizes(process_sets(ids_BS, mask_BS, torch.arange(len(scored)) // group_size))
    shared_BS = (sizes_BS > 1) & (sizes_BS < group_size)
    metrics["group/shared_steps"] = shared_BS[mask_BS].float().tolist()


def _position(position: int) -> str:
    return f"{position:02d}" if position <= POSITIONS else f"{POSITIONS + 1}_on"


def _all_alike(group: Sequence[ScoredCompletion]) -> bool:
    """Whether all samples of a problem have the same step rewards and the same outcome reward."""
    first = [*group[0].step_rewards, group[0].outcome]
    return all(
        len(row.step_rewards) == len(first) - 1
        and all(math.isclose(a, b, abs_tol=_SAME) for a, b in zip([*row.step_rewards, row.outcome], first, strict=True))
        for row in group[1:]
    )


def _accuracy(scored: Sequence[ScoredCompletion], metrics: dict[str, list[float]]) -> None:
    metrics["accuracy"] = [float(row.correct) for row in scored]
    # All rows or none: rows whose steps all have labels are not a fair sample of the others.
    if all(row.checked for row in scored) and any(row.labels for row in scored):
        metrics["clean_accuracy"] = [float(row.clean) for row in scored]


def _prm(row: ScoredCompletion, metrics: dict[str, list[float]]) -> None:
    if row.step_scores is None:
        return
    if not row.cut_by or len(row.step_scores) == len(row.steps):
        score = vote_weight(solution_score(row.step_scores, "product"), "product")
        metrics["prm/score"].append(score)
        metrics["prm/gap"].append(score - row.correct)
    known = zip(row.step_scores, row.labels, strict=False)  # a PRM may have scored only the first steps
    metrics["prm/step_gap"] += [float(p) - label for p, label in known if label is not None]


def _steps(row: ScoredCompletion, text: str, length: int, metrics: dict[str, list[float]]) -> None:
    count = len(row.steps)
    metrics["steps/count"].append(float(count))
    metrics["steps/characters"] += [float(end - start) for start, end in row.steps]
    # The same for each step, so that the mean over steps is tokens over steps.
    metrics["steps/tokens"] += [length / max(count, 1)] * count
    earlier: set[str] = set()
    for start, end in row.steps:
        folded = " ".join(text[start:end].split())
        metrics["steps/repeated"].append(float(folded in earlier))
        earlier.add(folded)


def _guards(scored: Sequence[ScoredCompletion], metrics: dict[str, list[float]]) -> None:
    reasons = [reason for row in scored for reason in row.guards]
    if reasons:
        metrics["steps/withheld"] = [float(reason is not None) for reason in reasons]
        for name in sorted({*STEP_GUARDS, *reasons} - {None}):
            metrics[f"steps/withheld_{name}"] = [float(reason == name) for reason in reasons]
