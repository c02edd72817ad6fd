"""Rows that are longer than the verifier: found before the first forward pass, or cut to the steps that fit.

How long a row is, is counted in the verifier's tokens, up to the end of its last step.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from rlstep.runtime.errors import UserError
from rlstep.runtime.processes import Processes
from rlstep.runtime.units import Unit
from rlstep.steps.chunks import Placed
from rlstep.steps.records import Solution
from rlstep.verifiers.scoring.scorer import RowScorer

# What is counted: rows that were left out, and rows of which steps have no score, because they are too long.
SKIPPED, CUT = "skipped_rows", "cut_rows"
NAMED = 5  # rows that an error names


@dataclass(frozen=True)
class LongRow:
    """A row that is too long.

    Attributes:
        chunk: the number of its chunk.
        name: file, row, problem and sample.
        tokens: its length.
    """

    chunk: int
    name: str
    tokens: int


def with_steps(verifier: RowScorer, solution: Solution) -> Solution:
    """The solution, split by the verifier's boundary rule where it has no steps; its mapping of scores is a copy."""
    steps = verifier.boundary.split(solution.completion) if solution.steps is None else solution.steps
    return replace(solution, steps=steps, scores=dict(solution.scores))


def too_long(verifier: RowScorer, solutions: Sequence[Solution]) -> dict[int, int]:
    """Index -> tokens of the solutions that are longer than the verifier.

    Args:
        verifier: the verifier.
        solutions: with steps.
    """
    if verifier.max_positions is None:
        return {}
    lengths = verifier.lengths(
        [s.prompt for s in solutions], [s.completion for s in solutions], [s.steps for s in solutions]
    )
    return {row: tokens for row, tokens in enumerate(lengths) if tokens > verifier.max_positions}


def check_lengths(verifier: RowScorer, chunks: Iterable[tuple[Unit, list[Placed]]], processes: Processes) -> None:
    """Refuses rows that are longer than the verifier, those that any process finds.

    Args:
        verifier: the verifier.
        chunks: this process's.
        processes: all of which come here.

    Raises:
        UserError: there are some; it names the first ones of all.
    """
    first: list[LongRow] = []
    count = 0
    for unit, chunk in chunks:
        long = too_long(verifier, [with_steps(verifier, placed.solution) for placed in chunk])
        count += len(long)
        first += [LongRow(unit.number, chunk[row].name, tokens) for row, tokens in long.items()]
        first = first[:NAMED]
    gathered = processes.gather((count, first))
    total = sum(count for count, _ in gathered)
    if not total:
        return
    rows = sorted((row for _, rows in gathered for row in rows), key=lambda row: row.chunk)[:NAMED]
    also = "".join(f"; {row.name}: {row.tokens}" for row in rows[1:]) + ("; ..." if total > len(rows) else "")
    raise UserError(
        f"{rows[0].name}: {rows[0].tokens} tokens exceed the verifier's {verifier.max_positions} positions. Rows that "
        f"are too long: {total:,}{also}. With on_long_row: skip they are left out; with cut the steps that fit are "
        "scored and the others have null for a score. Or take a verifier with a longer context."
    )


def cut(verifier: RowScorer, solution: Solution) -> Solution:
    """The solution up to the last step with which it fits: what a verifier is given of one that is too long.

    The verifier reads it as if it ended there.
    """

    count = verifier.fitting_steps(solution.prompt, solution.completion, solution.steps)
    end = solution.steps[count - 1][1] if count else 0
    return replace(solution, completion=solution.completion[:end], steps=solution.steps[:count])
