"""What the readers share: options, the report of what was read, and how steps become one completion."""

import hashlib
import re
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import ClassVar

from rlstep.runtime.errors import DataError, UserError
from rlstep.steps.readers.values import Field
from rlstep.steps.records import Solution, Span
from rlstep.steps.sources import Row

PROBLEM = "{problem}"
LISTED_FAULTS = 20
LINE_BREAK = "a line break is $'\\n' in a shell and \"\\n\" in YAML, in double quotes."

# A backslash and an n, as a shell passes '\n'; in LaTeX's commands (\neq) another letter follows.
_WRITTEN_BREAK = re.compile(r"\\n(?![a-zA-Z])")


@dataclass
class ReadReport:
    """Counts of what was read; filled while the solutions are read.

    Attributes:
        rows: rows of each file, malformed ones that were skipped included.
        dropped: rows that were left out on purpose, by reason.
        seen: other counts of a format, for example of finish reasons.
        bad_rows: malformed rows that were skipped.
        faults: the first few of their errors.
        on_fault: called with each of their errors.
        row: the row whose solutions are being yielded, for errors that are found in them later.
    """

    rows: Counter = field(default_factory=Counter)
    dropped: Counter = field(default_factory=Counter)
    seen: Counter = field(default_factory=Counter)
    bad_rows: int = 0
    faults: list[DataError] = field(default_factory=list)
    on_fault: Callable[[DataError], None] | None = None
    row: Row | None = None

    def skip(self, fault: DataError) -> None:
        self.bad_rows += 1
        if len(self.faults) < LISTED_FAULTS:
            self.faults.append(fault)
        if self.on_fault:
            self.on_fault(fault)


@dataclass(frozen=True)
class Reader:
    """Turns one row of a format into solutions. A subclass is a format; its fields are the format's options.

    Attributes:
        prompt: the prompt's template; `{problem}` stands for the problem's text, stripped.
    """

    names: ClassVar[tuple[str, ...]] = ()
    """The fields of a row that are read, for files that call them something else."""
    has_reference: ClassVar[bool] = True
    """Whether rows hold the right final answer; if not, `Solution.reference` is empty."""
    cut_short: ClassVar[bool] = False
    """Whether a solution may end because its labelling ended there, rather than being a failed attempt."""

    editions: ClassVar[tuple[str, ...]] = ()
    """Words in the names of files that hold another edition of the same problems."""

    prompt: str = PROBLEM + "\n"

    def __post_init__(self):
        if self.prompt.count(PROBLEM) != 1:
            raise UserError(f"prompt is {self.prompt!r}; it must hold {PROBLEM} once, where the problem's text goes.")
        if _WRITTEN_BREAK.search(self.prompt):
            raise UserError(f"prompt is {self.prompt!r}, with a backslash and an n in it; {LINE_BREAK}")

    def solutions(self, row: Field, report: ReadReport) -> list[Solution]:
        """The row's solutions; the caller sets `sample`. Counts in `report` what it leaves out.

        Raises:
            DataError: the row is malformed.
        """
        raise NotImplementedError

    def prompt_of(self, problem: str) -> str:
        # Not str.format: templates and problems are full of LaTeX's braces.
        before, _, after = self.prompt.partition(PROBLEM)
        return before + problem + after


@dataclass(frozen=True)
class StepReader(Reader):
    """A reader whose rows hold steps.

    Attributes:
        separator: the text between steps; a step's span includes the separator after it.
    """

    separator: str = "\n"

    def __post_init__(self):
        super().__post_init__()
        if not self.separator or self.separator.strip():
            raise UserError(f"separator is {self.separator!r}; it must be white space; {LINE_BREAK}")

    def join(self, texts: Iterable[str], close: bool = False) -> tuple[str, list[Span]]:
        """Joins the steps' texts into one completion; returns it and their spans.

        Args:
            texts: one per step.
            close: whether the last step also gets a separator. A solution's last step has none; one that would have
                continued has one, because the last token of a step must not reveal whether its labelling ended there.
        """
        texts = list(texts)
        parts = [text + self.separator for text in texts[:-1]] + [texts[-1] + (self.separator if close else "")]
        spans, start = [], 0
        for part in parts:
            spans.append((start, start + len(part)))
            start += len(part)
        return "".join(parts), spans


def problem_key(problem: str) -> str:
    """A short name for a problem that depends on its text alone."""
    return hashlib.sha256(problem.encode("utf-8", "surrogatepass")).hexdigest()[:16]


def split_question(field: Field, text: str, first_step: str, report: ReadReport) -> tuple[str, str]:
    """(question, first step) of a text in which the step begins with `first_step` ("Step 1:").

    A question may also contain these words, in steps of its own: the solution begins at their last occurrence. Repeated
    words ("Step 1: Step 1: Add.") are one beginning. Another capitalisation ("step 1:") counts only if the given one
    does not occur.

    Raises:
        DataError: the words are missing, or there is nothing before them.
    """
    mark = rf"({re.escape(first_step)}\s*)+"
    marks = list(re.finditer(mark, text)) or list(re.finditer(mark, text, re.IGNORECASE))
    if not marks:
        raise field.fault(f"no '{first_step}', with which the solution begins, in {text[:60]!r}.")
    question = text[: marks[-1].start()].strip()
    if not question:
        raise field.fault(f"no question before '{first_step}'.")
    if len(marks) > 1:
        report.seen[f"'{first_step}' inside the question"] += 1
    return question, text[marks[-1].start() :]


_STATED = re.compile(r"The answer is:?\s*(\S.*)", re.IGNORECASE)


def stated_answer(step: str) -> str | None:
    """The answer of a last step that ends in "The answer is: ...", as Math-Shepherd's do."""
    answers = _STATED.findall(step)
    return answers[-1].strip().removesuffix(".").rstrip() if answers else None
