"""A chat model behind an OpenAI-compatible address: one request at a time, again where that may help.

The key comes from the environment and goes nowhere but to that address. Answers are text; nothing of them is run.
"""

import http.client
import json
import os
import re
import ssl
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NoReturn
from urllib.error import HTTPError
from urllib.parse import urlsplit
from urllib.request import HTTPRedirectHandler, ProxyHandler, Request, build_opener

from rlstep.runtime.addresses import is_loopback
from rlstep.runtime.errors import UserError
from rlstep.steps.prompts import Message
from rlstep.steps.records import shown

KEY_VARIABLE = "RLSTEP_JUDGE_KEY"
PATH = "/chat/completions"
FIRST_WAIT_S, LONGEST_WAIT_S = 1.0, 60.0
MOST_BYTES = 64 << 20
MOST_OF_A_REASON = 300


class Stopped(Exception):
    """The client was told to stop before an answer was there."""


@dataclass(frozen=True)
class Answers:
    """What one request gave.

    Attributes:
        texts: of the answers, one at least; "" for one without text.
        prompt_tokens, completion_tokens: as the server counts them; None where it does not.
    """

    texts: list[str]
    prompt_tokens: int | None
    completion_tokens: int | None


class ChatClient:
    """Asks one model at one address; several threads may share it.

    Args:
        url: the address that `/chat/completions` comes after, for example https://api.example.com/v1.
        model: its name there.
        parameters: further fields of each request, such as temperature; None takes a field out.
        timeout: seconds that one request may take.
        retries: how often a request is sent again after a timeout, no connection, or status 408, 429 or 5xx.

    Raises:
        UserError: no such address, or a key that cannot stand in an HTTP header.
    """

    def __init__(self, url: str, model: str, parameters: Mapping, timeout: float, retries: int):
        host = _host_of(url)
        self.url, self.model, self.timeout, self.retries = url.rstrip("/"), model, timeout, retries
        self._parameters = parameters
        self._key = _key()
        # A proxy would look for a loopback address on its own machine instead of this one.
        self._opener = build_opener(_NoRedirects, ProxyHandler({} if is_loopback(host) else None))
        self._stop = threading.Event()

    def stop(self) -> None:
        """Lets no request be sent any more, nor be waited for in order to be sent again; it raises `Stopped`."""
        self._stop.set()

    def ask(self, messages: Sequence[Message], n: int) -> Answers:
        """One to n answers: some servers give one whatever is asked for.

        Raises:
            UserError: the server refuses, gives something else than answers, or is not reached after all retries.
            Stopped: `stop` was called.
        """
        several = {"n": n} if n > 1 else {}
        body = {"model": self.model, "messages": list(messages), **several, **self._parameters}
        encoded = json.dumps({name: value for name, value in body.items() if value is not None}).encode()
        for attempt in range(self.retries + 1):
            if self._stop.is_set():
                raise Stopped
            try:
                return self._answers(self._request(encoded), n)
            except _Unavailable as error:
                reason = error
            backoff = reason.wait or min(FIRST_WAIT_S * 2**attempt, LONGEST_WAIT_S)
            if attempt < self.retries and self._stop.wait(backoff):
                raise Stopped
        times = "once" if self.retries == 0 else f"{self.retries + 1} times"
        raise UserError(
            f"{self.url}{PATH} gave no answer, asked {times} ({reason}). What is judged so far is kept: run the "
            "command again to go on. More judge_retries wait longer, a lower judge_concurrency asks less at a time."
        )

    def _request(self, body: bytes):
        """The JSON of one reply.

        Raises:
            _Unavailable: it may be there on another attempt.
            UserError: it would say the same again.
        """
        headers = {"Content-Type": "application/json"}
        if self._key is not None:
            headers["Authorization"] = f"Bearer {self._key}"
        try:
            with self._opener.open(Request(self.url + PATH, body, headers), timeout=self.timeout) as reply:
                content = reply.read(MOST_BYTES + 1)
            if len(content) > MOST_BYTES:
                raise ValueError(f"more than {MOST_BYTES >> 20} MiB")
            return json.loads(content)
        except HTTPError as error:
            self._refuse(error)
        except TimeoutError:
            raise _Unavailable(f"no answer within {self.timeout:g} seconds") from None
        except (OSError, http.client.IncompleteRead) as error:
            reason = getattr(error, "reason", error)
            if isinstance(reason, TimeoutError):
                raise _Unavailable(f"no connection within {self.timeout:g} seconds") from None
            if isinstance(reason, ssl.SSLError):
                what = f"{self.url}: no secure connection ({reason})"
                raise UserError(f"{what}. Is it http://, or its certificate unknown here?") from None
            raise _Unavailable(str(reason) or type(reason).__name__) from None
        except (http.client.HTTPException, ValueError, RecursionError) as error:
            raise UserError(
                f"{self.url}{PATH} does not answer in HTTP and JSON ({type(error).__name__}: {error}). Is it the "
                "address of an OpenAI-compatible server?"
            ) from None

    def _refuse(self, error: HTTPError) -> NoReturn:
        reason = _reason(error)
        if error.code in (408, 429) or error.code >= 500:
            raise _Unavailable(f"status {error.code}: {reason}", _wait_of(error)) from None
        if 300 <= error.code < 400:
            target = error.headers.get("Location", "nowhere")
            problem = f"redirects to {target}, which is not followed: give the final address."
        elif error.code in (401, 403):
            given = "asks for a key" if self._key is None else "refuses the key that it was given"
            problem = f"{given} (status {error.code}: {reason}). Set {KEY_VARIABLE} to the server's key."
        elif error.code == 404:
            problem = (
                f"is not there (status 404: {reason}). judge_url is what comes before {PATH}, mostly ending in /v1, "
                "and judge_model a name that the server knows."
            )
        else:
            problem = (
                f"refuses the request (status {error.code}: {reason}). judge_parameters changes its fields: "
                '{"top_p": null} takes one out.'
            )
        raise UserError(f"{self.url}{PATH} {problem}") from None

    def _answers(self, reply, n: int) -> Answers:
        choices = reply.get("choices") if isinstance(reply, dict) else None
        if not isinstance(choices, list) or not 1 <= len(choices) <= n:
            raise self._no_answers(f"expected 1 to {n} choices, got {shown(reply if choices is None else choices)}")
        texts = []
        for choice in choices:
            message = choice.get("message") if isinstance(choice, dict) else None
            text = message.get("content", "") if isinstance(message, dict) else 0
            if not isinstance(text, str | None):
                raise self._no_answers(f"expected a choice with a message's content, got {shown(choice)}")
            texts.append(text or "")
        usage = reply.get("usage")
        counts = (
            usage.get(name) if isinstance(usage, dict) else None for name in ("prompt_tokens", "completion_tokens")
        )
        return Answers(texts, *(count if type(count) is int and count >= 0 else None for count in counts))

    def _no_answers(self, what: str) -> UserError:
        return UserError(f"{self.url}{PATH}: {what}. Is it the address of an OpenAI-compatible server?")


