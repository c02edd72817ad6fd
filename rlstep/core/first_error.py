"""Finding the first wrong step of a solution, as ProcessBench measures it (Zheng et al., 2412.06559).

A row is (probs, first wrong step): for each step the probability that it is right, and the index of the first wrong
one, -1 where every step is right. The verifier's answer is the first step whose probability is below a threshold.
"""

import hashlib
import math
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

import numpy as np

__all__ = [
    "NONE",
    "ProcessBench",
    "best_threshold",
    "cross_fitted_f1",
    "cross_fitted_thresholds",
    "f1_of_counts",
    "first_error",
    "first_error_agreement",
    "labels_to_first_error",
    "min_is_last_share",
    "processbench_f1",
]

NONE = -1
Row = tuple[Sequence[float], int]


@dataclass(frozen=True)
class ProcessBench:
    """How well the first wrong step is located.

    Attributes:
        f1: harmonic mean of the two accuracies, 0 where both are 0; NaN where one of them is.
        accuracy_on_errors: among the solutions with a wrong step, the share whose first one is located exactly; NaN if
            there are none.
        accuracy_on_correct: among the solutions without a wrong step, the share with no step called wrong; NaN if there
            are none.
        threshold: steps that score below it are called wrong. For a cross-fitted result, the threshold of each half;
            NaN where none could be chosen.
    """

    f1: float
    accuracy_on_errors: float
    accuracy_on_correct: float
    threshold: float | tuple[float, float]


def first_error(probs: Sequence[float], threshold: float) -> int:
    """The index of the first step with p < threshold, -1 where there is none.

    Args:
        probs: a solution's step scores, each the probability that the step is right.
        threshold: from which on a step counts as right.

    >>> first_error([0.9, 0.2, 0.1], 0.5), first_error([0.9, 0.5], 0.5)
    (1, -1)
    """
    below = np.flatnonzero(np.asarray(probs, dtype=np.float64) < threshold)
    return int(below[0]) if len(below) else NONE


def first_error_agreement(first_a: Sequence[int], first_b: Sequence[int]) -> float:
    """The share of solutions whose first wrong step two labellers see at the same place, or both see none.

    >>> first_error_agreement([2, NONE, 0, 1], [2, NONE, 1, NONE])
    0.5

    Args:
        first_a, first_b: for each solution the index of the first wrong step, -1 where every step is right.

    Returns:
        In [0, 1]; NaN for no solutions.

    Raises:
        ValueError: not one of each per solution.
    """
    if len(first_a) != len(first_b):
        raise ValueError(f"{len(first_a)} first errors and {len(first_b)}; give both labellers' of the same solutions.")
    same = [a == b for a, b in zip(first_a, first_b, strict=True)]
    return sum(same) / len(same) if same else math.nan


def labels_to_first_error(first: int, steps: int) -> list[float | None]:
    """A solution's labels from the place of its first wrong step: 1 before it, 0 there, None after it.

    Args:
        first: the step's index from 0; -1 where every step is right.
        steps: how many steps the solution has.

    >>> labels_to_first_error(1, 3), labels_to_first_error(NONE, 2)
    ([1.0, 0.0, None], [1.0, 1.0])

    Raises:
        ValueError: no such step.
    """
    if not NONE <= first < steps:
        raise ValueError(f"the first wrong step is {first} of {steps} steps; give its index from 0, or -1 for none.")
    if first == NONE:
        return [1.0] * steps
    return [*[1.0] * first, 0.0, *[None] * (steps - first - 1)]


def processbench_f1(rows: Collection[Row], threshold: float) -> ProcessBench:
    """F1 and both accuracies of `rows`, at a threshold that was not chosen on them.

    Args:
        rows: (probs (S,), first wrong step or -1).
        threshold: a step is called wrong iff its p is below this.

    Raises:
        ValueError: a probability outside [0, 1], or a first wrong step that the row does not have.
    """
    low_R, high_R, wrong_R = _intervals(rows)
    return _measured((low_R < threshold) & (threshold <= high_R), wrong_R, float(threshold))


