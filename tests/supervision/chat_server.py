"""A server that speaks as much of the OpenAI chat protocol as a judge needs, and fails as it is told to."""

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

COUNTS = {"prompt_tokens": 100, "completion_tokens": 10}


@dataclass
class Reply:
    """What is sent back.

    Attributes:
        body: JSON, or bytes as they are.
        after: seconds until it is sent.
        stalls: seconds between its headers and its body.
        drips: seconds between two of the body's bytes.
    """

    body: dict | list | bytes
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    after: float = 0.0
    stalls: float = 0.0
    drips: float = 0.0


def answers(*texts: str | None, usage: dict | None = COUNTS) -> Reply:
    """One choice per text; tokens as if each were 10 long, after a prompt of 100."""
    body = {"choices": [{"message": {"role": "assistant", "content": text}} for text in texts]}
    if usage is not None:
        body["usage"] = usage | {"completion_tokens": usage["completion_tokens"] * len(texts)}
    return Reply(body)


def error(status: int, message: str = "no", **headers: str) -> Reply:
    return Reply({"error": {"message": message}}, status, headers)


class ChatServer(ThreadingHTTPServer):
    """Answers by `reply`, which is called with each request's body.

    Attributes:
        bodies: of all requests, in order; keys: their Authorization headers.
        most_at_once: requests that were open at a time.
    """

    daemon_threads = True

    def __init__(self, reply: Callable[[dict], Reply]):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.reply = reply
        self.bodies: list[dict] = []
        self.keys: list[str | None] = []
        self.open = self.most_at_once = 0
        self.lock = threading.Lock()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/v1"


class _Handler(BaseHTTPRequestHandler):
    def do_POST(self):
        server: ChatServer = self.server
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with server.lock:
            server.bodies.append({"path": self.path} | body)
            server.keys.append(self.headers.get("Authorization"))
            server.open += 1
            server.most_at_once = max(server.most_at_once, server.open)
        try:
            reply = server.reply(body)
            time.sleep(reply.after)
        finally:
            with server.lock:
                server.open -= 1
        content = reply.body if isinstance(reply.body, bytes) else json.dumps(reply.body).encode()
        try:
            self.send_response(reply.status)
            for name, value in reply.headers.items():
                self.send_header(name.replace("_", "-"), value)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            time.sleep(reply.stalls)
            for piece in [content[k : k + 1] for k in range(len(content))] if reply.drips else [content]:
                self.wfile.write(piece)
                time.sleep(reply.drips)
        except OSError:
            pass  # the client had waited long enough

    def log_message(self, *_):
        pass


@contextmanager
def serving(reply: Callable[[dict], Reply]) -> Iterator[ChatServer]:
    server = ChatServer(reply)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
