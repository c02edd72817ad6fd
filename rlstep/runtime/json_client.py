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

from rlstep.runtime.errors import UserError
from rlstep.runtime.json_connection import BadStatus, JsonConnection, Late, Unreachable

API_KEY_VARIABLE = "RLSTEP_API_KEY"
GET_TIMEOUT_S = 30.0
FIRST_WAIT_S, LONGEST_WAIT_S = 0.5, 30.0
TRY_AGAIN = (408, 429, *range(500, 600))


class Refused(Exception):
    """A server's answer that would be the same again.

    Attributes:
        status: of HTTP.
        reason: what the server says, on one line.
    """

    def __init__(self, status: int, reason: str):
        super().__init__(f"status {status}: {reason}")
        self.status, self.reason = status, reason


class NoAnswer(UserError):
    """A server that is not reached, has too much to do or does not answer in time: not the fault of what was asked."""


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
        self._key = _key_of_environment(key_variable)
        self._connection = JsonConnection(url, self._key, "server", connections)
        self.url = self._connection.url
        self.request_timeout, self.retry_for = request_timeout, retry_for
        self.key_variable, self.prefix = key_variable, prefix
        self._stopped = threading.Event()
        self._spread = random.Random()  # its own: a run's random numbers do not depend on how busy the server is

    def get(self, path: str):
        """The answer to a question that costs the server nothing, so that a late one is asked again; errors as in
        `post`.
        """
        return self._persistently(path, None)

    def post(self, path: str, body: Mapping):
        """The answer to a posted JSON document.

        Raises:
            Refused: the server refuses the request itself (4xx).
            NoAnswer: the server is not reached or too busy for `retry_for` seconds, or does not answer in time.
            UserError: it wants another key, or answers with something else than JSON, or with more than 64 MiB.
            Stopped: `stop` was called.
        """
        try:
            encoded = json.dumps(body, allow_nan=False).encode()
        except ValueError as error:
            raise UserError(f"what {self.url}{path} is sent is no JSON: {error}.") from None
        return self._persistently(path, encoded)

    def stop(self) -> None:
        """Lets no thread send a request, or send one again, until `resume`: it raises `Stopped` at once instead."""
        self._stopped.set()

    def resume(self) -> None:
        self._stopped.clear()

    def _persistently(self, path: str, body: bytes | None):
        start, wait = time.monotonic(), FIRST_WAIT_S
        while not self._stopped.is_set():
            try:
                return self._once(path, body)
            except _Unavailable as error:
                # Spread out, so that many threads do not come back at one moment. A server that asks for no wait, as by
                # a time that is past by its clock, is not asked again at once either.
                pause = error.retry_after or wait * self._spread.uniform(0.5, 1.0)
                if pause >= self.retry_for - (time.monotonic() - start):
                    raise self._given_up(error) from None
            self._stopped.wait(pause)
            wait = min(2 * wait, LONGEST_WAIT_S)
        raise Stopped

    def _given_up(self, error: "_Unavailable") -> NoAnswer:
        asks = f" and asks to wait {error.retry_after:.0f} seconds" if error.retry_after is not None else ""
        return NoAnswer(
            f"{self.url} {error}{asks}; tried for {self.retry_for:g} seconds. Start the server, correct the address, "
            f"or wait longer ({self.prefix}retry_for)."
        )

    def _once(self, path: str, body: bytes | None):
        limit = self.request_timeout if body is not None else min(self.request_timeout, GET_TIMEOUT_S)
        try:
            return self._connection.ask(path, body, limit)
        except Unreachable as error:
            raise _Unavailable(f"cannot be reached ({error})") from None
        except Late:
            if body is None:
                raise _Unavailable(f"has not answered within {limit:g} seconds") from None
            # Sent again, it would take as long.
            raise NoAnswer(
                f"{self.url}{path} has not answered within {limit:g} seconds. Raise {self.prefix}request_timeout, or "
                f"ask for less at a time ({self.prefix}concurrency, max_new_tokens)."
            ) from None
        except BadStatus as error:
            raise self._refusal(error.status, error.reason.rstrip("."), error.retry_after) from None

    def _refusal(self, status: int, reason: str, retry_after: float | None) -> Exception:
        if status in TRY_AGAIN:
            return _Unavailable(f"answers with status {status} ({reason})", retry_after)
        if status in (401, 403):
            answer = "asks for a key" if self._key is None else "refuses the key that it was given"
            return UserError(
                f"{self.url} {answer} (status {status}: {reason}). Set {self.key_variable} to a key of the server."
            )
        return Refused(status, reason)


class _Unavailable(Exception):
    """A server that may answer later.

    Attributes:
        retry_after: seconds that it asks to wait; None if it does not say.
    """

    def __init__(self, reason: str, retry_after: float | None = None):
        super().__init__(reason)
        self.retry_after = retry_after


def _key_of_environment(variable: str) -> str | None:
    key = os.environ.get(variable)
    # The message does not repeat it: it may be a real one with a line break at its end.
    if key is not None and not re.fullmatch("[!-~]+", key):
        raise UserError(f"{variable} is empty or has characters other than visible ASCII; correct or unset it.")
    return key
