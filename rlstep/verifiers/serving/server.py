r"""A verifier behind HTTP.

What travels is text and character spans, never tokens, so policy and verifier need not share a tokenizer::

    GET  /health  -> {"rlstep": "0.1.0", "name": "prm", "kind": "prm", "boundary": {"rule": "line", "tag": null},
                      "prompt_format": {"form": "text"}, "max_request_bytes": 67108864}
    POST /score   {"prompts": ["7 + 3\n"], "completions": ["7 + 3 = 10\n"], "steps": [[[0, 11]]]}
                  -> {"scores": [[0.98]]}

A prompt is a text or a list of messages, [{"role": "user", "content": "7 + 3"}]. Spans count code points, as Python
does. Without `steps`, or where they are null, the verifier's boundary rule splits
the completions. A request that cannot be answered gets {"error": why} and a status: 400 for one that is malformed
(field and row are named; rows count from 0), 401 without the server's token, 408 for a body that stops coming, 411 and
413 for one without a length or too large, 422 for rows that the verifier cannot score, 500 for a fault of the server,
which its own output explains, 503 while it stops. Only what is not HTTP at all is answered by uvicorn, with 400 in
plain text. The other side is `rlstep.verifiers.serving.client`.

A token (`Authorization: Bearer TOKEN`) keeps others from using the server; there is no encryption.
"""

import asyncio
import logging
import re
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Annotated

import uvicorn
from fastapi import Depends, FastAPI, HTTPException, Request
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException as StarletteHTTPException
from starlette.requests import ClientDisconnect

from rlstep import __version__
from rlstep.runtime.access import TOKEN_VARIABLE
from rlstep.runtime.errors import UserError
from rlstep.runtime.http import address, bind, require_token
from rlstep.verifiers.scoring.reward_model import RewardModel
from rlstep.verifiers.serving.messages import BadRequest, Health, ScoreReply, ScoreRequest, parse

logger = logging.getLogger(__name__)

MAX_REQUEST_BYTES = 64 << 20
MOST_DISCARDED = 1 << 30  # bytes of a request over the limit that are read all the same, so that its client hears why
SILENCE_S = 60.0  # a body of which nothing comes for so long is given up
BACKLOG = 128  # as many ranks may ask at once


class Scorer:
    """A verifier that scores the rows of one request at a time, in the order in which the requests came.

    Attributes:
        requests, rows: how many it has scored.
    """

    def __init__(self, verifier: RewardModel, name: str):
        self.verifier, self.name = verifier, name
        self.requests = self.rows = 0
        self._stopped = False
        # One thread is the queue, too, and a forward pass finds the same thread's buffers again.
        self._worker = ThreadPoolExecutor(1, "scoring")

    async def score(self, request: ScoreRequest) -> list[list[float]]:
        """The verifier's scores.

        Raises:
            UserError: the verifier cannot score a row.
            HTTPException: 503, the scorer has been stopped.
        """
        return await asyncio.get_running_loop().run_in_executor(self._worker, self._score, request)

    def _score(self, request: ScoreRequest) -> list[list[float]]:
        if self._stopped:
            raise HTTPException(503, "the server is stopping.")
        scores = self.verifier.score(request.prompts, request.completions, request.steps)
        self.requests += 1
        self.rows += len(request.prompts)
        return scores

    def stop(self) -> None:
        """Lets no other request begin; the one in hand goes on."""
        self._stopped = True

    def close(self) -> None:
        """Returns when no forward pass runs any more: none may outlive the interpreter."""
        self.stop()
        self._worker.shutdown()


def create_app(scorer: Scorer, max_request_bytes: int = MAX_REQUEST_BYTES, token: str | None = None) -> FastAPI:
    """The application that answers with a verifier's scores.

    Args:
        scorer: holds the verifier.
        max_request_bytes: the largest body that is read.
        token: what a request must bring; None asks for none.
    """
    app = FastAPI(
        title="rlstep serve",
        version=__version__,
        openapi_url=None,
        redirect_slashes=False,
        dependencies=[] if token is None else [Depends(require_token(token, f"rlstep's client: {TOKEN_VARIABLE}"))],
        exception_handlers={
            StarletteHTTPException: _refuse,
            ClientDisconnect: _client_has_gone,
            Exception: _fail,
        },
    )

    async def rows(request: Request) -> ScoreRequest:
        body = await _read_body(request, max_request_bytes)
        try:
            return await run_in_threadpool(parse, body)  # a large one would hold up every other request
        except BadRequest as error:
            raise HTTPException(400, str(error)) from None

    @app.get("/health")
    async def health() -> Health:
        prompt_format = scorer.verifier.prompt_format
        return Health(
            rlstep=__version__,
            name=scorer.name,
            kind=scorer.verifier.kind,
            boundary=scorer.verifier.boundary.to_dict(),
            prompt_format=None if prompt_format is None else prompt_format.to_dict(),
            max_request_bytes=max_request_bytes,
        )

    @app.post("/score")
    async def score(request: Annotated[ScoreRequest, Depends(rows)]) -> ScoreReply:
        try:
            return ScoreReply(scores=await scorer.score(request))
        except UserError as error:
            raise HTTPException(422, str(error)) from None

    return app


