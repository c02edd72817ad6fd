"""What survives a kill: the finished rows, and a journal of the marks on solutions that are not finished.

    OUT            one PRM800K row per finished solution; durable when the labeller hears that it is saved
    OUT.journal    marks as they come, one line each; shortened to the unfinished solutions at every start
    OUT.lock       held while a server runs: a second server on the same file is refused

A row is taken out again when its labeller undoes the end of a solution; all other lines keep their bytes.

The files are the server's as long as it runs. What another program removes is written anew; into a file that one has
changed or replaced nothing is written any more (`ChangedOutside`), as what was done there would be lost, or the marks.
"""

import fcntl
import json
import logging
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import BinaryIO

from rlstep.annotation.rows import Marks, parse_row
from rlstep.runtime.counted import counted
from rlstep.runtime.errors import DataError, UserError
from rlstep.runtime.rows import atomic, read_rows
from rlstep.steps.readers.values import Field
from rlstep.steps.sources import Row

logger = logging.getLogger(__name__)

Key = tuple[str, str]  # labeller, item


class ChangedOutside(OSError):
    """A file that another program has changed while the server had it open."""

    def __init__(self, path: Path):
        super().__init__(
            f"{path.name} was changed by another program while this server had it open. Look at it, then start the "
            "server again; this page keeps its marks until then"
        )


class LabelStore:
    """The files of one `rlstep annotate`.

    Args:
        out: the file of rows.
        find_item: the id of the item with this problem and these steps; None if it is not in the data.
        item_ids: those of all items.

    Attributes:
        finished: the marks of every finished solution, in the order in which they were finished.
        drafts: (revision, marks) of every solution that was begun and is not finished.

    Raises:
        UserError: another server has the file open, or the file belongs to other data.
        DataError: a row of the file is malformed.
    """

    def __init__(self, out: str | Path, find_item: Callable[[str, list[str]], str | None], item_ids: set[str]):
        self.out = Path(out).resolve()
        self.journal = self.out.with_name(self.out.name + ".journal")
        self.out.parent.mkdir(parents=True, exist_ok=True)
        self._lock = _lock(self.out)
        try:
            _drop_half_line(self.out)
            self._lines: dict[Key, bytes] = {}
            self.finished: dict[Key, Marks] = {}
            self._read_rows(find_item)
            self.drafts = self._read_journal(item_ids)
            self._out = _Appender(self.out, lambda: self._lines.values())
            self._journal = _Appender(self.journal, lambda: _events(self.drafts))
        except BaseException:
            self._lock.close()
            raise

    def _read_rows(self, find_item: Callable[[str, list[str]], str | None]) -> None:
        if not self.out.is_file() or not self.out.stat().st_size:
            return
        lines = self.out.read_bytes().split(b"\n")
        for number, values in read_rows(self.out):
            labeller, problem, steps, marks = parse_row(Field.of(Row(str(self.out), number, values)))
            item = find_item(problem, steps)
            if item is None:
                raise DataError(
                    self.out, number, "question", "this solution is not in data: the file holds labels of other "
                    "solutions. Give the data that it was made from, or another out.",
                )  # fmt: skip
            if (labeller, item) in self.finished:
                raise DataError(self.out, number, None, f"{labeller} has labelled this solution in an earlier row.")
            self.finished[labeller, item] = marks
            self._lines[labeller, item] = lines[number - 1] + b"\n"

    def _read_journal(self, item_ids: set[str]) -> dict[Key, tuple[int, Marks]]:
        """The last marks on each unfinished solution; leaves only these in the journal."""
        drafts: dict[Key, tuple[int, Marks]] = {}
        if self.journal.is_file():
            _drop_half_line(self.journal)
            for number, line in enumerate(self.journal.read_bytes().splitlines(), start=1):
                try:
                    event = json.loads(line)
                    marks = Marks(tuple(event["ratings"]), None, int(event["milliseconds"]))
                    key, revision = (str(event["labeller"]), str(event["item"])), int(event["revision"])
                except (ValueError, KeyError, TypeError) as error:
                    raise DataError(
                        self.journal,
                        number,
                        None,
                        f"no line of a journal ({error!r}). Delete it: only the marks on unfinished solutions go.",
                    ) from None
                drafts.pop(key, None)  # the newest mark comes last
                drafts[key] = revision, marks
        if strangers := sorted(item for _, item in drafts if item not in item_ids):
            strange = counted(len(strangers), "solution that is", "solutions that are")
            raise UserError(
                f"{self.journal}: it has marks on {strange} not in data. Give the data that "
                f"{self.out.name} was made from, or another out; or delete the journal, and these marks with it."
            )
        # A finished solution may have left marks from before its last one.
        drafts = {key: draft for key, draft in drafts.items() if key not in self.finished}
        with atomic(self.journal) as temporary:
            temporary.write_bytes(b"".join(_events(drafts)))
        return drafts

    def save(self, key: Key, revision: int, marks: Marks) -> None:
        """Keeps the marks on an unfinished solution."""
        self._journal.append(_event(key, revision, marks))
        self.drafts[key] = revision, marks

    def finish(self, key: Key, marks: Marks, row: dict) -> None:
        """Appends the row of a finished solution."""
        line = json.dumps(row).encode() + b"\n"
        self._out.append(line)
        self._lines[key] = line
        self.finished[key] = marks
        self.drafts.pop(key, None)

    def reopen(self, key: Key, revision: int, marks: Marks) -> None:
        """Takes the row of a finished solution out; its marks go on as a draft."""
        self._out.check(unedited=True)
        # The journal first: a kill between the two leaves the row, which then counts.
        self._journal.append(_event(key, revision, marks))
        others = {other: line for other, line in self._lines.items() if other != key}
        self._out.replace(others.values())
        self._lines = others
        del self.finished[key]
        self.drafts[key] = revision, marks

    def close(self) -> None:
        """Gives the file to others. May be called again."""
        if self._lock.closed:
            return
        self._out.close()
        self._journal.close()
        if not self.drafts:
            self.journal.unlink(missing_ok=True)
        self._lock.close()


