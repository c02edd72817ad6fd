"""The server of the labelling page.

    GET  /                the page; GET /static/... what it loads, all of it from this server
    GET  /api/labellers   {"labellers": ["ada", "ben"]}
    POST /api/open        {"labeller", "browser"} -> the labeller's current solution
    POST /api/save        all marks of a solution -> the same solution, or the next one where they finish it
    POST /api/reopen      {"labeller", "browser", "item", "revision"} -> the last finished solution, taken up again
    GET  /api/agreement   how far labellers agree, and their pace

The page and its files hold no data and are open to all. Where the server has a token, every request under /api must
bring it. An error is {"error": why} with a `why` for the page where it can do something about it.

Model text travels as JSON and is put on the page as text, never as HTML; the headers below forbid the page to load or
to run anything that is not of this server.
"""

import logging
import re
import threading
from dataclasses import asdict
from importlib.resources import files

import uvicorn
from fastapi import APIRouter, Depends, FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, Response
from fastapi.staticfiles import StaticFiles
from starlette.exceptions import HTTPException as StarletteHTTPException

from rlstep import __version__
from rlstep.annotation.desk import Assignment, Desk, Refused
from rlstep.annotation.messages import ReopenRequest, SaveRequest, Visit, screen
from rlstep.runtime.access import ANNOTATE_TOKEN_VARIABLE
from rlstep.runtime.addresses import is_loopback
from rlstep.runtime.connections import Connection, Server
from rlstep.runtime.http import AsciiJson, address, bind, require_token

logger = logging.getLogger(__name__)

PAGE = files("rlstep.annotation") / "page"
MAX_REQUEST_BYTES = 1 << 20
# Of a request: a name or an address, and the port. `urlsplit` would also take what follows a bracket, or an @.
HOST = re.compile(r"(?P<name>\[[0-9A-Fa-f:.]+\]|[0-9A-Za-z_.-]+)(:[0-9]*)?")
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; font-src 'self'; "
    "img-src 'self'; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",
}


def create_app(desk: Desk, show_reference: bool = True, token: str | None = None) -> FastAPI:
    """The application.

    Args:
        desk: what is labelled, and by whom.
        show_reference: whether labellers see the right answer.
        token: what requests for data must bring; None asks for none, and answers to this machine's names alone.
    """
    app = FastAPI(
        title="rlstep annotate",
        version=__version__,
        openapi_url=None,
        redirect_slashes=False,
        exception_handlers={
            Refused: _refuse,
            StarletteHTTPException: _refuse_http,
            RequestValidationError: _refuse_malformed,
            OSError: _not_written,
            Exception: _fail,
        },
    )

    @app.middleware("http")
    async def guard(request: Request, call_next):
        refusal = _refusal(request, local=token is None)
        response = await call_next(request) if refusal is None else AsciiJson({"error": refusal[1]}, refusal[0])
        response.headers.update(HEADERS)
        return response

    html = (PAGE / "index.html").read_text(encoding="utf-8")
    app.mount("/static", StaticFiles(directory=str(PAGE)), name="static")

    @app.get("/")
    async def page() -> HTMLResponse:
        return HTMLResponse(html)

    app.include_router(_api(desk, show_reference, token))
    return app


def _refusal(request: Request, local: bool) -> tuple[int, str] | None:
    """The status and the reason by which a request is refused before it is read; None if it is not.

    Args:
        request: the request.
        local: whether the server is for this machine's browsers alone, and asks for no token.
    """
    host = HOST.fullmatch(request.headers.get("Host", ""))
    if local and not (host and is_loopback(host["name"].strip("[]").lower())):
        # Another site could give its own name this address, and read the labeller's page from their browser.
        name = host["name"] if host else ""
        return 403, f"this server answers to localhost, not to {name!r}; with a token it answers to every name."
    if request.method != "POST":
        return None
    if request.headers.get("Content-Type", "").partition(";")[0].strip().lower() != "application/json":
        # Browsers let other sites post forms here, but JSON only if the server allowed it, which it does not.
        return 415, "the request must be application/json."
    length = request.headers.get("Content-Length", "")
    if not re.fullmatch("[0-9]{1,18}", length) or int(length) > MAX_REQUEST_BYTES:
        return 413, f"the request needs a Content-Length of at most {MAX_REQUEST_BYTES} bytes."
    return None


