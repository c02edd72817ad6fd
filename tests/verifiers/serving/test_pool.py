"""The workers of a server, here ones that do as they are told: every request gets its scores or its own fault."""

import threading
from contextlib import contextmanager

import pytest

from rlstep.runtime.errors import UserError
from rlstep.verifiers.serving import pool as pool_module
from rlstep.verifiers.serving.batching import BatchQueue, Unanswered
from rlstep.verifiers.serving.messages import ScoreRequest
from rlstep.verifiers.serving.pool import Pool
from rlstep.verifiers.serving.worker import Died, Failed, Refused, Unreached
from tests.verifiers.serving.servers import wait_until

IDENTITY = {"kind": "prm"}


class Told:
    """A worker that scores a completion "7" as [7.0] and does what other completions say.

    long: refuses the row; odd: refuses, and cannot say which row; broken: fails; deadly: dies; deadly once: dies the
    first time; unreached: its own server does not answer; wait: waits until it may go on.
    """

    def __init__(self, index: int, office: "Office"):
        self.index, self.office, self.identity, self.alive = index, office, None, True

    def load(self) -> None:
        self.office.loads.append(self.index)
        fault = self.office.load_faults.pop(0) if self.office.load_faults else None
        if fault is not None:
            raise fault
        self.identity = IDENTITY

    def score(self, rows):
        completions = [completion for _, completion, *_ in rows]
        self.office.batches.append((self.index, completions))
        if "wait" in completions:
            self.office.waits.set()
            assert self.office.go_on.wait(60)
            if not self.alive:
                self.die()
        for row, completion in enumerate(completions):
            match completion:
                case "long":
                    raise Refused("too long", row)
                case "odd":
                    raise Refused("odd")
                case "unreached":
                    raise Unreached("http://gpu7:8000 cannot be reached")
                case "broken":
                    raise Failed("ZeroDivisionError")
                case "deadly once" if self.office.deadly:
                    self.office.deadly = False
                    self.die()
                case "deadly":
                    self.die()
        return [[float(c)] if c.isdigit() else [0.0] for c in completions], 2 * len(rows)

    def die(self):
        self.alive = False
        raise Died("signal 9")

    def kill(self) -> None:
        self.alive = False
        self.office.go_on.set()

    def close(self) -> None:
        self.office.closed.append(self.index)


class Office:
    """What the workers of a test did and are to do."""

    def __init__(self):
        self.loads, self.load_faults, self.start_faults, self.batches, self.closed = [], [], [], [], []
        self.deadly, self.waits, self.go_on = True, threading.Event(), threading.Event()
        self.ready, self.failed = threading.Event(), threading.Event()
        self.workers: dict[int, Told] = {}

    def start(self, index: int) -> Told:
        if self.start_faults:
            raise self.start_faults.pop(0)
        self.workers[index] = Told(index, self)
        return self.workers[index]

    @contextmanager
    def pool(self, workers: int = 1, batch_rows: int = 100):
        queue = BatchQueue(1000, batch_rows, workers=workers)
        pool = Pool(self.start, workers, queue, self.ready.set, self.failed.set)
        pool.begin()
        try:
            yield pool
        finally:
            self.go_on.set()
            pool.close()


@pytest.fixture
def office(monkeypatch) -> Office:
    monkeypatch.setattr(pool_module, "LOOK_S", 0.01)
    monkeypatch.setattr(pool_module, "FIRST_WAIT_S", 0.01)
    return Office()


def put(pool: Pool, *completions: str):
    """A request's future answer."""
    return pool.queue.put(ScoreRequest(prompts=["p"] * len(completions), completions=list(completions))).answer


def put_together(office: Office, pool: Pool, *requests: list[str]) -> list:
    """Future answers of requests that are scored in one batch: a first one holds the worker up until all are there."""
    first = put(pool, "wait")
    assert office.waits.wait(60)
    answers = [put(pool, *request) for request in requests]
    office.go_on.set()
    assert first.result(60) == [[0.0]]
    return answers


