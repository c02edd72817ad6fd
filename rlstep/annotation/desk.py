"""Who labels what: hands solutions out, takes marks in, and keeps several labellers and browsers apart.

A labeller has one solution at a time, the first of the queue that still needs labels. It is reserved for them as long
as they work on it; a reservation only decides what others get next, so one that has run out never costs a label.

A labeller works in one browser at a time, the one that was opened last. Marks from an earlier one are refused, and so
are marks that follow on an older state than the one kept (`revision`). Marks that come twice are taken once, and so is
an undo: it names the solution that it takes up again.
"""

import math
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from rlstep.annotation.agreement import PairAgreement, pair_agreements
from rlstep.annotation.items import Item, item_id
from rlstep.annotation.reservations import Reservations
from rlstep.annotation.rows import Marks, row_of
from rlstep.annotation.store import LabelStore


class Refused(Exception):
    """A request that the desk does not serve.

    Attributes:
        status: as an HTTP status: 403 unknown labeller, 404 unknown solution, 409 a conflict, 422 marks that the
            protocol does not allow.
        why: for programs: `labeller`, `item`, `browser`, `revision`, `finished`, `nothing` or `marks`.
    """

    def __init__(self, status: int, why: str, message: str):
        super().__init__(message)
        self.status, self.why = status, why


@dataclass(frozen=True)
class Assignment:
    """A solution on a labeller's screen.

    Attributes:
        item: the solution to label.
        number: its place in the queue, from 1.
        revision: of the marks that are kept; the next ones have one more.
        marks: those kept, unfinished.
    """

    item: Item
    number: int
    revision: int
    marks: Marks


@dataclass(frozen=True)
class Finished:
    """The solution that a labeller finished last, which an undo takes up again.

    Attributes:
        item: its id.
        revision: of its marks; 0 if it was finished before the server's start.
    """

    item: str
    revision: int


@dataclass(frozen=True)
class Progress:
    """How far the labelling is, counted in solutions; one that two labellers label counts twice.

    Attributes:
        needed, done: by all labellers.
        mine: done by the labeller who asks.
        open: still needed, and reserved for others.
    """

    needed: int
    done: int
    mine: int
    open: int


@dataclass(frozen=True)
class Pace:
    """What a labeller has done: solutions, rated steps, and seconds per rated step (None before the first)."""

    labeller: str
    solutions: int
    steps: int
    seconds_per_step: float | None


