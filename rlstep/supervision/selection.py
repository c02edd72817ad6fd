"""Which of a file's solutions to label: each is reduced to a few numbers, and they are ordered by a strategy.

    convincing    the most convincing wrong answers and the most convincing of the rest (Lightman et al., 2305.20050,
                  section 4.2)
    uncertainty   where the verifier's p is nearest to one half, or an ensemble disagrees most (ActPRM, 2504.10559)
    uniform       in a random order

The mathematics is in `rlstep.core.selection`. Problems take turns, in a random order: the first solution of every
problem, then the second of every one. So the beginning of a selection is a selection, for a smaller budget.
"""

import hashlib
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from rlstep.core.aggregate import Aggregate, solution_score
from rlstep.core.selection import (
    by_turns,
    convincing_order,
    falling_order,
    phases,
    steps_to_label,
    uncertainty,
    within_budget,
)
from rlstep.runtime.errors import DataError
from rlstep.steps.answers import same_answer
from rlstep.steps.prompts import problem_text
from rlstep.steps.records import Solution, solution_of
from rlstep.steps.sources import Row, iter_rows
from rlstep.tasks.base import OTHER_TASK, Task

Strategy = Literal["convincing", "uncertainty", "uniform"]


@dataclass(frozen=True)
class Criterion:
    """What makes a solution worth a label.

    Attributes:
        strategy: of the module.
        scores: the names of the verifiers' scores; several are an ensemble, for uncertainty alone.
        aggregate: how step scores become the solution's, for convincing.
        wrong_share: of the selected, how many are the most convincing wrong answers.
        repeats: whether equal texts of a problem are each a candidate.
        unanswered: whether solutions without an answer are candidates.
        seed: of the order of equals, of problems, and of uniform.
    """

    strategy: Strategy
    scores: Sequence[str]
    aggregate: Aggregate
    wrong_share: float
    repeats: bool
    unanswered: bool
    seed: int


@dataclass(frozen=True)
class Candidate:
    """A solution that may be selected.

    Attributes:
        place: of its row in the file, from 0.
        value: the higher, the sooner it is selected.
        correct: whether its answer is right; None if that is not known.
        steps: what its labels cost.
        tie: the order among equals.
    """

    place: int
    value: float
    correct: bool | None
    steps: int
    tie: float


class Candidates:
    """A file's candidates, by problem.

    Args:
        path: solutions, in JSONL or Parquet.
        criterion: what makes them worth a label.
        task: grades the answers of solutions that are not graded; None: such solutions are an error where correctness
            is needed.

    Attributes:
        rows: in the file.
        repeated, unanswered, without_steps, cut: those that are no candidates, for these reasons; of a cut one some
            step has no score, because it did not fit into the verifier.

    Raises:
        DataError: a row lacks a score or what is needed to grade it, has scores that are no probabilities, or the id
            of another problem.
    """

    def __init__(self, path: str | Path, criterion: Criterion, task: Task | None = None):
        self.criterion = criterion
        self.rows = self.repeated = self.unanswered = self.without_steps = self.cut = 0
        self._of_problem: dict[str, list[Candidate]] = {}
        seen: Counter[bytes] = Counter()
        references: dict[str, str] = {}
        for row in iter_rows(path):
            solution = solution_of(row)
            _check_reference(solution, references, row)
            if criterion.strategy == "convincing" or task is not None:
                solution = graded(solution, task, row)
            text = _digest(solution.problem_id, solution.completion)
            if not solution.steps:
                self.without_steps += _has_steps(solution, row)
            elif not criterion.unanswered and solution.answer is None and solution.correct is not None:
                self.unanswered += 1
            elif self._is_cut(solution):
                self.cut += 1
            elif not criterion.repeats and seen[text]:
                self.repeated += 1
            else:
                self._add(solution, row, self.rows, seen[text])
            seen[text] += 1
            self.rows += 1

    def __len__(self) -> int:
        return sum(map(len, self._of_problem.values()))

    @property
    def problems(self) -> int:
        return len(self._of_problem)

    def select(self, per_problem: int | None, budget: int | None) -> list[Candidate]:
        """The candidates in the order in which to label them.

        Args:
            per_problem: how many of a problem at most.
            budget: steps to be labelled at most (`rlstep.core.selection.steps_to_label`).
        """
        names = sorted(self._of_problem, key=lambda name: _digest(self.criterion.seed, name))
        candidates = [self._of_problem[name] for name in names]
        orders = [self._order(*pair) for pair in zip(candidates, phases(len(names), self.criterion.seed), strict=True)]
        ordered = [candidates[problem][index] for problem, index in by_turns(orders, per_problem)]
        return ordered if budget is None else ordered[: within_budget([one.steps for one in ordered], budget)]

    def _order(self, candidates: Sequence[Candidate], phase: float) -> list[int]:
        values, ties = [one.value for one in candidates], [one.tie for one in candidates]
        if self.criterion.strategy != "convincing":
            return falling_order(values, ties)
        wrong = [not one.correct for one in candidates]
        return convincing_order(values, wrong, self.criterion.wrong_share, phase, ties)

    def _add(self, solution: Solution, row: Row, place: int, earlier: int) -> None:
        steps = steps_to_label(len(solution.steps), solution.labels)
        # Each copy of a text that was sampled several times has a tie of its own: otherwise all copies would come
        # together, and a rare text would come first as often as a frequent one.
        copy = [earlier] if earlier else []
        key = _digest(self.criterion.seed, solution.problem_id, solution.completion, *copy)
        tie = int.from_bytes(key[:8], "big") / 2**64
        candidate = Candidate(place, self._value(solution, row), solution.correct, steps, tie)
        self._of_problem.setdefault(solution.problem_id, []).append(candidate)

    def _is_cut(self, solution: Solution) -> bool:
        names = () if self.criterion.strategy == "uniform" else self.criterion.scores
        return any(None in solution.scores.get(name, ()) for name in names)

    def _value(self, solution: Solution, row: Row) -> float:
        if self.criterion.strategy == "uniform":
            return 0.0
        for name in self.criterion.scores:
            if name not in solution.scores:
                present = ", ".join(sorted(solution.scores)) or "none"
                problem = f"missing (scores present: {present}); run `rlstep score --name {name}` on this file first."
                raise DataError(row.source, row.number, f"scores.{name}", problem)
        probs = [solution.scores[name] for name in self.criterion.scores]
        try:
            if self.criterion.strategy == "uncertainty":
                return uncertainty(probs)
            return solution_score(probs[0], self.criterion.aggregate)
        except ValueError as error:
            raise DataError(row.source, row.number, f"scores.{self.criterion.scores[0]}", str(error)) from None