def told(answer) -> tuple[int, str]:
    """Status and reason of a request that has no scores."""
    with pytest.raises(Unanswered) as error:
        answer.result(60)
    return error.value.status, error.value.reason


def test_requests_that_come_during_a_batch_are_the_next_one(office):
    with office.pool() as pool:
        answers = put_together(office, pool, ["1", "2"], ["3"], ["4", "5", "6"])
        assert [answer.result(60) for answer in answers] == [[[1.0], [2.0]], [[3.0]], [[4.0], [5.0], [6.0]]]
        assert [batch for _, batch in office.batches] == [["wait"], ["1", "2", "3", "4", "5", "6"]]
        sample = pool.metrics.registry.get_sample_value
        wait_until(lambda: sample("rlstep_serve_rows_total") == 7)
        assert sample("rlstep_serve_tokens_total") == 14
        assert sample("rlstep_serve_batch_rows_bucket", {"le": "1.0"}) == 1
        assert sample("rlstep_serve_batch_rows_sum") == 7
        assert sample("rlstep_serve_batch_requests_sum") == 4
        assert sample("rlstep_serve_batch_seconds_count") == 2


def test_a_row_that_is_refused_is_the_fault_of_its_request_alone(office):
    with office.pool() as pool:
        good, bad, better, worse = put_together(office, pool, ["1"], ["2", "long"], ["3"], ["long"])
        assert told(bad) == (422, "row 1: too long")
        assert told(worse) == (422, "row 0: too long")
        assert (good.result(60), better.result(60)) == ([[1.0]], [[3.0]])
    assert [batch for _, batch in office.batches][1:] == [
        ["1", "2", "long", "3", "long"], ["1", "3", "long"], ["1", "3"]
    ]  # fmt: skip


def test_a_refused_row_of_a_split_request_is_numbered_as_the_request_counts(office):
    with office.pool(batch_rows=2) as pool:
        assert told(put(pool, "1", "2", "3", "long", "5", "6")) == (422, "row 3: too long")


@pytest.mark.parametrize(
    ("fault", "told_"),
    [("odd", (422, "odd")), ("broken", (500, "the server failed; its own output says how."))],
)
def test_a_fault_of_nobody_knows_which_row_is_found_by_scoring_each_request_alone(office, caplog, fault, told_):
    with office.pool() as pool:
        good, bad, better = put_together(office, pool, ["1", "2"], [fault], ["3"])
        assert told(bad) == told_
        assert (good.result(60), better.result(60)) == ([[1.0], [2.0]], [[3.0]])
    assert sorted(batch for _, batch in office.batches[2:]) == [["1", "2"], ["3"], [fault]]
    assert ("ZeroDivisionError" in caplog.text) == (fault == "broken")


def test_while_a_workers_own_server_is_away_requests_are_put_off(office):
    """All of the batch at once: to learn it takes minutes, and each alone would wait for as long."""
    with office.pool() as pool:
        answers = put_together(office, pool, ["1"], ["unreached"], ["long"])
        assert [told(answer) for answer in answers] == [(503, "http://gpu7:8000 cannot be reached")] * 3
        assert answers[0].exception().retry_after == pool_module.UNREACHED_RETRY_S
        assert len(office.batches) == 2
        assert put(pool, "4").result(60) == [[4.0]]
    assert office.loads == [0], "the worker goes on"


def test_what_a_dead_worker_had_is_scored_by_its_successor_one_by_one(office, caplog):
    with office.pool() as pool:
        answers = put_together(office, pool, ["1"], ["deadly once"], ["3"])
        assert [answer.result(60) for answer in answers] == [[[1.0]], [[0.0]], [[3.0]]]
        wait_until(lambda: pool.ready == 1)
        assert pool.metrics.total("worker_deaths") == 1
    assert office.loads == [0, 0]
    assert sorted(batch for _, batch in office.batches[2:]) == [["1"], ["3"], ["deadly once"]]
    assert "worker 0 has died (signal 9); it is started again" in caplog.text


