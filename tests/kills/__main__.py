"""Kills stages at random moments, starts them again until they end, and compares what they leave with undisturbed runs.

    python -m tests.kills --stage sample sft --kills 20 --processes 2

A kill is SIGKILL to all processes of a run at once, at a moment drawn evenly from the time that the undisturbed run
took. It prints where each landed. The exit code is 1 if anything differs. Everything is imported before a run begins:
seconds that a kill would otherwise spend on imports, in which nothing can be lost.
"""

import argparse
import os
import random
import shutil
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

# Before torch starts, which the processes that are forked here share.
os.environ |= {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "passive"}
os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ["HF_HUB_OFFLINE"] = "1"

from rlstep.cli import main as main_of_rlstep
from rlstep.stages import config_classes
from tests.kills.compare import differences
from tests.kills.processes import Started, call, free_port, on_ranks
from tests.kills.work import WORKS, Work, prepare

ISSUED = 10  # differences shown of a run


class Killed:
    """One stage's undisturbed run, and those that are killed.

    Args:
        name: the stage's.
        inputs: of `prepare`.
        folder: where it works; every run writes to the same path, and is moved away when it has ended.
        ranks: processes of a run.
        rng: draws the moments.
    """

    def __init__(self, name: str, inputs: Path, folder: Path, ranks: int, rng: random.Random):
        self.name, self.folder, self.rng = name, folder, rng
        work: Work = WORKS[name]
        self.ranks = ranks if work.ranks else 1
        self.out, self.log = folder / "out", folder / "log.txt"
        folder.mkdir(parents=True)
        self.words = work.words(inputs, self.out, self.ranks)
        self.whole = folder / "whole"
        self.seconds = self._to_the_end()
        self.out.rename(self.whole)
        self.landed: Counter[str] = Counter()

    def kill(self, kills: int) -> Iterator[str]:
        """Kills runs so many times in all, each until it ends; gives what differs from the undisturbed run."""
        done, rounds = 0, 0
        while done < kills:
            rounds += 1
            first = done
            while done < kills and self._killed():
                done += 1
            if done > first:
                self._to_the_end()
                actual = list(differences(self.whole, self.out))
                print(
                    f"{self.name}: run {rounds}, {done - first} kills: {'differs' if actual else 'equal'}", flush=True
                )
                yield from (f"run {rounds}: {difference}" for difference in actual)
                if actual:
                    self.out.rename(self.folder / f"differs-{rounds}")
            shutil.rmtree(self.out, ignore_errors=True)

    def _killed(self) -> bool:
        """Starts the run, or goes on with it, up to a random moment; False if it ended before."""
        started, moment = self._start(), self.rng.uniform(0, self.seconds)
        code = started.wait(moment)
        if code is not None:
            self._require(code)
            return False
        started.kill()
        state = self._state()
        self.landed["before anything was written" if state == "nothing" else "after that"] += 1
        print(f"{self.name}: killed after {moment:.2f} s of {self.seconds:.2f} s; there is {state}", flush=True)
        return True

    def _to_the_end(self) -> float:
        started = self._start()
        self._require(started.wait())
        return started.seconds

    def _start(self) -> Started:
        self.out.mkdir(exist_ok=True)
        command = partial(main_of_rlstep, self.words)
        return Started(partial(on_ranks, command, self.ranks, free_port()), self.log)

    def _require(self, code: int) -> None:
        if code:
            raise SystemExit(f"{self.name} ended with code {code}: {self.log.read_text()[-4000:]}")

    def _state(self) -> str:
        """What the run has written so far, for people."""
        files = [file for file in self.out.rglob("*") if file.is_file()]
        if not files:
            return "nothing"
        newest = max(files, key=lambda file: (file.stat().st_mtime_ns, file.name)).relative_to(self.out)
        return f"{len(files)} files, the newest {newest}"


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.kills", description=__doc__.split("\n")[0])
    parser.add_argument("--stage", nargs="+", choices=WORKS, default=list(WORKS), help="by default all")
    parser.add_argument("--kills", type=int, default=20, help="of each stage")
    parser.add_argument("--processes", type=int, default=1, help="ranks, of the stages that several can share")
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    parser.add_argument("--folder", type=Path, help="where runs are left; by default nowhere")
    given = parser.parse_args(argv)
    os.sched_getaffinity = lambda _: {0}  # the lab gives a stage that runs alone the threads of all cores
    for name in given.stage:
        config_classes(name)
    if given.folder is not None:
        given.folder.mkdir(parents=True, exist_ok=True)
        return kill_all(given, given.folder)
    with tempfile.TemporaryDirectory() as folder:
        return kill_all(given, Path(folder))


def kill_all(given: argparse.Namespace, folder: Path) -> int:
    """Kills each stage, prints a line for each, and returns the exit code."""
    inputs = folder / "inputs"
    inputs.mkdir()
    call(lambda: prepare(inputs), folder / "prepare.txt")
    summary, code = [], 0
    for name in given.stage:
        killed = Killed(name, inputs, folder / name, given.processes, random.Random(f"{given.seed} {name}"))
        actual = list(killed.kill(given.kills))
        where = ", ".join(f"{number} {state}" for state, number in killed.landed.most_common())
        verdict = f"{len(actual)} differences" if actual else "equal"
        summary.append(f"{name}: {given.kills} kills on {killed.ranks} processes ({where}): {verdict}")
        summary += [f"  {difference}" for difference in actual[:ISSUED]]
        code |= bool(actual)
    print(*summary, sep="\n")
    return code


if __name__ == "__main__":
    sys.exit(main())
