"""Learning curves against what training took, so that runs can be compared at equal compute.

A PPO run's log is JSONL, `metrics.jsonl`; its rows of training have the mean processor seconds of the optimizer steps
since the row before them, in which sampling, a verifier's scoring and updates are counted, and evaluations are not::

    {"step": 20, "samples": 960, "loss": 0.012, "processor_step_time": 1.1, ...}
"""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from rlstep.runtime.errors import UserError
from rlstep.runtime.rows import read_rows

STEP_TIME = "processor_step_time"


def training_seconds(log: str | Path, samples: Sequence[int]) -> list[float]:
    """Processor seconds of training up to each of these numbers of samples.

    Between two rows of the log every sample is taken to cost the same.

    Args:
        log: a run's metrics.jsonl; of a step that was logged twice the later row counts.
        samples: rising.

    Raises:
        DataError: a row is no JSON object.
        UserError: the log is missing, has no processor times, or ends before the last of `samples`.
    """
    rows = {row["step"]: row for _, row in read_rows(log) if isinstance(row.get(STEP_TIME), (int, float))}
    if not rows:
        raise UserError(f"{log} has no {STEP_TIME}: an older version wrote it. Run the policy again.")
    at_step, seconds, total = 0, {0: 0.0}, 0.0
    for step in sorted(rows):
        total += (step - at_step) * rows[step][STEP_TIME]
        at_step, seconds[rows[step]["samples"]] = step, total
    if samples and max(seconds) < samples[-1]:
        raise UserError(
            f"{log} ends at {max(seconds):,} samples, before the evaluation at {samples[-1]:,}. Let logging_steps "
            "divide eval_steps."
        )
    return np.interp(samples, list(seconds), list(seconds.values())).tolist()


class AtEqualCompute(NamedTuple):
    """Two runs' values at the seconds at which the shorter one ends."""

    seconds: float
    first: float
    second: float


def at_equal_compute(
    first_seconds: Sequence[float],
    first: Sequence[float],
    second_seconds: Sequence[float],
    second: Sequence[float],
) -> AtEqualCompute:
    """Reads two curves at the last point that both have reached, between evaluations on a straight line.

    Before its first evaluation a curve has that one's value: a run that begins later is where it began.

    >>> at_equal_compute([0, 10, 20], [0.1, 0.2, 0.5], [0, 15], [0.1, 0.6])
    AtEqualCompute(seconds=15.0, first=0.35, second=0.6)

    Args:
        first_seconds, second_seconds: at which each run was evaluated, rising.
        first, second: what each evaluation gave.
    """
    seconds = float(min(first_seconds[-1], second_seconds[-1]))
    a, b = float(np.interp(seconds, first_seconds, first)), float(np.interp(seconds, second_seconds, second))
    return AtEqualCompute(seconds, a, b)
