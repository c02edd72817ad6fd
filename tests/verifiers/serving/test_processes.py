"""`rlstep serve` with real worker processes, under load: what a killed worker, a signal and a killed server do."""

import os
import re
import signal
import threading
from pathlib import Path

import pytest

from rlstep.verifiers.scoring.reward_model import RewardModel
from rlstep.verifiers.serving.client import RemoteRewardModel
from tests.benchmarks.bench_serving import Pool, agree, load, sample, serving
from tests.verifiers.serving.servers import sent, wait_until

pytestmark = [pytest.mark.distributed, pytest.mark.slow]


@pytest.fixture(scope="module")
def pool(verifier_paths) -> Pool:
    pool = Pool.draw(RewardModel.from_pretrained(verifier_paths["prm"], device="cpu"), 64)
    assert len(pool.scores) >= 32
    return pool


@pytest.fixture(autouse=True)
def one_thread(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).resolve().parents[3]))


class Server:
    """What `sent` asks, by URL."""

    def __init__(self, url: str):
        self.port = int(url.rsplit(":", 1)[1])

    def workers(self) -> dict:
        return sent(self, "GET", "/health")[1]["workers"]


def workers_of(process) -> list[int]:
    """Ids of the processes that score, among a server's children."""
    tasks = Path(f"/proc/{process.pid}/task")
    children = {int(c) for task in tasks.iterdir() for c in (task / "children").read_text().split()}
    return [child for child in children if "spawn_main" in Path(f"/proc/{child}/cmdline").read_text()]


def gone(process: int) -> bool:
    """Whether a process has ended; one that waits for its parent to notice has."""
    try:
        return re.search(r"\) Z", Path(f"/proc/{process}/stat").read_text()) is not None
    except (FileNotFoundError, ProcessLookupError):
        return True


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="finds child processes in /proc, as Linux has it")
def test_under_load_no_answer_is_lost_or_mixed_up_though_a_worker_is_killed(verifier_paths, pool):
    with serving(verifier_paths["prm"], "--workers", "2", "--max_queue", "24") as (process, url):
        server = Server(url)
        assert server.workers() == {"ready": 2, "of": 2}
        results = []
        thread = threading.Thread(target=lambda: results.append(load(url, pool, clients=8, seconds=3)))
        thread.start()
        wait_until(lambda: sample(url, "rows_total") > 100)
        first, second = workers_of(process)
        os.kill(first, signal.SIGKILL)
        wait_until(lambda: server.workers()["ready"] == 1)
        thread.join()
        (seen,) = results
        assert (seen.lost, seen.mixed_up, seen.faults) == (0, 0, {})
        assert sample(url, "worker_deaths_total") == 1
        assert sample(url, "batch_requests_sum") > sample(url, "batch_requests_count"), "clients shared batches"
        assert sample(url, 'requests_total{path="/score",status="429"}') > 0, "the queue was full at times"
        wait_until(lambda: server.workers()["ready"] == 2, seconds=120)
        assert second in workers_of(process)
        workers = workers_of(process)
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0
        assert all(map(gone, workers))


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="finds child processes in /proc, as Linux has it")
def test_workers_end_with_a_server_that_is_killed(verifier_paths, pool):
    with serving(verifier_paths["prm"]) as (process, url):
        (scores,) = RemoteRewardModel(url).score(pool.prompts[:1], pool.completions[:1])
        assert agree(scores, pool.scores[0])
        workers = workers_of(process)
        assert len(workers) == 1
        process.kill()
        process.wait()
        wait_until(lambda: all(map(gone, workers)))
