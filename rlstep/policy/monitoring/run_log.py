"""A PPO run's log: a line in `metrics.jsonl` for each that the trainer logs, and wandb's x axis."""

import json
import math
import os
from collections.abc import Sequence
from pathlib import Path

from transformers import TrainerCallback

from rlstep.runtime.errors import DataError
from rlstep.runtime.rows import atomic, naming
from rlstep.runtime.trackers import TRACKERS

METRICS_FILE = "metrics.jsonl"


class JsonLog(TrainerCallback):
    """Appends all that the trainer logs to OUTPUT_DIR/metrics.jsonl, one line each time::

        {"step": 20, "update": 10, "samples": 960, "loss": 0.012, "reward/process": 3.1, ...}

    With `logging_steps` at the optimizer steps of an update (`num_iterations`, where nothing is accumulated) there is
    one line per update; evaluations have lines of their own. What is not a finite number is null.

    A run that is continued drops what was logged after its checkpoint, and logs that again. The last update of a run
    saves before its last lines are logged: those that are there already are not repeated. A run that starts from the
    beginning empties the file.
    """

    def __init__(self):
        self._logged_before: set[tuple[int, frozenset[str]]] = set()

    def on_train_begin(self, args, state, control, **_):
        if not state.is_world_process_zero:
            return
        path = Path(args.output_dir) / METRICS_FILE
        rows = rows_up_to(path, state.global_step) if path.is_file() and state.global_step else []
        self._logged_before = {(row["step"], frozenset(row)) for row in rows}
        with atomic(path) as temporary:
            temporary.write_text("".join(_line(row) for row in rows), encoding="utf-8")

    def on_log(self, args, state, control, logs=None, **_):
        if not state.is_world_process_zero:
            return
        step = state.global_step
        row = {"step": step, "update": args.batches_at(step), "samples": args.samples_at(step)}
        row |= {name: _plain(value) for name, value in (logs or {}).items()}
        if (step, frozenset(row)) in self._logged_before:
            return
        path = Path(args.output_dir) / METRICS_FILE
        path.parent.mkdir(parents=True, exist_ok=True)
        with naming(path), path.open("a", encoding="utf-8") as file:
            file.write(_line(row))
            file.flush()
            os.fsync(file.fileno())


def rows_up_to(path: Path, last: int, place: Sequence[str] = ("step",), kind: str = "metrics") -> list[dict]:
    """The rows of a log that were written up to a point of the run.

    Args:
        path: the file.
        last: the optimizer step, or the update, of the last rows that are wanted.
        place: the keys that lead to a row's own.
        kind: what the file holds, for the error.

    Raises:
        DataError: a whole line is no JSON object with a number at `place`. A last line without its end, as a kill
            leaves it, is dropped.
    """
    complete, _, _ = path.read_bytes().rpartition(b"\n")
    rows = []
    for number, line in enumerate(complete.split(b"\n") if complete else [], start=1):
        try:
            row = json.loads(line)
        except ValueError:
            row = None
        at = row
        for key in place:
            at = at.get(key) if isinstance(at, dict) else None
        if not isinstance(at, int):
            raise DataError(path, number, ".".join(place), f"not a line of {kind}; remove it, or move the file away.")
        rows += [row] if at <= last else []
    return rows


def _line(row: dict) -> str:
    return json.dumps(row, allow_nan=False) + "\n"


def _plain(value) -> bool | int | float | str | None:
    """A logged value as JSON has it; NaN and infinities, which JSON has not, are null."""
    if value is None or isinstance(value, (bool, int, str)):
        return value
    value = float(value)
    return value if math.isfinite(value) else None


class SamplesAxis(TrainerCallback):
    """Draws wandb's curves against samples, if the run logs there, so that runs with different batches compare.

    It has to come after the Trainer's own callback, which draws them against optimizer steps; callbacks that are given
    to the Trainer do.
    """

    def on_train_begin(self, args, state, control, **_):
        if state.is_world_process_zero and "wandb" in args.report_to and (wandb := TRACKERS["wandb"].module()):
            wandb.define_metric("train/samples")
            wandb.define_metric("*", step_metric="train/samples", step_sync=True)