def graded(solution: Solution, task: Task | None, row: Row) -> Solution:
    """The solution with its answer and correctness, of the task where it has none of its own; no step is labelled.

    Raises:
        DataError: it is not graded and there is no task; or it has no reference, or is not of the task.
    """
    if solution.correct is not None:
        return solution
    if task is None:
        problem = (
            "is null, and wrong answers are to be told from right ones. Give the task that grades them (task: answers "
            "for any), run `rlstep label` first, or select by uncertainty or uniform."
        )
        raise DataError(row.source, row.number, "correct", problem)
    if not solution.reference.strip():
        problem = "is empty; it is the right answer, by which answers are graded."
        raise DataError(row.source, row.number, "reference", problem)
    try:
        check = task.check(problem_text(solution.prompt), solution.completion, solution.reference)
    except ValueError as error:
        raise DataError(row.source, row.number, None, f"{error}. {OTHER_TASK}") from None
    return replace(solution, answer=check.answer, correct=check.correct)


def read_selected(path: str | Path, selected: Sequence[Candidate], task: Task | None) -> Iterator[Solution]:
    """Yields the selected solutions in their order, graded where a task is given.

    Args:
        path: the file that the candidates are of.
        selected: of `Candidates.select`.
        task: of `Candidates`.
    """
    wanted = {candidate.place for candidate in selected}
    rows = {place: row for place, row in enumerate(iter_rows(path)) if place in wanted}
    for candidate in selected:
        row = rows[candidate.place]
        solution = solution_of(row)
        yield graded(solution, task, row) if task is not None else solution


def selection_metrics(candidates: Candidates, selected: Sequence[Candidate]) -> dict[str, float | None]:
    """Counts of rows and of what was selected; `wrong_share`: of the selected, those with a wrong answer."""
    known = [one for one in selected if one.correct is not None]
    return {
        "rows": candidates.rows,
        "candidates": len(candidates),
        "repeated": candidates.repeated,
        "unanswered": candidates.unanswered,
        "cut": candidates.cut,
        "without_steps": candidates.without_steps,
        "problems": candidates.problems,
        "selected": len(selected),
        "steps_to_label": sum(one.steps for one in selected),
        "wrong_share": sum(not one.correct for one in known) / len(known) if known else None,
    }


def _check_reference(solution: Solution, references: dict[str, str], row: Row) -> None:
    """Refuses two problems under one id, which would share what a problem gets.

    Args:
        references: by problem id, which this adds to.
    """
    if not (reference := solution.reference.strip()):
        return
    first = references.setdefault(solution.problem_id, reference)
    if first != reference and not same_answer(reference, first):
        problem = (
            f"'{reference}', and earlier rows of problem '{solution.problem_id}' have '{first}': two problems have one "
            "problem_id. Make it unique, or select from a file at a time."
        )
        raise DataError(row.source, row.number, "reference", problem)


def _has_steps(solution: Solution, row: Row) -> bool:
    if solution.steps is None:
        raise DataError(row.source, row.number, "steps", "is null; run `rlstep score` or `rlstep label` first.")
    return True


def _digest(*parts) -> bytes:
    return hashlib.sha256("\n".join(map(str, parts)).encode("utf-8", "surrogatepass")).digest()
