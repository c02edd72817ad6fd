"""Which rows share a forward pass: batches of similar lengths within a budget of tokens."""

from collections.abc import Iterator, Sequence

from rlstep.verifiers.packing import shared_runs


def packed_batches(rows: Sequence[list[int]], batch_tokens: int, share: bool = True) -> Iterator[list[int]]:
    """Indices of rows in batches of at most `batch_tokens` places, rows that share prefixes together.

    Batches hold rows of similar lengths, the longest first: attention then pays for lengths that are there.

    Args:
        rows: token sequences.
        batch_tokens: places in a batch.
        share: whether rows will share the places of their prefixes.
    """
    batch, size = [], 0
    runs = shared_runs(rows) if share else [[(index, 0)] for index in range(len(rows))]
    for run in sorted(runs, key=lambda run: -max(len(rows[index]) for index, _ in run)):
        for index, shared in run:
            if batch and size + len(rows[index]) - shared > batch_tokens:
                yield batch
                batch, size = [], shared
            size += len(rows[index]) - shared
            batch.append(index)
    if batch:
        yield batch


def padded_batches(rows: Sequence[list[int]], batch_tokens: int) -> Iterator[list[int]]:
    """Indices of rows in batches of similar lengths, the longest first, at most `batch_tokens` when padded."""
    batch: list[int] = []
    for index in sorted(range(len(rows)), key=lambda index: -len(rows[index])):
        if batch and (len(batch) + 1) * len(rows[batch[0]]) > batch_tokens:
            yield batch
            batch = []
        batch.append(index)
    if batch:
        yield batch
