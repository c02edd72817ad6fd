"""Memory that was freed, given back to the system."""

import ctypes
import sys
from functools import cache


def give_back_freed_memory() -> None:
    """Does nothing where the C library keeps its heap in another way than glibc does.

    glibc keeps what is freed for later, and finds an aligned tensor no room where one of just its size was. So the
    process grows from pass to pass, though it uses no more.
    """
    if (release := _release()) is not None:
        release(0)


@cache
def _release():
    return getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" else None
