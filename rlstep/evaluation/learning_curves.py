"""Learning curves of RL runs: reading them, the samples needed to reach a level, means over seeds.

A run's evaluation history is JSONL, one row per evaluation; `samples` counts the training completions so far::

    {"samples": 2560, "update": 10, "accuracy": 0.575, "clean_accuracy": 0.53}

Of a task that cannot check every step there is no `clean_accuracy`.
"""

import math
from collections.abc import Sequence
from pathlib import Path

from rlstep.core.stats import t_interval
from rlstep.runtime.errors import DataError
from rlstep.runtime.rows import read_rows

KEYS = ("accuracy", "clean_accuracy")
ANSWERS = KEYS[:1]  # what every run's evaluations have


def read_history(path: str | Path, need: Sequence[str] = KEYS) -> list[dict]:
    """The evaluations of one run, in order of `samples`.

    A run that was killed and resumed may have evaluated the same point twice: the later row counts.

    Args:
        path: the file.
        need: which of `KEYS` every row has; others may be absent.

    Raises:
        DataError: a row lacks `samples`, `update` or one of `need`, or has something other than a number there.
    """
    rows: dict[int, dict] = {}
    for number, row in read_rows(path):
        for name in ("samples", "update", *KEYS):
            value = row.get(name)
            if value is None and name in KEYS and name not in need:
                continue
            if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
                raise DataError(path, number, name, f"expected a number, got {value!r}.")
        rows[row["samples"]] = row
    return [rows[samples] for samples in sorted(rows)]


def measured(histories: Sequence[Sequence[dict]]) -> list[str]:
    """Those of `KEYS` that every evaluation of these runs has."""
    return [key for key in KEYS if all(row.get(key) is not None for history in histories for row in history)]


def samples_to_reach(history: Sequence[dict], level: float, key: str = "accuracy") -> int | None:
    """Samples at the first evaluated point where `key` is at or above `level`; None if it never is.

    Nothing is interpolated: between two evaluations the curve was not measured. The true crossing lies at most one
    evaluation interval earlier, so a ratio of two arms is trustworthy down to that resolution only.
    """
    return next((row["samples"] for row in history if row[key] >= level), None)


def compare_arms(process: Sequence[dict], outcome: Sequence[dict], key: str = "accuracy") -> dict:
    """The samples each arm needs to reach the level at which the outcome arm ended.

    Returns:
        `level`: the outcome arm's last `key`; `outcome_samples`, `process_samples`: the first evaluation of each arm at
        or above it (the outcome arm may have reached it before its end, and is credited for that); `ratio`: outcome
        over process, None if the process arm never gets there or starts there; `outcome_final`, `process_final`: both
        arms at the last point where both were evaluated, `final_samples`.
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


def over_seeds(curves: Sequence[Sequence[float]]) -> dict[str, list]:
    """Mean and 95% t-interval over seeds of one curve per seed, all at the same points, as {"mean", "low", "high"}."""
    intervals = [t_interval(values) for values in zip(*curves, strict=True)]
    return {part: [getattr(interval, part) for interval in intervals] for part in ("mean", "low", "high")}
