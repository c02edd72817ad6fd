"""Jobs run in processes of their own, so they leave files, and the tests read those."""

import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

from rlstep.runtime.cores import usable_cores
from rlstep.runtime.errors import UserError
from rlstep.runtime.failure import is_resumable
from rlstep.runtime.jobs import Job, run_jobs

ROOT = Path(__file__).resolve().parents[2]
PATIENCE_S = 30


@pytest.fixture
def run(tmp_path):
    def start(*jobs: Job, workers: int = 2) -> list[str]:
        """Runs the jobs; returns their names in the order in which they ended."""
        ended = tmp_path / "ended"
        noting = [replace(job, work=partial(note_end, job.work, ended, job.name)) for job in jobs]
        run_jobs(noting, tmp_path / "logs", workers)
        return ended.read_text().split()

    return start


def note_end(work, ended: Path, name: str) -> None:
    work()
    with ended.open("a") as file:
        file.write(f"{name}\n")


def wait_for(path: Path) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not path.exists():
        if time.monotonic() > deadline:
            raise TimeoutError(path)
        time.sleep(0.01)


def write(path: Path, *needed: Path) -> None:
    """Writes a file, but not at once; fails where one of `needed` is not there."""
    for other in needed:
        other.read_text()
    time.sleep(0.3)
    path.write_text(str(os.getpid()))


def meet(mine: Path, theirs: Path) -> None:
    """Ends when the other job has begun."""
    mine.touch()
    wait_for(theirs)


def refuse(message: str) -> None:
    raise UserError(message)


def crash(message: str) -> None:
    print("something before")
    raise ZeroDivisionError(message)


def after(path: Path, work) -> None:
    wait_for(path)
    work()


def linger(path: Path) -> None:
    """Writes its process id, then lives on until it is killed, or else leaves a file behind."""
    path.with_name("pid").write_text(str(os.getpid()))
    path.with_name("pid").rename(path)
    time.sleep(PATIENCE_S)
    path.with_name("outlived").touch()


