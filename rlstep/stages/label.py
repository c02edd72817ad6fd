"""The `label` stage: a task's exact checker marks every step and the answer of sampled solutions."""

from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field
from itertools import islice
from pathlib import Path
from typing import Annotated, Literal

from rlstep.runtime.constraints import Idle, check
from rlstep.runtime.errors import UserError
from rlstep.runtime.progress import track
from rlstep.runtime.record import RunRecord, digest
from rlstep.runtime.rows import ResumableRows
from rlstep.steps.records import Solution, iter_solutions
from rlstep.tasks import get
from rlstep.tasks.base import Task, checked

# Rows made durable at a time: a kill loses less than a second of work.
CHUNK = 256


@dataclass
class LabelConfig:
    data: str = field(metadata={"help": "Solutions (JSONL)."})
    out: str = field(metadata={"help": "Where the labelled solutions go (JSONL)."})
    task: Literal["arithmetic", "increasing", "gsm8k", "math"] = field(
        metadata={"help": "The task whose checker labels."}
    )
    task_path: Annotated[str | None, Idle("the problems come with the solutions, and a checker reads no data")] = field(
        default=None, metadata={"help": "Of no use here; `rlstep prepare` has it."}
    )

    def __post_init__(self):
        check(self)


def label(config: LabelConfig) -> dict:
    """Writes the solutions of `config.data` with steps, labels, answer and correctness to `config.out`.

    Metrics: counts of `rows`, `steps` and `labelled_steps`; `step_accuracy`, the share of labelled steps that are
    right; shares of rows: `accuracy` (the answer is right), `clean_accuracy` (and so is every step), `unanswered`,
    `unfinished`; `right_on_wrong_step`, the share of right answers that have a wrong step.

    Raises:
        UserError: a prompt is not of the task, or scores are there that belong to other steps.
        DataError: a malformed row.
    """
    task = get(config.task, config.task_path)
    out = Path(config.out)
    fingerprint = digest(Path(config.data), config.task)
    with (
        RunRecord("label", asdict(config), out.parent, name=out.name + ".run.json") as record,
        ResumableRows(out, fingerprint) as rows,
    ):
        done = len(rows.rows)
        # A first pass over the file finds a malformed last row before an hour of labelling, not after.
        total = sum(1 for _ in iter_solutions(config.data))
        todo = islice(iter_solutions(config.data), done, None)
        for chunk in track(_chunks(todo), "labelling", total, done, weight=len):
            rows.append(_labelled(task, solution, config.data).to_row() for solution in chunk)
        rows.finish()
        record.metrics |= label_metrics(Solution(**row) for row in rows.rows)
    return record.metrics


def _chunks(solutions: Iterator[Solution]) -> Iterator[list[Solution]]:
    while chunk := list(islice(solutions, CHUNK)):
        yield chunk


def _labelled(task: Task, solution: Solution, path: str) -> Solution:
    steps = solution.steps
    try:
        checked(task, solution)
    except ValueError as error:
        where = f"{path}, problem '{solution.problem_id}', sample {solution.sample}"
        raise UserError(f"{where}: {error}. Give the task that the problems are of.") from None
    if solution.scores and [tuple(step) for step in steps] != solution.steps:
        raise UserError(
            f"{path}, problem '{solution.problem_id}', sample {solution.sample}: its scores belong to other steps than"
            f" the task {task.name} finds. Label solutions first, then score them."
        )
    return solution


def label_metrics(solutions: Iterable[Solution]) -> dict:
    """The metrics of `label` over labelled solutions; a share of nothing is None."""
    rows = steps = labelled = right_steps = right = clean = on_wrong_step = unanswered = unfinished = 0
    for solution in solutions:
        labels = [value for value in solution.labels if value is not None]
        rows += 1
        steps += len(solution.labels)
        labelled += len(labels)
        right_steps += sum(value == 1 for value in labels)
        right += solution.correct
        clean += solution.clean
        on_wrong_step += solution.correct and any(value < 1 for value in labels)
        unanswered += solution.answer is None
        unfinished += not solution.finished

    def share(part: int, whole: int) -> float | None:
        return part / whole if whole else None

    return {
        "rows": rows,
        "steps": steps,
        "labelled_steps": labelled,
        "step_accuracy": share(right_steps, labelled),
        "accuracy": share(right, rows),
        "clean_accuracy": share(clean, rows),
        "right_on_wrong_step": share(on_wrong_step, right),
        "unanswered": share(unanswered, rows),
        "unfinished": share(unfinished, rows),
    }