class _Appender:
    """Appends whole lines, durably; a line that cannot be written whole is taken back.

    Args:
        path: the file, which is made where there is none.
        lines: what it holds, for the case that another program removes it.
    """

    def __init__(self, path: Path, lines: Callable[[], Iterable[bytes]]):
        self._path, self._lines = path, lines
        self._open()

    def _open(self) -> None:
        self._file = self._path.open("ab", buffering=0)
        self._left = os.fstat(self._file.fileno())

    def append(self, line: bytes) -> None:
        """
        Raises:
            ChangedOutside: the line would follow something else than what was written here.
            OSError: it cannot be written.
        """
        self.check()
        try:
            rest = memoryview(line)
            while rest:
                rest = rest[self._file.write(rest) :]
            os.fsync(self._file.fileno())
        except OSError:
            self._file.truncate(self._left.st_size)  # the next line must not go on in the middle of this one
            raise
        finally:
            self._left = os.fstat(self._file.fileno())

    def check(self, unedited: bool = False) -> None:
        """Refuses a file that is not as it was left, and writes one anew that was removed.

        Args:
            unedited: an edit that left it as long as it was counts, too.

        Raises:
            ChangedOutside: it is another file, or has changed.
        """
        try:
            now = self._path.stat()
        except FileNotFoundError:
            logger.warning("%s was removed while this server had it open, and is written anew", self._path)
            self.replace(self._lines())
            return
        left = self._left
        same = (now.st_dev, now.st_ino, now.st_size) == (left.st_dev, left.st_ino, left.st_size)
        if not same or (unedited and now.st_mtime_ns != left.st_mtime_ns):
            raise ChangedOutside(self._path)

    def replace(self, lines: Iterable[bytes]) -> None:
        """Replaces all lines, durably."""
        with atomic(self._path) as temporary, temporary.open("wb") as file:
            file.writelines(lines)
            file.flush()
            os.fsync(file.fileno())
        self._file.close()
        self._open()

    def close(self) -> None:
        self._file.close()


def _events(drafts: Mapping[Key, tuple[int, Marks]]) -> Iterator[bytes]:
    return (_event(key, *draft) for key, draft in drafts.items())


def _event(key: Key, revision: int, marks: Marks) -> bytes:
    labeller, item = key
    event = {"labeller": labeller, "item": item, "revision": revision, **asdict(marks)}
    del event["finish_reason"]
    return json.dumps(event).encode() + b"\n"


def _lock(out: Path) -> BinaryIO:
    """An open file that locks `out` for this process: on its own, because `out` is replaced by an undo."""
    file = out.with_name(out.name + ".lock").open("ab")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        file.close()
        if not isinstance(error, BlockingIOError):
            raise UserError(
                f"{out}: its file system gives no lock ({error.strerror}), without which two servers could write into "
                "it. Give an out on another disk."
            ) from None
        raise UserError(
            f"{out}: another `rlstep annotate` has this file open. Several labellers use one server (--labeller A B); "
            "end the other one, or give another out."
        ) from None
    return file


def _drop_half_line(path: Path) -> None:
    """Cuts off what a kill left after the last complete line."""
    if not path.is_file():
        return
    content = path.read_bytes()
    complete, _, half = content.rpartition(b"\n")
    if not half:
        return
    try:
        json.loads(half)
    except ValueError:
        logger.warning("%s: its last line was cut off by a kill and is removed.", path)
        with path.open("rb+") as file:
            file.truncate(len(content) - len(half))
        return
    # A whole row without its line break, as some editors leave it.
    with path.open("ab") as file:
        file.write(b"\n")