def _api(desk: Desk, show_reference: bool, token: str | None) -> APIRouter:
    # Functions, not coroutines: they wait for the disk, and FastAPI calls them in threads.
    hint = f"the server has it from {ANNOTATE_TOKEN_VARIABLE}, and prints the page's address with it"
    api = APIRouter(prefix="/api", dependencies=[] if token is None else [Depends(require_token(token, hint))])

    def answer(assignment: Assignment | None, labeller: str) -> Response:
        finished, progress = desk.last_finished(labeller), desk.progress(labeller)
        return AsciiJson(screen(assignment, finished, progress, show_reference))

    @api.get("/labellers")
    def labellers() -> Response:
        return AsciiJson({"labellers": desk.labellers})

    @api.post("/open")
    def open_page(visit: Visit) -> Response:
        return answer(desk.open(visit.labeller, visit.browser), visit.labeller)

    @api.post("/save")
    def save(request: SaveRequest) -> Response:
        assignment = desk.save(
            request.labeller, request.browser, request.item, request.revision, request.marks()
        )  # fmt: skip
        return answer(assignment, request.labeller)

    @api.post("/reopen")
    def reopen(request: ReopenRequest) -> Response:
        assignment = desk.reopen(request.labeller, request.browser, request.item, request.revision)
        return answer(assignment, request.labeller)

    @api.get("/agreement")
    def agreement() -> Response:
        pairs, paces = desk.agreement()
        return AsciiJson({"pairs": [asdict(pair) for pair in pairs], "labellers": [asdict(pace) for pace in paces]})

    return api


async def _refuse(_: Request, error: Refused) -> Response:
    return AsciiJson({"error": str(error), "why": error.why}, error.status)


async def _refuse_http(request: Request, error: StarletteHTTPException) -> Response:
    reason = f"there is no {request.url.path} here." if error.status_code == 404 else error.detail
    return AsciiJson({"error": reason}, error.status_code, error.headers)


async def _refuse_malformed(_: Request, error: RequestValidationError) -> Response:
    first = error.errors()[0]
    field = ".".join(str(part) for part in first["loc"] if part != "body") or "the request"
    return AsciiJson({"error": f"{field}: {first['msg']}", "why": "malformed"}, 400)


async def _not_written(_: Request, error: OSError) -> Response:
    logger.error("the marks could not be written: %s", error)
    return AsciiJson({"error": f"the server cannot write its file: {error.strerror or error}."}, 507)


async def _fail(*_) -> Response:
    return AsciiJson({"error": "the server failed; its own output says how."}, 500)


class AnnotationServer:
    """Holds a port, and serves the page at it.

    Args:
        host, port: where; port 0 takes a free one.

    Raises:
        UserError: the port cannot be had.
    """

    def __init__(self, host: str, port: int):
        self.host = host
        self._socket = bind(host, port)
        self.port: int = self._socket.getsockname()[1]
        self._ended = threading.Event()
        self._ended.set()

    @property
    def url(self) -> str:
        return address(self.host, self.port)

    def open(self, app: FastAPI) -> None:
        """Listens from now on."""
        config = uvicorn.Config(
            app, http=Connection, ws="none", loop="asyncio", lifespan="off", proxy_headers=False,
            server_header=False, access_log=False, log_config=None, log_level="warning", timeout_graceful_shutdown=5,
        )  # fmt: skip
        self._server = Server(config)
        self._socket.listen()

    def serve_forever(self) -> None:
        """Answers until `shutdown`, Ctrl-C or SIGTERM."""
        self._ended.clear()
        try:
            self._server.run(sockets=[self._socket])
        finally:
            self._ended.set()

    def shutdown(self) -> None:
        """Ends `serve_forever`, which runs in another thread, and waits for its end."""
        self._server.should_exit = True
        self._ended.wait()

    def __enter__(self) -> "AnnotationServer":
        return self

    def __exit__(self, *_) -> None:
        self._socket.close()