def alive(pid: int) -> bool:
    """Whether a process runs; one that ended and is not yet reaped by its new parent does not."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


def test_a_job_begins_when_those_it_needs_have_ended(run, tmp_path):
    a, b, c, d = (tmp_path / name for name in "abcd")
    jobs = [
        Job("a", (), partial(write, a)),
        Job("b", ("a",), partial(write, b, a)),
        Job("c", ("a",), partial(write, c, a)),
        Job("d", ("b", "c"), partial(write, d, b, c)),
    ]
    ended = run(*jobs)
    assert (ended[0], sorted(ended[1:3]), ended[3]) == ("a", ["b", "c"], "d")
    assert len({path.read_text() for path in (a, b, c, d)} | {str(os.getpid())}) == 5


def test_independent_jobs_overlap(run, tmp_path):
    one, two = tmp_path / "one", tmp_path / "two"
    assert len(run(Job("one", (), partial(meet, one, two)), Job("two", (), partial(meet, two, one)))) == 2


def test_no_more_jobs_run_than_there_are_workers(run, tmp_path):
    def alone() -> None:
        (tmp_path / "here").touch(exist_ok=False)
        time.sleep(0.05)
        (tmp_path / "here").unlink()

    assert run(*(Job(name, (), alone) for name in "abc"), workers=1) == ["a", "b", "c"]


def test_cores_are_shared_out_among_those_that_run(run, tmp_path, monkeypatch):
    # Of which a launcher or a container gives this process seven.
    monkeypatch.setattr(os, "cpu_count", lambda: 64)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(7)), raising=False)

    def tell(name: str) -> None:
        (tmp_path / name).write_text(os.environ["OMP_NUM_THREADS"])

    run(Job("a", (), partial(tell, "a")), Job("b", (), partial(tell, "b")), Job("c", ("a", "b"), partial(tell, "c")))
    assert [(tmp_path / name).read_text() for name in "abc"] == ["3", "3", "7"]


def test_where_a_process_is_not_bound_it_has_all_cores(monkeypatch):
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 5)
    assert usable_cores() == 5


def test_what_a_job_prints_is_in_its_log(run, tmp_path, capfd):
    def talk() -> None:
        print("to stdout")
        print("to stderr", file=sys.stderr)
        os.system("echo from a command")

    run(Job("talk", (), talk))
    log = (tmp_path / "logs" / "talk.log").read_text()
    assert sorted(log.splitlines()) == ["from a command", "to stderr", "to stdout"]
    assert "to st" not in "".join(capfd.readouterr())


def test_a_refusal_reaches_the_caller_with_the_jobs_name(run, tmp_path):
    with pytest.raises(UserError, match=r"^sft: data\.jsonl, row 3: not a number$"):
        run(Job("sft", (), partial(refuse, "data.jsonl, row 3:\n not a number")))
    assert not (tmp_path / "logs" / "sft.error").exists()


def test_a_crash_names_the_log_and_its_last_line(run, tmp_path):
    with pytest.raises(UserError, match=r"^sft failed; .*logs/sft\.log ends with: ZeroDivisionError: oh$"):
        run(Job("sft", (), partial(crash, "oh")))
    log = (tmp_path / "logs" / "sft.log").read_text()
    assert log.startswith("something before\nTraceback")


def die(signum: int) -> None:
    print("step 3")
    os.kill(os.getpid(), signum)


@pytest.mark.parametrize(
    ("signum", "why"),
    [
        (signal.SIGKILL, r"\(Killed\), as the system does where memory runs out"),
        (signal.SIGTERM, r"\(Terminated\)"),
    ],
)
def test_a_job_that_a_signal_ended_is_said_to_be(run, signum, why):
    """Its log ends in the middle of its work, with nothing that it failed of."""
    with pytest.raises(UserError, match=rf"^sft was ended by a signal {why}; .*logs/sft\.log ends with: step 3$"):
        run(Job("sft", (), partial(die, signum)))


def test_a_crash_is_not_told_in_the_words_of_an_earlier_refusal(run, tmp_path):
    (tmp_path / "logs").mkdir()
    (tmp_path / "logs" / "sft.error").write_text("a refusal that a killed run never read")
    with pytest.raises(UserError, match="ZeroDivisionError: oh"):
        run(Job("sft", (), partial(crash, "oh")))


def test_a_failure_ends_the_others_and_starts_no_more(run, tmp_path):
    pid = tmp_path / "lingering"
    jobs = [
        Job("long", (), partial(linger, pid)),
        Job("bad", (), partial(after, pid, partial(refuse, "no"))),
        Job("next", ("bad",), partial(write, tmp_path / "next")),
    ]
    with pytest.raises(UserError, match="bad: no"):
        run(*jobs)
    assert not alive(int(pid.read_text()))
    assert not (tmp_path / "outlived").exists()
    assert not (tmp_path / "next").exists()


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="reads processes' states from /proc")
def test_a_killed_parent_takes_its_jobs_with_it(tmp_path):
    pid = tmp_path / "lingering"
    code = f"""
import sys, time
from pathlib import Path
from rlstep.runtime.jobs import Job, run_jobs

def linger():
    import os
    Path({str(pid)!r}).with_name("pid").write_text(str(os.getpid()))
    Path({str(pid)!r}).with_name("pid").rename({str(pid)!r})
    time.sleep({PATIENCE_S})

run_jobs([Job("long", (), linger)], Path({str(tmp_path / "logs")!r}), 1)
"""
    parent = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT)
    try:
        wait_for(pid)
    finally:
        parent.kill()
        parent.wait()
    deadline = time.monotonic() + PATIENCE_S / 2
    while alive(int(pid.read_text())):
        assert time.monotonic() < deadline, "the job outlived its parent"
        time.sleep(0.05)


def test_an_interrupt_says_that_ended_jobs_are_kept(tmp_path, monkeypatch):
    def interrupted(seconds):
        raise KeyboardInterrupt

    monkeypatch.setattr("rlstep.runtime.jobs.time.sleep", interrupted)
    with pytest.raises(KeyboardInterrupt) as interrupt:
        run_jobs([Job("a", (), lambda: None)], tmp_path / "logs", 1)
    assert is_resumable(interrupt.value)
