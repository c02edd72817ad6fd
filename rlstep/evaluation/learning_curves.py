"""Learning curves of RL runs: reading them, the samples they need to reach a level, means over seeds.

A run's evaluation history is JSONL, one row an evaluation; `samples` counts the completions drawn so far for training::

    {"samples": 2560, "update": 10, "accuracy": 0.575, "clean_accuracy": 0.53}
"""

import math
from collections.abc import Sequence
from pathlib import Path

from rlstep.core.stats import t_interval
from rlstep.runtime.errors import DataError
from rlstep.runtime.rows import read_rows

KEYS = ("accuracy", "clean_accuracy")


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
                raise DataError(path, number, name, f"expected a number, got {value!r}.")
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


def over_seeds(curves: Sequence[Sequence[float]]) -> dict[str, list]:
    """One curve per seed, all at the same places, as {"mean", "low", "high"} along them: 95% t-intervals over seeds."""
    intervals = [t_interval(values) for values in zip(*curves, strict=True)]
    return {part: [getattr(interval, part) for interval in intervals] for part in ("mean", "low", "high")}
