"""Work in forked processes that have imported everything already, so that a kill costs no more than the work."""

import os
import signal
import socket
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path

import psutil

POLL_S = 0.002


class Started:
    """A piece of work in a forked process, with a process group of its own for all that it starts.

    Args:
        work: what is called there; it returns the exit code, None for 0.
        log: where its output is added.
    """

    def __init__(self, work: Callable[[], int | None], log: Path):
        self.log = log
        self.began = time.perf_counter()
        self.pid = _fork(work, log)
        self.code: int | None = None

    @property
    def seconds(self) -> float:
        return time.perf_counter() - self.began

    def wait(self, until_s: float = float("inf")) -> int | None:
        """The exit code; None if the work still goes on after so many seconds of its life."""
        while self.code is None and self.seconds < until_s:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self.code = os.waitstatus_to_exitcode(status)
            else:
                time.sleep(POLL_S)
        return self.code

    def kill(self) -> None:
        """Kills every process of the group at once and waits until none of them can write any more."""
        members = [process for process in psutil.process_iter() if _group(process.pid) == self.pid]
        os.killpg(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)
        while any(runs(process) for process in members):
            time.sleep(POLL_S)
        self.code = -signal.SIGKILL


def call(work: Callable[[], object], log: Path) -> None:
    """Calls a function in a process of its own, which leaves this one as it was, without threads of torch."""
    pid = _fork(lambda: work() and 0, log)
    if os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]):
        raise SystemExit(log.read_text())


def _fork(work: Callable[[], int | None], log: Path) -> int:
    pid = os.fork()
    if pid:
        os.setpgid(pid, pid)  # here, so that the group is there to be killed when this returns
        return pid
    code = 1
    try:
        file = log.open("a", encoding="utf-8", buffering=1)
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
        sys.stdout = sys.stderr = file
        code = work() or 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        os._exit(code)  # without the exit handlers of the process that it was forked from


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def on_ranks(work: Callable[[], int | None], ranks: int, port: int) -> int:
    """Does a piece of work here, or on several ranks, of which the first that fails ends the others.

    The ranks get what torchrun would tell them, and talk through `port`.
    """
    if ranks == 1:
        return work() or 0
    shared = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": str(ranks)}
    pids = []
    for rank in range(ranks):
        pid = os.fork()
        if not pid:
            os.environ |= shared | {"RANK": str(rank), "LOCAL_RANK": str(rank), "LOCAL_WORLD_SIZE": str(ranks)}
            code = 1
            try:
                code = work() or 0
            except BaseException:
                traceback.print_exc()
            finally:
                sys.stdout.flush()
                os._exit(code)
        pids.append(pid)
    while pids:
        pid, status = os.wait()
        pids.remove(pid)
        if status:
            for other in pids:
                os.kill(other, signal.SIGKILL)
            return 1
    return 0


def _group(pid: int) -> int | None:
    try:
        return os.getpgid(pid)
    except ProcessLookupError:
        return None


def runs(process: psutil.Process) -> bool:
    try:
        return process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
