"""The step scores and labels of many solutions as columns: sixteen bytes per step, and a few per solution."""

from array import array
from collections.abc import Iterator, Sequence

import numpy as np

from rlstep.core.first_error import NONE, first_error

OPEN = NONE - 1


def column(values: array) -> np.ndarray:
    """The values of an array without a copy of them; nothing can be appended while it is in use."""
    return np.frombuffer(values, dtype=values.typecode) if len(values) else np.empty(0, dtype=values.typecode)


def first_labelled_error(targets_S: np.ndarray, threshold: float) -> int:
    """The first step labelled wrong, -1 where all are right; `OPEN` where unlabelled steps leave that open."""
    first = first_error(targets_S, threshold)  # NaN is not below it
    before = targets_S if first == NONE else targets_S[:first]
    return OPEN if np.isnan(before).any() else first


class StepTable:
    """Solutions' step scores and labels, in columns that grow row by row.

    Attributes:
        probs_T: (T,) the probability that a step is right, one solution after the other.
        targets_T: (T,) 0 wrong to 1 right, NaN where a step has no label.
    """

    def __init__(self):
        self._probs, self._targets = array("d"), array("d")
        self._ends, self._shared = array("q"), array("q")
        self._keys: list[str] = []

    def add(self, probs: Sequence[float], targets: Sequence[float], key: str, shared: int = 0) -> None:
        """Adds a solution; the arguments are as the attributes of `rlstep.verifiers.metrics.RowScores`."""
        self._probs.extend(probs)
        self._targets.extend(targets)
        self._ends.append(len(self._probs))
        self._shared.append(shared)
        self._keys.append(key)

    def __len__(self) -> int:
        return len(self._keys)

    @property
    def probs_T(self) -> np.ndarray:
        return column(self._probs)

    @property
    def targets_T(self) -> np.ndarray:
        return column(self._targets)

    @property
    def keys(self) -> Sequence[str]:
        """For each solution a text that solutions which are alike share: the problem's id."""
        return self._keys

    def rows(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Each solution's (probs (S,), targets (S,)), views of the columns."""
        probs_T, targets_T, start = self.probs_T, self.targets_T, 0
        for end in self._ends:
            yield probs_T[start:end], targets_T[start:end]
            start = end

    def labelled(self) -> tuple[np.ndarray, np.ndarray]:
        """(N,) probabilities and (N,) targets of the steps that have a label, each step once."""
        counted_T = ~np.isnan(self.targets_T)
        start = 0
        for end, shared in zip(self._ends, self._shared, strict=True):
            counted_T[start : min(start + shared, end)] = False  # counted with another solution of the tree
            start = end
        return self.probs_T[counted_T], self.targets_T[counted_T]

    def first_errors(self, threshold: float) -> np.ndarray:
        """(R,) the first step labelled wrong, -1 where all are right; -2 where unlabelled steps leave that open.

        Args:
            threshold: a label below it is wrong.
        """
        return np.fromiter((first_labelled_error(targets, threshold) for _, targets in self.rows()), int, len(self))


class JudgedRows:
    """The solutions of a table whose first wrong step is known, as `rlstep.core.first_error` takes them; no list.

    Args:
        table: the table.
        first_R: of `StepTable.first_errors`.
    """

    def __init__(self, table: StepTable, first_R: np.ndarray):
        self._table, self._first_R = table, first_R
        self._count = int((first_R != OPEN).sum())

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[tuple[np.ndarray, int]]:
        for (probs, _), first in zip(self._table.rows(), self._first_R.tolist(), strict=True):
            if first != OPEN:
                yield probs, first

    @property
    def keys(self) -> list[str]:
        return [key for key, first in zip(self._table.keys, self._first_R, strict=True) if first != OPEN]
