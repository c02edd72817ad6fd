"""What was freed goes back to the system."""

from pathlib import Path

import pytest

from rlstep.runtime import heap

STATUS = Path("/proc/self/status")


def resident_mib() -> int:
    return next(int(line.split()[1]) for line in STATUS.read_text().splitlines() if line.startswith("VmRSS")) // 1024


@pytest.mark.skipif(not STATUS.exists() or heap._release() is None, reason="the heap is glibc's on Linux")
def test_memory_between_what_is_still_used_is_given_back():
    blocks = [b"1" * 2**16 for _ in range(3000)]
    blocks = blocks[::100]
    before = resident_mib()
    heap.give_back_freed_memory()
    assert resident_mib() < before - 100
    assert len(blocks) == 30


def test_other_systems_are_left_alone(monkeypatch):
    monkeypatch.setattr(heap.sys, "platform", "darwin")
    heap._release.cache_clear()
    heap.give_back_freed_memory()
    assert heap._release() is None
    heap._release.cache_clear()
