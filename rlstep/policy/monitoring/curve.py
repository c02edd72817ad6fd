"""A PPO run's learning curve: one row per evaluation."""

from pathlib import Path

from transformers import TrainerCallback

from rlstep.policy.config import StepPPOConfig
from rlstep.runtime.rows import write_rows

CURVE = "eval.jsonl"


class LearningCurve(TrainerCallback):
    """Keeps the whole learning curve and writes it to a file after each evaluation.

    It is made of the Trainer's history, which checkpoints hold: a run that was killed and continued repeats no row, and
    has its accuracy even where it evaluates nothing more.

    Args:
        path: the file.

    Attributes:
        rows: `update`, `samples`, `accuracy` and, where it was measured, `clean_accuracy` of each evaluation.
    """

    def __init__(self, path: Path):
        self.path = path
        self.rows: list[dict] = []

    def on_train_begin(self, args, state, control, **_):
        self.rows = rows_of(args, state.log_history)

    def on_evaluate(self, args, state, control, **_):
        self.rows = rows_of(args, state.log_history)
        if state.is_world_process_zero:
            write_rows(self.path, self.rows)

    def last(self) -> dict[str, float]:
        """The accuracies of the last evaluation; empty if there was none."""
        return {name: value for name, value in (self.rows or [{}])[-1].items() if name.endswith("accuracy")}


def rows_of(args: StepPPOConfig, history: list[dict]) -> list[dict]:
    """A row for each optimizer step that was evaluated."""
    rows: dict[int, dict] = {}
    for entry in history:
        if "eval_accuracy" in entry:
            row = {
                "update": args.batches_at(entry["step"]),
                "samples": args.samples_at(entry["step"]),
                "accuracy": entry["eval_accuracy"],
            }
            # Not measured if the checker cannot label every step; and if no answer is right, no solution is clean.
            clean = entry.get("eval_clean_accuracy", 0.0 if row["accuracy"] == 0 else None)
            row |= {} if clean is None else {"clean_accuracy": clean}
            rows.setdefault(entry["step"], row)
    return list(rows.values())
