"""JSON over HTTP: asked again while a server is down or overloaded, for a bounded time, and refused in one line.

What may pass is a lost connection, 408, 429 and 5xx. A server's Retry-After is honoured; without one, waits double from
half a second to 30 seconds. A key is read from the environment, goes to this server alone, and stands in no message.
"""

import os
import random
import re
import threading
import time
from collections.abc import Mapping

import requests
from requests.adapters import HTTPAdapter
from requests.auth import AuthBase
from urllib3.exceptions import InvalidHeader
from urllib3.util import Retry

from rlstep.runtime.addresses import checked_address, is_loopback
from rlstep.runtime.errors import UserError

API_KEY_VARIABLE = "RLSTEP_API_KEY"
CONNECT_TIMEOUT_S, GET_TIMEOUT_S = 20.0, 30.0
FIRST_WAIT_S, LONGEST_WAIT_S = 0.5, 30.0
TRY_AGAIN = (408, 429, *range(500, 600))
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


class JsonClient:
    """Asks one server; may be used by several threads at once.

    Args:
        url: http(s)://HOST:PORT of the server, perhaps with a path.
        request_timeout: seconds to wait for the answer to one request.
        retry_for: seconds, from a request's beginning, in which it is sent again if it fails in a way that may pass.
        connections: requests at a time that find an open connection.

    Raises:
        UserError: the URL is no address, or the key cannot stand in a header.
    """

    def __init__(self, url: str, request_timeout: float = 600.0, retry_for: float = 300.0, connections: int = 1):
        self.url, host = checked_address(url, "server")
        self.request_timeout, self.retry_for = request_timeout, retry_for
        self._key = _key_of_environment()
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
                another key, or answers with something else than JSON.
        """
        return self._persistently("POST", path, body)

    def stop(self) -> None:
        """Ends the waiting of all threads: a request that would be sent again fails at once."""
        self._stopped.set()

    def _persistently(self, method: str, path: str, body: Mapping | None):
        start, wait = time.monotonic(), FIRST_WAIT_S
        while True:
            try:
                return self._once(method, path, body)
            except _Unavailable as error:
                # Spread out, so that many threads do not come back at one moment.
                pause = error.retry_after if error.retry_after is not None else wait * random.uniform(0.5, 1.0)
                self._wait(pause, self.retry_for - (time.monotonic() - start), error)
            wait = min(2 * wait, LONGEST_WAIT_S)

    def _wait(self, pause: float, left: float, error: "_Unavailable") -> None:
        if pause >= left or self._stopped.wait(pause):
            asks = f" and asks to wait {error.retry_after:.0f} seconds" if error.retry_after is not None else ""
            raise UserError(
                f"{self.url} {error}{asks}; tried for {self.retry_for:g} seconds. Start the server, correct the "
                "address, or wait longer (retry_for)."
            )

    def _once(self, method: str, path: str, body: Mapping | None):
        limit = self.request_timeout if body is not None else min(self.request_timeout, GET_TIMEOUT_S)
        timeouts = (CONNECT_TIMEOUT_S, limit)
        try:
            reply = self._session.request(method, self.url + path, json=body, timeout=timeouts, allow_redirects=False)
        except requests.exceptions.SSLError as error:
            raise UserError(
                f"{self.url}: no secure connection ({_cause(error)}). Is it http://, or its certificate unknown here?"
            ) from None
        except requests.ReadTimeout:
            if body is None:
                raise _Unavailable(f"has not answered within {limit:g} seconds") from None
            # Sent again, it would take as long.
            raise UserError(
                f"{self.url}{path} has not answered within {limit:g} seconds. Raise request_timeout, or ask for less "
                "at a time (concurrency, max_new_tokens)."
            ) from None
        except requests.RequestException as error:
            raise _Unavailable(f"cannot be reached ({_cause(error)})") from None
        return self._content(path, reply)

    def _content(self, path: str, reply: requests.Response):
        status = reply.status_code
        if status in TRY_AGAIN:
            raise _Unavailable(f"answers with status {status} ({self._reason(reply)})", _retry_after(reply))
        if 300 <= status < 400:
            target = reply.headers.get("Location", "nowhere")
            raise UserError(f"{self.url}{path} redirects to {target}, which is not followed: give the final address.")
        if status in (401, 403):
            answer = "asks for a key" if self._key is None else "refuses the key that it was given"
            raise UserError(f"{self.url} {answer} (status {status}). Set {API_KEY_VARIABLE} to a key of the server.")
        if status != 200:
            raise Refused(status, self._reason(reply))
        try:
            return reply.json()
        except (ValueError, RecursionError):
            begins = self._shown(reply.text[:80])
            raise UserError(
                f"{self.url}{path} does not answer in JSON (it begins with {begins!r}). Is it the address of a model "
                "server?"
            ) from None

    def _reason(self, reply: requests.Response) -> str:
        """What the server says of an error, in the forms that vLLM, OpenAI and FastAPI give it."""
        try:
            said = reply.json()
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


def _key_of_environment() -> str | None:
    key = os.environ.get(API_KEY_VARIABLE)
    # The message does not repeat it: it may be a real one with a line break at its end.
    if key is not None and not re.fullmatch("[!-~]+", key):
        raise UserError(f"{API_KEY_VARIABLE} is empty or has characters other than visible ASCII; correct or unset it.")
    return key


def _retry_after(reply: requests.Response) -> float | None:
    """The seconds of a Retry-After, which may be a date."""
    header = reply.headers.get("Retry-After")
    try:
        return None if header is None else Retry().parse_retry_after(header)
    except InvalidHeader:
        return None


def _cause(error: BaseException) -> str:
    """The innermost reason of an error of requests, whose own text shows objects of urllib3."""
    while (inner := error.__cause__ or error.__context__) is not None:
        error = inner
    return getattr(error, "strerror", None) or " ".join(str(error).split()) or type(error).__name__
