"""Servers of the tests, and what is asked of them."""

import http.client
import json
import socket
import threading
import time
from collections.abc import Callable
from contextlib import contextmanager

from rlstep.verifiers.serving.server import Limits, ScoreServer
from rlstep.verifiers.serving.worker import identity, score_rows

PROMPT, COMPLETION = "Left to right, mod 20: 7 + 3\n", "7 + 3 = 10\nAnswer: 10"
SCORE = json.dumps({"prompts": [PROMPT], "completions": [COMPLETION]}).encode()


@contextmanager
def running(server):
    """Answers in a thread until the block ends."""
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield server
    finally:
        server.stop()
        thread.join()
        server.close()


class InThisProcess:
    """A worker whose verifier is in this process."""

    alive = True

    def __init__(self, verifier):
        self.verifier, self.identity = verifier, identity(verifier)

    def load(self) -> None:
        pass

    def score(self, rows) -> tuple[list[list[float]], int]:
        return score_rows(self.verifier, rows)

    def kill(self) -> None:
        """A thread cannot be ended: its forward pass goes on."""

    def close(self) -> None:
        pass


def opened(server: ScoreServer, verifier) -> ScoreServer:
    """The server, which listens with a verifier of this process."""
    ready = threading.Event()
    server.on_ready = ready.set
    server.start(lambda index: InThisProcess(verifier))
    assert ready.wait(60)
    return server


@contextmanager
def serving(verifier, port: int = 0, name: str = "tiny", token: str | None = None, **limits):
    server = ScoreServer("127.0.0.1", port, name, token, Limits(**limits))
    with running(opened(server, verifier)):
        yield server


class Recorded:
    """A verifier that keeps what it was asked to score."""

    tokens_scored = 0

    def __init__(self, verifier):
        self.verifier, self.kind, self.boundary = verifier, verifier.kind, verifier.boundary
        self.prompt_format = verifier.prompt_format
        self.asked = []

    def score(self, prompts, completions, steps, cut=False):
        self.asked.append(list(completions))
        return self.verifier.score(prompts, completions, steps, cut)


class Gated(Recorded):
    """One that waits in its first batch until it may go on, so that requests queue up after it."""

    def __init__(self, verifier):
        super().__init__(verifier)
        self.begun, self.go_on = threading.Event(), threading.Event()

    def score(self, *rows):
        self.begun.set()
        assert self.go_on.wait(60)
        return super().score(*rows)


def texts(task, n: int = 24) -> tuple[list[str], list[str]]:
    solutions = task.demonstrations(n, seed=5)
    return [s.prompt for s in solutions], [s.completion for s in solutions]


def asked(prompts, completions, **more) -> bytes:
    """The body of a request."""
    return json.dumps({"prompts": prompts, "completions": completions} | more).encode()


def exchanged(server, method: str, path: str, body: bytes | None = None, headers=()) -> tuple[int, dict, bytes]:
    """Status, headers and body of one reply."""
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
    try:
        connection.request(method, path, body, dict(headers))
        reply = connection.getresponse()
        return reply.status, dict(reply.getheaders()), reply.read()
    finally:
        connection.close()


def sent(server, method: str, path: str, body: bytes | None = None, headers=()) -> tuple[int, dict]:
    """Status and JSON of one reply."""
    status, _, content = exchanged(server, method, path, body, headers)
    return status, json.loads(content or b"{}")


def raw(server, request: bytes) -> bytes:
    with socket.create_connection(("127.0.0.1", server.port), timeout=30) as connection:
        connection.sendall(request)
        return b"".join(iter(lambda: connection.recv(1 << 16), b""))


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def wait_until(happens: Callable[[], bool], seconds: float = 60.0) -> None:
    """Returns once it has happened; fails if it does not."""
    end = time.monotonic() + seconds
    while not happens():
        assert time.monotonic() < end, "it has not happened"
        time.sleep(0.01)
