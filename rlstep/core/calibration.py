"""Whether probabilities mean what they say: of the steps given p = 0.8, are eight in ten right?

Targets may be soft: within a bin, their mean is compared with the mean probability.
"""

from dataclasses import dataclass

import numpy as np

__all__ = ["Reliability", "brier_score", "expected_calibration_error", "reliability"]


@dataclass(frozen=True)
class Reliability:
    """Predictions in M equal-width bins of [0, 1].

    Attributes:
        edges: (M + 1,) bin edges; a bin includes its upper edge, the first one its lower edge as well.
        counts: (M,) predictions per bin.
        confidence: (M,) mean probability per bin; NaN for an empty bin.
        accuracy: (M,) mean target per bin; NaN for an empty bin.
    """

    edges: np.ndarray
    counts: np.ndarray
    confidence: np.ndarray
    accuracy: np.ndarray

    @property
    def error(self) -> float:
        """The expected calibration error, sum_m n_m / n |acc_m - conf_m| (Guo et al., 1706.04599, equation 3)."""
        full = self.counts > 0
        gaps = np.abs(self.accuracy[full] - self.confidence[full])
        return float((gaps * self.counts[full]).sum() / self.counts.sum())


def reliability(probs: np.ndarray, targets: np.ndarray, bins: int = 15) -> Reliability:
    """Sorts predictions into equal-width bins, ((m - 1) / M, m / M] (Guo et al., 1706.04599, section 2).

    Args:
        probs: (N,) probabilities, N > 0.
        targets: (N,) the truth, 0 or 1 or in between.
        bins: number of bins M; the paper uses 15.

    Raises:
        ValueError: no predictions, shapes that differ, values outside [0, 1], or no bins.
    """
    probs, targets = _checked(probs, targets)
    if bins < 1:
        raise ValueError(f"bins is {bins}; give at least 1, for example 15.")
    edges = np.linspace(0, 1, bins + 1)
    bin_N = np.maximum(np.searchsorted(edges, probs, side="left") - 1, 0)
    counts = np.bincount(bin_N, minlength=bins)
    some = np.where(counts > 0, counts, np.nan)
    confidence = np.bincount(bin_N, weights=probs, minlength=bins) / some
    accuracy = np.bincount(bin_N, weights=targets, minlength=bins) / some
    return Reliability(edges, counts, confidence, accuracy)


def expected_calibration_error(probs: np.ndarray, targets: np.ndarray, bins: int = 15) -> float:
    """`Reliability.error` of the predictions, in [0, 1]; 0 is best. Arguments and errors as `reliability`."""
    return reliability(probs, targets, bins).error


def brier_score(probs: np.ndarray, targets: np.ndarray) -> float:
    """Mean of (p - t)^2, in [0, 1]; 0 is best; p = 0.5 everywhere gets 0.25 on 0/1 targets (Brier, 1950).

    Args:
        probs: (N,) probabilities, N > 0.
        targets: (N,) the truth, 0 or 1 or in between.

    Raises:
        ValueError: no predictions, shapes that differ, or values outside [0, 1].
    """
    probs, targets = _checked(probs, targets)
    return float(((probs - targets) ** 2).mean())


def _checked(probs: np.ndarray, targets: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    probs, targets = np.asarray(probs, dtype=np.float64), np.asarray(targets, dtype=np.float64)
    if probs.ndim != 1 or probs.shape != targets.shape or not len(probs):
        raise ValueError(f"probabilities {probs.shape} and targets {targets.shape}: give one of each per prediction.")
    for name, values in (("probabilities", probs), ("targets", targets)):
        if not ((values >= 0) & (values <= 1)).all():
            raise ValueError(f"{name} must be in [0, 1]; got {values.min():g} to {values.max():g}.")
    return probs, targets
