"""A process that has imported everything, and forks what tests run in processes of their own.

Python and what a training imports take seven seconds of a processor in each process. A test of several ranks needs
processes, but seldom what a launcher does to start them. `Warm` is what a test holds; the rest runs in the process.
"""

import atexit
import gc
import importlib
import json
import os
import signal
import subprocess
import sys
from contextlib import suppress
from functools import partial
from pathlib import Path

import psutil

from rlstep.cli import main as cli
from tests.kills.processes import Started, free_port, on_ranks, runs

ROOT = Path(__file__).parents[1]
# What ends before: tests have a limit of their own for what they wait for.
LONGEST_S = 900.0


class Warm:
    """The process, as its parent sees it.

    Args:
        imports: folders that it imports from before all others.
    """

    def __init__(self, *imports: str):
        environment = os.environ | {"OMP_NUM_THREADS": "1", "DS_ACCELERATOR": "cpu", "RLSTEP_TRACEBACK": "1"}
        environment |= {"TOKENIZERS_PARALLELISM": "false", "PYTHONPATH": os.pathsep.join(imports)}
        environment["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.warm"], cwd=ROOT, env=environment, text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        )  # fmt: skip

    def start(self, function: str, *words: object, log: Path, ranks: int = 1) -> "Run":
        """Calls `MODULE:FUNCTION` with words in a forked process, or on several ranks, which share the log."""
        port = free_port()
        asked = {"function": function, "words": [*map(str, words)], "log": str(log), "ranks": ranks, "port": port}
        return Run(self, self._ask(asked), port)

    def close(self) -> None:
        self._process.stdin.close()
        self._process.wait()
        self._process.stdout.close()

    def _ask(self, message: dict):
        self._process.stdin.write(json.dumps(message) + "\n")
        self._process.stdin.flush()
        return json.loads(self._process.stdout.readline())


class Run:
    """What a `Warm` has started; all of its processes are the group `pid`."""

    def __init__(self, warm: Warm, pid: int, port: int):
        self._warm, self.pid, self._port = warm, pid, port

    @property
    def alive(self) -> bool:
        """Whether it has not ended yet."""
        try:
            return runs(psutil.Process(self.pid))
        except psutil.NoSuchProcess:
            return False

    def wait(self) -> int:
        """The exit code, as of `subprocess`; of ranks, 1 if any has failed."""
        code = self._warm._ask({"wait": self.pid})
        # DeepSpeed's ranks on a CPU leave what they talk through: a quarter of a GiB of memory for each run.
        for buffer in Path("/dev/shm").glob(f"deepspeed_allreduce_buffer_*_{self._port}_*"):
            buffer.unlink()
        return code

    def kill(self) -> None:
        """Kills all of its processes, if they still run."""
        with suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        self.wait()


def _import_all() -> None:
    for stage in ("ppo", "prm", "sft", "orm", "sample", "score"):
        importlib.import_module(f"rlstep.stages.{stage}")
    if sys.platform.startswith("linux"):
        from deepspeed.ops.op_builder.cpu import ShareMemCommBuilder

        ShareMemCommBuilder().load()
    gc.collect()
    gc.freeze()  # its pages stay shared with what is forked


def command(*words: str) -> int:
    """`rlstep WORDS`, and what it has left for its end, without what the process that it was forked from has."""
    atexit._clear()
    try:
        return cli(list(words))
    finally:
        atexit._run_exitfuncs()


def _call(function: str, words: list[str]) -> int | None:
    module, name = function.split(":")
    return getattr(importlib.import_module(module), name)(*words)


def main() -> None:
    """Answers each line of the input with one: of what to start, its process; of what to wait for, its exit code."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print is no answer
    _import_all()
    running: dict[int, Started] = {}
    try:
        for line in sys.stdin:
            asked = json.loads(line)
            if "wait" in asked:
                started = running[asked["wait"]]
                answer = started.wait(LONGEST_S)
                if answer is None:
                    started.kill()
                    answer = started.code
            else:
                work = partial(_call, asked["function"], asked["words"])
                started = Started(partial(on_ranks, work, asked["ranks"], asked["port"]), Path(asked["log"]))
                running[started.pid], answer = started, started.pid
            print(json.dumps(answer), file=answers, flush=True)
    finally:
        for started in running.values():  # nobody waits for them any more
            if started.code is None:
                started.kill()


if __name__ == "__main__":
    main()
