"""Measures of a verifier on published benchmarks of step labels, by their own rules, with intervals over problems.

- ProcessBench (2412.06559): the first step whose probability is below a threshold must be the first wrong one. By
  subset the F1 of both accuracies, and the mean of the subsets' F1.
- PRMBench (2501.03124): every step is called right or wrong. By class of error its score, the mean of the F1 of right
  and of wrong steps; their mean in each of three groups; and the score of all modified solutions together, which is the
  benchmark's. The unmodified solutions count in none of these.

A threshold is a number, `cross_fitted` (the best of the other half of the problems), or for ProcessBench the name of a
subset on which it is chosen, as its authors do with GSM8K for PRMs that give probabilities.
"""

import math
import re
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from rlstep.core.first_error import best_threshold, cross_fitted_thresholds, f1_of_counts, first_error
from rlstep.core.stats import Interval, percentile_interval, resampled_sums
from rlstep.core.step_detection import count_steps, prm_score
from rlstep.runtime.errors import UserError
from rlstep.steps.readers.prmbench import CLASS, ORIGINAL
from rlstep.steps.records import Solution

# What verifiers are measured on.
PROCESSBENCH, PRMBENCH, BEST_OF_N = "processbench", "prmbench", "best_of_n"

CROSS_FITTED = "cross_fitted"
RESAMPLES = 2000
# PRMBench's three groups of its classes, with their spelling.
GROUPS = {
    "simplicity": ("redundency", "circular"),
    "soundness": ("counterfactual", "step_contradiction", "domain_inconsistency", "confidence"),
    "sensitivity": ("missing_condition", "deception", "multi_solutions"),
}


@dataclass(frozen=True)
class JudgedSolution:
    """A solution of a benchmark with a verifier's scores.

    Attributes:
        part: its subset or class.
        problem: whose solutions are alike; intervals are over problems.
        probs: (S,) the probability that each step is right.
        labels: (S,) 1 right, 0 wrong, None unknown.
    """

    part: str
    problem: Hashable
    probs: list[float]
    labels: list[float | None]

    @property
    def first_wrong(self) -> int:
        """The first step that is wrong, from 0; -1 where none is."""
        return next((step for step, label in enumerate(self.labels) if label == 0), -1)


@dataclass(frozen=True)
class Measure:
    """A benchmark's score with its interval, the number of solutions, and the thresholds that were used."""

    score: Interval
    solutions: int
    thresholds: tuple[float, ...]

    def to_dict(self) -> dict:
        mean, low, high = self.score
        return {
            "score": None if math.isnan(mean) else mean,
            "low": low,
            "high": high,
            "solutions": self.solutions,
            "thresholds": [limit for limit in self.thresholds if not math.isnan(limit)],
        }


def subset_of(solution: Solution) -> str:
    """ProcessBench's subset, with which a row's id begins.

    Raises:
        UserError: the id is of another form.
    """
    match = re.fullmatch(r"(?P<subset>.+)-\d+", solution.problem_id)
    if match is None:
        raise UserError(f"'{solution.problem_id}' is no id of ProcessBench, such as gsm8k-17: its subset is not known.")
    return match["subset"]


def class_of(solution: Solution) -> str:
    """PRMBench's class of a solution; `original` for an unmodified one."""
    return solution.extra[CLASS]


def processbench(rows: Sequence[JudgedSolution], threshold: float | str) -> dict[str, Measure]:
    """F1 by subset, and `average`, the mean of the subsets.

    Args:
        rows: of all subsets.
        threshold: a number, `cross_fitted`, or the name of a subset.

    Raises:
        UserError: there is no such subset, or a threshold cannot be chosen on it.
    """
    subsets = _by_part(rows)
    check_threshold(threshold, subsets)
    if isinstance(threshold, str) and threshold != CROSS_FITTED:
        threshold = _chosen_on(threshold, subsets[threshold])
    measures, draws = {}, []
    for number, (subset, solutions) in enumerate(sorted(subsets.items())):
        thresholds_R, used = _thresholds(solutions, threshold)
        counts = [_located(row, limit) for row, limit in zip(solutions, thresholds_R, strict=True)]
        estimate, drawn_R = _resampled(solutions, counts, f1_of_counts, seed=number)
        measures[subset] = Measure(percentile_interval(estimate, drawn_R), len(solutions), used)
        draws.append((estimate, drawn_R))
    return measures | {"average": _mean(draws, measures.values())}


