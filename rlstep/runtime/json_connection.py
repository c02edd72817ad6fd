"""JSON over HTTP, one request at a time: what is sent, and what became of it, in one line. When to ask again is the
caller's to say.

No redirect is followed. A key goes to this server alone, and stands in no message.
"""

import http.client
import json
import time

import requests
from requests.adapters import HTTPAdapter
from requests.auth import AuthBase
from urllib3.exceptions import HTTPError, InvalidHeader, ReadTimeoutError
from urllib3.util import Retry

from rlstep.runtime.addresses import checked_address, is_loopback
from rlstep.runtime.errors import UserError

CONNECT_TIMEOUT_S = 20.0
MOST_BYTES, CHUNK_BYTES = 64 << 20, 1 << 16  # of one answer, and read at a time
LONGEST_REASON = 400  # characters of a server's message
LONGEST_RETRY_AFTER_S = 1e9


class Unreachable(Exception):
    """There is no connection, or it was lost."""


class Late(Exception):
    """The answer was not whole within the time given."""


class BadStatus(Exception):
    """A server's answer other than 200, and no redirect.

    Attributes:
        status: of HTTP.
        reason: what the server says, on one line.
        retry_after: seconds that it asks to wait; None if it does not say.
    """

    def __init__(self, status: int, reason: str, retry_after: float | None):
        super().__init__(f"status {status}: {reason}")
        self.status, self.reason, self.retry_after = status, reason, retry_after


class JsonConnection:
    """Asks one server; may be used by several threads at once.

    Args:
        url: http(s)://HOST:PORT of the server, perhaps with a path.
        key: what the server knows its clients by; None sends none.
        whose: what listens there, for messages.
        connections: that are kept open for further requests; 0 opens one for each.

    Raises:
        UserError: the URL is no address.
    """

    def __init__(self, url: str, key: str | None, whose: str = "server", connections: int = 1):
        self.url, host = checked_address(url, whose)
        self.whose, self._key = whose, key
        self._session = requests.Session()
        # As the session's own, so that no password of ~/.netrc is sent in the key's place.
        self._session.auth = _Bearer(key)
        # A proxy would look for a loopback address on its own machine.
        self._session.trust_env = not is_loopback(host)
        if connections == 0:
            self._session.headers["Connection"] = "close"
        for scheme in ("http://", "https://"):
            adapter = HTTPAdapter(pool_connections=1, pool_maxsize=max(1, connections), max_retries=0)
            self._session.mount(scheme, adapter)

    def ask(self, path: str, body: bytes | None, timeout: float):
        """The JSON of one answer.

        Args:
            path: what is asked for.
            body: JSON that is posted; None gets.
            timeout: seconds to wait for the answer.

        Raises:
            Unreachable, Late, BadStatus: there is none.
            UserError: the server is another than expected: it redirects, or answers with something else than HTTP and
                JSON, or with more than 64 MiB.
        """
        method, headers = ("GET", {}) if body is None else ("POST", {"Content-Type": "application/json"})
        limits = {"timeout": (min(CONNECT_TIMEOUT_S, timeout), timeout), "allow_redirects": False, "stream": True}
        try:
            end = time.monotonic() + timeout
            with self._session.request(method, self.url + path, data=body, headers=headers, **limits) as reply:
                content = self._read(path, reply, end)
        except requests.RequestException as error:
            raise self._failure(path, error) from None
        if 300 <= reply.status_code < 400:
            target = reply.headers.get("Location", "nowhere")
            raise UserError(f"{self.url}{path} redirects to {target}, which is not followed: give the final address.")
        if reply.status_code != 200:
            raise BadStatus(reply.status_code, self._reason(reply, content), _retry_after(reply))
        try:
            return json.loads(content)
        except (ValueError, RecursionError):
            begins = self._shown(content[:80].decode("utf-8", "replace"))
            raise self._another(path, f"does not answer in JSON (it begins with {begins!r})") from None

    def _read(self, path: str, reply: requests.Response, end: float) -> bytes:
        """The body, as it comes: a limit for each piece alone would let an answer drip in for hours."""
        content = bytearray()
        try:
            while chunk := reply.raw.read1(CHUNK_BYTES, decode_content=True):
                content += chunk
                if len(content) > MOST_BYTES:
                    raise self._another(path, f"answers with more than {MOST_BYTES >> 20} MiB")
                if time.monotonic() > end:
                    raise Late("it is still coming")
        except (HTTPError, OSError) as error:  # as requests' own reading raises them
            raise requests.ConnectionError(error) from error
        return bytes(content)

    def _failure(self, path: str, error: requests.RequestException) -> Exception:
        cause = _innermost(error)
        # The text of requests' own errors shows objects of urllib3.
        text = getattr(cause, "strerror", None) or " ".join(str(cause).split()) or type(cause).__name__
        if isinstance(error, requests.exceptions.SSLError):
            what = f"{self.url}: no secure connection ({text})"
            return UserError(f"{what}. Is it http://, or its certificate unknown here?")
        # Of requests' ConnectionError, too, if the answer had begun.
        if error.args and isinstance(error.args[0], ReadTimeoutError):
            return Late(text)
        lost = (http.client.RemoteDisconnected, http.client.IncompleteRead)
        if isinstance(cause, http.client.HTTPException) and not isinstance(cause, lost):
            return self._another(path, f"does not answer in HTTP ({type(cause).__name__}: {text})")
        return Unreachable(text)

    def _another(self, path: str, what: str) -> UserError:
        return UserError(f"{self.url}{path} {what}. Is it the address of the {self.whose}?")

    def _reason(self, reply: requests.Response, content: bytes) -> str:
        """What the server says of an error, in the forms that vLLM, OpenAI, FastAPI and `rlstep serve` give it."""
        try:
            said = json.loads(content)
        except (ValueError, RecursionError):
            said = None
        if isinstance(said, dict):
            said = next((said[name] for name in ("error", "message", "detail") if said.get(name)), None)
        if isinstance(said, dict):
            said = said.get("message")
        return self._shown(said if said and isinstance(said, str) else reply.reason or "no reason given")

    def _shown(self, text: str) -> str:
        """A server's text on one line, without the key, which some repeat."""
        text = " ".join(text.split())
        if self._key is not None:
            text = text.replace(self._key, "(key)")
        return text[:LONGEST_REASON]


class _Bearer(AuthBase):
    """Puts the key into a request; requests takes none from elsewhere where it has this."""

    def __init__(self, key: str | None):
        self.key = key

    def __call__(self, request):
        if self.key is not None:
            request.headers["Authorization"] = f"Bearer {self.key}"
        return request


def _retry_after(reply: requests.Response) -> float | None:
    """The seconds of a Retry-After, which may be a date."""
    header = reply.headers.get("Retry-After")
    try:
        return None if header is None else float(min(Retry().parse_retry_after(header), LONGEST_RETRY_AFTER_S))
    except (InvalidHeader, ValueError):  # ValueError: of thousands of digits
        return None


def _innermost(error: BaseException) -> BaseException:
    while (inner := error.__cause__ or error.__context__) is not None:
        error = inner
    return error
