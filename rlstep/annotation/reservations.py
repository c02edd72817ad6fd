"""Who works on what at the moment: a solution that a labeller has begun is theirs for a while."""

from collections import Counter
from collections.abc import Callable

RESERVED_S = 15 * 60.0


class Reservations:
    """What each labeller has begun, and when they last worked on it.

    Args:
        clock: seconds from some start.
    """

    def __init__(self, clock: Callable[[], float]):
        self._clock = clock
        self._begun: dict[str, dict[str, float]] = {}  # by labeller, the newest last

    def reserve(self, labeller: str, item: str) -> None:
        """Notes that a labeller works on an item now."""
        begun = self._begun.setdefault(labeller, {})
        begun.pop(item, None)
        begun[item] = self._clock()

    def end(self, labeller: str, item: str) -> None:
        """Notes that a labeller has finished an item."""
        self._begun.get(labeller, {}).pop(item, None)

    def begun_by(self, labeller: str) -> list[str]:
        """What a labeller has begun, the newest first, however long ago."""
        return [*reversed(self._begun.get(labeller, {}))]

    def for_others(self, labeller: str) -> Counter[str]:
        """How many others work on each item."""
        since = self._clock() - RESERVED_S
        return Counter(
            item
            for other, begun in self._begun.items()
            for item, at in begun.items()
            if other != labeller and at > since
        )
