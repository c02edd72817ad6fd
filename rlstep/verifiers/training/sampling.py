"""Batches of similar lengths in random order, for rows that are padded."""

from collections.abc import Iterator, Sequence

import torch
from torch.utils.data import Sampler


class LengthGroupedSampler(Sampler[int]):
    """Groups of rows with similar lengths, the groups in random order, another one each epoch.

    The Trainer's own sampler leaves the groups of a stretch sorted from long to short, so that a length, and with it
    an outcome, is met in one piece. This one shuffles them, and its order depends on seed and epoch alone, so a
    resumed run sees the batches that the uninterrupted one would have seen.
    """

    STRETCH = 50  # groups sorted by length together: more is less padding, fewer is more randomness

    def __init__(self, lengths: Sequence[int], group: int, seed: int):
        self.lengths, self.group, self.seed = torch.tensor(lengths), group, seed
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self.lengths)

    def __iter__(self) -> Iterator[int]:
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + self.epoch)
        groups = []
        for stretch in torch.randperm(len(self.lengths), generator=generator).split(self.STRETCH * self.group):
            by_length = stretch[self.lengths[stretch].argsort(stable=True)]
            groups.extend(by_length.split(self.group))
        # A short last group stays last: the batches are cut from the sequence of rows.
        short = [groups.pop()] if groups and len(groups[-1]) < self.group else []
        order = [groups[index] for index in torch.randperm(len(groups), generator=generator).tolist()]
        for group in order + short:
            yield from group.tolist()
