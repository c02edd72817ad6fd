r"""The `serve` stage: a verifier behind HTTP, for a policy that is trained in another process or on another machine.

What travels is text and character spans, never tokens, so policy and verifier need not share a tokenizer::

    GET  /health  -> {"rlstep": "0.1.0", "name": "prm", "kind": "prm", "boundary": {"rule": "line", "tag": null},
                      "max_request_bytes": 67108864}
    POST /score   {"prompts": ["7 + 3\n"], "completions": ["7 + 3 = 10\n"], "steps": [[[0, 11]]]}
                  -> {"scores": [[0.98]]}

Spans count code points, as Python does. Without `steps`, or where they are null, the verifier's boundary rule finds
them. What cannot be answered gets {"error": why} and a status: 400 for a request that is malformed (field and row are
named; rows count from 0), 411 and 413 for one without a length or too large, 422 for rows that the verifier cannot
score, 500 for a fault of the server, which its own output tells of. The other side is
`rlstep.verifiers.serving.client`.

There is neither authentication nor encryption: whoever reaches the port can use it.
"""

import json
import re
import socket
import sys
import threading
import traceback
from dataclasses import dataclass, field
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Annotated, Literal

from rlstep import __version__
from rlstep.runtime.constraints import Choices, Range, ReadBy, check
from rlstep.runtime.errors import UserError
from rlstep.stages.score import ScoreConfig
from rlstep.steps.boundaries import Boundary
from rlstep.steps.records import Span, shown
from rlstep.verifiers.published import FAMILIES
from rlstep.verifiers.scoring.reward_model import RewardModel
from rlstep.verifiers.serving.client import SURROGATE

FIELDS = ("prompts", "completions", "steps")
LOADING = ("dtype", "batch_tokens", "kind", "layout", "neutral", "packing", "trust_remote_code")
MOST_DISCARDED = 1 << 30  # bytes of a request over the limit that are read all the same, so that its client hears why


def _as_in_score(name: str):
    """An option of `rlstep score`, with its default and its help."""
    same = ScoreConfig.__dataclass_fields__[name]
    return field(default=same.default, metadata=same.metadata)


@dataclass
class ServeConfig:
    model: str = field(metadata={"help": "Folder or hub id of the verifier: rlstep's own, or a published PRM."})
    host: str = field(
        default="127.0.0.1",
        metadata={
            "help": "Address to listen at; 0.0.0.0 for all. There is no authentication and no encryption: whoever "
            "reaches it can use it."
        },
    )
    port: Annotated[int, Range(at_least=0, at_most=65535)] = field(
        default=8000, metadata={"help": "Port to listen at; 0 takes a free one."}
    )
    name: str | None = field(
        default=None,
        metadata={"help": "What clients know the verifier by; the folder's name or the hub id by default."},
    )
    max_request_mb: Annotated[int, Range(at_least=1)] = field(
        default=64, metadata={"help": "Largest request, in MiB; clients cut theirs to it."}
    )
    batch_tokens: Annotated[int, Range(at_least=1)] = _as_in_score("batch_tokens")
    kind: Literal["prm", "orm"] | None = _as_in_score("kind")
    layout: Annotated[str | None, Choices((*FAMILIES,))] = _as_in_score("layout")
    neutral: Literal["positive", "negative", "ignore"] | None = _as_in_score("neutral")
    boundary: Literal["line", "blank_line", "tag", "heading", "sentence"] | None = _as_in_score("boundary")
    boundary_tag: Annotated[str | None, ReadBy("boundary", "tag")] = _as_in_score("boundary_tag")
    packing: bool = _as_in_score("packing")
    dtype: Literal["float32", "bfloat16", "float16"] | None = _as_in_score("dtype")
    trust_remote_code: bool = _as_in_score("trust_remote_code")

    def __post_init__(self):
        check(self)
        self.steps = None if self.boundary is None else Boundary(self.boundary, self.boundary_tag)
        self.name = self.name or (Path(self.model).resolve().name if Path(self.model).is_dir() else self.model)


def serve(config: ServeConfig) -> dict:
    """Answers requests until it is interrupted; returns how many it scored."""
    # The port comes first: that it is taken should not turn up after minutes of loading.
    with ScoreServer(config.host, config.port, config.name, config.max_request_mb << 20) as server:
        options = {name: getattr(config, name) for name in LOADING}
        server.open(RewardModel.from_pretrained(config.model, boundary=config.steps, **options))
        try:
            print(f"{server.verifier.kind} '{config.name}' at {server.url} (Ctrl-C ends it)", flush=True)
            server.serve_forever()
        except KeyboardInterrupt:
            # The forward pass in hand comes to its end and no other begins: none may outlive the interpreter.
            server.scoring.acquire()
        return {"requests": server.requests, "rows": server.rows}


