"""The `data` stage: checks every row of a data set, counts what is in it, and writes it as our own rows."""

from collections import deque
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Literal

from rlstep.runtime.constraints import Range, changed, check
from rlstep.runtime.errors import DataError, UserError
from rlstep.runtime.progress import track
from rlstep.runtime.record import RunRecord
from rlstep.steps.answers import failed_gradings
from rlstep.steps.census import Census, readable, table
from rlstep.steps.conversion import describe_bad_rows, grade, list_bad_rows
from rlstep.steps.fields import parse_fields
from rlstep.steps.readers import READERS, ReadReport, options_of, read, reader_of
from rlstep.steps.records import Solution, write_solutions
from rlstep.steps.sources import BAD_ROWS

Format = Literal[
    "solutions", "gsm8k", "math", "prm800k", "math_shepherd", "stepwise", "processbench", "prmbench", "rlhflow",
    "versaprm",
]  # fmt: skip
OUTPUTS = (".jsonl", ".parquet")


@dataclass
class DataConfig:
    format: Format = field(metadata={"help": "What the rows are; `solutions` is our own format."})
    path: str = field(metadata={"help": "A file (.jsonl, .json, .parquet, .gz), a folder of shards, or a hub id."})
    out: str | None = field(default=None, metadata={"help": "Where the solutions go: .jsonl or .parquet."})
    split: str | None = field(
        default=None,
        metadata={"help": "The hub data set's split; for a folder, the shards with this word in their name."},
    )
    config_name: str | None = field(default=None, metadata={"help": "The hub data set's configuration."})
    revision: str | None = field(default=None, metadata={"help": "The hub data set's branch, tag or commit."})
    on_bad_row: Literal["error", "skip"] = field(
        default="error", metadata={"help": "skip leaves malformed rows out and lists them in OUT" + BAD_ROWS + "."}
    )
    fields: list[str] | None = field(
        default=None,
        metadata={
            "help": "The file's field names, where they are not the format's: prompt=question,completions=steps. Of "
            "solutions, what else a row holds goes into extra: extra.model=model."
        },
    )
    show: Annotated[int, Range(at_least=0)] = field(
        default=0, metadata={"help": "Print this many of the first solutions."}
    )
    grade: bool = field(default=False, metadata={"help": "Set `correct` from the reference answers, for an ORM."})
    prompt: str | None = field(
        default=None, metadata={"help": "The prompt's template; {problem} stands for the problem's text."}
    )
    separator: str | None = field(default=None, metadata={"help": "The text between steps; a line break by default."})
    keep: list[str] | None = field(
        default=None,
        metadata={
            "help": "prm800k: what to keep although it is left out by default: quality_control, screening, give_up and"
            " bad_problem rows, and the ratings of flagged steps (flagged)."
        },
    )
    tag: str | None = field(default=None, metadata={"help": "math_shepherd: the mark after every step."})
    first_step: str | None = field(
        default=None, metadata={"help": "math_shepherd, rlhflow: the text with which a solution begins."}
    )
    close_last: bool | None = field(
        default=None, metadata={"help": "stepwise: also end the last step with a separator."}
    )

    def __post_init__(self):
        check(self, self._faults())
        reader_of(self.format, **self.options)

    def _faults(self) -> Iterator[str]:
        if self.out is not None and Path(self.out).suffix not in OUTPUTS:
            yield f"out is {self.out}; its name must end in {' or '.join(OUTPUTS)}"
        if self.out is not None and Path(self.path).resolve() in (
            Path(self.out).resolve(),
            Path(self.out).resolve().parent,
        ):
            yield f"out is {self.out}, which is inside the input path, {self.path}; give another path"
        if self.format in READERS and self.grade and not READERS[self.format].has_reference:
            yield f"grade is on, but rows of the format '{self.format}' hold no reference answer; leave it off"
        if self.format in READERS:
            try:
                parse_fields(self.fields, READERS[self.format].names)
            except UserError as error:
                yield str(error)
        hub_only = changed(self, ("config_name", "revision"))
        if hub_only and Path(self.path).exists():
            yield f"path {self.path} is on this machine, so {', '.join(hub_only)} would do nothing; leave it out"

    @property
    def options(self) -> dict:
        """The format's options among those that were given."""
        given = {name: getattr(self, name) for name in FORMAT_OPTIONS if getattr(self, name) is not None}
        return {name: tuple(value) if isinstance(value, list) else value for name, value in given.items()}


FORMAT_OPTIONS = sorted({option for format in READERS for option in options_of(format)})


def data(config: DataConfig) -> dict:
    """Reads `config.path` once, prints what is in it, and writes its solutions if `config.out` is given.

    The output appears when all of it is written; beside it are the run's record and, where malformed rows were
    skipped, a list of them.

    Metrics: `rows`, by file; `left_out` rows by reason, and `ungraded` solutions (with `grade`, those of PRM800K that
    end before an answer); `bad_rows`; what else the format tells (`seen`); `solutions`, `problems`, `trees`,
    `finished`; `steps` by label and `answers` by correctness.

    Raises:
        UserError: an option that the format does not have; no solution in the rows.
        DataError: a malformed row, or with `grade` one without a reference, unless they are skipped.
    """
    reading = _Reading(config)
    if config.out is None:
        with failed_gradings() as failed:
            deque(reading.solutions(), maxlen=0)
    else:
        out = Path(config.out)
        with RunRecord("data", asdict(config), out.parent, name=out.name + ".run.json") as record:
            with failed_gradings() as failed, list_bad_rows(out.with_name(out.name + BAD_ROWS), reading.report):
                write_solutions(out, reading.solutions())
            record.metrics |= reading.metrics() | failed
    print(*reading.shown, reading.counts(), sep="\n\n")
    return reading.metrics() | failed


class _Reading:
    """One pass over a data set, and what was counted in it.

    Attributes:
        report: rows by file, left out and malformed (`rlstep.steps.readers`).
        census: of the solutions.
        shown: the first solutions as text, to be printed.
        ungraded: solutions of PRM800K that end before an answer.
    """

    def __init__(self, config: DataConfig):
        self.config, self.report, self.census = config, ReadReport(), Census()
        self.shown: list[str] = []
        self.ungraded = 0
        source = {name: getattr(config, name) for name in ("split", "config_name", "revision", "on_bad_row", "fields")}
        self._read = read(config.format, config.path, **source, report=self.report, **config.options)

    def solutions(self) -> Iterator[Solution]:
        """The solutions that are kept, graded if that is asked for.

        Raises:
            UserError: there is none.
        """
        for solution in track(self._read, "reading", None):
            if self.config.grade and not self._grade(solution):
                continue
            self.census.add(solution)
            if len(self.shown) < self.config.show:
                self.shown.append(readable(solution))
            yield solution
        if not self.census.solutions:
            raise UserError(f"{self.config.path}: its rows have no solution.\n{self.counts()}")

    def _grade(self, solution: Solution) -> bool:
        """Grades a solution; False for one that is left out, and counted."""
        try:
            if grade(solution, self.report.row, READERS[self.config.format].cut_short):
                return True
            self.ungraded += 1
        except DataError as fault:
            if self.config.on_bad_row == "error":
                raise
            self.report.skip(fault)
        return False

    def counts(self) -> str:
        """What was counted, as text."""
        return table(self.census, self.report) + describe_bad_rows(self.report)

    def metrics(self) -> dict:
        rows = {"rows": dict(self.report.rows), "left_out": dict(self.report.dropped), "ungraded": self.ungraded}
        return rows | {"bad_rows": self.report.bad_rows, "seen": dict(self.report.seen)} | self.census.metrics()
