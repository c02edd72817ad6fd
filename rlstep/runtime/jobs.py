"""Runs jobs that depend on one another in parallel, each in its own process with its output in a log file."""

import multiprocessing
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.live import Live
from rich.table import Table

from rlstep.runtime.cores import usable_cores
from rlstep.runtime.errors import UserError
from rlstep.runtime.failure import mark_resumable

LINE_EVERY_S = 15.0
POLL_S = 0.2


@dataclass(frozen=True)
class Job:
    """One unit of work.

    Attributes:
        name: shown to people, and the log's name.
        needs: names of the jobs that must finish first.
        work: called in its own process; an exception in it ends the whole run.
    """

    name: str
    needs: tuple[str, ...]
    work: Callable[[], None]


def run_jobs(jobs: Sequence[Job], logs: Path, workers: int) -> None:
    """Runs all jobs, at most `workers` at a time.

    Each process starts from the same state: no random state, model or accelerator memory is left over from another
    job. Processes are forked where the system supports it, so that the parent's imports are shared.

    Args:
        jobs: ordered so that each comes after the jobs it needs.
        logs: folder for `NAME.log`.
        workers: number of parallel processes; the cores that it may run on are divided among them.

    Raises:
        UserError: a job refused its input (its message), or failed (its log is named).
    """
    logs.mkdir(parents=True, exist_ok=True)
    context = multiprocessing.get_context("fork" if "fork" in multiprocessing.get_all_start_methods() else "spawn")
    waiting, running, ended = list(jobs), {}, set()
    with _Display(running, logs) as display:
        try:
            while waiting or running:
                ready = [job for job in waiting if set(job.needs) <= ended][: workers - len(running)]
                # A job that runs alone gets all cores.
                threads = max(1, usable_cores() // max(1, len(running) + len(ready)))
                for job in ready:
                    waiting.remove(job)
                    process = context.Process(target=_child, args=(job, logs, threads, os.getpid()), daemon=False)
                    process.start()
                    running[job.name] = (process, time.monotonic())
                time.sleep(POLL_S)
                for name, (process, start) in list(running.items()):
                    if process.is_alive():
                        continue
                    del running[name]
                    if process.exitcode != 0:
                        raise UserError(_why(name, logs, process.exitcode))
                    ended.add(name)
                    display.end(name, time.monotonic() - start)
                display.refresh()
        except KeyboardInterrupt as interrupt:
            if ended or running:  # they go on by themselves
                mark_resumable(interrupt)
            raise
        finally:
            for process, _ in running.values():
                process.kill()
            for process, _ in running.values():
                process.join()


def _child(job: Job, logs: Path, threads: int, parent: int) -> None:
    threading.Thread(target=_die_with, args=(parent,), daemon=True).start()
    (logs / f"{job.name}.error").unlink(missing_ok=True)
    file = (logs / f"{job.name}.log").open("w", encoding="utf-8", buffering=1)
    os.dup2(file.fileno(), 1)
    os.dup2(file.fileno(), 2)
    sys.stdout = sys.stderr = file
    os.environ["OMP_NUM_THREADS"] = str(threads)
    torch = sys.modules.get("torch")
    if torch is not None:
        torch.set_num_threads(threads)
    try:
        job.work()
    except UserError as error:
        (logs / f"{job.name}.error").write_text(" ".join(str(error).split()), encoding="utf-8")
        os._exit(2)
    except BaseException:
        traceback.print_exc(file=file)
        os._exit(1)
    file.flush()
    # Skips the exit handlers that a forked process inherited from its parent.
    os._exit(0)


def _die_with(parent: int) -> None:
    """Ends this process when its parent is gone: a killed run must not keep writing while the next one does."""
    while os.getppid() == parent:
        time.sleep(0.5)
    os._exit(1)


def _why(name: str, logs: Path, code: int) -> str:
    error = logs / f"{name}.error"
    if error.is_file():
        message = error.read_text(encoding="utf-8")
        error.unlink()
        return f"{name}: {message}"
    what = "failed" if code > 0 else f"was ended by a signal ({signal.strsignal(-code)})"
    if -code == signal.SIGKILL:
        what += ", as the system does where memory runs out"
    return f"{name} {what}; {logs / name}.log ends with: {_last_line(logs / f'{name}.log')}"


def _last_line(log: Path) -> str:
    """The last non-blank line of a log, or the latest state of its progress bar."""
    if not log.is_file():
        return ""
    with log.open("rb") as file:
        file.seek(max(0, log.stat().st_size - 2000))
        text = file.read().decode("utf-8", errors="replace")
    lines = [line.strip() for line in text.replace("\r", "\n").split("\n") if line.strip()]
    return lines[-1] if lines else ""


class _Display:
    """Shows the running jobs: a live table on a terminal, an occasional line elsewhere."""

    def __init__(self, running: dict, logs: Path):
        self.running, self.logs = running, logs
        self.start = self.last = time.monotonic()
        self.console = Console(stderr=True)
        terminal = self.console.is_terminal
        self.live = Live(console=self.console, transient=True, refresh_per_second=4) if terminal else None

    def __enter__(self) -> "_Display":
        if self.live:
            self.live.start()
        return self

    def __exit__(self, *_):
        if self.live:
            self.live.stop()

    def end(self, name: str, seconds: float) -> None:
        self._print(f"{self._clock()}  {name:<18} {seconds:6.1f} s")

    def refresh(self) -> None:
        if self.live:
            self.live.update(self._table())
        elif time.monotonic() - self.last > LINE_EVERY_S:
            self.last = time.monotonic()
            for name in self.running:
                self._print(f"{self._clock()}  {name} ... {self._state(name)}")

    def _print(self, line: str) -> None:
        self.console.print(line, highlight=False, markup=False, soft_wrap=True)

    def _table(self) -> Table:
        table = Table.grid(padding=(0, 2))
        for name, (_, start) in self.running.items():
            table.add_row(self._clock(), name, f"{time.monotonic() - start:.0f} s", self._state(name))
        return table

    def _state(self, name: str) -> str:
        return _last_line(self.logs / f"{name}.log")[:100]

    def _clock(self) -> str:
        seconds = int(time.monotonic() - self.start)
        return f"{seconds // 60:2d}:{seconds % 60:02d}"
