"""What is labelled: the solutions of a file as problems with steps, in the file's order."""

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from rlstep.runtime.counted import counted
from rlstep.runtime.errors import DataError, UserError
from rlstep.runtime.record import digest
from rlstep.steps.boundaries import Boundary
from rlstep.steps.extraction import extract
from rlstep.steps.prompts import problem_text
from rlstep.steps.records import Solution, solution_of
from rlstep.steps.sources import iter_rows


@dataclass(frozen=True)
class Item:
    """One solution to label.

    Attributes:
        id: short, and the same in every run: it depends on the problem and the steps alone.
        problem: the problem's text.
        steps: the steps' texts, in order, at least one.
        reference: the right final answer, None if it is not known.
        answer: the final answer that the solution states, None if it states none.
    """

    id: str
    problem: str
    steps: tuple[str, ...]
    reference: str | None
    answer: str | None


def item_id(problem: str, steps: list[str]) -> str:
    return digest(problem, steps)


def read_items(data: str | Path, boundary: Boundary) -> tuple[list[Item], Counter[str]]:
    """The solutions of a file or folder to label, and how many were left out, by reason.

    Left out are completions without a step, and those that equal an earlier one of the same problem: labels of either
    would say nothing new.

    Args:
        data: solutions: JSONL, Parquet or a folder of them.
        boundary: splits the solutions that have no steps yet.

    Raises:
        UserError: there is nothing to label.
        DataError: a row is malformed, has no problem, or has a blank step.
    """
    items: dict[str, Item] = {}
    left_out: Counter[str] = Counter()
    for row in iter_rows(data):
        solution = solution_of(row)
        problem = problem_text(solution.prompt).strip()
        if not problem:
            raise DataError(row.source, row.number, "prompt", "is blank: there is no problem to show.")
        steps = _steps(solution, boundary)
        if not all(steps):
            blank = steps.index("")
            raise DataError(row.source, row.number, "steps", f"step {blank} (from 0) is blank; nobody can rate it.")
        if not steps:
            left_out["without a step"] += 1
            continue
        item = Item(
            id=item_id(problem, steps),
            problem=problem,
            steps=tuple(steps),
            reference=solution.reference.strip() or None,
            answer=extract(solution.completion) if solution.answer is None else solution.answer,
        )
        if items.setdefault(item.id, item) is not item:
            left_out["equal to an earlier one"] += 1
    if not items:
        raise UserError(f"{data}: of {counted(left_out.total(), 'solution')}, none has a step to label.")
    return list(items.values()), left_out


def _steps(solution: Solution, boundary: Boundary) -> list[str]:
    spans = boundary.split(solution.completion) if solution.steps is None else solution.steps
    return [solution.completion[start:end].strip() for start, end in spans]
