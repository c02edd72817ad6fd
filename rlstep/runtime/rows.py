"""JSON row files: strict reading, and atomic writing under a temporary name: a file is complete or not there."""

import errno
import gzip
import io
import json
import os
import re
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, NoReturn

from rlstep.runtime.errors import DataError, UserError
from rlstep.runtime.file_kinds import refuse_other_kind
from rlstep.runtime.halves import encodable

OF_A_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EROFS)
_SPACE = re.compile(r"[ \t\n\r]*")

OnFault = Callable[[DataError], None]


def refuse(fault: DataError) -> NoReturn:
    """The default for a malformed row: raises its error, which ends the reading."""
    raise fault


def read_rows(path: str | Path, on_fault: OnFault = refuse) -> Iterator[tuple[int, dict]]:
    """Yields (row number from 1, row) of a file of JSON objects, one at a time.

    The file holds one object per line, blank lines being skipped, or, if it is named `.json` and begins with a bracket,
    one list of objects. Either may be compressed (`.gz`). An item of such a list that is a list of objects itself, as
    conversations are, has these as its fields 0, 1, and so on, which is how the hub's tables have them.

    Args:
        path: the file.
        on_fault: called with the error of each row that is not a JSON object; reading continues if it returns. The
            default raises. An error that spoils everything after it (half a list, a damaged archive) is always raised.

    Raises:
        UserError: the file is missing, has no rows, or is not what its name says.
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
    """(number, row) of each row of a file; an error in place of a row that is not a JSON object."""
    with _opened(path) as file:
        if path.name.removesuffix(".gz").endswith(".json") and _begins_a_list(file):
            for number, item in _ListParser(path, file).items():
                if isinstance(item, list) and item and all(isinstance(part, dict) for part in item):
                    item = {str(place): part for place, part in enumerate(item)}
                yield number, item if isinstance(item, dict) else _no_object(path, number, item)
            return
        first = True
        for number, line in enumerate(file, start=1):
            if line.strip():
                row = _object(path, number, line)
                if first and isinstance(row, DataError):
                    _refuse_other_json(path, line)
                first = False
                yield number, row


@contextmanager
def _opened(path: Path) -> Iterator[BinaryIO]:
    """A file's content, decompressed, as bytes, so that a line that is not UTF-8 can be reported with its number."""
    with path.open("rb") as file:
        refuse_other_kind(path, file, path.suffix)
        if path.suffix != ".gz":
            yield file
            return
        with gzip.open(file) as unpacked:
            refuse_other_kind(path, unpacked, Path(path.stem).suffix)
            yield unpacked


def _refuse_other_json(path: Path, first_line: bytes) -> None:
    """Refuses a file whose first line shows that it is JSON but not rows: every line would be a malformed row."""
    line = first_line.strip()
    if line.startswith(b"[") and not path.name.removesuffix(".gz").endswith(".json"):
        raise UserError(f"{path}: this is one JSON list, not an object per line. Give it a name that ends in .json.")
    if line.endswith((b"{", b"[")) or (line.endswith(b",") and not line.endswith(b"},")):
        raise UserError(
            f"{path}: its JSON spans several lines, and a file of rows has one object per line. Write it so "
            "(`jq -c . FILE > ROWS.jsonl`; where one object holds the rows in a list, `jq -c '.NAME[]'`)."
        )


