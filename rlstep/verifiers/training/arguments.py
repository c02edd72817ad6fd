"""`VerifierArguments`: the Trainer's arguments, for verifiers."""

from dataclasses import dataclass, field
from typing import Annotated, ClassVar

from transformers import TrainingArguments

from rlstep.runtime.constraints import Constraint, Idle, Range, check, library_faults
from rlstep.runtime.tracking import PROJECT_HELP, default_project
from rlstep.runtime.trainer_settings import SHARED, merged, trainer_faults

NO_METRICS = (Idle("a verifier's loss and evaluation do not read it"),)
IN_LENGTHS = (Idle("rows are batched by their own lengths"),)


@dataclass
class VerifierArguments(TrainingArguments):
    """The Trainer's arguments with defaults for verifiers, as `rlstep prm --help` and the page Settings show them.

    Raises:
        UserError: settings out of range or without effect, including what the Trainer itself rejects.
    """

    inherited: ClassVar[dict[str, tuple[Constraint, ...]]] = merged(
        SHARED,
        {
            **dict.fromkeys(("label_smoothing_factor", "eval_do_concat_batches", "prediction_loss_only"), NO_METRICS),
            **dict.fromkeys(("batch_eval_metrics", "include_for_metrics", "label_names"), NO_METRICS),
            "length_column_name": IN_LENGTHS,
            "remove_unused_columns": (Idle("rows hold no arguments of the model"),),
        },
    )

    max_length: Annotated[int | None, Range(at_least=1)] = field(
        default=None,
        metadata={
            "help": "Longest row in tokens; the model's own limit by default. In training, steps beyond it are left "
            "out; in evaluation, the whole solution."
        },
    )
    learning_rate: float = field(
        default=1e-5, metadata={"help": "Initial learning rate; a low one mattered in the paper."}
    )
    num_train_epochs: float = field(default=2.0, metadata={"help": "Passes over the data."})
    per_device_train_batch_size: int = field(
        default=16, metadata={"help": "Rows per device and pass; rows of a tree count as one."}
    )
    per_device_eval_batch_size: int = field(default=64, metadata={"help": "Rows per device, in evaluation."})
    packing: bool = field(
        default=True,
        metadata={"help": "Rows without padding, shared prefixes once, if the model supports it; no: padded rows."},
    )
    train_sampling_strategy: str = field(
        default="auto",
        metadata={
            "help": "auto: random with packing, group_by_length (batches of similar lengths, in random order) without.",
            "choices": ["auto", "random", "sequential", "group_by_length"],
        },
    )
    logging_steps: float = field(default=10, metadata={"help": "Updates between log lines (below 1: a share of all)."})
    logging_nan_inf_filter: bool = field(
        default=False, metadata={"help": "Hide NaN losses from the log; each step then waits for the device."}
    )
    save_strategy: str = field(default="epoch", metadata={"help": "no, steps, epoch or best."})
    save_total_limit: int | None = field(default=1, metadata={"help": "Checkpoints kept."})
    remove_unused_columns: bool = field(default=False, metadata={"help": "Leave it off: rows hold no model arguments."})
    report_to: str = field(default="none", metadata={"help": "Where to log: none, wandb, trackio, tensorboard."})
    project: str = field(default_factory=default_project, metadata={"help": PROJECT_HELP})

    def __post_init__(self):
        check(self, [*library_faults(super().__post_init__), *trainer_faults(self)])
