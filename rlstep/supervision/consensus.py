"""The consensus of two labellers: solutions are kept where both see the first wrong step at the same place.

That is how Qwen2.5-Math-PRM's data was filtered (2501.07301, section 3.1): Monte-Carlo labels, where a judge agrees. A
label below one half is wrong; a neutral step is right, as in "Let's Verify Step by Step". Where unlabelled steps leave
the place open, or the other file lacks a solution, nothing is agreed on, and the solution is not kept.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass, field

from rlstep.core.agreement import cohen_kappa
from rlstep.core.first_error import NONE, first_error, first_error_agreement
from rlstep.runtime.errors import DataError, UserError
from rlstep.steps.records import HALF, Solution, iter_solutions
from rlstep.supervision.checker import name_of

Key = tuple[str, int]


@dataclass
class Consensus:
    """Compares the labels of a file with another's, solution by solution.

    Attributes:
        path, other: the files.
        places: (first, second labeller's) first wrong step of each solution that both judged, -1 for none.
        steps: (first, second labeller's) verdict of each step that both labelled.
        undecided, unmatched: solutions where a labeller leaves the place open, or that `other` lacks.
    """

    path: str
    other: str
    places: list[tuple[int, int]] = field(default_factory=list)
    steps: list[tuple[bool, bool]] = field(default_factory=list)
    undecided: int = 0
    unmatched: int = 0

    def compare(self) -> Iterator[tuple[Solution, bool]]:
        """Yields each solution of `path` and whether it is kept.

        Raises:
            UserError: no solution is in both files, or one has another text or other steps in `other`.
            DataError: a malformed or unlabelled row, or one that is there twice in its file.
        """
        others = dict(_once(self.other))
        for _, solution in _once(self.path):
            other = others.get((solution.problem_id, solution.sample))
            if other is None:
                self.unmatched += 1
                yield solution, False
                continue
            if (solution.prompt, solution.completion, solution.steps) != (other.prompt, other.completion, other.steps):
                raise UserError(
                    f"{name_of(solution, self.path)}: {self.other} has another text or other steps under this problem "
                    "and sample. Give files that are labelled from the same samples, with the same boundary."
                )
            yield solution, self._agree(solution, other)
        if not self.places and not self.undecided:
            raise UserError(
                f"no solution of {self.path} is in {self.other}, by problem_id and sample. Give two labelled files of "
                "the same samples."
            )

    def metrics(self) -> dict:
        """Compared solutions and how far both agree: the place of the first error, and single steps beyond chance."""
        first, second = zip(*self.places, strict=True) if self.places else ((), ())
        agreement = first_error_agreement(first, second)
        kappa = cohen_kappa(*zip(*self.steps, strict=True)) if self.steps else math.nan
        return {
            "compared": len(self.places),
            "agreed": sum(a == b for a, b in self.places),
            "agreement": None if math.isnan(agreement) else agreement,
            "step_kappa": None if math.isnan(kappa) else kappa,
            "undecided": self.undecided,
            "unmatched": self.unmatched,
        }

    def _agree(self, solution: Solution, other: Solution) -> bool:
        first, second = solution.verdicts, other.verdicts
        self.steps += [(a, b) for a, b in zip(first, second, strict=True) if a is not None and b is not None]
        places = place(first), place(second)
        if None in places:
            self.undecided += 1
            return False
        self.places.append(places)
        return places[0] == places[1]


def _once(path: str) -> Iterator[tuple[Key, Solution]]:
    """The labelled solutions of a file, by problem and sample; a repeated one would count twice."""
    seen: set[Key] = set()
    for number, solution in enumerate(iter_solutions(path, need=("steps", "labels")), 1):
        key = solution.problem_id, solution.sample
        if key in seen:
            problem = (
                f"sample {solution.sample} of '{solution.problem_id}' is there twice; nothing says which is meant."
            )
            raise DataError(path, number, "sample", problem)
        seen.add(key)
        yield key, solution


def place(verdicts: list[bool | None]) -> int | None:
    """The first wrong step, -1 for none; None where steps without a verdict leave it open, or there are no steps."""
    if not verdicts:
        return None
    first = first_error([math.nan if right is None else float(right) for right in verdicts], HALF)
    return None if None in (verdicts if first == NONE else verdicts[:first]) else first
