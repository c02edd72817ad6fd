"""How many labels an accuracy takes: curves of accuracy against labels, and how two ways of choosing them compare.

Two numbers compare two curves, and they are not the same. Lightman et al. (2305.20050, section 4.2) fit a straight line
to each curve over the logarithm of the labels, and read the ratio of the slopes, 2.6, as "2.6 times more data
efficient". That is the **slope ratio**: how much more accuracy a tenfold of labels brings. It is not a number of labels
saved. The **label factor** is one: how many times fewer labels the steeper line takes to the same accuracy. Of parallel
lines the first is 1 and the second constant; otherwise the second depends on the accuracy at which it is read.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from rlstep.core.stats import Interval

__all__ = ["Efficiency", "LabelCurve", "LogLine", "data_efficiency", "label_factor", "log_line", "slope_ratio"]


@dataclass(frozen=True)
class LogLine:
    """accuracy = intercept + slope * log10(labels).

    Attributes:
        slope: what ten times as many labels add.
        intercept: at one label.
    """

    slope: float
    intercept: float

    def accuracy(self, labels: float) -> float:
        return self.intercept + self.slope * math.log10(labels)


@dataclass(frozen=True)
class LabelCurve:
    """What verifiers reach that were trained on ever more labels.

    Attributes:
        labels_RK: (R seeds, K budgets) numbers of labels, such as labelled steps, above 0.
        accuracy_RPK: (R, P problems, K) for each problem whether it was solved, or the probability.

    Raises:
        ValueError: other shapes, fewer than two budgets, a number of labels that is not above 0, or values that are not
            finite.
    """

    labels_RK: np.ndarray
    accuracy_RPK: np.ndarray

    def __post_init__(self):
        for name in ("labels_RK", "accuracy_RPK"):
            object.__setattr__(self, name, np.asarray(getattr(self, name), dtype=np.float64))
        labels, accuracy = self.labels_RK, self.accuracy_RPK
        shapes = f"labels {labels.shape}, accuracy {accuracy.shape}"
        if labels.ndim != 2 or accuracy.ndim != 3 or labels.shape != (accuracy.shape[0], accuracy.shape[2]):
            raise ValueError(f"{shapes}; give (seeds, budgets) and (seeds, problems, budgets).")
        if not accuracy.size:
            raise ValueError(f"{shapes}; give at least one seed and one problem.")
        if not (np.isfinite(labels) & (labels > 0)).all() or not np.isfinite(accuracy).all():
            raise ValueError("numbers of labels must be above 0, and all values finite.")
        if any(len(set(row)) < 2 for row in labels):
            raise ValueError("a line needs at least two numbers of labels per seed.")

    def line(self, seeds: np.ndarray | None = None, problems: np.ndarray | None = None) -> LogLine:
        """The best-fit line through the points of all seeds, or of the given ones.

        Args:
            seeds: (r,) indices of seeds.
            problems: (r, p) for each of them, indices of problems.
        """
        if seeds is None:
            return log_line(self.labels_RK.ravel(), self.accuracy_RPK.mean(axis=1).ravel())
        means = [self.accuracy_RPK[seed][drawn].mean(axis=0) for seed, drawn in zip(seeds, problems, strict=True)]
        return log_line(self.labels_RK[seeds].ravel(), np.concatenate(means))


@dataclass(frozen=True)
class Efficiency:
    """How one way of choosing what to label compares with another.

    Attributes:
        slope_ratio: of `slope_ratio`, with its interval.
        label_factor: of `label_factor` at `at_accuracy`, with its interval.
        at_accuracy: where that is read: what the baseline's line reaches at its largest number of labels.
    """

    slope_ratio: Interval
    label_factor: Interval
    at_accuracy: float


def log_line(labels: np.ndarray, accuracy: np.ndarray) -> LogLine:
    """The least-squares line of accuracy over log10(labels).

    slope = cov(x, y) / var(x) with x = log10(labels).

    >>> line = log_line([10, 100, 1000], [0.2, 0.3, 0.4])
    >>> round(line.slope, 9), round(line.intercept, 9)
    (0.1, 0.1)

    Args:
        labels, accuracy: (N,) points.

    Raises:
        ValueError: points of different lengths, labels not above 0, or all at one number of labels.
    """
    labels, accuracy = np.asarray(labels, dtype=np.float64), np.asarray(accuracy, dtype=np.float64)
    if labels.shape != accuracy.shape or labels.ndim != 1:
        raise ValueError(f"labels {labels.shape}, accuracy {accuracy.shape}; give one of each per point.")
    if not (labels > 0).all() or len(set(labels.tolist())) < 2:
        raise ValueError("a line over log10(labels) needs at least two different numbers of labels above 0.")
    x = np.log10(labels)
    centred = x - x.mean()
    slope = float(centred @ (accuracy - accuracy.mean()) / (centred @ centred))
    return LogLine(slope, float(accuracy.mean() - slope * x.mean()))


def slope_ratio(line: LogLine, baseline: LogLine) -> float:
    """How many times as much accuracy a tenfold of labels brings: slope / slope of the baseline.

    Infinite where it rises and the baseline does not, 0 where neither does.

    Args:
        line: accuracy over log10(labels).
        baseline: that of what it is compared with.

    >>> slope_ratio(LogLine(0.26, 0.0), LogLine(0.1, 0.0))
    2.6
    """
    if baseline.slope > 0:
        return line.slope / baseline.slope
    return math.inf if line.slope > 0 else 0.0


def label_factor(line: LogLine, baseline: LogLine, accuracy: float) -> float:
    """How many times as many labels the baseline takes to an accuracy: n_baseline / n.

    n = 10^((accuracy - intercept) / slope) is where a line reaches it. Infinite where the line rises and the baseline
    does not, 0 where the line does not rise.

    >>> round(label_factor(LogLine(0.2, 0.1), LogLine(0.1, 0.1), accuracy=0.3), 9)
    10.0
    """
    if line.slope <= 0:
        return 0.0
    if baseline.slope <= 0:
        return math.inf
    exponent = (accuracy - baseline.intercept) / baseline.slope - (accuracy - line.intercept) / line.slope
    return math.inf if exponent > 300 else 10.0**exponent


def data_efficiency(
    curve: LabelCurve, baseline: LabelCurve, resamples: int = 2000, seed: int = 0, same_problems: bool = True
) -> Efficiency:
    """Slope ratio and label factor of two curves, with 95% percentile bootstrap intervals (Efron, 1979).

    A resample draws seeds with replacement, and for each of them problems with replacement, the same ones for both
    curves: their difference is what counts. Its lines may fall, and its ratio then be infinite or 0: an upper end of
    infinity says that the baseline may not rise at all.

    Args:
        curve, baseline: with the same seeds, and the same problems in the same order.
        resamples: how many.
        seed: seeds the draws.
        same_problems: whether all seeds are evaluated on the same problems, which are then drawn once for all of them.

    Raises:
        ValueError: curves of different seeds or problems, or fewer than one resample.
    """
    R, P = curve.accuracy_RPK.shape[:2]
    if baseline.accuracy_RPK.shape[:2] != (R, P):
        shapes = f"{curve.accuracy_RPK.shape[:2]} and {baseline.accuracy_RPK.shape[:2]}"
        raise ValueError(f"the curves have {shapes} seeds and problems; give both the same ones.")
    if resamples < 1:
        raise ValueError(f"resamples is {resamples}; it must be at least 1.")
    level = baseline.line().accuracy(float(baseline.labels_RK.max()))
    ratios, factors = [], []
    for seeds, problems in _draws(R, P, resamples, np.random.default_rng(seed), same_problems):
        drawn, other = curve.line(seeds, problems), baseline.line(seeds, problems)
        ratios.append(slope_ratio(drawn, other))
        factors.append(label_factor(drawn, other, level))
    return Efficiency(
        _interval(slope_ratio(curve.line(), baseline.line()), ratios, R * P),
        _interval(label_factor(curve.line(), baseline.line(), level), factors, R * P),
        level,
    )


def _draws(R: int, P: int, resamples: int, rng, same: bool) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yields ((R,) seeds, (R, P) problems of each)."""
    for _ in range(resamples):
        seeds = rng.integers(R, size=R)
        yield seeds, np.tile(rng.integers(P, size=P), (R, 1)) if same else rng.integers(P, size=(R, P))


def _interval(estimate: float, resampled: list[float], units: int) -> Interval:
    if units == 1:
        return Interval(estimate, None, None)
    # Between two infinities nothing can be interpolated.
    low, high = np.percentile(resampled, [2.5, 97.5], method="nearest")
    return Interval(estimate, float(low), float(high))
