"""Intervals of shares."""

import numpy as np

Z95 = 1.959964  # standard normal quantile of a 95% interval


def wilson_interval(shares: np.ndarray, counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(low, high) of the 95% interval of shares among `counts` (Wilson, 1927), within [0, 1] also for shares 0 and 1.

    (p + z^2 / 2n -+ z sqrt(p (1 - p) / n + z^2 / 4n^2)) / (1 + z^2 / n)
    """
    square = Z95**2 / counts
    middle = shares + square / 2
    half = np.sqrt(shares * (1 - shares) * square + square**2 / 4)
    return np.clip((middle - half) / (1 + square), 0, shares), np.clip((middle + half) / (1 + square), shares, 1)
