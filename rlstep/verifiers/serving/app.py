r"""What a reward server answers over HTTP.

What travels is text and character spans, never tokens, so policy and verifier need not share a tokenizer::

    GET  /health  -> {"status": "ready", "workers": {"ready": 2, "of": 2}, "rlstep": "0.1.0", "name": "prm",
                      "fingerprint": "1f0c", "max_request_bytes": 67108864, "kind": "prm",
                      "boundary": {"rule": "line", "tag": null}, "prompt_format": {"form": "text"}}
    POST /score   {"prompts": ["7 + 3\n"], "completions": ["7 + 3 = 10\n"], "steps": [[[0, 11]]]}
                  -> {"scores": [[0.98]]}
    GET  /metrics -> counts in Prometheus' text format

A prompt is a text or a list of messages, [{"role": "user", "content": "7 + 3"}]. Spans count code points, as Python
does. Without `steps`, or where they are null, the verifier's boundary rule splits the completions. With "cut": true, a
row that is longer than the verifier has scores for its first steps, those that fit.

A request that cannot be answered gets {"error": why} and a status::

    400  malformed; field and row are named, rows counted from 0
    401  without the server's token
    408  a body that stops coming
    411  a body without a length
    413  a body that is too large
    422  rows that the verifier cannot score
    429  too much is waiting; with Retry-After
    500  a fault of the server, which its own output explains
    503  the server is loading or stopping, or a server that it asks itself does not answer

Only what is not HTTP at all is answered by uvicorn, with 400 in plain text. The other side is
`rlstep.verifiers.serving.client`.

A token (`Authorization: Bearer TOKEN`) keeps others from using the server; there is no encryption. /health without one
says only status and workers, for probes. Its keys are the same while the verifier loads and when the server stops, with
status 503 and a reason in "error" as in every refusal; kind, boundary and prompt_format are null until they are known.
"""

import asyncio
import logging
import re
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Annotated, Any

from fastapi import Depends, FastAPI, HTTPException, Request, Response
from fastapi.concurrency import run_in_threadpool
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.exceptions import HTTPException as StarletteHTTPException
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from rlstep import __version__
from rlstep.runtime.access import TOKEN_VARIABLE
from rlstep.runtime.http import AsciiJson, Bearer, check_token
from rlstep.runtime.visible import visible
from rlstep.verifiers.serving.batching import Job, Unanswered
from rlstep.verifiers.serving.messages import BadRequest, ScoreReply, ScoreRequest, parse
from rlstep.verifiers.serving.metrics import GONE, CountsReplies
from rlstep.verifiers.serving.pool import Pool
from rlstep.verifiers.serving.worker import IDENTITY

logger = logging.getLogger(__name__)

MOST_DISCARDED = 1 << 30  # bytes of a request over the limit that are read all the same, so that its client hears why
SILENCE_S = 60.0  # a body of which nothing comes for so long is given up
LOADING_RETRY_S = 5


@dataclass
class Held:
    """Bytes of requests that are held at a time, until they are answered.

    Attributes:
        limit: how many may be.
        total: how many there are.
    """

    limit: int
    total: int = 0


def create_app(
    about: dict[str, Any], pool: Pool, max_request_bytes: int, max_held_bytes: int, token: str | None = None
) -> ASGIApp:
    """The application that answers with a verifier's scores.

    Args:
        about: what clients are told of the verifier before it is loaded, too.
        pool: the workers and their queue.
        max_request_bytes: the largest body that is read.
        max_held_bytes: bodies of all requests that are held at a time; more is refused with 429.
        token: what a request must bring; None asks for none.
    """
    app = FastAPI(
        title="rlstep serve",
        version=__version__,
        openapi_url=None,
        redirect_slashes=False,
        exception_handlers={
            StarletteHTTPException: _refuse,
            Unanswered: _no_answer,
            ClientDisconnect: _client_has_gone,
            Exception: _fail,
        },
    )
    rows = _rows_of(pool, max_request_bytes, Held(max_held_bytes))

    def known(given: Bearer) -> None:
        if token is not None:
            check_token(given, token, f"rlstep's client: {TOKEN_VARIABLE}")

    @app.get("/health")
    async def health(request: Request, given: Bearer) -> Response:
        whole = token is None or "Authorization" in request.headers
        if whole:
            known(given)
        return _health(pool, about | {"max_request_bytes": max_request_bytes} if whole else None)

    @app.post("/score", dependencies=[Depends(known)])
    async def score(request: Request, score_request: Annotated[ScoreRequest, Depends(rows)]) -> ScoreReply:
        scores = await _answer(request, pool.queue.put(score_request))
        pool.metrics.latency.observe(time.perf_counter() - request.state.received)
        return ScoreReply(scores=scores)

    @app.get("/metrics", dependencies=[Depends(known)])
    async def metrics() -> Response:
        return Response(pool.metrics.text(), headers={"Content-Type": CONTENT_TYPE_LATEST})

    # Around the whole, as starlette answers faults of ours outside every middleware that an application is given.
    return CountsReplies(_TellsOfTheEnd(app), pool.metrics)


def _rows_of(pool: Pool, max_request_bytes: int, held: Held) -> Callable[[Request], AsyncIterator[ScoreRequest]]:
    """What reads a request's body, and holds it until the request is answered; arguments as in `create_app`."""

    async def rows(request: Request) -> AsyncIterator[ScoreRequest]:
        _check_ready(pool)
        body = _Body(request, max_request_bytes, held)
        try:
            # In a thread: a large one would hold up every other request.
            yield await run_in_threadpool(parse, await body.read())
        except BadRequest as error:
            raise HTTPException(400, str(error)) from None
        finally:
            body.release()

    return rows


