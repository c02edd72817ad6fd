"""What happens to a data set's rows between reading and writing: grades, and a list of the malformed ones."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rlstep.runtime.errors import DataError
from rlstep.runtime.rows import atomic
from rlstep.steps.answers import extract, reference_fault, same_answer
from rlstep.steps.readers import ReadReport
from rlstep.steps.records import Solution
from rlstep.steps.sources import Row


def grade(solution: Solution, row: Row, cut_short: bool) -> bool:
    """Sets `answer` and `correct` using the reference; returns whether the solution could be graded.

    A solution without an answer keeps the verdict of its data set; without one it is wrong, unless it was cut short
    (see `rlstep.steps.readers.base.Reader.cut_short`): then it is not a failed attempt, and gets no grade.

    Args:
        solution: the solution to grade.
        row: the row that it was read from, for the error.
        cut_short: whether the format's solutions may end before an answer.

    Raises:
        DataError: there is no reference answer, or a whole solution in its place.
    """
    if not solution.reference.strip():
        problem = f"problem '{solution.problem_id}' has no reference answer to grade by; give one, or leave grade off."
        raise row.fault("reference", problem)
    if fault := reference_fault(solution.reference):
        raise row.fault("reference", f"{fault}.")
    if solution.answer is None:
        solution.answer = extract(solution.completion)
    if solution.answer is not None:
        solution.correct = same_answer(solution.answer, solution.reference)
    elif solution.correct is None:
        if cut_short:
            return False
        solution.correct = False
    return True


@contextmanager
def list_bad_rows(path: Path, report: ReadReport) -> Iterator[None]:
    """Writes the rows that are skipped to the file `path`, which exists afterwards only if there are any."""
    with atomic(path) as temporary, temporary.open("w", encoding="utf-8") as file:

        def write(fault: DataError) -> None:
            row = {"path": str(fault.path), "row": fault.row, "field": fault.field, "error": str(fault)}
            file.write(json.dumps(row, ensure_ascii=False) + "\n")

        report.on_fault = write
        yield
    if not report.bad_rows:
        path.unlink()


def describe_bad_rows(report: ReadReport) -> str:
    """The first of the malformed rows, to be printed below the table."""
    if not report.bad_rows:
        return ""
    more = report.bad_rows - len(report.faults)
    return "\n\nmalformed rows:\n" + "\n".join([*map(str, report.faults), *([f"and {more} more"] if more else [])])
