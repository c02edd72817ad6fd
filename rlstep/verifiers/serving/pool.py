"""A server's workers: each takes batches from the queue; a faulty request fails alone, a dead worker is replaced."""

import logging
import threading
import time
from collections.abc import Callable

from rlstep.runtime.counted import counted
from rlstep.runtime.errors import UserError
from rlstep.verifiers.serving.batching import BatchQueue, Part, Unanswered
from rlstep.verifiers.serving.metrics import Metrics
from rlstep.verifiers.serving.worker import Died, Failed, Refused, Unreached, Worker

logger = logging.getLogger(__name__)

LOOK_S = 0.5  # how often an idle worker's process is looked at
FIRST_WAIT_S, LONGEST_WAIT_S = 1.0, 30.0  # before a worker that cannot be started is tried again
UNREACHED_RETRY_S = 30
MOST_DEATHS = 2  # of workers with one request: then it is the request


class Pool:
    """Workers, and a thread for each, which loads it, gives it batches and hands out their scores.

    Args:
        start: makes the worker of a number, from 0.
        count: how many workers there are.
        queue: holds the requests.
        on_ready: called once, when all workers are ready.
        on_failure: called once, when a worker cannot be started at first; `failure` says why.
    """

    def __init__(
        self,
        start: Callable[[int], Worker],
        count: int,
        queue: BatchQueue,
        on_ready: Callable[[], None],
        on_failure: Callable[[], None],
    ):
        self.queue, self.count = queue, count
        self.failure: UserError | None = None
        self.identity: dict | None = None
        self.metrics = Metrics(lambda: (queue.unfinished, queue.rows), lambda: self.ready)
        self._start, self._on_ready, self._on_failure = start, on_ready, on_failure
        self._workers: dict[int, Worker] = {}  # from when they begin to load
        self._started: set[int] = set()
        self._lock = threading.Lock()
        self._closing = threading.Event()
        self._threads = [
            threading.Thread(target=self._run, args=(index,), name=f"worker {index}", daemon=True)
            for index in range(count)
        ]

    def begin(self) -> None:
        for thread in self._threads:
            thread.start()

    @property
    def ready(self) -> int:
        """How many workers can score."""
        return sum(worker.alive and worker.identity is not None for worker in list(self._workers.values()))

    def kill(self) -> None:
        """Ends the workers' processes, whatever they do."""
        self._end(lambda worker: True)

    def close(self) -> None:
        """Returns when no forward pass runs any more: none may outlive the interpreter."""
        self._end(lambda worker: worker.identity is None)  # loading can take minutes
        for thread in self._threads:
            if thread.ident is not None:
                thread.join()

    def _end(self, at_once: Callable[[Worker], bool]) -> None:
        with self._lock:
            self._closing.set()
            workers = list(self._workers.values())
        self.queue.close()
        for worker in filter(at_once, workers):
            worker.kill()

    def _run(self, index: int) -> None:
        wait = FIRST_WAIT_S
        while not self._closing.is_set():
            worker = None
            try:
                worker = self._enter(index)
                if worker is None:
                    return
                worker.load()
                self._loaded(index, worker)
                wait = FIRST_WAIT_S
                self._serve(worker)
            except (UserError, Died, OSError) as error:  # the last: the system has no room for another process
                if self._closing.is_set():
                    return
                if worker is not None and worker.identity is not None:
                    self.metrics.deaths.inc()
                    logger.error("worker %d has died (%s); it is started again", index, error)
                elif self._recovers(index, error, wait):
                    wait = min(2 * wait, LONGEST_WAIT_S)
                else:
                    return
            finally:
                if worker is not None:
                    del self._workers[index]
                    worker.close()

    def _enter(self, index: int) -> Worker | None:
        """A new worker; None when the pool closes, which ends the workers that it finds."""
        with self._lock:
            if self._closing.is_set():
                return None
            worker = self._workers[index] = self._start(index)
            return worker

    def _recovers(self, index: int, error: Exception, wait: float) -> bool:
        """Waits before a worker is tried again; False for one that has never run, with which the server ends."""
        if index not in self._started:
            self.failure = error if isinstance(error, UserError) else _ended_while_loading(index, self.count, error)
            self._on_failure()
            return False
        logger.error("worker %d cannot be started again, the next attempt is in %g s: %s", index, wait, error)
        if not self.ready:
            self.queue.abandon(Unanswered(503, "no worker is left, and none can be started.", int(wait)))
        self._closing.wait(wait)
        return True

    def _loaded(self, index: int, worker: Worker) -> None:
        with self._lock:
            self.identity = worker.identity
            before = len(self._started)
            self._started.add(index)
            all_ready = before < len(self._started) == self.count
        if all_ready:
            self._on_ready()

    def _serve(self, worker: Worker) -> None:
        while (batch := self.queue.take(LOOK_S)) is not None:
            if batch:
                self._answer(batch, worker)
            elif not worker.alive:
                raise Died("while it was idle")

    def _answer(self, batch: list[Part], worker: Worker) -> None:
        """Every request of a batch gets its scores or its own fault."""
        groups = [batch]
        while groups:
            parts = [part for part in groups.pop() if not part.job.answer.done()]
            if not parts:
                continue
            try:
                self._score(parts, worker)
            except Refused as error:
                groups += self._without_the_faulty(parts, error)
            except Unreached as error:  # each group alone would wait for as long as the first
                groups.append(parts)
                for part in (part for group in groups for part in group):
                    part.job.refuse(Unanswered(503, str(error), UNREACHED_RETRY_S))
                return
            except Failed as error:
                logger.error("a batch of %s failed: %s", counted(len(parts), "request"), error)
                groups += _one_by_one(parts, Unanswered(500, "the server failed; its own output says how."))
            except Died:
                for part in (part for group in groups for part in group):
                    self.queue.put_back(part)
                for part in parts:
                    self._outlived(part)
                raise

    def _score(self, parts: list[Part], worker: Worker) -> None:
        start = time.perf_counter()
        rows = [row for part in parts for row in part.rows]
        scores, tokens = worker.score(rows)
        seconds = time.perf_counter() - start
        self.metrics.batch(len(parts), len(rows), tokens, seconds)
        self.queue.scored(len(rows), seconds)
        first = 0
        for part in parts:
            part.job.fill(part.start, scores[first : first + len(part)])
            first += len(part)

    def _without_the_faulty(self, parts: list[Part], error: Refused) -> list[list[Part]]:
        """What is left to score after a refusal: all but the request at fault, which gets its row as it counts."""
        if error.row is None:
            return _one_by_one(parts, Unanswered(422, error.reason))
        row = error.row
        for part in parts:
            if row < len(part):
                part.job.refuse(Unanswered(422, f"row {part.start + row}: {error.reason}"))
                return [[other for other in parts if other.job is not part.job]]
            row -= len(part)
        raise IndexError(f"row {error.row} of {sum(map(len, parts))} is at fault")

    def _outlived(self, part: Part) -> None:
        """A worker died while it scored this: it is scored once more, alone."""
        part.job.deaths += 1
        if part.job.deaths >= MOST_DEATHS:
            reason = f"{MOST_DEATHS} workers died while they scored this request; the server's own output says more."
            part.job.refuse(Unanswered(500, reason))
        else:
            self.queue.put_back(part.by_itself())


def _one_by_one(parts: list[Part], error: Unanswered) -> list[list[Part]]:
    """Which groups to score after a fault that cannot be put down to one request; one that was alone is refused."""
    if len(parts) > 1:
        return [[part] for part in parts]
    parts[0].job.refuse(error)
    return []


def _ended_while_loading(index: int, count: int, error: Died | OSError) -> UserError:
    return UserError(
        f"worker {index} ended while it was loading ({error}); its own output above says more. If it ran out of "
        f"memory, start fewer workers than {count}, or load the verifier with a smaller dtype."
    )
