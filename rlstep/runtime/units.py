"""A unit of work: what one of several processes does at a time, and what a kill may lose (`rlstep.runtime.output`)."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Unit:
    """A unit of work, a batch of samples or a chunk of rows.

    Attributes:
        number: its place among all units, from 0.
        key: a digest of everything that its rows depend on.
        rows: how many rows it is about; it may write fewer.
    """

    number: int
    key: str
    rows: int
