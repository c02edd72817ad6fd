"""The samples of a file as columns: what best-of-N curves are computed from, in a few bytes per sample."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from rlstep.core.aggregate import Aggregate
from rlstep.verifiers.step_table import StepTable


class ByProblem(Sequence):
    """A column of all samples, cut into those of each problem when they are asked for.

    Args:
        column: (N,) one value per sample, those of a problem one after the other.
        starts: (P + 1,) where each problem begins, and the end.
        change: what becomes of a problem's part.
    """

    def __init__(self, column: np.ndarray, starts: np.ndarray, change: Callable = lambda part: part):
        self._column, self._starts, self._change = column, starts, change

    def __len__(self) -> int:
        return len(self._starts) - 1

    def __getitem__(self, problem: int):
        if problem >= len(self):
            raise IndexError(problem)
        return self._change(self._column[self._starts[problem] : self._starts[problem + 1]])


@dataclass
class ScoredSamples:
    """A file's samples as columns, those of a problem one after the other, and which fields it has.

    What the curves need takes ten bytes per sample and eight more per curve; the values per step, of labelled
    solutions, sixteen bytes per step. Each different answer's text is kept once.

    Attributes:
        ids: the problems'.
        starts: (P + 1,) where the samples of each problem begin, and the end.
        spellings: the different answers.
        answers: (N,) indices of the answers among these; -1 for a sample without one.
        correct: (N,) whether the answer is right.
        clean: (N,) whether the answer and every step are right.
        scores: by curve, (N,) solution scores (`rlstep.core.aggregate`).
        aggregates: by curve, how its solution scores were computed.
        logits: whether from log-odds, and so in log space (`rlstep.core.aggregate.logit_solution_score`).
        steps: by curve, except the ORM's, the values per step of each labelled solution, with its PRM training targets.
        cut: by curve, the number of samples with a step without a score, because they did not fit into the verifier
            (`rlstep score --on_long_row cut`): they have the lowest score and are not among `steps`.
        labelled: rows that have labels; `graded` were graded here, and `extracted` had their answer extracted here.
        right_unanswered: rows that the file calls right and that have no answer, where others do or could.
        any_label: whether the label of any step is known.
        open: rows whose answer is right and whose labels leave open whether a step is wrong.
        gives_answers: whether the rows state answers, or that they have none; if not, every sample may be picked.
    """

    ids: list[str]
    starts: np.ndarray
    spellings: list[str]
    answers: np.ndarray
    correct: np.ndarray
    clean: np.ndarray
    scores: dict[str, np.ndarray]
    aggregates: dict[str, Aggregate]
    logits: bool
    steps: dict[str, StepTable]
    cut: dict[str, int]
    labelled: int
    graded: int
    extracted: int
    right_unanswered: int
    any_label: bool
    open: int
    gives_answers: bool

    @property
    def rows(self) -> int:
        """The number of samples."""
        return len(self.answers)

    @property
    def sizes(self) -> np.ndarray:
        """(P,) samples of each problem."""
        return np.diff(self.starts)

    @property
    def answered(self) -> int:
        """Rows with an answer."""
        return int((self.answers >= 0).sum())

    @property
    def has_clean(self) -> bool:
        """Whether the labels say which solutions are right in every step."""
        return self.any_label and self.labelled == self.rows

    def by_problem(self, column: np.ndarray, change: Callable = lambda part: part) -> ByProblem:
        """A column's parts for each problem."""
        return ByProblem(column, self.starts, change)

    def spelled(self, answers: np.ndarray) -> list[str | None]:
        """The answers of a part of the column `answers`."""
        return [None if answer < 0 else self.spellings[answer] for answer in answers.tolist()]