def check_threshold(threshold: float | str, subsets: Iterable[str]) -> None:
    """Refuses a name of no subset of ProcessBench that is there.

    Raises:
        UserError: it is none of `subsets`.
    """
    subsets = sorted(set(subsets))
    if isinstance(threshold, str) and threshold not in (*subsets, CROSS_FITTED):
        raise UserError(
            f"the threshold is '{threshold}': a number, {CROSS_FITTED}, or one of the subsets that are there, "
            f"{', '.join(subsets)}."
        )


def prmbench(rows: Sequence[JudgedSolution], threshold: float) -> dict[str, Measure]:
    """The score of each class and each group that is there, and `overall`.

    Args:
        rows: of all classes; unmodified solutions are left out.
        threshold: a step is called wrong iff its probability is below this.
    """
    modified = [row for row in rows if row.part != ORIGINAL]
    measures, draws = {}, {}
    for number, (part, solutions) in enumerate([("overall", modified), *sorted(_by_part(modified).items())]):
        counts = [count_steps(row.probs, [label == 0 for label in row.labels], threshold) for row in solutions]
        draws[part] = estimate, drawn_R = _resampled(solutions, counts, prm_score, seed=number)
        measures[part] = Measure(percentile_interval(estimate, drawn_R), len(solutions), (threshold,))
    for group, parts in GROUPS.items():
        if all(part in draws for part in parts):
            measures[group] = _mean([draws[part] for part in parts], [measures[part] for part in parts])
    return measures


def _by_part(rows: Iterable[JudgedSolution]) -> dict[str, list[JudgedSolution]]:
    parts = defaultdict(list)
    for row in rows:
        parts[row.part].append(row)
    return parts


def _chosen_on(subset: str, solutions: Sequence[JudgedSolution]) -> float:
    try:
        return best_threshold([(row.probs, row.first_wrong) for row in solutions])
    except ValueError as error:
        raise UserError(f"no threshold can be chosen on the subset {subset}: {error}") from None


def _thresholds(solutions: Sequence[JudgedSolution], threshold: float | str) -> tuple[np.ndarray, tuple[float, ...]]:
    if threshold == CROSS_FITTED:
        rows = [(row.probs, row.first_wrong) for row in solutions]
        return cross_fitted_thresholds(rows, [str(row.problem) for row in solutions])
    return np.full(len(solutions), threshold), (threshold,)


def _located(row: JudgedSolution, threshold: float) -> np.ndarray:
    """A solution as `f1_of_counts` counts it."""
    wrong = row.first_wrong >= 0
    hit = not math.isnan(threshold) and first_error(row.probs, threshold) == row.first_wrong
    # Without a threshold nothing is known: the accuracies are left undefined.
    known = not math.isnan(threshold)
    return np.array([hit and wrong, wrong and known, hit and not wrong, not wrong and known], dtype=int)


def _resampled(
    solutions: Sequence[JudgedSolution], counts: Sequence[np.ndarray], statistic: Callable, seed: int
) -> tuple[float, np.ndarray]:
    """A statistic of summed counts, and its values on resamples of the problems."""
    problems: dict[Hashable, np.ndarray] = {}
    for row, count in zip(solutions, counts, strict=True):
        problems[row.problem] = problems.get(row.problem, 0) + count
    counts_PK = np.array(list(problems.values()))
    return float(statistic(counts_PK.sum(axis=0))), statistic(resampled_sums(counts_PK, RESAMPLES, seed))


def _mean(draws: Sequence[tuple[float, np.ndarray]], parts: Iterable[Measure]) -> Measure:
    """The mean over parts, whose resamples are independent."""
    estimate, drawn_R = (np.mean([draw[which] for draw in draws], axis=0) for which in (0, 1))
    parts = list(parts)
    used = tuple(dict.fromkeys(limit for part in parts for limit in part.thresholds))
    return Measure(percentile_interval(float(estimate), drawn_R), sum(part.solutions for part in parts), used)
