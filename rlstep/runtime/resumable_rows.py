"""Rows that are appended to a `.partial` file, which a kill leaves for the next run to continue.

Each finished unit of work is one flushed line, and a line cut off by a kill is dropped when the file is reopened.
"""

import json
import os
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path

from rlstep.runtime.counted import counted
from rlstep.runtime.errors import UserError
from rlstep.runtime.failure import mark_resumable
from rlstep.runtime.rows import as_json, atomic, naming, write_rows


class ResumableRows:
    """Appends rows to `path`.partial and renames it to `path` when all are written.

    A row is durable once `append` returns. After a kill, `count` says how many rows were written before, and `earlier`
    reads them, in order; a truncated last line is removed. No rows are kept in memory.

    `fingerprint` identifies the inputs and settings the rows come from. Rows of two configurations are never mixed, and
    those of another are not thrown away: a judge may have been paid for them. A run that ends before its first row
    leaves no partial file.

    Attributes:
        count: rows that are there.

    Raises:
        UserError: the partial file has rows of another fingerprint, or is a folder.
    """

    def __init__(self, path: str | Path, fingerprint: str):
        self.path = Path(path)
        self.partial = self.path.with_name(self.path.name + ".partial")
        self.path.parent.mkdir(parents=True, exist_ok=True)
        header = (json.dumps({"fingerprint": fingerprint}) + "\n").encode()
        if self.partial.is_dir():
            raise UserError(
                f"{self.partial} is a folder, of an unfinished run of another kind. Remove it and start again."
            )
        self._start, self.count, end = len(header), 0, 0
        if self.partial.is_file():
            with self.partial.open("rb") as file:
                own = file.readline() == header
                # What follows the last newline was being written when the process died.
                lengths = [len(line) for line in file if line.endswith(b"\n")]
            if own:
                self.count, end = len(lengths), self._start + sum(lengths)
            elif lengths:
                parts = counted(len(lengths), "finished part")
                raise UserError(
                    f"{self.partial} holds {parts} of a run with other data or settings. Start it with those to go on, "
                    "give another out, or remove the file to start afresh."
                )
        if end:
            os.truncate(self.partial, end)
        else:
            with atomic(self.partial) as temporary:
                temporary.write_bytes(header)
        self._earlier = self.count
        self._file = self.partial.open("a", encoding="utf-8")

    def earlier(self) -> Iterator[dict]:
        """The rows that were there when the file was opened, read one at a time."""
        return (json.loads(line) for line in islice(self._lines(), self._earlier))

    def append(self, rows: Iterable[dict]) -> None:
        rows = list(rows)
        # One write per batch: a kill leaves whole rows and at most one truncated line.
        with naming(self.partial):
            self._file.write("".join(as_json(row) + "\n" for row in rows))
            self._file.flush()
            os.fsync(self._file.fileno())
        self.count += len(rows)

    def finish(self, rows: Iterable[dict] | None = None) -> None:
        """Writes the complete file without the header and removes the partial one.

        Args:
            rows: those of the complete file, where what was appended is what they are made of, and not they.
        """
        self._file.close()
        if rows is not None:
            write_rows(self.path, rows)
        else:
            with atomic(self.path) as temporary, temporary.open("wb") as complete:
                complete.writelines(self._lines())
        self.partial.unlink()

    def _lines(self) -> Iterator[bytes]:
        with self.partial.open("rb") as file:
            file.seek(self._start)
            yield from file

    def __enter__(self) -> "ResumableRows":
        return self

    def __exit__(self, kind, error, _):
        if error is not None and self.count:
            mark_resumable(error)
        self._file.close()
        if not self.count:
            self.partial.unlink(missing_ok=True)
