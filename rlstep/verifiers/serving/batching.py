"""Requests that wait to be scored, and the batches that workers take from them.

Rows of several requests make one batch, up to a budget; a request beyond the budget is split, and its rest goes to the
end of the queue, so that one with ten thousand rows does not hold up one with ten.
"""

import math
import threading
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, InvalidStateError
from contextlib import suppress
from dataclasses import dataclass, replace

from rlstep.runtime.counted import counted
from rlstep.steps.prompts import Prompt
from rlstep.steps.records import Span
from rlstep.verifiers.serving.messages import ScoreRequest

# Prompt, completion, its spans, without which the verifier's boundary rule finds the steps, and whether it may be cut.
Row = tuple[Prompt, str, list[Span] | None, bool]

BATCH_CHARACTERS = 4 << 20  # about a million tokens: a longer batch would hold up the requests that come next
SHORTEST_RETRY_S, LONGEST_RETRY_S = 1, 60
SPEED_MEMORY = 0.8  # weight of the batches before in the average speed


class Unanswered(Exception):
    """A request that gets no scores.

    Attributes:
        status: of the reply.
        reason: for its client.
        retry_after: seconds after which the client should ask again; None if that would not help, or is up to it.
    """

    def __init__(self, status: int, reason: str, retry_after: int | None = None):
        super().__init__(reason)
        self.status, self.reason, self.retry_after = status, reason, retry_after


class Job:
    """A request, and the scores that it has so far.

    Attributes:
        rows: what is to be scored.
        answer: the scores of all rows, or the `Unanswered` that it ended with; cancelled when the client has gone.
        deaths: workers that died while they scored it.
        waiting: its parts that are in the queue.
    """

    def __init__(self, request: ScoreRequest):
        steps = request.steps or [None] * len(request.prompts)
        texts = zip(request.prompts, request.completions, steps, strict=True)
        self.rows: list[Row] = [(*row, request.cut) for row in texts]
        self.answer: Future[list[list[float]]] = Future()
        self.deaths, self.waiting = 0, set[Part]()
        self._scores: list[list[float] | None] = [None] * len(self.rows)
        self._left = len(self.rows)
        self._lock = threading.Lock()  # two workers may score parts of it

    def fill(self, start: int, scores: Sequence[list[float]]) -> None:
        """Takes the scores of the rows from `start` on; the last ones complete the answer."""
        with self._lock:
            self._scores[start : start + len(scores)] = scores
            self._left -= len(scores)
            complete = not self._left
        if complete:
            with suppress(InvalidStateError):  # its client has gone
                self.answer.set_result(self._scores)

    def refuse(self, error: Unanswered) -> None:
        with suppress(InvalidStateError):
            self.answer.set_exception(error)


@dataclass(frozen=True, eq=False)
class Part:
    """Rows of a request, from `start` to before `stop`.

    Attributes:
        alone: not to be batched with others, since a worker died with it.
    """

    job: Job
    start: int
    stop: int
    alone: bool = False

    def __len__(self) -> int:
        return self.stop - self.start

    @property
    def rows(self) -> list[Row]:
        return self.job.rows[self.start : self.stop]

    def split(self, length: int) -> tuple["Part", "Part"]:
        middle = self.start + length
        return replace(self, stop=middle), replace(self, start=middle)

    def by_itself(self) -> "Part":
        return replace(self, alone=True)


