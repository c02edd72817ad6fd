"""The end of a command that fails: what is said of it first, how it can go on, and what is left to do within a bound.

An error has a long way to the command line: a tracker may wait ten minutes for its server on it. Who would hold it up
has it announced first.
"""

import atexit
import contextvars
import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

# How long a process that ends at once is kept by what it leaves behind.
CLEAN_UP_S = 15.0
Say = Callable[[BaseException], None]
_say: Say | None = None
_last: list[Callable[[], None]] = []
_RESUMABLE = "_rlstep_resumable"


class Terminated(KeyboardInterrupt):
    """SIGTERM, which schedulers send some time before they kill."""


@contextmanager
def announced_by(say: Say) -> Iterator[None]:
    """Within it, `say` is given errors that are announced; in this process alone: a forked one has its own way out."""
    global _say
    before, process = _say, os.getpid()
    _say = lambda error: say(error) if os.getpid() == process else None  # noqa: E731
    try:
        yield
    finally:
        _say = before


def announce(error: BaseException) -> None:
    """Has an error said that ends the command, before what may take long."""
    if _say is not None:
        _say(error)


def mark_resumable(error: BaseException) -> None:
    """Notes that the command has kept something from which it can go on after this error."""
    setattr(error, _RESUMABLE, True)


def is_resumable(error: BaseException | None) -> bool:
    """Whether this error or one that it followed from is marked so."""
    if error is None:
        return False
    return getattr(error, _RESUMABLE, False) or is_resumable(error.__cause__ or error.__context__)


@contextmanager
def resumable(kept: Callable[[], bool]) -> Iterator[None]:
    """Marks what ends the block early, if `kept` says by then that there is something to go on from."""
    try:
        yield
    except BaseException as error:
        if kept():
            mark_resumable(error)
        raise


def within(seconds: float, work: Callable[[], None]) -> bool:
    """Does something in a thread that is given up after a while; returns whether it came to its end."""
    context = contextvars.copy_context()  # in which trackers keep their run
    thread = threading.Thread(target=context.run, args=(work,), daemon=True)
    thread.start()
    thread.join(seconds)
    return not thread.is_alive()


def at_the_end(work: Callable[[], None]) -> None:
    """Has something done when this process ends: as an exit function, or by `clean_up` where none of those are run."""
    _last.append(work)
    atexit.register(_do_last)


def clean_up() -> None:
    """Does what `at_the_end` was given, for a bounded time."""
    within(CLEAN_UP_S, _do_last)


def _do_last() -> None:
    while _last:
        _last.pop()()


@contextmanager
def terminable() -> Iterator[None]:
    """Within it SIGTERM raises `Terminated`, once, so that a command can end in order; nothing outside the main thread.

    A forked process ends at once, as it does without this.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    process = os.getpid()

    def end(number: int, _) -> None:
        signal.signal(number, signal.SIG_DFL)  # who asks again does not want to wait
        if os.getpid() != process:
            os.kill(os.getpid(), number)
        raise Terminated

    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