def best_threshold(rows: Collection[Row]) -> float:
    """The threshold with the highest F1 on `rows`, exactly: F1 is a step function, and every step is evaluated.

    The threshold is the midpoint between two changes of F1. Among several with the highest F1, it is the one nearest to
    0.5, and the lower one of a tie.

    Args:
        rows: (probs (S,), first wrong step or -1), with and without wrong steps.

    Raises:
        ValueError: no row has a wrong step, or all have; a row is malformed (as `processbench_f1`).
    """
    return _best_threshold(*_intervals(rows))


def _best_threshold(low_R: np.ndarray, high_R: np.ndarray, wrong_R: np.ndarray) -> float:
    if not wrong_R.any() or wrong_R.all():
        raise ValueError("a threshold needs solutions with and without a wrong step; F1 is undefined on one kind.")
    thresholds_C = _candidates(low_R, high_R)
    f1_C = _harmonic(
        _share_inside(low_R[wrong_R], high_R[wrong_R], thresholds_C),
        _share_inside(low_R[~wrong_R], high_R[~wrong_R], thresholds_C),
    )
    best = thresholds_C[f1_C >= f1_C.max() - 1e-12]
    return float(best[np.abs(best - 0.5).argmin()])


def cross_fitted_f1(rows: Collection[Row], keys: Sequence[str]) -> ProcessBench:
    """F1 and both accuracies of all rows, each evaluated at the threshold that is best for the other half of the keys.

    A threshold tuned on the rows it is reported on is optimistic (`cross_fitted_thresholds`).

    Args:
        rows: (probs (S,), first wrong step or -1).
        keys: one per row.

    Returns:
        The measures; all NaN if a half lacks solutions with or without a wrong step, because then no threshold can be
        chosen on it.

    Raises:
        ValueError: not one key per row; a row is malformed (as `processbench_f1`).
    """
    low_R, high_R, wrong_R = _intervals(rows)
    threshold_R, halves = _cross_fitted(low_R, high_R, wrong_R, keys)
    if math.isnan(halves[0]):
        return ProcessBench(math.nan, math.nan, math.nan, halves)
    return _measured((low_R < threshold_R) & (threshold_R <= high_R), wrong_R, halves)


def cross_fitted_thresholds(rows: Collection[Row], keys: Sequence[str]) -> tuple[np.ndarray, tuple[float, float]]:
    """For each row the threshold that is best for the other half of the keys.

    The keys (problem ids: solutions of one problem are alike) are split in half in the order of their hashes, so the
    halves are the same in every run and share no key.

    Args:
        rows: (probs (S,), first wrong step or -1).
        keys: one per row.

    Returns:
        (R,) each row's threshold, and those of the first and of the second half; all NaN if a half lacks solutions with
        or without a wrong step.

    Raises:
        ValueError: not one key per row; a row is malformed (as `processbench_f1`).
    """
    return _cross_fitted(*_intervals(rows), keys)