def _object(path: Path, number: int, line: bytes) -> dict | DataError:
    try:
        row = json.loads(line.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        return _unreadable(path, number, error)
    return row if isinstance(row, dict) else _no_object(path, number, row)


def _no_object(path: Path, number: int, row) -> DataError:
    return DataError(path, number, None, f"expected a JSON object, got {type(row).__name__}.")


def _unreadable(path: Path, number: int, error: Exception) -> DataError:
    if isinstance(error, UnicodeDecodeError):
        return DataError(path, number, None, f"not UTF-8 text (at byte {error.start + 1}).")
    if isinstance(error, json.JSONDecodeError):
        if error.msg == "Extra data":
            problem = f"more follows the JSON value at column {error.colno}; put each object on a line of its own"
            remedy = " (`jq -c . FILE > ROWS.jsonl`)" if error.doc[error.pos] in "{[" else ", without a comma"
            return DataError(path, number, None, problem + remedy + ".")
        return DataError(path, number, None, f"not valid JSON ({error.msg} at column {error.colno}).")
    # An integer of thousands of digits, or brackets nested thousands deep.
    return DataError(path, number, None, f"not readable JSON ({error}).")


def _begins_a_list(file: BinaryIO) -> bool:
    first = b" "
    while first.isspace():
        first = file.read(1)
    file.seek(0)
    return first == b"["


class _ListParser:
    """Parses one JSON list item by item, so that a large file need not fit in memory.

    Items are parsed by `json`, as the lines of a JSONL file are. ijson (3.6) would parse them differently: half a
    surrogate pair becomes "?", NaN and integers beyond 64 bits are refused; and its memory grows with the square of the
    nesting depth (an item of 20,000 brackets takes a gigabyte).
    """

    chunk = 1 << 16
    longest = 1 << 28  # characters per item: an error at its beginning must not read all of a large file

    def __init__(self, path: Path, file: BinaryIO):
        self.path = path
        self._text = io.TextIOWrapper(file, "utf-8")
        self._buffer, self._place = "", 0  # what was read, and where its unparsed part begins
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
            if after := self._next():
                raise ValueError(f"expected the end of the file after the list, got {after!r}")
        except (ValueError, RecursionError) as error:
            raise _unreadable(self.path, max(number, 1), error) from None

    def _next(self) -> str:
        """The next character that is not white space; empty at the end of the file."""
        while (place := _SPACE.match(self._buffer, self._place).end()) == len(self._buffer):
            self._buffer, self._place = self._text.read(self.chunk), 0
            if not self._buffer:
                return ""
        self._place = place
        return self._buffer[place]

    def _take(self, marks: str) -> str:
        if (mark := self._next()) not in tuple(marks):
            raise ValueError(f"expected {' or '.join(marks)}, got {repr(mark) if mark else 'the end of the file'}")
        self._place += 1
        return mark

    def _item(self):
        self._next()
        while True:
            try:
                item, self._place = self._decode(self._buffer, self._place)
                return item
            except json.JSONDecodeError:
                # The item may be longer than what was read: parse it again with twice as much.
                item = self._buffer[self._place :]
                if len(item) >= self.longest or not (more := self._text.read(max(self.chunk, len(item)))):
                    raise
                self._buffer, self._place = item + more, 0


@contextmanager
def naming(path: str | Path) -> Iterator[None]:
    """Names the file in errors of writing to it, which say no more than that the disk is full."""
    try:
        yield
    except OSError as error:
        if error.filename is None and error.errno in OF_A_DISK:
            error.filename = str(path)
        raise


@contextmanager
def atomic(path: str | Path) -> Iterator[Path]:
    """A temporary path next to `path`, whose folder is created; renamed to `path` at the end, removed on an error."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(path.name + ".tmp")
    try:
        with naming(path):
            yield temporary
            os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def as_json(value, indent: int | None = None) -> str:
    """JSON that UTF-8 can hold: characters as they are, but by their codes where a text has half a surrogate pair."""
    text = json.dumps(value, indent=indent, ensure_ascii=False)
    return text if encodable(text) else json.dumps(value, indent=indent)


def write_rows(path: str | Path, rows: Iterable[dict]) -> int:
    """Writes a JSONL file atomically; returns the number of rows."""
    count = 0
    with atomic(path) as temporary, temporary.open("w", encoding="utf-8") as file:
        for row in rows:
            file.write(as_json(row) + "\n")
            count += 1
    return count


def write_json(path: str | Path, value, indent: int | None = 2) -> None:
    """Writes one JSON document atomically, indented for people, or on one line (None)."""
    with atomic(path) as temporary:
        temporary.write_text(as_json(value, indent) + "\n", encoding="utf-8")
