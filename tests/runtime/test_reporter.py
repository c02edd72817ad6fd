"""What is said of several processes that end, each of which is a real one with the reporter beside it."""

import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

# A rank that does what its words say, once all have reached the reporter.
RANK = """
import os, sys, time
from pathlib import Path
from rlstep.runtime.reporter import join

link, ready, what = join("sft", "go on so"), Path(sys.argv[1]), sys.argv[2]
(ready / os.environ["RANK"]).touch()
while len(list(ready.iterdir())) < int(os.environ["WORLD_SIZE"]):
    time.sleep(0.01)

def fail(code, message, **how):
    link.report(message, **how)
    link.leave(code)

match what:
    case "ends": link.end()
    case "fails in a line": print("50%", end="", flush=True); fail(1, "ValueError: 7", resumable=True)
    case "fails": fail(1, "ValueError: 7", resumable=True)
    case "refuses": fail(2, "rlstep sft: error: no such file")
    case "misses": fail(1, "RuntimeError: closed by peer", resumable=True, lost=True)
    case "dies": os.kill(os.getpid(), 9)
    case "is silent": time.sleep(1000)
    case "misses later": time.sleep(0.2); fail(1, "RuntimeError: closed by peer", resumable=True, lost=True)
"""


@pytest.fixture
def said(tmp_path):
    """said(*whats): what is printed where each rank does one of these; ranks that are left are killed at the end."""

    def run(*whats: str) -> tuple[str, list[int | None]]:
        shared = {"WORLD_SIZE": str(len(whats)), "MASTER_PORT": str(os.getpid()), "PYTHONPATH": str(ROOT)}
        log = tmp_path / "log.txt"
        ready = tmp_path / "ready"
        ready.mkdir()
        with log.open("w") as output:
            ranks = []
            for rank, what in enumerate(whats):
                own = {"RANK": str(rank), "LOCAL_RANK": str(rank)}
                words = [sys.executable, "-c", RANK, str(ready), what]
                ranks.append(subprocess.Popen(words, env=os.environ | shared | own, stdout=output, stderr=output))
            codes = [
                rank.wait(timeout=60) if what != "is silent" else None for rank, what in zip(ranks, whats, strict=True)
            ]
            for rank in ranks:
                rank.kill()
                rank.wait()
        # It ends after the last rank, and removes the socket then.
        deadline = time.monotonic() + 30
        while any(Path(tempfile.gettempdir()).glob(f"rlstep-*-{os.getpid()}-{os.getpid()}-0.socket")):
            assert time.monotonic() < deadline, "the reporter still runs"
            time.sleep(0.01)
        return log.read_text(), codes

    return run


def test_nothing_is_said_of_ranks_that_end_as_they_should(said):
    assert said("ends", "ends") == ("", [0, 0])


def test_a_rank_that_dies_is_named_once(said):
    text, codes = said("misses later", "dies", "misses later")
    assert text == "\nrlstep sft: rank 1 ended without a word (killed, out of memory, or crashed); go on so\n"
    assert codes == [1, -signal.SIGKILL, 1]


def test_the_first_rank_may_be_the_one_that_dies(said):
    text, _ = said("dies", "misses later")
    assert text.startswith("\nrlstep sft: rank 0 ended without a word")
    assert text.count("\n") == 2


def test_an_error_of_one_rank_is_shown_with_its_name_and_what_follows_is_not(said):
    text, codes = said("misses", "fails", "misses")
    assert text == ("\nrank 1: ValueError: 7\nrlstep sft: rank 1 failed, and the others end with it; go on so\n")
    assert codes == [1, 1, 1]


def test_what_is_said_begins_on_a_line_of_its_own(said):
    text, _ = said("misses", "fails in a line")
    assert text.splitlines()[:2] == ["50%", "rank 1: ValueError: 7"]


def test_what_all_ranks_refuse_is_shown_once_and_needs_no_remedy(said):
    assert said("refuses", "refuses", "refuses") == ("\nrlstep sft: error: no such file\n", [2, 2, 2])


def test_ranks_that_miss_one_that_still_lives_name_it(said):
    text, codes = said("misses", "is silent", "misses")
    assert text == (
        "\nrlstep sft: ranks 0 and 2 waited in vain for another one; no word from rank 1 "
        "(RuntimeError: closed by peer); go on so\n"
    )
    assert codes == [1, None, 1]


def test_ranks_that_all_miss_another_one_miss_one_of_another_machine(said):
    text, _ = said("misses", "misses")
    assert "waited in vain for another one, on another machine (RuntimeError: closed by peer)" in text
    assert text.count("\n") == 2


def test_ranks_go_on_where_there_can_be_no_reporter(monkeypatch, tmp_path):
    from rlstep.runtime import reporter

    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setattr(reporter, "CONNECT_S", 0.1)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / ("long" * 30)))
    assert reporter.join("sft", "") is None
    monkeypatch.setattr(tempfile, "tempdir", "/nowhere")
    assert reporter.join("sft", "") is None


def test_one_process_has_no_reporter(monkeypatch):
    from rlstep.runtime.reporter import join

    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "1")
    assert join("sft", "") is None
    monkeypatch.delenv("RANK")
    assert join("sft", "") is None