class Desk:
    """The queue of one `rlstep annotate`. Every method may be called from several threads.

    Args:
        items: what to label, in order.
        out: where the rows go.
        labellers: who labels.
        overlap: share of the items that two labellers label, spread evenly over the queue.
        clock: seconds from some start.

    Raises:
        UserError, DataError: see `LabelStore`.
    """

    def __init__(
        self,
        items: Sequence[Item],
        out: str | Path,
        labellers: Sequence[str],
        overlap: float = 0.0,
        clock: Callable[[], float] = time.monotonic,
    ):
        self.items = {item.id: item for item in items}
        self.labellers = tuple(labellers)
        self._number = {item.id: number for number, item in enumerate(items, start=1)}
        self._needed = Counter({item.id: 1 + _takes_overlap(place, overlap) for place, item in enumerate(items)})
        self._lock = threading.Lock()
        self._browsers: dict[str, str] = {}
        self._store = LabelStore(out, self._find, set(self.items))
        self._done: Counter[str] = Counter()  # by item
        self._done_by: Counter[str] = Counter()  # by labeller
        self._all_needed, self._all_done = self._needed.total(), 0
        for labeller, item in self._store.finished:
            self._count(labeller, item, 1)
        # After a restart, what a labeller has begun is still theirs.
        self._reservations = Reservations(clock)
        for labeller, item in self._store.drafts:
            self._reservations.reserve(labeller, item)
        self._last_revision: dict[tuple[str, str], int] = {}  # of solutions finished since the start

    def _find(self, problem: str, steps: list[str]) -> str | None:
        key = item_id(problem, steps)
        return key if key in self.items else None

    def open(self, labeller: str, browser: str) -> Assignment | None:
        """The labeller's current solution, for a browser that takes over from their earlier one; None if all is done.

        Raises:
            Refused: an unknown labeller.
        """
        with self._lock:
            self._check_labeller(labeller)
            self._browsers[labeller] = browser
            return self._current(labeller)

    def save(self, labeller: str, browser: str, item: str, revision: int, marks: Marks) -> Assignment | None:
        """Keeps marks, which replace those before; the same marks may come twice.

        Args:
            labeller, browser: who, and where.
            item: the solution's id.
            revision: one more than that of the marks they follow on.
            marks: all of the solution's marks.

        Returns:
            The solution, or the labeller's next one if these marks finish it; None if all is done.

        Raises:
            Refused: see the class.
            OSError: the marks cannot be written, and are not kept.
        """
        with self._lock:
            self._check_browser(labeller, browser)
            if item not in self.items:
                raise Refused(404, "item", f"there is no solution {item}; reload the page.")
            if fault := marks.fault(len(self.items[item].steps)):
                raise Refused(422, "marks", fault)
            new = self._is_new(labeller, item, revision, marks)
            if marks.finish_reason is not None:
                if new:
                    self._finish(labeller, item, revision, marks)
                return self._current(labeller)
            if new:
                self._store.save((labeller, item), revision, marks)
            self._reservations.reserve(labeller, item)
            return self._assignment(labeller, item)

    def _finish(self, labeller: str, item: str, revision: int, marks: Marks) -> None:
        self._store.finish((labeller, item), marks, row_of(self.items[item], labeller, marks))
        self._count(labeller, item, 1)
        self._reservations.end(labeller, item)
        self._last_revision[labeller, item] = revision

    def _count(self, labeller: str, item: str, change: int) -> None:
        """Counts a finished row in, or out again. What an item has beyond what it needs does not count as done."""
        before = min(self._done[item], self._needed[item])
        self._done[item] += change
        self._done_by[labeller] += change
        self._all_done += min(self._done[item], self._needed[item]) - before

    def _is_new(self, labeller: str, item: str, revision: int, marks: Marks) -> bool:
        """Whether marks are to be kept; False if they are kept already.

        Raises:
            Refused: they follow on another state than the one kept.
        """
        finished = self._store.finished.get((labeller, item))
        if finished is not None:
            if _alike(finished, marks):
                return False
            raise Refused(409, "finished", "you have finished this solution already; undo takes it up again.")
        kept_revision, kept = self._store.drafts.get((labeller, item), (0, Marks()))
        if revision == kept_revision and _alike(kept, marks):
            return False
        if revision != kept_revision + 1:
            raise Refused(409, "revision", "this solution was marked elsewhere since you saw it; here is what is kept.")
        return True

    def reopen(self, labeller: str, browser: str, item: str, revision: int) -> Assignment:
        """Takes up the labeller's last finished solution again, without the mark that finished it.

        The same request may come twice, as it does where its answer is lost: the second changes nothing.

        Args:
            labeller, browser: who, and where.
            item: the solution's id, as `last_finished` gave it.
            revision: one more than that of the marks that finished it.

        Raises:
            Refused: it is not the solution they finished last, an unknown labeller, or they have opened another
                browser.
            OSError: the change cannot be written, and the solution stays finished.
        """
        with self._lock:
            self._check_browser(labeller, browser)
            key = labeller, item
            kept_revision, _ = self._store.drafts.get(key, (0, Marks()))
            if kept_revision < revision:
                last = self._last_finished(labeller)
                if last is None:
                    raise Refused(409, "nothing", "there is nothing to undo: you have finished no solution yet.")
                if item != last.item or revision <= last.revision:
                    message = "another solution was finished or taken up again since; here is what is kept."
                    raise Refused(409, "revision", message)
                self._take_up(key, revision)
            self._reservations.reserve(*key)
            return self._assignment(*key)

    def _take_up(self, key: tuple[str, str], revision: int) -> None:
        marks = self._store.finished[key]
        ended_by_rating = marks.finish_reason in ("found_error", "solution")
        ratings = marks.ratings[:-1] if ended_by_rating else marks.ratings
        self._store.reopen(key, revision, replace(marks, ratings=ratings, finish_reason=None))
        self._count(*key, -1)

    def last_finished(self, labeller: str) -> Finished | None:
        """What `reopen` takes up again; None before the labeller's first finished solution.

        Raises:
            Refused: an unknown labeller.
        """
        with self._lock:
            self._check_labeller(labeller)
            return self._last_finished(labeller)

    def _last_finished(self, labeller: str) -> Finished | None:
        last = next((key for key in reversed(self._store.finished) if key[0] == labeller), None)
        return None if last is None else Finished(last[1], self._last_revision.get(last, 0))

    def progress(self, labeller: str) -> Progress:
        """How far the labelling is.

        Raises:
            Refused: an unknown labeller.
        """
        with self._lock:
            self._check_labeller(labeller)
            reserved = self._reservations.for_others(labeller).items()
            return Progress(
                needed=self._all_needed,
                done=self._all_done,
                mine=self._done_by[labeller],
                open=sum(min(others, max(0, self._needed[item] - self._done[item])) for item, others in reserved),
            )

    def agreement(self) -> tuple[list[PairAgreement], list[Pace]]:
        """The agreement of every two labellers with solutions in common, and each labeller's pace."""
        with self._lock:
            finished = dict(self._store.finished)
        by_labeller: dict[str, list[Marks]] = {name: [] for name in self.labellers}
        for (labeller, _), marks in finished.items():
            by_labeller.setdefault(labeller, []).append(marks)
        return pair_agreements(finished), [_pace(labeller, marks) for labeller, marks in by_labeller.items()]

    def close(self) -> None:
        """Gives the files to others."""
        with self._lock:
            self._store.close()

    def _check_labeller(self, labeller: str) -> None:
        if labeller not in self.labellers:
            names = ", ".join(self.labellers)
            raise Refused(403, "labeller", f"{labeller!r} is no labeller of this server; it was started for {names}.")

    def _check_browser(self, labeller: str, browser: str) -> None:
        self._check_labeller(labeller)
        # After a restart, the browser that was at work goes on.
        if self._browsers.setdefault(labeller, browser) != browser:
            raise Refused(
                409, "browser", f"{labeller} has opened this page in another browser or tab, which has taken over. All "
                "marks that were saved are there."
            )  # fmt: skip

    def _current(self, labeller: str) -> Assignment | None:
        """What the labeller works on: what they have begun, the newest first, or the next of the queue."""
        reserved = self._reservations.for_others(labeller)
        for item in [*self._reservations.begun_by(labeller), *self.items]:
            free = self._done[item] + reserved[item] < self._needed[item]
            if free and (labeller, item) not in self._store.finished:
                self._reservations.reserve(labeller, item)
                return self._assignment(labeller, item)
        return None

    def _assignment(self, labeller: str, item: str) -> Assignment:
        revision, marks = self._store.drafts.get((labeller, item), (0, Marks()))
        return Assignment(self.items[item], self._number[item], revision, marks)


def _takes_overlap(place: int, overlap: float) -> bool:
    """Whether the item at a place of the queue, from 0, is among the share that two labellers label.

    The share is spread evenly, so that every beginning of the queue has it as well.
    """
    # 0.1 * 3 and the like are a little below or above what they stand for.
    return math.floor((place + 1) * overlap + 1e-9) > math.floor(place * overlap + 1e-9)


def _alike(one: Marks, other: Marks) -> bool:
    return (one.ratings, one.finish_reason) == (other.ratings, other.finish_reason)


def _pace(labeller: str, marks: list[Marks]) -> Pace:
    steps = sum(len(one.ratings) for one in marks)
    seconds = sum(one.milliseconds for one in marks) / 1000
    return Pace(labeller, len(marks), steps, seconds / steps if steps else None)
