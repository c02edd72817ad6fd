"""JSON row files: strict reading, atomic writing, and an appender that survives a kill.

A file is either complete (written under a temporary name, then renamed) or a `.partial` file that the appender can
continue: each finished unit of work is one flushed line, and a line cut off by a kill is dropped when it is reopened.
"""

import gzip
import io
import json
import os
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, NoReturn

from rlstep.runtime.errors import DataError, UserError

OnFault = Callable[[DataError], None]


def refuse(fault: DataError) -> NoReturn:
    """What is done with a malformed row unless the caller wants otherwise: the error ends the reading."""
    raise fault


def read_rows(path: str | Path, on_fault: OnFault = refuse) -> Iterator[tuple[int, dict]]:
    """Yields (row number from 1, row) of a file of JSON objects, one at a time.

    The file holds one object a line, blank lines being passed over, or, where it is called `.json` and begins with a
    bracket, one list of them. Either may be compressed (`.gz`).

    Args:
        path: the file.
        on_fault: called with the error of each row that is no JSON object; reading goes on if it returns. By default
            it raises. What spoils all that follows (half a list, a damaged archive) is always raised.

    Raises:
        UserError: the file is missing or holds no row.
        DataError: a row is not a JSON object.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"{path}: no such file. Check the path, or run the stage that writes it first.")
    number = 0
    try:
        for number, row in _parsed(path):
            if isinstance(row, dict):
                yield number, row
            else:
                on_fault(row)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise DataError(path, number + 1, None, f"not readable as gzip from here on ({error}).") from None
    if not number:
        raise UserError(f"{path}: the file has no rows. Run the stage that writes it again, or give another file.")


def _parsed(path: Path) -> Iterator[tuple[int, dict | DataError]]:
    """(number, row) of each row of a file; in place of a row that is no JSON object what is wrong with it."""
    # Bytes, so that a line that is no UTF-8 is reported with its number.
    with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
        if path.name.removesuffix(".gz").endswith(".json") and _begins_a_list(file):
            for number, item in _ListParser(path, file).items():
                yield number, item if isinstance(item, dict) else _no_object(path, number, item)
            return
        for number, line in enumerate(file, start=1):
            if line.strip():
                yield number, _object(path, number, line)


def _object(path: Path, number: int, line: bytes) -> dict | DataError:
    try:
        row = json.loads(line.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        return _unreadable(path, number, error)
    return row if isinstance(row, dict) else _no_object(path, number, row)


def _no_object(path: Path, number: int, row) -> DataError:
    return DataError(path, number, None, f"expected a JSON object, found {type(row).__name__}.")


def _unreadable(path: Path, number: int, error: Exception) -> DataError:
    if isinstance(error, UnicodeDecodeError):
        return DataError(path, number, None, f"not UTF-8 text (at byte {error.start + 1}).")
    if isinstance(error, json.JSONDecodeError):
        return DataError(path, number, None, f"not valid JSON ({error.msg} at column {error.colno}).")
    # an integer of thousands of digits, or brackets nested as deep
    return DataError(path, number, None, f"not readable JSON ({error}).")


def _begins_a_list(file: BinaryIO) -> bool:
    first = b" "
    while first.isspace():
        first = file.read(1)
    file.seek(0)
    return first == b"["


class _ListParser:
    """Parses one JSON list item by item, so that a large file need not fit in memory."""

    chunk = 1 << 16

    def __init__(self, path: Path, file: BinaryIO):
        self.path = path
        self._text = io.TextIOWrapper(file, "utf-8")
        self._rest = ""  # what is read but not parsed yet
        self._decode = json.JSONDecoder().raw_decode

    def items(self) -> Iterator[tuple[int, object]]:
        """(number from 1, item) of each item."""
        number = 0
        try:
            self._take("[")
            mark = "," if self._next() != "]" else self._take("]")
            while mark == ",":
                number += 1
                yield number, self._item()
                mark = self._take(",]")
            if behind := self._next():
                raise ValueError(f"expected the end of the file behind the list, found {behind!r}")
        except (ValueError, RecursionError) as error:
            raise _unreadable(self.path, max(number, 1), error) from None

    def _next(self) -> str:
        """The next character that is no white space; nothing at the end of the file."""
        while not (rest := self._rest.lstrip()):
            self._rest = self._text.read(self.chunk)
            if not self._rest:
                return ""
        self._rest = rest
        return rest[0]

    def _take(self, marks: str) -> str:
        if (found := self._next()) not in tuple(marks):
            raise ValueError(f"expected {' or '.join(marks)}, found {repr(found) if found else 'the end of the file'}")
        self._rest = self._rest[1:]
        return found

    def _item(self):
        self._next()
        while True:
            try:
                item, end = self._decode(self._rest)
            except json.JSONDecodeError:
                # Perhaps the item is longer than what is read: it is parsed again with twice as much.
                if not (ahead := self._text.read(max(self.chunk, len(self._rest)))):
                    raise
                self._rest += ahead
            else:
                self._rest = self._rest[end:]
                return item


@contextmanager
def atomic(path: str | Path) -> Iterator[Path]:
    """A temporary path beside `path`, in a folder that exists; renamed to `path` at the end, removed on an error."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(path.name + ".tmp")
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_rows(path: str | Path, rows: Iterable[dict]) -> int:
    """Writes a JSONL file atomically; returns the number of rows."""
    count = 0
    with atomic(path) as temporary, temporary.open("w", encoding="utf-8") as file:
        for row in rows:
            file.write(json.dumps(row, ensure_ascii=False) + "\n")
            count += 1
    return count


def write_json(path: str | Path, value) -> None:
    """Writes one JSON document atomically, indented for people."""
    with atomic(path) as temporary:
        temporary.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


class ResumableRows:
    """Appends rows to `path`.partial and renames it to `path` when all are written.

    A row is durable once `append` returned. After a kill, `rows` holds what was written before, in order; a last
    line that was cut off is removed. The caller skips as many units of work as `rows` shows.

    `fingerprint` names the inputs and settings the rows come from; a partial file of another fingerprint is started
    afresh, so that rows of two configurations are never mixed.
    """

    def __init__(self, path: str | Path, fingerprint: str):
        self.path = Path(path)
        self.partial = self.path.with_name(self.path.name + ".partial")
        self.path.parent.mkdir(parents=True, exist_ok=True)
        header = json.dumps({"fingerprint": fingerprint})
        self.rows: list[dict] = []
        kept = [header]
        if self.partial.is_file():
            # Whatever follows the last newline was being written when the process died; it may end inside a character.
            complete, _, _ = self.partial.read_bytes().rpartition(b"\n")
            complete = complete.decode("utf-8").split("\n")
            if complete[0] == header:
                kept = complete
                self.rows = [json.loads(line) for line in complete[1:]]
        temporary = self.partial.with_name(self.partial.name + ".tmp")
        temporary.write_text("".join(line + "\n" for line in kept), encoding="utf-8")
        os.replace(temporary, self.partial)
        self._file = self.partial.open("a", encoding="utf-8")

    def append(self, rows: Iterable[dict]) -> None:
        rows = list(rows)
        # One write for the batch: a kill leaves whole rows and at most one cut-off line.
        self._file.write("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
        self._file.flush()
        os.fsync(self._file.fileno())
        self.rows.extend(rows)

    def finish(self) -> None:
        """Writes the complete file without the header and removes the partial one."""
        self._file.close()
        write_rows(self.path, self.rows)
        self.partial.unlink()

    def __enter__(self) -> "ResumableRows":
        return self

    def __exit__(self, *_):
        self._file.close()
