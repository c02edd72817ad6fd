"""Telling wrong steps from right ones, as PRMBench measures it (Song et al., 2501.03124), on every step of a solution.

Steps are counted in four kinds, in this order: right and called right (TP), right and called wrong (FN), wrong and
called wrong (TN), wrong and called right (FP). Counts of solutions add up, so measures of many are those of their sum.
"""

from collections.abc import Sequence

import numpy as np

__all__ = ["count_steps", "negative_f1", "positive_f1", "prm_score"]


def count_steps(probs: Sequence[float], wrong: Sequence[bool], threshold: float) -> np.ndarray:
    """The steps of a solution, counted.

    >>> count_steps([0.9, 0.4, 0.2, 0.8], [False, False, True, True], 0.5).tolist()
    [1, 1, 1, 1]

    Args:
        probs: (S,) the probability that a step is right.
        wrong: (S,) whether it is wrong.
        threshold: a step is called wrong iff its probability is below this.

    Returns:
        (4,) integers: TP, FN, TN, FP.

    Raises:
        ValueError: not one mark per probability.
    """
    probs_S, wrong_S = np.asarray(probs, dtype=np.float64), np.asarray(wrong, dtype=bool)
    if probs_S.shape != wrong_S.shape:
        raise ValueError(f"{len(probs_S)} probabilities for {len(wrong_S)} steps; give one per step.")
    called_S = probs_S < threshold
    kinds = (~wrong_S & ~called_S, ~wrong_S & called_S, wrong_S & called_S, wrong_S & ~called_S)
    return np.array([kind.sum() for kind in kinds])


def positive_f1(counts: np.ndarray) -> np.ndarray:
    """F1 of finding right steps: 2 TP / (2 TP + FP + FN).

    Args:
        counts: (..., 4) of `count_steps`, or sums of them.

    Returns:
        (...); NaN where no step is right and none is called so.
    """
    TP, FN, _, FP = np.moveaxis(np.asarray(counts, dtype=np.float64), -1, 0)
    return _ratio(2 * TP, 2 * TP + FP + FN)


def negative_f1(counts: np.ndarray) -> np.ndarray:
    """F1 of finding wrong steps: 2 TN / (2 TN + FN + FP).

    Args:
        counts: (..., 4) of `count_steps`, or sums of them.

    Returns:
        (...); NaN where no step is wrong and none is called so.
    """
    _, FN, TN, FP = np.moveaxis(np.asarray(counts, dtype=np.float64), -1, 0)
    return _ratio(2 * TN, 2 * TN + FN + FP)


def prm_score(counts: np.ndarray) -> np.ndarray:
    """PRMBench's score: the mean of both F1.

    Where no step is wrong (its class of several solutions), the score is `positive_f1`, as published.

    Args:
        counts: (..., 4) of `count_steps`, or sums of them.

    Returns:
        (...)
    """
    counts = np.asarray(counts)
    wrong = counts[..., 2] + counts[..., 3]
    positive = positive_f1(counts)
    return np.where(wrong == 0, positive, (positive + negative_f1(counts)) / 2)


def _ratio(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    return np.where(whole > 0, part / np.where(whole > 0, whole, 1), np.nan)
