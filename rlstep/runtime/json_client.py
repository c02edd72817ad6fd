"""JSON over HTTP: asked again while a server is down or overloaded, for a bounded time, and refused in one line.

What may pass is a lost connection, 408, 429 and 5xx. A server's Retry-After is honoured; without one, waits double from
half a second to 30 seconds. A key is read from the environment, goes to this server alone, and stands in no message.
"""

import json
import os
import random
import re
import threading
import time
from collections.abc import Mapping

import requests
from requests.adapters import HTTPAdapter
from requests.auth import AuthBase
from urllib3.exceptions import InvalidHeader, ReadTimeoutError
from urllib3.util import Retry

from rlstep.runtime.addresses import checked_address, is_loopback
from rlstep.runtime.errors import UserError

API_KEY_VARIABLE = "RLSTEP_API_KEY"
CONNECT_TIMEOUT_S, GET_TIMEOUT_S = 20.0, 30.0
FIRST_WAIT_S, LONGEST_WAIT_S = 0.5, 30.0
TRY_AGAIN = (408, 429, *range(500, 600))
MOST_BYTES, CHUNK_BYTES = 64 << 20, 1 << 16  # of one answer, and read at a time
LONGEST_REASON = 400  # characters of a server's message


class Refused(Exception):
    """A server's answer that would be the same again.

    Attributes:
        status: of HTTP.
        reason: what the server says, on one line.
    """

    def __init__(self, status: int, reason: str):
        super().__init__(f"status {status}: {reason}")
        self.status, self.reason = status, reason


class Stopped(Exception):
    """The client was told to stop before an answer was there."""


class JsonClient:
    """Asks one server; may be used by several threads at once.

    Args:
        url: http(s)://HOST:PORT of the server, perhaps with a path.
        request_timeout: seconds to wait for the answer to one request.
        retry_for: seconds, from a request's beginning, in which it is sent again if it fails in a way that may pass.
        connections: requests at a time that find an open connection.
        key_variable: the environment variable of the server's key.
        prefix: what the user's settings `retry_for`, `request_timeout` and `concurrency` begin with, for messages.

    Raises:
        UserError: the URL is no address, or the key cannot stand in a header.
    """

    def __init__(
        self,
        url: str,
        request_timeout: float = 600.0,
        retry_for: float = 300.0,
        connections: int = 1,
        key_variable: str = API_KEY_VARIABLE,
        prefix: str = "",
    ):
        self.url, host = checked_address(url, "server")
        self.request_timeout, self.retry_for = request_timeout, retry_for
        self.key_variable, self.prefix = key_variable, prefix
        self._key = _key_of_environment(key_variable)
        self._stopped = threading.Event()
        self._session = requests.Session()
        # As the session's own, so that no password of ~/.netrc is sent in the key's place.
        self._session.auth = _Bearer(self._key)
        # A proxy would look for a loopback address on its own machine.
        self._session.trust_env = not is_loopback(host)
        for scheme in ("http://", "https://"):
            self._session.mount(scheme, HTTPAdapter(pool_connections=1, pool_maxsize=connections, max_retries=0))

    def get(self, path: str):
        """The answer to a question that costs the server nothing, so that a late one is asked again; errors as in
        `post`.
        """
        return self._persistently("GET", path, None)

    def post(self, path: str, body: Mapping):
        """The answer to a posted JSON document.

        Raises:
            Refused: the server refuses the request itself (4xx).
            UserError: the server is not reached or too busy for `retry_for` seconds, does not answer in time, wants
                another key, or answers with something else than JSON, or with more than 64 MiB.
            Stopped: `stop` was called.
        """
        return self._persistently("POST", path, body)

    def stop(self) -> None:
        """Lets no thread send a request, or send one again, until `resume`: it raises `Stopped` at once instead."""
        self._stopped.set()

    def resume(self) -> None:
        self._stopped.clear()

    def _persistently(self, method: str, path: str, body: Mapping | None):
        start, wait = time.monotonic(), FIRST_WAIT_S
        while not self._stopped.is_set():
            try:
                return self._once(method, path, body)
            except _Unavailable as error:
                # Spread out, so that many threads do not come back at one moment.
                pause = error.retry_after if error.retry_after is not None else wait * random.uniform(0.5, 1.0)
                if pause >= self.retry_for - (time.monotonic() - start):
                    raise self._given_up(error) from None
            self._stopped.wait(pause)
            wait = min(2 * wait, LONGEST_WAIT_S)
        raise Stopped

    def _given_up(self, error: "_Unavailable") -> UserError:
        asks = f" and asks to wait {error.retry_after:.0f} seconds" if error.retry_after is not None else ""
        return UserError(
            f"{self.url} {error}{asks}; tried for {self.retry_for:g} seconds. Start the server, correct the address, "
            f"or wait longer ({self.prefix}retry_for)."
        )

    def _once(self, method: str, path: str, body: Mapping | None):
        limit = self.request_timeout if body is not None else min(self.request_timeout, GET_TIMEOUT_S)
        given = {"json": body, "timeout": (CONNECT_TIMEOUT_S, limit), "allow_redirects": False, "stream": True}
        try:
            with self._session.request(method, self.url + path, **given) as reply:
                content = self._read(path, reply)
        except requests.exceptions.InvalidJSONError as error:
            raise UserError(f"what {self.url}{path} is sent is no JSON: {_cause(error)}.") from None
        except requests.exceptions.SSLError as error:
            raise UserError(
                f"{self.url}: no secure connection ({_cause(error)}). Is it http://, or its certificate unknown here?"
            ) from None
        except requests.RequestException as error:
            if not _is_late(error):
                raise _Unavailable(f"cannot be reached ({_cause(error)})") from None
            if body is None:
                raise _Unavailable(f"has not answered within {limit:g} seconds") from None
            # Sent again, it would take as long.
            raise UserError(
                f"{self.url}{path} has not answered within {limit:g} seconds. Raise {self.prefix}request_timeout, or "
                f"ask for less at a time ({self.prefix}concurrency, max_new_tokens)."
            ) from None
        return self._answer(path, reply, content)

    def _read(self, path: str, reply: requests.Response) -> bytes:
        content = bytearray()
        for chunk in reply.iter_content(CHUNK_BYTES):
            content += chunk
            if len(content) > MOST_BYTES:
                raise UserError(
                    f"{self.url}{path} answers with more than {MOST_BYTES >> 20} MiB. Is it the address of a model "
                    "server?"
                )
        return bytes(content)

    def _answer(self, path: str, reply: requests.Response, content: bytes):
        if reply.status_code != 200:
            raise self._failure(path, reply, self._reason(reply, content))
        try:
            return json.loads(content)
        except (ValueError, RecursionError):
            begins = self._shown(content[:80].decode("utf-8", "replace"))
            raise UserError(
                f"{self.url}{path} does not answer in JSON (it begins with {begins!r}). Is it the address of a model "
                "server?"
            ) from None

    def _failure(self, path: str, reply: requests.Response, reason: str) -> Exception:
        status = reply.status_code
        if status in TRY_AGAIN:
            return _Unavailable(f"answers with status {status} ({reason})", _retry_after(reply))
        if 300 <= status < 400:
            target = reply.headers.get("Location", "nowhere")
            return UserError(f"{self.url}{path} redirects to {target}, which is not followed: give the final address.")
        if status in (401, 403):
            answer = "asks for a key" if self._key is None else "refuses the key that it was given"
            return UserError(
                f"{self.url} {answer} (status {status}: {reason}). Set {self.key_variable} to a key of the server."
            )
        return Refused(status, reason)

    def _reason(self, reply: requests.Response, content: bytes) -> str:
        """What the server says of an error, in the forms that vLLM, OpenAI and FastAPI give it."""
        try:
            said = json.loads(content)
        except (ValueError, RecursionError):
            said = None
        if isinstance(said, dict):
            said = next((said[name] for name in ("error", "message", "detail") if said.get(name)), None)
        if isinstance(said, dict):
            said = said.get("message")
        return self._shown(str(said or reply.reason or "no reason given"))

    def _shown(self, text: str) -> str:
        """A server's text on one line, without the key, which some repeat."""
        text = " ".join(text.split())
        if self._key is not None:
            text = text.replace(self._key, "(key)")
        return text[:LONGEST_REASON].rstrip(".")


