"""Learning curves of RL runs: reading them, the samples they need to reach a level, means and intervals over seeds.

A run's evaluation history is JSONL, one row an evaluation; `samples` counts the completions drawn so far for training::

    {"samples": 2560, "update": 10, "accuracy": 0.575, "clean_accuracy": 0.53}
"""

import math
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

from rlstep.runtime.errors import DataError
from rlstep.runtime.rows import read_rows

KEYS = ("accuracy", "clean_accuracy")


class Interval(NamedTuple):
    """A mean and its 95% interval; the ends are None where one value gives no spread."""

    mean: float
    low: float | None
    high: float | None


def read_history(path: str | Path) -> list[dict]:
    """The evaluations of one run, by rising `samples`.

    A run that was killed and continued may have evaluated one place twice: the later row stands.

    Raises:
        DataError: a row lacks `samples`, `update` or one of `KEYS`, or holds something else than a number there.
    """
    rows: dict[int, dict] = {}
    for number, row in read_rows(path):
        for name in ("samples", "update", *KEYS):
            value = row.get(name)
            if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
                raise DataError(path, number, name, f"expected a number, found {value!r}.")
        rows[row["samples"]] = row
    return [rows[samples] for samples in sorted(rows)]


def samples_to_reach(history: Sequence[dict], level: float, key: str = "accuracy") -> int | None:
    """Samples at the first evaluated point where `key` is at or above `level`; None where it never is.

    Nothing is interpolated: between two evaluations the curve was not measured. The true crossing lies at most one
    evaluation interval earlier, so a ratio of two arms is trustworthy down to that resolution only.
    """
    return next((row["samples"] for row in history if row[key] >= level), None)


def compare_arms(process: Sequence[dict], outcome: Sequence[dict], key: str = "accuracy") -> dict:
    """Samples that either arm needs for the level on which the outcome arm ended.

    Returns:
        `level`: the outcome arm's last `key`; `outcome_samples`, `process_samples`: the first evaluation of each arm at
        or above it (the outcome arm may have been there before its end, and is credited for it); `ratio`: outcome over
        process, None where the process arm never gets there or stands there before its first sample; `outcome_final`,
        `process_final`: both arms at the last place where both were evaluated, `final_samples`.
    """
    level = outcome[-1][key]
    needed = {"outcome": samples_to_reach(outcome, level, key), "process": samples_to_reach(process, level, key)}
    at_process, at_outcome = ({row["samples"]: row[key] for row in history} for history in (process, outcome))
    last = max(set(at_process) & set(at_outcome), default=None)
    return {
        "level": level,
        "outcome_samples": needed["outcome"],
        "process_samples": needed["process"],
        "ratio": needed["outcome"] / needed["process"] if needed["process"] else None,
        "final_samples": last,
        "outcome_final": at_outcome.get(last),
        "process_final": at_process.get(last),
    }


def mean_interval(values: Sequence[float]) -> Interval:
    """Mean and 95% t-interval: mean +- t_{0.975, n-1} s / sqrt(n), s the sample standard deviation (n - 1).

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
    half = t_quantile(n - 1) * deviation / math.sqrt(n)
    return Interval(mean, mean - half, mean + half)


@lru_cache
def t_quantile(degrees: int, confidence: float = 0.95) -> float:
    """The t with P(|T| < t) = confidence, T Student-distributed, found by bisection of `_t_central`.

    >>> round(t_quantile(2), 3)
    4.303
    """
    if degrees < 1:
        raise ValueError(f"{degrees} degrees of freedom")
    low, high = 0.0, 1.0
    while _t_central(high, degrees) < confidence:
        high *= 2
    while high - low > 1e-12 * high:
        middle = (low + high) / 2
        low, high = (middle, high) if _t_central(middle, degrees) < confidence else (low, middle)
    return high


def _t_central(t: float, degrees: int) -> float:
    """P(|T| < t) for whole degrees of freedom: Abramowitz and Stegun, 26.7.3 and 26.7.4."""
    angle = math.atan(t / math.sqrt(degrees))
    odd = degrees % 2
    # The sums are cos + 2/3 cos^3 + 2*4/(3*5) cos^5 ... (odd) and 1 + 1/2 cos^2 + 1*3/(2*4) cos^4 ... (even).
    term = math.cos(angle) if odd else 1.0
    total = 0.0
    for power in range(odd, degrees - 1, 2):
        total += term
        term *= (power + 1) / (power + 2) * math.cos(angle) ** 2
    total *= math.sin(angle)
    return 2 / math.pi * (angle + total) if odd else total
