"""Solutions in chunks whose ends depend on what the rows hold, so that most chunks stay as they are if a row changes.

With chunks of a fixed number of rows, a row that is dropped would move the ends of all chunks after it, and all of
these would be scored again. Here a chunk ends after a row whose digest says so; after a dropped, added or mended row
the ends are soon the same as before, usually within one or two chunks.
"""

import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from rlstep.runtime.units import Unit
from rlstep.steps.records import Solution, solution_of
from rlstep.steps.sources import Row


@dataclass(frozen=True)
class Placed:
    """A solution and where it is in the input.

    Attributes:
        source: its file.
        number: of its row there, from 1.
    """

    source: str
    number: int
    solution: Solution

    @property
    def name(self) -> str:
        """As error messages name it."""
        return f"{self.source}, row {self.number} (problem '{self.solution.problem_id}', sample {self.solution.sample})"


def chunk_units(solutions: Iterable[Solution], most: int, made_by: str) -> Iterator[Unit]:
    """The units of work that a data set of solutions makes; it holds one row at a time.

    Args:
        solutions: in order.
        most: rows of a chunk at most; it has at least half as many, but for the last one.
        made_by: a digest of the model and the settings, of which the scores depend beside the rows.
    """
    least, one_in = (most + 1) // 2, max(1, most // 4)
    number, rows, content = 0, 0, _start(made_by)
    for solution in solutions:
        row = hashlib.sha256(json.dumps(solution.to_row()).encode()).digest()
        content.update(row)
        rows += 1
        if rows == most or (rows >= least and int.from_bytes(row[:8]) % one_in == 0):
            yield Unit(number, content.hexdigest()[:40], rows)
            number, rows, content = number + 1, 0, _start(made_by)
    if rows:
        yield Unit(number, content.hexdigest()[:40], rows)


def _start(made_by: str):
    return hashlib.sha256(made_by.encode())


def chunks_of(rows: Iterable[Row], units: Sequence[Unit], wanted: Iterable[int]) -> Iterator[tuple[Unit, list[Placed]]]:
    """Some units with their solutions, which are in memory one chunk at a time.

    Args:
        rows: those that the units were made from.
        units: all of them.
        wanted: the numbers of those to be read.
    """
    rows, wanted = iter(rows), set(wanted)
    for unit in units:
        if not wanted:
            return
        # Rows of other processes' chunks are passed over unchecked: they were checked when the units were made.
        chunk = [next(rows) for _ in range(unit.rows)] if unit.number in wanted else _pass_over(rows, unit.rows)
        if chunk is not None:
            wanted.remove(unit.number)
            yield unit, [Placed(row.source, row.number, solution_of(row)) for row in chunk]


def _pass_over(rows: Iterator[Row], number: int) -> None:
    for _ in range(number):
        next(rows)