class ScoreServer(ThreadingHTTPServer):
    """Holds a port, and answers at it once it is given a verifier.

    Args:
        host, port: where; port 0 takes a free one.
        name: the verifier's, for clients.
        max_request_bytes: the largest request.

    Raises:
        UserError: the port cannot be had.
    """

    request_queue_size = 128  # as many ranks may ask at once

    def __init__(self, host: str, port: int, name: str, max_request_bytes: int = 64 << 20):
        self.address_family = socket.AF_INET6 if ":" in host else socket.AF_INET
        super().__init__((host, port), _Handler, bind_and_activate=False)
        self.host, self.name, self.max_request_bytes = host, name, max_request_bytes
        self.scoring = threading.Lock()
        self.requests = self.rows = 0
        self._take(self.server_bind)

    def open(self, verifier: RewardModel) -> None:
        """Listens from now on; until then a client is refused the connection, and tries again."""
        self.verifier = verifier
        self._take(self.server_activate)

    def _take(self, step) -> None:
        try:
            step()
        except OSError as error:
            self.server_close()
            raise UserError(
                f"cannot listen at {self.host}, port {self.server_address[1]} ({error.strerror or error}). "
                "Give a host of this machine and a port that is free, or port 0."
            ) from error

    @property
    def url(self) -> str:
        host = socket.gethostname() if self.host in ("0.0.0.0", "::") else self.host
        return f"http://{f'[{host}]' if ':' in host else host}:{self.server_port}"

    def health(self) -> dict:
        return {
            "rlstep": __version__,
            "name": self.name,
            "kind": self.verifier.kind,
            "boundary": self.verifier.boundary.to_dict(),
            "max_request_bytes": self.max_request_bytes,
        }

    def answer(self, body: bytes) -> dict:
        """The reply to a /score request.

        Raises:
            Refusal: 400 or 422.
        """
        prompts, completions, steps = parse(body)
        with self.scoring:
            try:
                scores = self.verifier.score(prompts, completions, steps)
            except UserError as error:
                raise Refusal(HTTPStatus.UNPROCESSABLE_ENTITY, str(error)) from error
            self.requests += 1
            self.rows += len(prompts)
        return {"scores": scores}


class Refusal(Exception):
    """A request that gets an error's status and a reason instead of what it asked for."""

    def __init__(self, status: HTTPStatus, reason: str):
        super().__init__(reason)
        self.status = status


class _Handler(BaseHTTPRequestHandler):
    """One request a connection: none is kept open that nobody uses."""

    server: ScoreServer
    protocol_version = "HTTP/1.1"
    server_version, sys_version = f"rlstep/{__version__}", ""
    timeout = 60.0  # seconds in which a client neither sends nor takes a byte

    def do_GET(self) -> None:
        self._answer({"/health": self.server.health})

    def do_POST(self) -> None:
        self._answer({"/score": lambda: self.server.answer(self._body())})

    def _answer(self, known: dict) -> None:
        try:
            if self.path in known:
                content = known[self.path]()
                # A float is written with the digits that give it back exactly.
                text = json.dumps(content, allow_nan=False)
            elif self.path in ("/health", "/score"):
                raise Refusal(HTTPStatus.METHOD_NOT_ALLOWED, f"{self.path} does not take {self.command}.")
            else:
                raise Refusal(HTTPStatus.NOT_FOUND, "there are GET /health and POST /score.")
        except Refusal as refusal:
            self.send_error(refusal.status, str(refusal))
        except (ConnectionError, TimeoutError):
            raise  # the client has gone, or says nothing more
        except Exception:  # a fault of ours, or a full GPU: told here, in one line, and there in full
            traceback.print_exc(file=sys.stderr)
            self.send_error(HTTPStatus.INTERNAL_SERVER_ERROR, "the server failed; its own output says how.")
        else:
            self._send(HTTPStatus.OK, text)

    def _body(self) -> bytes:
        length = self.headers.get("Content-Length", "")
        if not re.fullmatch(r"[0-9]{1,18}", length) or "Transfer-Encoding" in self.headers:
            raise Refusal(HTTPStatus.LENGTH_REQUIRED, "the request needs a Content-Length.")
        length, limit = int(length), self.server.max_request_bytes
        if length > limit:
            for begin in range(0, min(length, MOST_DISCARDED), 1 << 16):
                if not self.rfile.read(min(1 << 16, length - begin)):
                    break
            reason = f"the request has {length} bytes, the server takes {limit}: send fewer rows at a time."
            raise Refusal(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, reason)
        body = self.rfile.read(length)
        if len(body) < length:
            raise Refusal(HTTPStatus.BAD_REQUEST, f"the request ended after {len(body)} of {length} bytes.")
        return body

    def send_error(self, code, message=None, explain=None) -> None:
        """An error as JSON; the base class calls it, too, for what is no HTTP or another method."""
        reason = message or HTTPStatus(code).phrase
        self.log_message("%d: %s", code, reason)
        self._send(code, json.dumps({"error": reason}))

    def _send(self, status: int, text: str) -> None:
        body = text.encode()
        self.send_response(status)
        for name, value in (("Content-Type", "application/json"), ("Content-Length", len(body))):
            self.send_header(name, str(value))
        self.send_header("Connection", "close")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def handle(self) -> None:
        try:
            super().handle()
        except ConnectionError:
            self.log_message("the client has gone")

    def log_request(self, code="-", size="-") -> None:
        """Says nothing: errors are logged with their reasons, and of the others there are many."""


