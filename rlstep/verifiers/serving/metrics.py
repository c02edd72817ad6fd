"""What a reward server counts, for Prometheus.

One process, which all requests and all workers' results pass through, counts everything: the numbers are totals.
"""

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from starlette.types import ASGIApp, Message, Receive, Scope, Send

PREFIX = "rlstep_serve"
SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300)
SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 4096)
PATHS = ("/score", "/health", "/metrics")
GONE = 499  # the client closed the connection before its answer


class Metrics:
    """The counts of one server.

    Args:
        waiting: gives (requests, rows) that are unfinished and that wait.
        workers_ready: gives how many workers can score.
    """

    def __init__(self, waiting: Callable[[], tuple[int, int]], workers_ready: Callable[[], int]):
        self.registry = registry = CollectorRegistry()
        names = {"namespace": PREFIX, "registry": registry}
        self.requests = Counter("requests", "Requests, by path and status of the reply.", ["path", "status"], **names)
        self.rows = Counter("rows", "Rows scored.", **names)
        self.tokens = Counter("tokens", "Tokens of forward passes, padding included.", **names)
        self.batch_rows = Histogram("batch_rows", "Rows scored together.", buckets=SIZES, **names)
        self.batch_requests = Histogram("batch_requests", "Requests scored together.", buckets=SIZES, **names)
        self.batch_seconds = Histogram("batch_seconds", "Time in which a batch is scored.", buckets=SECONDS, **names)
        self.latency = Histogram(
            "score_seconds", "From a request's last byte to its scores, waiting included.", buckets=SECONDS, **names
        )
        self.deaths = Counter("worker_deaths", "Workers whose process ended; they are started again.", **names)
        queue = Gauge("queue_rows", "Rows that wait for a worker.", **names)
        queue.set_function(lambda: waiting()[1])
        unfinished = Gauge("unfinished_requests", "Requests that wait or are being scored.", **names)
        unfinished.set_function(lambda: waiting()[0])
        ready = Gauge("workers_ready", "Workers that can score.", **names)
        ready.set_function(workers_ready)

    def batch(self, requests: int, rows: int, tokens: int, seconds: float) -> None:
        """A batch has been scored."""
        self.rows.inc(rows)
        self.tokens.inc(tokens)
        self.batch_rows.observe(rows)
        self.batch_requests.observe(requests)
        self.batch_seconds.observe(seconds)

    def text(self) -> bytes:
        """All counts, in Prometheus' text format."""
        return generate_latest(self.registry)

    def total(self, name: str, **labels: str) -> int:
        """A counter's value."""
        return int(self.registry.get_sample_value(f"{PREFIX}_{name}_total", labels) or 0)


class CountsReplies:
    """ASGI middleware that counts replies by path and status, those before and outside any route, too."""

    def __init__(self, app: ASGIApp, metrics: Metrics):
        self.app, self.metrics = app, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        path = scope["path"] if scope["path"] in PATHS else "other"

        async def count(message: Message) -> None:
            if message["type"] == "http.response.start":
                self.metrics.requests.labels(path, str(message["status"])).inc()
            await send(message)

        await self.app(scope, receive, count)
