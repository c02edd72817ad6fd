"""A rank that is killed, raises an error or hangs: its run ends within a minute, says why once, and can go on."""

import json
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest

from tests.distributed.conftest import launched
from tests.kills.work import WORKS, prepare

pytestmark = [
    pytest.mark.distributed,
    pytest.mark.slow,
    pytest.mark.skipif(not sys.platform.startswith("linux"), reason="finds ranks by their environment, as on Linux"),
]

# Imported by every Python at its start: a signal that raises an error wherever a rank is.
FAULT = """
import os, signal

def raise_one(*_):
    raise RuntimeError("a fault of this rank")

if "RANK" in os.environ:
    signal.signal(signal.SIGUSR1, raise_one)
"""
TRAININGS = ("sft", "prm", "orm", "ppo")
# What is written at a time, so that a fault comes before the end.
SMALLEST = {"sample": ["--batch_size", "1"], "score": ["--chunk_rows", "1"]}
LAUNCHERS = ("torchrun", "deepspeed", "accelerate")
RANKED = [stage for stage in WORKS if WORKS[stage].ranks]


@pytest.fixture(scope="module")
def inputs(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("inputs")
    prepare(folder)
    return folder


@pytest.fixture
def begun(inputs, tmp_path, monkeypatch):
    """begun(stage, by, *more): a stage on two ranks that has written something, to go on with once it has ended."""
    (tmp_path / "packages").mkdir()
    (tmp_path / "packages" / "sitecustomize.py").write_text(FAULT)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "packages"))
    out, log = tmp_path / "out", tmp_path / "log.txt"
    out.mkdir()

    @contextmanager
    def begin(stage: str, by: str, *more: str) -> Iterator[SimpleNamespace]:
        words = [*WORKS[stage].words(inputs, out, 2), *more]
        words += SMALLEST.get(stage, ["--save_total_limit", "100"])
        if by == "deepspeed" and stage in TRAININGS:
            words += ["--deepspeed", "ds_configs/zero2.json"]
        with launched(words, log, by) as process:
            _wait(process, log, lambda: written(out))
            yield SimpleNamespace(process=process, words=words, by=by, out=out, log=log)

    return begin


def written(out: Path) -> list[Path]:
    """What whole checkpoints or shards there are."""
    return [*out.glob("run/checkpoint-*/state_1.json"), *out.rglob("*.parquet")]


def _wait(process: subprocess.Popen, log: Path, until: Callable[[], object]) -> None:
    deadline = time.monotonic() + 900
    while not until():
        assert process.poll() is None, log.read_text()[-4000:]
        assert time.monotonic() < deadline, f"nothing after 15 minutes: {log.read_text()[-4000:]}"
        time.sleep(0.01)


def rank_of(process: subprocess.Popen, rank: int) -> psutil.Process:
    """A rank among a launcher's descendants; what a rank has started itself has its environment, too."""
    for child in psutil.Process(process.pid).children(recursive=True):
        if child.environ().get("RANK") == str(rank) and {"-m", "rlstep"} <= set(child.cmdline()):
            return child
    raise AssertionError(f"no rank {rank}")


def said(begun: SimpleNamespace) -> list[str]:
    """Rlstep's own lines once the launcher has ended, which it has a minute for."""
    assert begun.process.wait(timeout=60) != 0
    lines = begun.log.read_text().splitlines()
    return [line for line in lines if line.startswith(("rlstep ", "rank ")) and line != "rlstep FAILED"]  # torchrun's


def goes_on(begun: SimpleNamespace, stage: str) -> None:
    """Starts it again, and checks that it ends and has kept what was there."""
    before = {path: path.stat().st_mtime_ns for path in written(begun.out)}
    with launched(begun.words, begun.log, begun.by) as process:
        assert process.wait(timeout=900) == 0, begun.log.read_text()[-4000:]
    if stage in TRAININGS:
        assert before
        assert {path: path.stat().st_mtime_ns for path in before} == before
        newest = max(begun.out.glob("run/checkpoint-*"), key=lambda path: int(path.name.split("-")[1]))
        state = json.loads((newest / "trainer_state.json").read_text())
        assert state["global_step"] == state["max_steps"]