def parse(body: bytes) -> tuple[list[str], list[str], list[list[Span]] | None]:
    """The prompts, completions and steps of a /score request.

    Raises:
        Refusal: 400, naming the field and the row.
    """
    try:
        found = json.loads(body.decode("utf-8"), object_pairs_hook=_once_each)
    except (ValueError, RecursionError) as error:
        raise _bad(f"the request is not JSON in UTF-8: {error}") from None
    if not isinstance(found, dict):
        raise _bad(f"expected an object with {', '.join(FIELDS)}, found {shown(found)}.")
    if unknown := sorted(set(found) - set(FIELDS)):
        raise _bad(f"field {shown(unknown[0])}: unknown; there are {', '.join(FIELDS)}.")
    prompts, completions = (_texts(found, name) for name in ("prompts", "completions"))
    _same_rows("completions", completions, prompts)
    steps = found.get("steps")
    if steps is not None:
        if not isinstance(steps, list):
            raise _bad(f"field 'steps': expected a list of spans for each row, or null, found {shown(steps)}.")
        _same_rows("steps", steps, prompts)
        steps = [_spans(row, spans, completions[row]) for row, spans in enumerate(steps)]
    return prompts, completions, steps


def _bad(reason: str) -> Refusal:
    return Refusal(HTTPStatus.BAD_REQUEST, reason)


def _once_each(pairs: list[tuple]) -> dict:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a field stands twice in one object")
    return found


def _texts(found: dict, name: str) -> list[str]:
    if name not in found:
        raise _bad(f"field '{name}': missing.")
    texts = found[name]
    if not isinstance(texts, list):
        raise _bad(f"field '{name}': expected a list of texts, found {shown(texts)}.")
    for row, text in enumerate(texts):
        if not isinstance(text, str):
            raise _bad(f"field '{name}', row {row}: expected a text, found {shown(text)}.")
        if SURROGATE.search(text):
            raise _bad(f"field '{name}', row {row}: half a surrogate pair is no character.")
    return texts


def _same_rows(name: str, values: list, prompts: list) -> None:
    if len(values) != len(prompts):
        raise _bad(f"field '{name}': {len(values)} rows, but there are {len(prompts)} prompts.")


def _spans(row: int, spans, completion: str) -> list[Span]:
    where = f"field 'steps', row {row}"
    if not isinstance(spans, list):
        raise _bad(f"{where}: expected a list of [start, end] pairs, found {shown(spans)}.")
    last = 0
    for span in spans:
        # True and False are numbers to Python.
        if not (isinstance(span, list) and len(span) == 2 and all(type(place) is int for place in span)):
            raise _bad(f"{where}: expected [start, end], found {shown(span)}.")
        if not last <= span[0] <= span[1] <= len(completion):
            raise _bad(
                f"{where}: {shown(span)} is out of order or outside the completion's {len(completion)} characters."
            )
        last = span[1]
    return [tuple(span) for span in spans]
