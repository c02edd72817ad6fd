"""Scores of every solution of a data set, chunk by chunk (`rlstep.runtime.output`): the work of the `score` stage."""

import logging
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Literal

from rlstep.runtime.errors import DataError, UserError
from rlstep.runtime.processes import Processes
from rlstep.runtime.progress import track
from rlstep.runtime.unit_files import Counts, Done
from rlstep.runtime.units import Unit
from rlstep.steps.chunks import Placed, chunk_units, chunks_of
from rlstep.steps.prompt_options import written_as
from rlstep.steps.records import Solution, solution_of
from rlstep.steps.sources import iter_rows
from rlstep.verifiers.scoring.long_rows import CUT, SKIPPED, check_lengths, cut, too_long, with_steps
from rlstep.verifiers.scoring.scorer import RowScorer

logger = logging.getLogger(__name__)

OnLongRow = Literal["error", "skip", "cut"]
COUNTED_AS = {"error": None, "skip": SKIPPED, "cut": CUT}


@dataclass
class ScoringJob:
    """What is scored, and by what; `work` is what `rlstep.runtime.output.Output.fill` calls.

    Attributes:
        data: solutions, labelled or not; the verifier's boundary rule splits those without steps.
        name: the scores' name in every solution's `scores`.
        chunk_rows: rows written at a time at most; equal rows of a chunk count once.
        made_by: a digest of the verifier and the settings, of which the scores depend beside the rows.
        open_verifier: opens the verifier; not called where nothing is left to score.
        on_long_row: what becomes of a row that is longer than the verifier.
        processes: those that score.
        speed: of this process, filled by `work`: what was computed and how fast.
    """

    data: str
    name: str
    chunk_rows: int
    made_by: str
    open_verifier: Callable[[], RowScorer]
    on_long_row: OnLongRow
    processes: Processes
    speed: dict[str, float] = field(default_factory=dict)
    _units: list[Unit] = field(default_factory=list, init=False)

    def units(self) -> list[Unit]:
        """The chunks.

        A first pass over the data finds a malformed last row before hours of scoring, not after.

        Raises:
            DataError: a row is malformed, or has scores of this name.
        """
        self._units = list(chunk_units(self._solutions(), self.chunk_rows, self.made_by))
        return self._units

    def accepts(self, counts: Counts) -> bool:
        """Whether a chunk that was scored earlier is what `on_long_row` asks for."""
        wanted = COUNTED_AS[self.on_long_row]
        return all(not counts.get(name) for name in (SKIPPED, CUT) if name != wanted)

    def work(self, mine: list[Unit]) -> Iterator[Done]:
        """Scores chunks.

        Raises:
            UserError: `on_long_row` is "error", and a row of any process is longer than the verifier; or prompts were
                written otherwise for the policy than the verifier reads them.
        """
        verifier = self.open_verifier()
        if self.on_long_row == "error" and verifier.max_positions is not None:
            check_lengths(verifier, self._read(mine, "measuring"), self.processes)
        scorer = _ChunkScorer(verifier, self.name, self.on_long_row)
        for unit, chunk in self._read(mine, "scoring"):
            solutions, counts = scorer.add_scores(chunk)
            yield Done(unit, (solution.to_row() for solution in solutions), counts)
        self.speed = scorer.speed()

    def _solutions(self) -> Iterator[Solution]:
        for row in iter_rows(self.data):
            solution = solution_of(row)
            if self.name in solution.scores:
                problem = "is there already; choose another name."
                raise DataError(row.source, row.number, f"scores.{self.name}", problem)
            yield solution

    def _read(self, mine: list[Unit], what: str) -> Iterator[tuple[Unit, list[Placed]]]:
        chunks = chunks_of(iter_rows(self.data), self._units, (unit.number for unit in mine))
        return track(chunks, what, sum(unit.rows for unit in mine), weight=lambda chunk: chunk[0].rows)


class _ChunkScorer:
    """Adds scores chunk by chunk and keeps the time."""

    def __init__(self, verifier: RowScorer, name: str, on_long_row: OnLongRow):
        self.verifier, self.name, self.on_long_row = verifier, name, on_long_row
        self.rows = 0
        self.start = time.perf_counter()

    def add_scores(self, chunk: list[Placed]) -> tuple[list[Solution], Counts]:
        """The chunk's solutions with scores, and how many rows were left out or cut."""
        solutions = [with_steps(self.verifier, placed.solution) for placed in chunk]
        self._check_prompts(solutions)
        long = {} if self.on_long_row == "error" else too_long(self.verifier, solutions)
        scorable: list[Solution | None] = list(solutions)
        for row in long:
            scorable[row] = cut(self.verifier, solutions[row]) if self.on_long_row == "cut" else None
        kept = [row for row, solution in enumerate(scorable) if solution is not None]
        read = [scorable[row] for row in kept]
        values = self.verifier.score([s.prompt for s in read], [s.completion for s in read], [s.steps for s in read])
        for row, scores in zip(kept, values, strict=True):
            missing = len(solutions[row].steps) - len(scores)
            solutions[row].scores[self.name] = scores + [None] * missing
        self.rows += len(kept)
        counted = COUNTED_AS[self.on_long_row]
        return [solutions[row] for row in kept], {counted: len(long)} if long else {}

    def _check_prompts(self, chunk: list[Solution]) -> None:
        """Refuses solutions whose prompts were written for the policy in another way than the verifier reads them."""
        taught, written = self.verifier.prompt_format, written_as(chunk)
        if taught is not None and written is not None and (difference := taught.difference(written)):
            raise UserError(
                f"the verifier was taught {difference}, with which solutions of this file were sampled (problem "
                f"'{chunk[0].problem_id}' and others). Train one on samples of this kind."
            )

    def speed(self) -> dict[str, float]:
        seconds = time.perf_counter() - self.start
        return {
            "different_rows": self.verifier.rows_scored,
            "rows_per_second": self.rows / seconds,
            "tokens_per_second": self.verifier.tokens_scored / seconds,
        }
