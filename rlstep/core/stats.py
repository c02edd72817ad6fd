"""How far a measured number can be trusted: confidence intervals, and how well scores separate two classes."""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple, TypeVar

import numpy as np
import scipy  # loads scipy.stats and scipy.special, which take a second, at their first use

__all__ = [
    "Interval", "Z95", "auroc", "bootstrap_interval", "normal_margin", "percentile_interval", "resampled_sums",
    "t_interval", "wilson_interval",
]  # fmt: skip

Unit = TypeVar("Unit")

# The standard normal quantile of a 95% interval, as printed in tables: with more digits, intervals that are already in
# files would change in their ninth digit.
Z95 = 1.959964


class Interval(NamedTuple):
    """An estimate and its 95% interval; the ends are None for a single value, which has no spread."""

    mean: float
    low: float | None
    high: float | None


def t_interval(values: Sequence[float]) -> Interval:
    """Mean and 95% t-interval (Student, 1908): mean -/+ t_{0.975, n-1} s / sqrt(n).

    s is the sample standard deviation, dividing by n - 1. For a few roughly normal values, such as one result per seed.

    Args:
        values: n numbers.

    Raises:
        ValueError: no values.
    """
    n = len(values)
    if n == 0:
        raise ValueError("the mean of no values")
    mean = math.fsum(values) / n
    if n == 1:
        return Interval(mean, None, None)
    deviation = math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (n - 1))
    half = float(scipy.special.stdtrit(n - 1, 0.975)) * deviation / math.sqrt(n)
    return Interval(mean, mean - half, mean + half)


def normal_margin(values_PN: np.ndarray) -> np.ndarray:
    """Half the width of the 95% interval of each column's mean: 1.96 s / sqrt(P), for many independent rows.

    Args:
        values_PN: (P, N), P rows, at least two; s divides by P - 1.

    Returns:
        (N,)

    Raises:
        ValueError: fewer than two rows.
    """
    P = len(values_PN)
    if P < 2:
        raise ValueError(f"{P} rows have no spread; give at least two.")
    return Z95 * values_PN.std(axis=0, ddof=1) / np.sqrt(P)


def wilson_interval(shares_L: np.ndarray, counts_L: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(low, high) of the 95% interval of a share p among n (Wilson, 1927), within [0, 1] also for shares 0 and 1.

    (p + z^2 / 2n -/+ z sqrt(p (1 - p) / n + z^2 / 4n^2)) / (1 + z^2 / n)

    Args:
        shares_L: (L,) in [0, 1]; the mean of soft labels is a share too, and the interval is then too wide.
        counts_L: (L,) the number that each is a share of, above 0.

    Returns:
        Two arrays, (L,).
    """
    square_L = Z95**2 / counts_L
    middle_L = shares_L + square_L / 2
    half_L = np.sqrt(shares_L * (1 - shares_L) * square_L + square_L**2 / 4)
    low_L = np.clip((middle_L - half_L) / (1 + square_L), 0, shares_L)
    return low_L, np.clip((middle_L + half_L) / (1 + square_L), shares_L, 1)


def bootstrap_interval(
    units: Sequence[Unit], statistic: Callable[[list[Unit]], float], resamples: int = 2000, seed: int = 0
) -> Interval:
    """A statistic and its 95% percentile bootstrap interval (Efron, 1979), where there is no formula, as for AUROC.

    Each of `resamples` resamples draws len(units) units with replacement; the interval runs from the 2.5th to the
    97.5th percentile of the statistic. Dependent values belong in one unit: problems are independent draws, but the
    steps of one problem's solutions are not.

    >>> problems = [([0.9, 0.8], [True, True]), ([0.7, 0.2], [True, False]), ([0.6, 0.1], [False, False])]
    >>> def of_steps(drawn):
    ...     return float(np.mean([p > 0.5 for scores, _ in drawn for p in scores]))
    >>> bootstrap_interval(problems, of_steps).mean
    0.6666666666666666

    Args:
        units: independent draws, of any kind.
        statistic: a function of a list of units; must be defined on every resample.
        resamples: number of resamples.
        seed: seeds the draws.

    Returns:
        The statistic of `units` as `mean`, and the percentiles; the ends are None for a single unit.

    Raises:
        ValueError: no units, or fewer than one resample.
    """
    if not len(units):
        raise ValueError("a statistic of no units")
    if resamples < 1:
        raise ValueError(f"resamples is {resamples}; it must be at least 1.")
    estimate = float(statistic(list(units)))
    if len(units) == 1:
        return Interval(estimate, None, None)
    drawn = scipy.stats.bootstrap(
        (np.arange(len(units)),), lambda places: float(statistic([units[place] for place in places])),
        n_resamples=resamples, vectorized=False, method="percentile", rng=np.random.default_rng(seed),
    )  # fmt: skip
    low, high = drawn.confidence_interval
    return Interval(estimate, float(low), float(high))


def resampled_sums(counts_UK: np.ndarray, resamples: int = 2000, seed: int = 0) -> np.ndarray:
    """Sums of counts over bootstrap resamples of their units: for statistics of sums, as F1 is of steps found.

    Much faster than `bootstrap_interval` where a statistic needs only the sums. Statistics of several groups of units,
    each resampled with a seed of its own, are resamples of a statistic over all groups.

    Args:
        counts_UK: (U, K) counts of each independent unit.
        resamples: number of resamples R; each draws U units with replacement.
        seed: seeds the draws.

    Returns:
        (R, K)

    Raises:
        ValueError: no units, or fewer than one resample.
    """
    U = len(counts_UK)
    if U == 0:
        raise ValueError("a statistic of no units")
    if resamples < 1:
        raise ValueError(f"resamples is {resamples}; it must be at least 1.")
    # How often each unit is drawn, instead of which ones are: a product of matrices then sums them.
    times_RU = np.random.default_rng(seed).multinomial(U, np.full(U, 1 / U), size=resamples)
    return times_RU @ np.asarray(counts_UK)


def percentile_interval(estimate: float, drawn_R: np.ndarray) -> Interval:
    """An estimate with the 2.5th and the 97.5th percentile of its resamples (Efron, 1979).

    Args:
        estimate: the statistic of all units.
        drawn_R: (R,) that of each resample; NaN where the resample does not define it, which is left out.

    Returns:
        The interval; its ends are None where no resample defines the statistic.
    """
    known_R = drawn_R[~np.isnan(drawn_R)]
    if not len(known_R):
        return Interval(float(estimate), None, None)
    low, high = np.percentile(known_R, [2.5, 97.5])
    return Interval(float(estimate), float(low), float(high))


def auroc(scores_N: np.ndarray, right_N: np.ndarray) -> float:
    """The probability that a right one scores above a wrong one, ties counting half.

    From the Mann-Whitney U (1947) on average ranks: (sum of ranks of the right ones - r (r + 1) / 2) / (r w), for r
    right and w wrong ones.

    Args:
        scores_N: (N,) any increasing measure of being right.
        right_N: (N,) booleans, with both values present.

    Returns:
        In [0, 1]; 0.5 for scores that say nothing, NaN where a score is NaN.

    Raises:
        ValueError: all are right, or all wrong.
    """
    right_N = np.asarray(right_N, dtype=bool)
    r = int(right_N.sum())
    w = len(right_N) - r
    if r == 0 or w == 0:
        raise ValueError("AUROC needs both right and wrong ones")
    ranks_N = scipy.stats.rankdata(scores_N)
    return float((ranks_N[right_N].sum() - r * (r + 1) / 2) / (r * w))
