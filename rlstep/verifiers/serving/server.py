"""A verifier behind HTTP: one process that listens, and the workers that score what it is asked.

The process that listens parses requests, queues them, hands batches to the workers and counts: it is the one place
that all requests pass through, so batches are made across all clients and workers. `rlstep.verifiers.serving.app`
describes the protocol.
"""

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass

import uvicorn

from rlstep.runtime.connections import Connection, Server
from rlstep.runtime.counted import counted
from rlstep.runtime.http import address, bind
from rlstep.verifiers.serving.app import create_app
from rlstep.verifiers.serving.batching import BatchQueue, Unanswered
from rlstep.verifiers.serving.pool import Pool
from rlstep.verifiers.serving.worker import Worker

logger = logging.getLogger(__name__)

BACKLOG = 1024  # connections that may wait to be accepted; the system may allow fewer
HELD_REQUESTS = 16  # largest requests that are held at a time
GOODBYE_S = 5.0  # for clients to read their answers once all are there


@dataclass(frozen=True)
class Limits:
    """How much a server takes.

    Attributes:
        max_request_bytes: the largest request.
        max_queue: rows that may wait; more are refused with 429.
        batch_rows: rows that are scored together.
        across_clients: whether they may be of several requests.
        stop_s: seconds in which requests are finished after the server is told to stop.
    """

    max_request_bytes: int = 64 << 20
    max_queue: int = 65536
    batch_rows: int = 1024
    across_clients: bool = True
    stop_s: float = 30.0


class ScoreServer:
    """Holds a port, and answers at it once it is given workers.

    Args:
        host, port: where; port 0 takes a free one.
        name: the verifier's, for clients.
        token: what a request must bring; None asks for none.
        limits: how much it takes.
        fingerprint: what tells it from others of its name; None where that is not known.

    Attributes:
        on_ready: called in another thread when all workers are ready.

    Raises:
        UserError: the port cannot be had.
    """

    def __init__(
        self,
        host: str,
        port: int,
        name: str,
        token: str | None = None,
        limits: Limits | None = None,
        fingerprint: str | None = None,
    ):
        self.host, self.token, self.limits = host, token, limits or Limits()
        self.about = {"name": name, "fingerprint": fingerprint}
        self.pool: Pool | None = None
        self.on_ready: Callable[[], None] = lambda: None
        self._socket = bind(host, port)
        self.port: int = self._socket.getsockname()[1]

    @property
    def url(self) -> str:
        return address(self.host, self.port)

    @property
    def requests(self) -> int:
        """Requests that got their scores."""
        return self.pool.metrics.total("requests", path="/score", status="200") if self.pool else 0

    @property
    def rows(self) -> int:
        """Rows that were scored."""
        return self.pool.metrics.total("rows") if self.pool else 0

    def start(self, worker: Callable[[int], Worker], workers: int = 1) -> None:
        """Listens from now on; until a worker is ready clients are told 503, before that they are refused a connection.

        Args:
            worker: makes the worker of a number, from 0.
            workers: how many there are.
        """
        limits = self.limits
        queue = BatchQueue(limits.max_queue, limits.batch_rows, limits.across_clients, workers)
        self.pool = Pool(worker, workers, queue, lambda: self.on_ready(), self.stop)
        held = HELD_REQUESTS * limits.max_request_bytes
        config = uvicorn.Config(
            create_app(self.about, self.pool, limits.max_request_bytes, held, self.token),
            http=Connection, ws="none", loop="asyncio", lifespan="off", backlog=BACKLOG, proxy_headers=False,
            server_header=False, access_log=False, log_config=None, log_level="warning",
            timeout_graceful_shutdown=GOODBYE_S,
        )  # fmt: skip
        self._server = _Server(config, self.pool, limits.stop_s)
        self._socket.listen(BACKLOG)
        self.pool.begin()

    def serve_forever(self) -> None:
        """Answers until `stop`, Ctrl-C or SIGTERM; what is queued then is still answered within a bound.

        Raises:
            UserError: a worker cannot load the verifier.
        """
        self._server.run(sockets=[self._socket])
        if self.pool.failure is not None:
            raise self.pool.failure

    def stop(self) -> None:
        """Ends `serve_forever`, from any thread, once what is queued has been answered."""
        self._server.stop()

    def close(self) -> None:
        """Gives the port back and waits for the forward pass in hand."""
        self._socket.close()
        if self.pool is not None:
            self.pool.close()

    def __enter__(self) -> "ScoreServer":
        return self

    def __exit__(self, *_) -> None:
        self.close()


class _Server(Server):
    """uvicorn, which on a signal goes on listening until what is queued has been answered."""

    def __init__(self, config: uvicorn.Config, pool: Pool, stop_s: float):
        super().__init__(config)
        self._pool, self._stop_s = pool, stop_s
        self._deadline: float | None = None

    def handle_exit(self, sig, frame) -> None:
        impatient = self._deadline is not None  # a second signal
        self.stop()
        if impatient:
            self._deadline = 0.0

    def stop(self) -> None:
        """Refuses new requests from now on, and ends when none is unfinished any more; from any thread."""
        self._pool.queue.stop()
        if self._deadline is None:
            self._deadline = time.monotonic() + self._stop_s

    async def on_tick(self, counter: int) -> bool:
        if self._deadline is not None and not self.should_exit:
            unfinished = self._pool.queue.unfinished
            self.should_exit = not unfinished or time.monotonic() >= self._deadline
            if unfinished and self.should_exit:
                logger.warning("not finished, and told 503: %s", counted(unfinished, "request"))
                self._pool.kill()
                self._pool.queue.abandon(Unanswered(503, "the server has stopped."))
        return await super().on_tick(counter)
