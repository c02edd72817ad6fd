"""The `select` stage: which scored solutions to label, in the order in which to label them."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

from rlstep.runtime.config import settings
from rlstep.runtime.constraints import Range, ReadBy, ReadUnless, check
from rlstep.runtime.counted import counted
from rlstep.runtime.errors import UserError
from rlstep.runtime.record import RunRecord, digest
from rlstep.runtime.resumable_rows import ResumableRows
from rlstep.steps.answers import failed_gradings
from rlstep.supervision.selection import Candidates, Criterion, Strategy, read_selected, selection_metrics
from rlstep.tasks import GRADER_HELP, PATTERN_HELP, TASK_HELP, Grader, get, task_faults

CONVINCING = ReadBy("strategy", "convincing")


@dataclass
class SelectConfig:
    data: str = field(metadata={"help": "Solutions (JSONL, Parquet) with the scores of a PRM, the selector."})
    out: str = field(metadata={"help": "Where the selected ones go, in order, to be labelled (JSONL)."})
    strategy: Strategy = field(
        default="convincing",
        metadata={
            "help": "convincing: the most convincing wrong answers and the most convincing of the rest; uncertainty: "
            "where the PRM's p is nearest to one half up to the first step that it calls wrong; uniform: at random."
        },
    )
    per_problem: Annotated[int | None, Range(at_least=1)] = field(
        default=None, metadata={"help": "Solutions of a problem at most."}
    )
    budget: Annotated[int | None, Range(at_least=1)] = field(
        default=None,
        metadata={
            "help": "Steps to be labelled at most, over all problems, which take turns. A solution counts all its "
            "steps, for its first error is not known yet; one with labels those up to it."
        },
    )
    score: Annotated[str, ReadUnless("strategy", "uniform")] = field(
        default="prm", metadata={"help": "The name of the PRM's scores."}
    )
    ensemble: Annotated[list[str] | None, ReadBy("strategy", "uncertainty")] = field(
        default=None,
        metadata={"help": "Scores of further PRMs: uncertainty is then where they and `score` disagree most."},
    )
    wrong_share: Annotated[float, Range(at_least=0, at_most=1), CONVINCING] = field(
        default=0.8, metadata={"help": "The share of the most convincing wrong answers."}
    )
    aggregate: Annotated[Literal["product", "minimum", "last", "mean"], CONVINCING] = field(
        default="product", metadata={"help": "How step scores become the solution's."}
    )
    repeats: Literal["once", "all"] = field(
        default="once", metadata={"help": "once: equal solutions of a problem are one candidate; all: each is one."}
    )
    unanswered: Literal["leave_out", "keep"] = field(
        default="leave_out",
        metadata={"help": "Solutions that were graded and state no answer: no candidates, or wrong answers (keep)."},
    )
    task: str | None = field(
        default=None,
        metadata={"help": f"Grades the answers of solutions whose `correct` is null; labels no step. {TASK_HELP}"},
    )
    grader: Annotated[Grader, ReadBy("task", "answers")] = field(default="math", metadata={"help": GRADER_HELP})
    answer_pattern: Annotated[str | None, ReadBy("grader", "regex")] = field(
        default=None, metadata={"help": PATTERN_HELP}
    )
    seed: int = field(default=0, metadata={"help": "Seed of the order of problems and of equals, and of uniform."})

    def __post_init__(self):
        check(self, self._faults())

    def _faults(self) -> Iterator[str]:
        if self.task is not None:
            yield from task_faults(self.task, self.grader, self.answer_pattern)
        if self.per_problem is None and self.budget is None:
            yield "per_problem and budget are null; give one: solutions of a problem, or steps to be labelled in all"
        if not self.out.endswith(".jsonl"):
            yield f"out is {self.out}; its rows are JSON, so its name must end in .jsonl"
        if Path(self.out).resolve() == Path(self.data).resolve():
            yield f"out is the path that data names, {self.data}; give another one"
        if self.score in (self.ensemble or ()) or len(set(self.ensemble or ())) < len(self.ensemble or ()):
            yield f"ensemble is {self.ensemble}, with score '{self.score}'; name each of the scores once"

    @property
    def criterion(self) -> Criterion:
        scores = [self.score, *(self.ensemble or ())]
        kept = self.repeats == "all", self.unanswered == "keep"
        return Criterion(self.strategy, scores, self.aggregate, self.wrong_share, *kept, self.seed)


def select(config: SelectConfig) -> dict:
    """Writes the solutions of `config.data` that are to be labelled to `config.out`, those to label first in front.

    Metrics (`rlstep.supervision.selection.selection_metrics`): `rows`, `candidates`, and those left out as `repeated`,
    `unanswered`, `without_steps` or `cut`; `problems`, `selected`, `steps_to_label`, and the `wrong_share` of what is
    selected.

    Raises:
        UserError: there is nothing to select, or the budget is too small for one solution.
        DataError: a malformed row, or one without the scores or the correctness that the strategy reads.
    """
    task = None
    if config.task is not None:
        task = get(config.task, grader=config.grader, pattern=config.answer_pattern)
    out = Path(config.out)
    deciding = {name: value for name, value in settings(config).items() if name not in ("data", "out")}
    with (
        RunRecord("select", settings(config), out.parent, config.seed, name=out.name + ".run.json") as record,
        ResumableRows(out, digest(Path(config.data), deciding)) as rows,
    ):
        with failed_gradings() as failed:
            candidates = Candidates(config.data, config.criterion, task)
            selected = candidates.select(config.per_problem, config.budget)
            if not selected:
                raise UserError(_nothing(config, candidates))
            rows.finish(solution.to_row() for solution in read_selected(config.data, selected, task))
        record.metrics |= selection_metrics(candidates, selected) | failed
    return record.metrics


def _nothing(config: SelectConfig, candidates: Candidates) -> str:
    if len(candidates):
        (first,) = candidates.select(1, None)[:1]
        return (
            f"budget is {config.budget}, and the first solution to be labelled has "
            f"{counted(first.steps, 'step')}; give at least "
            "that many."
        )
    return (
        f"{config.data}: of {counted(candidates.rows, 'solution')}, none is a candidate. Without an answer: "
        f"{candidates.unanswered} (unanswered: keep takes them); without steps: {candidates.without_steps}; with "
        f"a step without a score, as the solution did not fit into the verifier: {candidates.cut}."
    )
