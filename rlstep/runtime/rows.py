"""JSONL row files: strict reading, atomic writing, and an appender that survives a kill.

A file is either complete (written under a temporary name, then renamed) or a `.partial` file that the appender can
continue: each finished unit of work is one flushed line, and a line cut off by a kill is dropped when it is reopened.
"""

import json
import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from rlstep.runtime.errors import DataError, UserError


def read_rows(path: str | Path) -> Iterator[tuple[int, dict]]:
    """Yields (row number from 1, row) of a JSONL file; blank lines are passed over.

    Raises:
        UserError: the file is missing or holds no row.
        DataError: a line is not a JSON object.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"{path}: no such file. Check the path, or run the stage that writes it first.")
    empty = True
    # Bytes, so that a line that is no UTF-8 is reported with its number.
    with path.open("rb") as lines:
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            empty = False
            try:
                row = json.loads(line.decode("utf-8"))
            except UnicodeDecodeError as error:
                raise DataError(path, number, None, f"not UTF-8 text (at byte {error.start + 1}).") from None
            except json.JSONDecodeError as error:
                raise DataError(path, number, None, f"not valid JSON ({error.msg} at column {error.colno}).") from None
            except (ValueError, RecursionError) as error:
                # an integer of thousands of digits, or brackets nested as deep
                raise DataError(path, number, None, f"not readable JSON ({error}).") from None
            if not isinstance(row, dict):
                raise DataError(path, number, None, f"expected a JSON object, found {type(row).__name__}.")
            yield number, row
    if empty:
        raise UserError(f"{path}: the file has no rows. Run the stage that writes it again, or give another file.")


def write_rows(path: str | Path, rows: Iterable[dict]) -> int:
    """Writes a JSONL file atomically; returns the number of rows."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(path.name + ".tmp")
    count = 0
    with temporary.open("w", encoding="utf-8") as file:
        for row in rows:
            file.write(json.dumps(row, ensure_ascii=False) + "\n")
            count += 1
    os.replace(temporary, path)
    return count


def write_json(path: str | Path, value) -> None:
    """Writes one JSON document atomically, indented for people."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    os.replace(temporary, path)


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
