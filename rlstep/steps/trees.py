"""Trees of solutions: those that branch off one labelled trajectory share first steps, whose labels count once.

Each solution of a tree (`Solution.tree`) has the labels of all its steps, so that it can be evaluated as a whole.
Training and counts of steps take a label from the first solution that has it: whichever solutions of a tree remain
after rows were filtered, shuffled or dropped, none of their labels is lost and none counts twice.
"""

from collections.abc import Sequence

from rlstep.steps.records import Solution, Span


class Beginnings:
    """The steps counted so far, each identified together with all steps before it in its solution."""

    def __init__(self):
        self._taken: set[int] = set()

    def shared(self, solution: Solution) -> int:
        """How many of a solution's first steps were counted for others of its tree; never its last, which is its own.

        Two alternatives with the same text each have a label.
        """
        keys = self._keys(solution)[:-1]
        return next((k for k, key in enumerate(keys) if key not in self._taken), len(keys))

    def take(self, solution: Solution) -> int:
        """Counts a solution's steps; returns how many of them were already `shared`."""
        shared = self.shared(solution)
        self._taken.update(self._keys(solution))
        return shared

    @staticmethod
    def _keys(solution: Solution) -> list[int]:
        # Hashes, because a large data set has a million steps, each keyed by its solution up to that step.
        if solution.tree is None:
            return []
        return [hash((solution.tree, solution.completion[:end])) for _, end in solution.steps or ()]


def prefix_numbers(completions: Sequence[str], steps: Sequence[Sequence[Span]]) -> list[list[int]]:
    """A number for each step of each completion, equal where the texts up to the ends of the steps are."""
    numbers: dict[str, int] = {}
    return [
        [numbers.setdefault(text[:end], len(numbers)) for _, end in spans]
        for text, spans in zip(completions, steps, strict=True)
    ]