class _Unavailable(Exception):
    """A server that may answer later.

    Attributes:
        retry_after: seconds that it asks to wait; None if it does not say.
    """

    def __init__(self, reason: str, retry_after: float | None = None):
        super().__init__(reason)
        self.retry_after = retry_after


class _Bearer(AuthBase):
    """Puts the key into a request; requests takes none from elsewhere where it has this."""

    def __init__(self, key: str | None):
        self.key = key

    def __call__(self, request):
        if self.key is not None:
            request.headers["Authorization"] = f"Bearer {self.key}"
        return request


def _key_of_environment(variable: str) -> str | None:
    key = os.environ.get(variable)
    # The message does not repeat it: it may be a real one with a line break at its end.
    if key is not None and not re.fullmatch("[!-~]+", key):
        raise UserError(f"{variable} is empty or has characters other than visible ASCII; correct or unset it.")
    return key


def _retry_after(reply: requests.Response) -> float | None:
    """The seconds of a Retry-After, which may be a date."""
    header = reply.headers.get("Retry-After")
    try:
        return None if header is None else Retry().parse_retry_after(header)
    except InvalidHeader:
        return None


def _is_late(error: requests.RequestException) -> bool:
    """Whether nothing came in time, be it the answer's beginning or, as requests' ConnectionError, what follows it."""
    return bool(error.args) and isinstance(error.args[0], ReadTimeoutError)


def _cause(error: BaseException) -> str:
    """The innermost reason of an error of requests, whose own text shows objects of urllib3."""
    while (inner := error.__cause__ or error.__context__) is not None:
        error = inner
    return getattr(error, "strerror", None) or " ".join(str(error).split()) or type(error).__name__
