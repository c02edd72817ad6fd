"""Trees of solutions: those that branch off one labelled trajectory share their beginnings, whose labels count once.

Each solution of a tree (`Solution.tree`) has the labels of all its steps, so that it can be judged whole. Training and
counts of steps take a label from the first solution that has it: whichever solutions of a tree are left, after rows
were filtered, shuffled or cut, no label of theirs is lost and none counts twice.
"""

from rlstep.steps.records import Solution


class Beginnings:
    """The steps that were taken so far, each with all that comes before it in its solution."""

    def __init__(self):
        self._taken: set[int] = set()

    def shared(self, solution: Solution) -> int:
        """How many of a solution's first steps were taken with others of its tree; never its last, which is its own.

        Of two alternatives with the same text each has a label.
        """
        keys = self._keys(solution)[:-1]
        return next((k for k, key in enumerate(keys) if key not in self._taken), len(keys))

    def take(self, solution: Solution) -> int:
        """Takes a solution's steps; returns how many of them were `shared` before."""
        shared = self.shared(solution)
        self._taken.update(self._keys(solution))
        return shared

    @staticmethod
    def _keys(solution: Solution) -> list[int]:
        # Hashes: a large data set has a million steps, each with a text as long as its solution up to there.
        if solution.tree is None:
            return []
        return [hash((solution.tree, solution.completion[:end])) for _, end in solution.steps or ()]