def test_a_request_that_two_workers_die_of_is_refused_and_its_neighbours_are_not(office):
    with office.pool(workers=2) as pool:
        assert office.ready.wait(60)
        held = put(pool, "wait")
        office.waits.wait(60)
        answers = [put(pool, name) for name in ("1", "deadly", "3")]
        status, reason = told(answers[1])
        office.go_on.set()
        assert (status, reason[:44]) == (500, "2 workers died while they scored this reques")
        assert [answers[0].result(60), answers[2].result(60), held.result(60)] == [[[1.0]], [[3.0]], [[0.0]]]
        wait_until(lambda: pool.ready == 2)
        assert pool.metrics.total("worker_deaths") == 2


def test_a_worker_that_dies_idle_is_noticed_and_replaced(office):
    with office.pool() as pool:
        assert office.ready.wait(60)
        office.workers[0].alive = False
        wait_until(lambda: len(office.loads) == 2 and pool.ready == 1)
        assert put(pool, "1").result(60) == [[1.0]]
        assert pool.metrics.total("worker_deaths") == 1


def test_workers_share_the_work(office):
    with office.pool(workers=2) as pool:
        assert office.ready.wait(60)
        assert pool.ready == 2
        waits = put(pool, "wait")
        assert office.waits.wait(60)
        assert put(pool, "1").result(60) == [[1.0]], "the other worker is free"
        office.go_on.set()
        waits.result(60)
    assert len({index for index, _ in office.batches}) == 2
    assert sorted(office.closed) == [0, 1]


def test_a_verifier_that_cannot_be_loaded_is_the_end(office):
    office.load_faults = [UserError("no verifier there")]
    with office.pool() as pool:
        assert office.failed.wait(60)
        assert str(pool.failure) == "no verifier there"
        assert not office.ready.is_set()
    assert office.loads == [0]


@pytest.mark.parametrize(
    ("fault", "how"), [(Died("signal 9"), "signal 9"), (OSError(12, "no memory"), "[Errno 12] no memory")]
)
def test_a_worker_that_dies_while_it_loads_at_first_is_the_end(office, fault, how):
    office.load_faults = [fault]
    with office.pool() as pool:
        assert office.failed.wait(60)
        assert f"worker 0 ended while it was loading ({how})" in str(pool.failure)
        assert "start fewer workers than 1" in str(pool.failure)


def test_a_worker_that_cannot_be_started_again_is_tried_until_it_can(office, caplog):
    with office.pool() as pool:
        assert office.ready.wait(60)
        office.load_faults = [UserError("the folder has gone"), Died("signal 9")]
        # No worker is left: what waits is told so instead of waiting for ever.
        assert told(put(pool, "deadly once")) == (503, "no worker is left, and none can be started.")
        wait_until(lambda: pool.ready == 1)
        assert put(pool, "1").result(60) == [[1.0]]
    assert office.loads == [0, 0, 0, 0]
    assert "cannot be started again, the next attempt is in 0.01 s: the folder has gone" in caplog.text
    assert "the next attempt is in 0.02 s: signal 9" in caplog.text


def test_workers_can_be_killed_in_the_middle(office):
    with office.pool() as pool:
        answer = put(pool, "wait")
        assert office.waits.wait(60)
        pool.kill()
    assert not answer.done()
    pool.queue.abandon(Unanswered(503, "over"))
    assert told(answer) == (503, "over")
    assert pool.metrics.total("worker_deaths") == 0, "killed by us"


def test_a_process_that_cannot_be_made_is_tried_again(office):
    with office.pool() as pool:
        assert office.ready.wait(60)
        office.start_faults = [OSError(11, "no process left")]
        office.workers[0].alive = False
        wait_until(lambda: not office.start_faults and pool.ready == 1)
        assert put(pool, "1").result(60) == [[1.0]]