async def _read_body(request: Request, limit: int) -> bytes:
    """The body, of which never more than `limit` bytes are held.

    Raises:
        HTTPException: 408, 411 or 413.
    """
    length = request.headers.get("Content-Length", "")
    if not re.fullmatch(r"[0-9]{1,18}", length) or "Transfer-Encoding" in request.headers:
        raise HTTPException(411, "the request needs a Content-Length.")
    too_large = int(length) > limit
    body, discarded, chunks = bytearray(), 0, request.stream()
    try:
        while chunk := await asyncio.wait_for(anext(chunks, b""), SILENCE_S):
            if not too_large:
                body += chunk
            elif (discarded := discarded + len(chunk)) > MOST_DISCARDED:
                break
    except TimeoutError:
        raise HTTPException(408, f"nothing of the request came for {SILENCE_S:g} seconds.") from None
    if too_large:
        reason = f"the request has {int(length)} bytes, the server takes {limit}: send fewer rows at a time."
        raise HTTPException(413, reason)
    return bytes(body)


async def _refuse(request: Request, error: StarletteHTTPException) -> JSONResponse:
    reason = error.detail
    if error.status_code == 404:
        reason = "there are GET /health and POST /score."
    elif error.status_code == 405:
        reason = f"{request.url.path} does not take {request.method}."
    logger.warning("%s: %d: %s", request.client.host if request.client else "unknown", error.status_code, reason)
    return JSONResponse({"error": reason}, error.status_code, error.headers)


async def _client_has_gone(request: Request, _: ClientDisconnect) -> JSONResponse:
    logger.warning("%s: the client has gone", request.client.host if request.client else "unknown")
    return JSONResponse({"error": "the request ended early."}, 400)  # which nobody reads


async def _fail(*_) -> JSONResponse:
    # A fault of ours, or a full GPU: told here in one line; uvicorn prints the traceback.
    return JSONResponse({"error": "the server failed; its own output says how."}, 500)


class ScoreServer:
    """Holds a port, and answers at it once it is given a verifier.

    Args:
        host, port: where; port 0 takes a free one.
        name: the verifier's, for clients.
        max_request_bytes: the largest request.
        token: what a request must bring; None asks for none.

    Raises:
        UserError: the port cannot be had.
    """

    def __init__(
        self,
        host: str,
        port: int,
        name: str,
        max_request_bytes: int = MAX_REQUEST_BYTES,
        token: str | None = None,
    ):
        self.host, self.name, self.max_request_bytes, self.token = host, name, max_request_bytes, token
        self.scorer: Scorer | None = None
        self._ended = threading.Event()
        self._ended.set()
        self._socket = bind(host, port)
        self.port: int = self._socket.getsockname()[1]

    @property
    def url(self) -> str:
        return address(self.host, self.port)

    def open(self, verifier: RewardModel) -> None:
        """Listens from now on; until then a client is refused the connection, and tries again."""
        self.scorer = Scorer(verifier, self.name)
        config = uvicorn.Config(
            create_app(self.scorer, self.max_request_bytes, self.token),
            http="h11", ws="none", loop="asyncio", lifespan="off", backlog=BACKLOG, proxy_headers=False,
            server_header=False, access_log=False, log_config=None, log_level="warning",
        )  # fmt: skip
        self._server = _Server(config, on_exit=self.scorer.stop)
        self._socket.listen(BACKLOG)

    def serve_forever(self) -> None:
        """Answers until `shutdown`, Ctrl-C or SIGTERM; the request that is being scored then is still answered."""
        self._ended.clear()
        try:
            self._server.run(sockets=[self._socket])
        finally:
            self._ended.set()

    def shutdown(self) -> None:
        """Ends `serve_forever`, which runs in another thread, and waits for its end."""
        self.scorer.stop()
        self._server.should_exit = True
        self._ended.wait()

    def close(self) -> None:
        """Gives the port back and waits for the forward pass in hand."""
        self._socket.close()
        if self.scorer is not None:
            self.scorer.close()

    def __enter__(self) -> "ScoreServer":
        return self

    def __exit__(self, *_) -> None:
        self.close()


class _Server(uvicorn.Server):
    def __init__(self, config: uvicorn.Config, on_exit: Callable[[], None]):
        super().__init__(config)
        self._on_exit = on_exit

    def handle_exit(self, sig, frame) -> None:
        self._on_exit()
        super().handle_exit(sig, frame)