def _health(pool: Pool, settings: dict[str, Any] | None) -> AsciiJson:
    """Whether the server is ready, and with its settings also what it serves; None leaves both out, for probes."""
    status, reason = _status(pool)
    reply: dict[str, Any] = {"status": status, "workers": {"ready": pool.ready, "of": pool.count}}
    if settings is not None:
        reply |= {"rlstep": __version__} | settings | (pool.identity or dict.fromkeys(IDENTITY))
    if status == "ready":
        return AsciiJson(reply)
    return AsciiJson({"error": reason} | reply, 503, {"Retry-After": str(LOADING_RETRY_S)})


def _status(pool: Pool) -> tuple[str, str]:
    """(one word, a sentence)"""
    if pool.queue.stopped:
        return "stopping", "the server is stopping."
    return ("ready", "") if pool.ready else ("loading", "the verifier is loading.")


def _check_ready(pool: Pool) -> None:
    status, reason = _status(pool)
    if status != "ready":
        raise Unanswered(503, reason, LOADING_RETRY_S)


async def _answer(request: Request, job: Job) -> list[list[float]]:
    """The scores, unless the client goes away before: then nothing is scored for it."""
    answer = asyncio.wrap_future(job.answer)
    gone = asyncio.create_task(_disconnected(request))
    try:
        await asyncio.wait((answer, gone), return_when=asyncio.FIRST_COMPLETED)
        if not answer.done():
            raise ClientDisconnect
        return answer.result()
    finally:
        answer.cancel()  # does nothing to one that is there
        gone.cancel()


async def _disconnected(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


class _Body:
    """A request's body, which counts as held until it is released.

    Args:
        request: whose body.
        limit: bytes, of which never more are held.
        held: counts those of all requests.
    """

    def __init__(self, request: Request, limit: int, held: Held):
        self.request, self.limit, self.held, self.size = request, limit, held, 0

    async def read(self) -> bytes:
        """The whole body; `state.received` of the request says when its last byte came.

        Raises:
            HTTPException: 408, 411 or 413.
            Unanswered: 429, the requests that are held leave no room.
        """
        length = self.request.headers.get("Content-Length", "")
        if not re.fullmatch(r"[0-9]{1,18}", length) or "Transfer-Encoding" in self.request.headers:
            raise HTTPException(411, "the request needs a Content-Length.")
        too_large, no_room = int(length) > self.limit, False
        body, discarded, chunks = bytearray(), 0, self.request.stream()
        try:
            while chunk := await asyncio.wait_for(anext(chunks, b""), SILENCE_S):
                no_room = no_room or self.held.total + len(chunk) > self.held.limit
                if not too_large and not no_room:
                    self._hold(len(chunk))
                    body += chunk
                elif (discarded := discarded + len(chunk)) > MOST_DISCARDED:
                    break
        except TimeoutError:
            raise HTTPException(408, f"nothing of the request came for {SILENCE_S:g} seconds.") from None
        if too_large:
            reason = f"the request has {int(length)} bytes, the server takes {self.limit}: send fewer rows at a time."
            raise HTTPException(413, reason)
        if no_room:
            raise Unanswered(429, f"the server holds requests of {self.held.limit} bytes, as many as it can.", 1)
        self.request.state.received = time.perf_counter()
        return bytes(body)

    def _hold(self, size: int) -> None:
        self.size += size
        self.held.total += size

    def release(self) -> None:
        self.held.total -= self.size


class _TellsOfTheEnd:
    """ASGI middleware: a request that the server's end cuts off, as its body was still coming, is told so.

    uvicorn cancels it. Left to that it would print a traceback, and answer 500, after which no client asks again.
    """

    def __init__(self, app: ASGIApp):
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        begun = False

        async def watched(message: Message) -> None:
            nonlocal begun
            begun = True
            await send(message)

        try:
            await self.app(scope, receive, watched)
        except asyncio.CancelledError:
            _log(Request(scope), "the server has stopped before the request was answered")
            if not begun:
                await AsciiJson({"error": "the server has stopped."}, 503)(scope, receive, send)


def _log(request: Request, what: str) -> None:
    # Of a client's own text, halves of surrogate pairs have no place in a log in UTF-8.
    logger.warning("%s: %s", request.client.host if request.client else "unknown", visible(what))


async def _refuse(request: Request, error: StarletteHTTPException) -> AsciiJson:
    reason = error.detail
    if error.status_code == 404:
        reason = "there are GET /health, POST /score and GET /metrics."
    elif error.status_code == 405:
        reason = f"{request.url.path} does not take {request.method}."
    _log(request, f"{error.status_code}: {reason}")
    return AsciiJson({"error": reason}, error.status_code, error.headers)


async def _no_answer(request: Request, error: Unanswered) -> AsciiJson:
    _log(request, f"{error.status}: {error.reason}")
    headers = {} if error.retry_after is None else {"Retry-After": str(error.retry_after)}
    return AsciiJson({"error": error.reason}, error.status, headers)


async def _client_has_gone(request: Request, _: ClientDisconnect) -> AsciiJson:
    _log(request, "the client has gone")
    return AsciiJson({"error": "the request ended early."}, GONE)  # which nobody reads


async def _fail(*_) -> AsciiJson:
    # A fault of ours: told here in one line; uvicorn prints the traceback.
    return AsciiJson({"error": "the server failed; its own output says how."}, 500)
