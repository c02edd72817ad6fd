"""A progress bar on a terminal, an occasional line where the output is a file."""

import sys
import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from rlstep.runtime.ranks import is_first_process

T = TypeVar("T")
LINE_EVERY_S = 15.0


def track(items: Iterable[T], what: str, total: int | None, done: int = 0, weight=lambda _: 1) -> Iterator[T]:
    """Yields `items`, showing progress on stderr; of several processes the first alone shows its own.

    Args:
        items: the work items.
        what: a short label shown before the bar.
        total: all of the work, in the unit of `weight`; None if unknown.
        done: work done in an earlier run.
        weight: an item's share of `total`.
    """
    if not is_first_process():
        yield from items
        return
    if not sys.stderr.isatty():
        yield from _plain(items, what, total, done, weight)
        return
    times = (TimeElapsedColumn(), TimeRemainingColumn())
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), *times)
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        bar = progress.add_task(what, total=total, completed=done)
        for item in items:
            yield item
            progress.advance(bar, weight(item))


def _plain(items, what, total, done, weight):
    last = time.monotonic()
    for item in items:
        yield item
        done += weight(item)
        now = time.monotonic()
        if now - last > LINE_EVERY_S:
            last = now
            print(f"{what}: {done}" + ("" if total is None else f"/{total}"), file=sys.stderr, flush=True)