class BatchQueue:
    """What waits for a worker; all methods may be called from any thread.

    Args:
        max_rows: rows that may wait; a request beyond them is refused with 429, unless nothing else waits.
        batch_rows: rows of a batch.
        across_clients: whether a batch holds rows of several requests.
        workers: how many take batches.
    """

    def __init__(self, max_rows: int, batch_rows: int, across_clients: bool = True, workers: int = 1):
        self.max_rows, self.batch_rows, self.across_clients = max_rows, batch_rows, across_clients
        self._workers = workers
        self._waiting: OrderedDict[Part, None] = OrderedDict()  # a set in order, of which any is quickly removed
        self._rows = 0
        self._unfinished: set[Job] = set()
        self._rows_per_second: float | None = None  # of one worker
        self._stopped = self._closed = False
        self._changed = threading.Condition()

    @property
    def rows(self) -> int:
        """Rows that wait."""
        return self._rows

    @property
    def unfinished(self) -> int:
        """Requests that wait or are being scored."""
        return len(self._unfinished)

    @property
    def stopped(self) -> bool:
        return self._stopped

    def put(self, request: ScoreRequest) -> Job:
        """Queues a request.

        Raises:
            Unanswered: 429, too much waits; 503, the server is stopping.
        """
        job = Job(request)
        with self._changed:
            if self._stopped:
                raise Unanswered(503, "the server is stopping.")
            if self._rows and self._rows + len(job.rows) > self.max_rows:
                waiting = counted(self._rows, "row is", "rows are")
                raise Unanswered(
                    429,
                    f"{waiting} waiting, and with the request's {len(job.rows)} they would be more than "
                    f"{self.max_rows} (--max_queue).",
                    self._retry_after(),
                )
            if not job.rows:
                job.answer.set_result([])
                return job
            self._unfinished.add(job)
            self._enter(Part(job, 0, len(job.rows)))
        job.answer.add_done_callback(lambda _: self._forget(job))
        return job

    def put_back(self, part: Part) -> None:
        """Takes back what a worker did not score; it is the next to be taken."""
        with self._changed:
            if not part.job.answer.done():
                self._enter(part, first=True)

    def _enter(self, part: Part, first: bool = False) -> None:
        self._waiting[part] = None
        if first:
            self._waiting.move_to_end(part, last=False)
        self._rows += len(part)
        part.job.waiting.add(part)
        self._changed.notify()

    def _leave(self, part: Part) -> None:
        del self._waiting[part]
        self._rows -= len(part)
        part.job.waiting.remove(part)

    def take(self, timeout: float) -> list[Part] | None:
        """The next batch; an empty one if nothing comes for `timeout` seconds, None once the queue is closed."""
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or self._closed, timeout)
            return None if self._closed else list(self._batch())

    def _batch(self) -> Iterator[Part]:
        rows, characters = self.batch_rows, BATCH_CHARACTERS
        first = True
        while self._waiting and (first or self.across_clients):
            part = next(iter(self._waiting))
            if part.job.answer.done():  # a moment ago
                self._leave(part)
                continue
            fitting, characters = _fitting(part, rows, characters)
            if not first and (part.alone or fitting < len(part)):
                return  # a request that fits into a batch is not split
            self._leave(part)
            if fitting < len(part):
                part, rest = part.split(max(fitting, 1))
                self._enter(rest)
                yield part
                return
            yield part
            if part.alone:
                return
            rows, first = rows - fitting, False

    def scored(self, rows: int, seconds: float) -> None:
        """A worker has scored a batch; from this comes how long a refused client should wait."""
        speed = rows / max(seconds, 1e-6)
        with self._changed:
            before = self._rows_per_second
            self._rows_per_second = speed if before is None else SPEED_MEMORY * before + (1 - SPEED_MEMORY) * speed

    def _retry_after(self) -> int:
        """Seconds in which the waiting rows will have been scored, as far as one can tell."""
        speed = self._rows_per_second
        seconds = SHORTEST_RETRY_S if speed is None else math.ceil(self._rows / (speed * self._workers))
        return min(max(seconds, SHORTEST_RETRY_S), LONGEST_RETRY_S)

    def stop(self) -> None:
        """Lets no other request in; what is there is scored."""
        self._stopped = True

    def abandon(self, error: Unanswered) -> None:
        """Refuses all requests that are unfinished."""
        with self._changed:
            unfinished = list(self._unfinished)
        for job in unfinished:
            job.refuse(error)

    def close(self) -> None:
        """Gives the workers nothing more."""
        with self._changed:
            self._stopped = self._closed = True
            self._changed.notify_all()

    def _forget(self, job: Job) -> None:
        with self._changed:
            self._unfinished.discard(job)
            for part in list(job.waiting):  # which hold its text
                self._leave(part)


def _fitting(part: Part, rows: int, characters: int) -> tuple[int, int]:
    """How many of a part's first rows fit into a budget of rows and characters, and the characters that remain."""
    fitting = 0
    for prompt, completion, *_ in part.rows[:rows]:
        texts = (prompt,) if isinstance(prompt, str) else (message["content"] for message in prompt)
        length = len(completion) + sum(map(len, texts))
        if length > characters:
            return fitting, 0
        fitting, characters = fitting + 1, characters - length
    return fitting, characters
