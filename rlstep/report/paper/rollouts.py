"""What labels by rollouts cost, and how good they are, read from the folders of finished runs."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from rlstep.core.first_error import NONE, first_error_agreement
from rlstep.report.paper.measured import BySeed, metrics_of, over_seeds
from rlstep.report.paper.series import BY_HALVES, EXACT, HARD, Series
from rlstep.runtime.errors import UserError
from rlstep.steps.records import Solution, iter_solutions

# Budgets are spent in whole batches: series whose tokens differ by less than this share had the same ones.
ABOUT_EQUAL = 0.05


@dataclass(frozen=True)
class Cost:
    """What the labels of one size of a series took, in one seed.

    Attributes:
        selected: solutions that were to be labelled.
        solutions: those that were, before the tokens were spent.
        left_by_budget: those that were not, as the tokens were spent; 0 where they would have paid for more.
        tokens, rollouts: of all of them.
        rollouts_per_solution: None where none was labelled.
        agreement: the share of the labelled whose first error is where the exact checker has it; None likewise.
    """

    selected: int
    solutions: int
    left_by_budget: int
    tokens: int
    rollouts: int
    rollouts_per_solution: float | None
    agreement: float | None


def rollout_costs(runs: Sequence[Path], series: Series) -> dict[str, BySeed]:
    """The attributes of `Cost`, rows of seeds, one value per size.

    Raises:
        UserError: a file or its record is missing, or labels other solutions than the exact checker did.
    """
    rows = [[_cost(run, series, size) for size in series.sizes] for run in runs]
    return {name: [[getattr(cost, name) for cost in seed] for seed in rows] for name in Cost.__annotations__}


def fewer_rollouts(costs: Mapping[str, Mapping[str, BySeed]]) -> dict[str, list[float | None]]:
    """How many times as many rollouts one-by-one takes as the search by halves, at the agreement of the latter.

    Between its sizes, the logarithm of its rollouts per solution is taken to rise evenly with its agreement. Where it
    agrees less often even with its largest size, that size's rollouts count, a lower bound; where it agrees more often
    already with its smallest, nothing can be said.

    Args:
        costs: of `rollout_costs`, by the names of the series.

    Returns:
        {"mean", "low", "high"} over seeds, one value per size of the search by halves.
    """
    rows = []
    for seed, halves in enumerate(costs[BY_HALVES]["rollouts_per_solution"]):
        linear = costs[HARD]["agreement"][seed], costs[HARD]["rollouts_per_solution"][seed]
        pairs = zip(costs[BY_HALVES]["agreement"][seed], halves, strict=True)
        rows.append([_ratio(*linear, *pair) for pair in pairs])
    return over_seeds(rows)


def _ratio(
    agreements: Sequence[float | None], rollouts: Sequence[float | None], agreement: float | None, drawn: float | None
) -> float | None:
    if None in (*agreements, agreement) or not all((*rollouts, drawn)) or agreement < min(agreements):
        return None
    order = np.argsort(agreements, kind="stable")
    logs = np.interp(agreement, np.array(agreements)[order], np.log(rollouts)[order])
    return float(np.exp(logs)) / drawn


def unequal_tokens(
    runs: Sequence[Path], costs: Mapping[str, Mapping[str, BySeed]], all_series: Sequence[Series]
) -> list[dict]:
    """The labels by rollouts that took fewer tokens than others of their seed, as their solutions were all labelled.

    Args:
        runs: the folders of the seeds.
        costs: of `rollout_costs`, by the names of the series.
        all_series: those.

    Returns:
        {"seed", "series", "size", "tokens", "of"} each; `of` is the most that others took.
    """
    unequal = []
    for seed, run in enumerate(runs):
        most = max(max(cost["tokens"][seed]) for cost in costs.values())
        for series in all_series:
            for size, tokens in zip(series.sizes, costs[series.name]["tokens"][seed], strict=True):
                left = costs[series.name]["left_by_budget"][seed][series.sizes.index(size)]
                if size is not None and not left and tokens < (1 - ABOUT_EQUAL) * most:
                    unequal.append(
                        {"seed": run.name, "series": series.name, "size": size, "tokens": tokens, "of": most}
                    )
    return unequal


def first_wrong(solution: Solution) -> int:
    """The index of the first step that is labelled 0: from there no rollout reached the answer, hard or soft."""
    return next((step for step, label in enumerate(solution.labels) if label == 0), NONE)


def _cost(run: Path, series: Series, size: int | None) -> Cost:
    path = run / series.folder(size) / "labelled.jsonl"
    exact = run / EXACT.folder(None) / "labelled.jsonl"
    metrics = metrics_of(path)
    selected, ours, checked = 0, [], []
    for one, other in zip(iter_solutions(path), iter_solutions(exact), strict=True):
        if (one.problem_id, one.sample) != (other.problem_id, other.sample):
            raise UserError(f"{path} and {exact} hold other solutions, or in another order; label the same file.")
        selected += 1
        if any(label is not None for label in one.labels):
            ours.append(first_wrong(one))
            checked.append(first_wrong(other))
    rollouts = metrics.get("rollouts", 0)
    return Cost(
        selected, len(ours), metrics.get("left_by_budget", 0), metrics.get("rollout_tokens", 0), rollouts,
        rollouts / len(ours) if ours else None, first_error_agreement(ours, checked) if ours else None,
    )  # fmt: skip
