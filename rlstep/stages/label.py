"""The `label` stage: a task's exact checker marks every step and the answer of sampled solutions."""

from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from itertools import islice
from pathlib import Path
from typing import Annotated, Literal

from rlstep.runtime.constraints import Idle, check
from rlstep.runtime.progress import track
from rlstep.runtime.record import RunRecord, digest
from rlstep.runtime.rows import ResumableRows
from rlstep.steps.records import Solution, iter_solutions
from rlstep.supervision.checker import label_metrics, label_solution, refuse_step_labels
from rlstep.tasks import get

# Rows made durable at a time: a kill loses less than a second of work.
CHUNK = 256


@dataclass
class LabelConfig:
    data: str = field(metadata={"help": "Solutions (JSONL)."})
    out: str = field(metadata={"help": "Where the labelled solutions go (JSONL)."})
    task: Literal["arithmetic", "increasing", "increasing_words", "word_problems", "gsm8k", "math"] = field(
        metadata={"help": "The task whose checker labels."}
    )
    labelled: Literal["error", "keep"] = field(
        default="error",
        metadata={
            "help": "Solutions that already have step labels, such as human ones: an error, or `keep`: they keep steps"
            " and labels, and only answer and correctness are set. Labels are never replaced."
        },
    )
    task_path: Annotated[str | None, Idle("the problems come with the solutions, and a checker reads no data")] = field(
        default=None, metadata={"help": "Not used here; `rlstep prepare` has it."}
    )

    def __post_init__(self):
        check(self)


def label(config: LabelConfig) -> dict:
    """Writes the solutions of `config.data` with steps, labels, answer and correctness to `config.out`.

    Metrics: counts of `rows`, `steps` and `labelled_steps`; `step_accuracy`, the share of labelled steps that are
    right; shares of rows: `accuracy` (the answer is right), `clean_accuracy` (and so is every step), `unanswered`,
    `unfinished`; `right_on_wrong_step`, the share of right answers that have a wrong step.

    Raises:
        UserError: a prompt is not of the task, a solution has no reference answer, has step labels that are not to be
            kept, or scores that belong to other steps.
        DataError: a malformed row.
    """
    task = get(config.task, config.task_path)
    out = Path(config.out)
    fingerprint = digest(Path(config.data), config.task, config.labelled)
    with (
        RunRecord("label", asdict(config), out.parent, name=out.name + ".run.json") as record,
        ResumableRows(out, fingerprint) as rows,
    ):
        done = len(rows.rows)
        # A first pass over the file finds a malformed last row before an hour of labelling, not after.
        total = 0
        for solution in iter_solutions(config.data):
            total += 1
            if config.labelled == "error":
                refuse_step_labels(solution, config.data)
        todo = islice(iter_solutions(config.data), done, None)
        for chunk in track(_chunks(todo), "labelling", total, done, weight=len):
            rows.append(label_solution(task, solution, config.data).to_row() for solution in chunk)
        rows.finish()
        record.metrics |= label_metrics(Solution(**row) for row in rows.rows)
    return record.metrics


def _chunks(solutions: Iterator[Solution]) -> Iterator[list[Solution]]:
    while chunk := list(islice(solutions, CHUNK)):
        yield chunk