class _Unavailable(Exception):
    """No connection, no answer in time, or a server that says that it cannot answer now.

    Attributes:
        wait: the seconds until it can, where the server says so.
    """

    def __init__(self, reason: str, wait: float | None = None):
        super().__init__(reason)
        self.wait = wait


class _NoRedirects(HTTPRedirectHandler):
    """A redirect may lead to another machine, which must not be given the key: it is an error instead."""

    def redirect_request(self, *_):
        return None


def _host_of(url: str) -> str:
    try:
        parts = urlsplit(url)
        plain = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0 and url.isprintable()
    except ValueError:  # a port that is no number, or half an IPv6 address
        plain = False
    if not plain or " " in url or parts.username is not None or parts.query or parts.fragment:
        raise UserError(f"judge_url is {url!r}; give http(s)://HOST/PATH, mostly ending in /v1, without key or query.")
    if parts.path.rstrip("/").endswith(PATH):
        raise UserError(f"judge_url is {url!r}; leave {PATH} out, it is added.")
    return parts.hostname


def _key() -> str | None:
    """The environment's key; the message of a bad one does not repeat it."""
    key = os.environ.get(KEY_VARIABLE)
    if key is not None and not re.fullmatch("[!-~]+", key):
        raise UserError(f"{KEY_VARIABLE} is empty or has characters other than visible ASCII; correct it, or unset it.")
    return key


def _reason(error: HTTPError) -> str:
    """What a server says of its refusal: OpenAI's `error.message`, else the beginning of its text."""
    try:
        text = error.read(1 << 16).decode("utf-8", "replace")
    except (OSError, http.client.HTTPException):
        return str(error.reason)
    try:
        said = json.loads(text)
        said = said.get("error", said.get("detail", said)) if isinstance(said, dict) else said
        said = said.get("message", said) if isinstance(said, dict) else said
        text = said if isinstance(said, str) else json.dumps(said)
    except (ValueError, RecursionError):
        pass
    return " ".join(text.split())[:MOST_OF_A_REASON] or str(error.reason)


def _wait_of(error: HTTPError) -> float | None:
    """The header Retry-After in seconds, up to the longest wait; None where there is none, or a date."""
    seconds = error.headers.get("Retry-After", "")
    return min(float(seconds), LONGEST_WAIT_S) if re.fullmatch(r"\d{1,6}(\.\d+)?", seconds) else None
