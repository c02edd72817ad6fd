"""Labels of steps from how often rollouts from their ends reach the right answer, and which steps to ask about.

The *share* of a step is the part of the continuations from its end that reach the answer (Math-Shepherd, 2312.08935,
equations 3 and 4): a hard label is 1 where the share is above 0, a soft label is the share itself. A search names the
steps whose shares it wants next, is given them, and has the labels once it wants no more.
"""

from dataclasses import dataclass, field
from typing import Protocol

__all__ = ["BinarySearch", "LinearSearch", "StepSearch"]


class StepSearch(Protocol):
    def wanted(self) -> list[int]:
        """The steps whose shares decide what comes next; none once the labels are known."""

    def tell(self, step: int, share: float) -> None:
        """The share of a step that was wanted."""

    def labels(self) -> list[float | None]:
        """One label per step, None where nothing is known of it."""


@dataclass
class LinearSearch:
    """One step after the other, or all at once.

    Attributes:
        steps: how many the solution has.
        soft: labels are shares, not 0 or 1.
        past_error: steps after the first one with the share 0 are asked about, too; else they have no label.
        shares: what has been told, the share of rollouts that reach the answer by the step's index.

    >>> search = LinearSearch(3)
    >>> search.tell(0, 0.5), search.tell(1, 0.0), search.wanted(), search.labels()
    (None, None, [], [1.0, 0.0, None])
    """

    steps: int
    soft: bool = False
    past_error: bool = False
    shares: dict[int, float] = field(default_factory=dict)

    def wanted(self) -> list[int]:
        left = [step for step in range(self.steps) if step not in self.shares]
        if self.past_error:
            return left
        return [] if 0 in self.shares.values() else left[:1]

    def tell(self, step: int, share: float) -> None:
        self.shares[step] = share

    def labels(self) -> list[float | None]:
        shares = [self.shares.get(step) for step in range(self.steps)]
        return [share if share is None or self.soft else float(share > 0) for share in shares]


@dataclass
class BinarySearch:
    """The first error by halves (OmegaPRM, 2406.06592, section 3.2), for hard labels.

    It takes for granted that shares are monotone: once no continuation reaches the answer, none does from any later
    step, and where one does, every step before is right. The last step is asked about first: where the answer can be
    reached from there, no step is wrong. So 1 + log2 of the number of steps are asked about, where `LinearSearch` asks
    about all up to the first error. Steps after it have no label.

    Attributes:
        steps: how many the solution has.

    >>> search, asked = BinarySearch(8), []
    >>> while search.wanted():
    ...     asked += search.wanted()
    ...     search.tell(asked[-1], share=0.25 if asked[-1] < 5 else 0.0)
    >>> asked, search.labels()
    ([7, 3, 5, 4], [1.0, 1.0, 1.0, 1.0, 1.0, 0.0, None, None])
    """

    steps: int

    def __post_init__(self):
        self._right = -1  # the last step that is known to be right
        self._wrong = self.steps  # the first one that is known to be wrong

    def wanted(self) -> list[int]:
        if self._right >= self.steps - 1 or self._wrong == self._right + 1:
            return []
        return [self.steps - 1 if self._wrong == self.steps else (self._right + self._wrong) // 2]

    def tell(self, step: int, share: float) -> None:
        if share > 0:
            self._right = step
        else:
            self._wrong = step

    def labels(self) -> list[float | None]:
        known = [*[1.0] * (self._right + 1), *[0.0] * (self._wrong == self._right + 1 < self.steps)]
        return [*known, *[None] * (self.steps - len(known))]
