"""`rlstep serve` under load: many clients at once, each of which checks every answer against scores computed here.

A client asks for a few rows, drawn from a pool, waits for their scores and asks again. All rows of the pool have scores
that differ by more than what the batching of rows may move, so an answer that is another client's, or another row's, is
noticed. Clients are threads of one process, which takes time from the server where cores are few.

Run: python tests/benchmarks/bench_serving.py [--clients 64] [--seconds 60] [--workers 1] [--max_queue 65536]
"""

import argparse
import json
import os
import random
import re
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np

from rlstep.runtime.errors import UserError
from rlstep.tasks.arithmetic import Arithmetic
from rlstep.tasks.small import small_model
from rlstep.verifiers.scoring.reward_model import RewardModel
from rlstep.verifiers.serving.client import RemoteRewardModel
from rlstep.verifiers.spec import VerifierSpec
from rlstep.verifiers.training.start import new_verifier

SAME = 1e-5  # what batching may move a score by, with room
APART = 10 * SAME
MOST_ROWS = 16  # of a request
POOL_ROWS = 2000  # a batch has few of them twice


@dataclass
class Pool:
    """Rows and their scores; those of two rows are apart by more than APART at some step."""

    prompts: list[str] = field(default_factory=list)
    completions: list[str] = field(default_factory=list)
    scores: list[list[float]] = field(default_factory=list)

    @classmethod
    def draw(cls, verifier: RewardModel, rows: int) -> "Pool":
        solutions = Arithmetic().demonstrations(3 * rows, seed=1)
        texts = list(dict.fromkeys((solution.prompt, solution.completion) for solution in solutions))
        pool, prompts, completions = cls(), *zip(*texts, strict=True)
        apart: dict[int, list[list[float]]] = {}  # by number of steps
        for prompt, completion, scores in zip(prompts, completions, verifier.score(prompts, completions), strict=True):
            others = apart.setdefault(len(scores), [])
            near = others and (np.abs(np.array(others) - scores).max(axis=1) <= APART).any()
            if len(pool.scores) < rows and not near:
                others.append(scores)
                pool.prompts.append(prompt)
                pool.completions.append(completion)
                pool.scores.append(scores)
        return pool


def agree(scores: list[float], others: list[float]) -> bool:
    return len(scores) == len(others) and np.allclose(scores, others, rtol=0, atol=SAME)


@dataclass
class Seen:
    """What the clients of a load saw.

    Attributes:
        latencies: seconds of each answered request, refusals and waits included.
        rows: how many were answered.
        mixed_up: rows with other scores than theirs.
        lost: requests without an answer.
        faults: their reasons.
    """

    latencies: list[float] = field(default_factory=list)
    rows: int = 0
    mixed_up: int = 0
    lost: int = 0
    faults: Counter = field(default_factory=Counter)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def answer(self, seconds: float, right: list[bool]) -> None:
        with self.lock:
            self.latencies.append(seconds)
            self.rows += len(right)
            self.mixed_up += len(right) - sum(right)

    def fault(self, error: UserError) -> None:
        with self.lock:
            self.lost += 1
            self.faults[str(error)] += 1


def load(url: str, pool: Pool, clients: int, seconds: float) -> Seen:
    """Asks a server from many clients until the time is up and all answers are there."""
    seen, end = Seen(), time.monotonic() + seconds
    threads = [threading.Thread(target=_ask, args=(url, pool, seed, end, seen)) for seed in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return seen


def _ask(url: str, pool: Pool, seed: int, end: float, seen: Seen) -> None:
    rng = random.Random(seed)
    client = RemoteRewardModel(url, retries=20)
    while time.monotonic() < end:
        rows = rng.sample(range(len(pool.scores)), rng.randint(1, MOST_ROWS))
        start = time.perf_counter()
        try:
            actual = client.score([pool.prompts[row] for row in rows], [pool.completions[row] for row in rows])
        except UserError as error:
            seen.fault(error)
            continue
        seconds = time.perf_counter() - start
        seen.answer(seconds, [agree(scores, pool.scores[row]) for row, scores in zip(rows, actual, strict=True)])


def sample(url: str, name: str) -> float:
    """The sum of a server's counts of a name, over all labels that the name may include."""
    with urllib.request.urlopen(f"{url}/metrics") as reply:
        lines = reply.read().decode().splitlines()
    return sum(float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith(f"rlstep_serve_{name}"))


@contextmanager
def serving(path: str, *options: str) -> Iterator[tuple[subprocess.Popen, str]]:
    """`rlstep serve` in a process of its own, on any port, and its URL."""
    command = [sys.executable, "-m", "rlstep", "serve", "--model", path, "--port", "0", *options]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=os.environ) as process:
        try:
            yield process, re.findall(r"http://127\.0\.0\.1:\d+", process.stdout.readline())[0]
        finally:
            process.terminate()


def save_verifier(path: str, hidden: int = 64, layers: int = 2) -> RewardModel:
    """A PRM that nobody trained: its scores depend on the whole text before them all the same."""
    tokenizer = Arithmetic().tokenizer()
    small_model(tokenizer, hidden_size=hidden, layers=layers, heads=2, intermediate_size=2 * hidden).save_pretrained(
        path
    )
    tokenizer.save_pretrained(path)
    new_verifier(path, VerifierSpec("prm")).save_pretrained(path)
    return RewardModel.from_pretrained(path, device="cpu")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--clients", type=int, default=64)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--max_queue", type=int, default=65536)
    parser.add_argument("--batch_across_clients", choices=("true", "false"), default="true")
    parser.add_argument("--hidden", type=int, default=64)
    parser.add_argument("--layers", type=int, default=2)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        pool = Pool.draw(save_verifier(folder, options.hidden, options.layers), POOL_ROWS)
        names = "workers", "max_queue", "batch_across_clients"
        with serving(folder, *(text for name in names for text in (f"--{name}", str(getattr(options, name))))) as (
            _,
            url,
        ):
            start = time.perf_counter()
            seen = load(url, pool, options.clients, options.seconds)
            seconds = time.perf_counter() - start
            batches = sample(url, "batch_rows_count")
            refused = sample(url, 'requests_total{path="/score",status="429"}')
            scoring = sample(url, "batch_seconds_sum")
            rows, requests = sample(url, "batch_rows_sum"), sample(url, "batch_requests_sum")
    p50, p95, p99 = np.percentile(seen.latencies, [50, 95, 99])
    print(
        json.dumps(
            {
                **vars(options),
                "pool_rows": len(pool.scores),
                "requests": len(seen.latencies),
                "rows": seen.rows,
                "rows_per_second": round(seen.rows / seconds, 1),
                "p50_s": round(p50, 4), "p95_s": round(p95, 4), "p99_s": round(p99, 4),
                "rows_per_batch": round(rows / batches, 1),
                "requests_per_batch": round(requests / batches, 1),
                "seconds_per_batch": round(scoring / batches, 3),
                "workers_busy": round(scoring / seconds / options.workers, 2),
                "refused_429": int(refused),
                "lost": seen.lost,
                "mixed_up": seen.mixed_up,
                "faults": dict(seen.faults),
            },
            indent=1,
        )
    )  # fmt: skip


if __name__ == "__main__":
    main()