def combinations(chosen: set[tuple[str, str, str]]) -> list:
    """Every fault, launcher and stage; all but those that are chosen are thorough."""
    everything = [(fault, by, stage) for fault in ("kill", "raise") for by in LAUNCHERS for stage in RANKED]
    return [pytest.param(*one, marks=[] if one in chosen else pytest.mark.thorough) for one in everything]


@pytest.mark.parametrize(("fault", "by", "stage"), combinations({("kill", "torchrun", "prm")}))
def test_a_rank_that_ends_early_ends_the_run_with_one_message(fault, by, stage, begun):
    remedy = "continue with --resume true" if stage in TRAININGS else "start it again, and it goes on"
    with begun(stage, by) as run:
        rank_of(run.process, 1).send_signal({"kill": signal.SIGKILL, "raise": signal.SIGUSR1}[fault])
        lines = said(run)
        text = run.log.read_text()
        if fault == "kill":
            why = "rank 1 ended without a word (killed, out of memory, or crashed)"
            assert lines == [f"rlstep {stage}: {why}; {remedy}"]
            assert "rlstep/cli.py" not in text
        else:
            first, second = lines
            assert first == "rank 1: Traceback (most recent call last):"
            assert second == f"rlstep {stage}: rank 1 failed, and the others end with it; {remedy}"
            assert text.count("RuntimeError: a fault of this rank") == 1
            assert text.count("Traceback (most recent call last)") == (1 if by == "deepspeed" else 2)  # torchrun's own
        goes_on(run, stage)


@pytest.mark.thorough
@pytest.mark.parametrize("stage", TRAININGS)
def test_a_rank_that_hangs_is_given_up_after_the_timeout(stage, begun):
    with begun(stage, "torchrun", "--ddp_timeout", "20") as run:
        hung = rank_of(run.process, 1)
        hung.send_signal(signal.SIGSTOP)
        _wait(run.process, run.log, lambda: "waited in vain" in run.log.read_text())
        hung.send_signal(signal.SIGCONT)  # torchrun's signal would wait for its own 30 seconds
        (line,) = said(run)
        assert line.startswith(f"rlstep {stage}: rank 0 waited in vain for another one; no word from rank 1 (")
        assert line.endswith("; continue with --resume true")
        goes_on(run, stage)


@pytest.mark.thorough
@pytest.mark.parametrize("by", LAUNCHERS)
def test_what_all_ranks_refuse_is_said_once(by, inputs, tmp_path):
    words = WORKS["sft"].words(inputs, tmp_path / "out", 2)
    words[words.index("--data") + 1] = str(tmp_path / "nowhere.jsonl")
    with launched(words, tmp_path / "log.txt", by) as process:
        assert process.wait(timeout=900) != 0
    text = (tmp_path / "log.txt").read_text()
    assert text.count("nowhere.jsonl: no such file") == 1, text


@pytest.mark.thorough
@pytest.mark.parametrize("by", LAUNCHERS)
@pytest.mark.parametrize("stage", RANKED)
def test_what_is_said_of_a_run_is_said_once(stage, by, inputs, tmp_path):
    """Warnings, progress bars and log lines, of rlstep and of the libraries."""
    words = WORKS[stage].words(inputs, tmp_path / "out", 2)
    if stage in TRAININGS:
        words += ["--disable_tqdm", "false", *(["--deepspeed", "ds_configs/zero2.json"] if by == "deepspeed" else [])]
    with launched(words, tmp_path / "log.txt", by) as process:
        assert process.wait(timeout=900) == 0, (tmp_path / "log.txt").read_text()[-4000:]
    lines = (tmp_path / "log.txt").read_text().replace("\r", "\n").splitlines()
    bars = [bar for line in lines if (bar := re.match(r"(.*?)\s*\d+%\|.*\| (\d+)/(\d+) \[", line))]
    if stage in TRAININGS:
        total = max(int(bar[3]) for bar in bars if not bar[1])
        assert sum((bar[1], bar[2], int(bar[3])) == ("", "0", total) for bar in bars) == 1, "bars of training"
    # One process draws its bar again after each line that it logs.
    lines = [line for line in lines if not any(line.startswith(bar[0]) for bar in bars) and line.strip(" \x1b[A")]
    twice = {line for line in lines if lines.count(line) > 1}
    # What DeepSpeed prints of the op that its ranks talk through on a CPU, and the second line of any warning.
    assert {line for line in twice if not line.endswith(("op built successfully", "warnings.warn("))} == set()