def _cross_fitted(
    low_R: np.ndarray, high_R: np.ndarray, wrong_R: np.ndarray, keys: Sequence[str]
) -> tuple[np.ndarray, tuple[float, float]]:
    if len(wrong_R) != len(keys):
        raise ValueError(f"{len(wrong_R)} rows, {len(keys)} keys; give one key per row.")
    order = sorted(set(keys), key=lambda key: (hashlib.sha256(key.encode()).digest(), key))
    second = set(order[len(order) // 2 :])
    second_R = np.array([key in second for key in keys], dtype=bool)
    halves = [(low_R[half_R], high_R[half_R], wrong_R[half_R]) for half_R in (~second_R, second_R)]
    if any(not wrong.any() or wrong.all() for _, _, wrong in halves):
        return np.full(len(keys), math.nan), (math.nan, math.nan)
    for_second, for_first = _best_threshold(*halves[0]), _best_threshold(*halves[1])
    return np.where(second_R, for_second, for_first), (for_first, for_second)


def f1_of_counts(counts: np.ndarray) -> np.ndarray:
    """F1 from counts of solutions: the harmonic mean of the accuracies on those with and without a wrong step.

    Args:
        counts: (..., 4): with a wrong step: located, all; without one: none called wrong, all.

    Returns:
        (...); NaN where solutions of one kind are missing.
    """
    located, wrong, kept, right = np.moveaxis(np.asarray(counts, dtype=np.float64), -1, 0)
    both = (wrong > 0) & (right > 0)
    f1 = _harmonic(located / np.where(both, wrong, 1), kept / np.where(both, right, 1))
    return np.where(both, f1, np.nan)


def min_is_last_share(probs: Iterable[Sequence[float]]) -> float:
    """The share of solutions whose last step has the lowest p, among those with two or more steps.

    High if a verifier scores answers rather than steps. A tie goes to the earlier step, so a verifier that gives every
    step 1 has a share of 0.

    Args:
        probs: for each solution, (S,) probabilities.

    Returns:
        The share; NaN if no solution has two steps.
    """
    last = several = 0
    for row in probs:
        if len(row) > 1:
            several += 1
            last += int(np.asarray(row).argmin() == len(row) - 1)
    return last / several if several else math.nan


def _intervals(rows: Collection[Row]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """For each row (low, high, has a wrong step): the verifier's answer is right iff low < threshold <= high.

    With the first wrong step at k: iff p_k is below the threshold and no earlier p is. Without one: iff no p is.
    """
    low_R, high_R = np.full(len(rows), -np.inf), np.full(len(rows), np.inf)
    for number, (probs, first) in enumerate(rows):
        probs = np.asarray(probs, dtype=np.float64)
        if not ((probs >= 0) & (probs <= 1)).all():
            raise ValueError(f"row {number}: probabilities must be in [0, 1], got {probs.tolist()}.")
        if not NONE <= first < len(probs):
            raise ValueError(f"row {number}: the first wrong step is {first} of {len(probs)} steps; give -1 for none.")
        judged_right = probs[:first] if first >= 0 else probs
        high_R[number] = judged_right.min(initial=np.inf)
        if first >= 0:
            low_R[number] = probs[first]
    return low_R, high_R, low_R > -np.inf


def _candidates(low_R: np.ndarray, high_R: np.ndarray) -> np.ndarray:
    """One threshold in each stretch (a, b] of [0, 1] in which no row's answer changes, rising."""
    # Above the highest probability, every solution is called wrong at its first step: F1 is 0 there, and it is
    # evaluated only if there is room below 1.
    changes = np.unique(np.concatenate([low_R[np.isfinite(low_R)], high_R[np.isfinite(high_R)], [0.0, 1.0]]))
    below, above = changes[:-1], changes[1:]
    middle = (below + above) / 2
    # The midpoint of two neighbouring floats may round to the lower one, which is outside.
    return np.concatenate([[0.0], np.where(middle > below, middle, above)])


def _share_inside(low_R: np.ndarray, high_R: np.ndarray, thresholds_C: np.ndarray) -> np.ndarray:
    """The share of intervals (low, high] that contain each threshold; empty intervals contain none."""
    held = low_R < high_R
    begun_C = np.searchsorted(np.sort(low_R[held]), thresholds_C, side="left")
    over_C = np.searchsorted(np.sort(high_R[held]), thresholds_C, side="left")
    return (begun_C - over_C) / len(low_R)


def _measured(right_R: np.ndarray, wrong_R: np.ndarray, threshold) -> ProcessBench:
    on_errors = float(right_R[wrong_R].mean()) if wrong_R.any() else math.nan
    on_correct = float(right_R[~wrong_R].mean()) if not wrong_R.all() else math.nan
    return ProcessBench(float(_harmonic(on_errors, on_correct)), on_errors, on_correct, threshold)


def _harmonic(a, b):
    total = np.asarray(a + b)
    return np.where(total == 0, 0.0, 2 * np.asarray(a) * b / np.where(total == 0, 1.0, total))
