"""A verifier on another machine (`rlstep serve`), which scores over HTTP like a `RewardModel`.

Text and character spans travel there, JSON numbers back, which are the same floats to the last bit. This module needs
no torch, and nothing that a server sends is run or unpickled.
"""

import json
import math
import random
import re
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Literal, TypeVar

from rlstep.runtime.access import TOKEN_VARIABLE, find_token
from rlstep.runtime.counted import counted
from rlstep.runtime.errors import UserError
from rlstep.runtime.halves import encodable
from rlstep.runtime.json_connection import BadStatus, JsonConnection, Late, Unreachable
from rlstep.steps.boundaries import Boundary
from rlstep.steps.prompts import Prompt, PromptFormat, PromptKey, prompt_key, prompt_of
from rlstep.steps.records import Span, shown

T = TypeVar("T")
Row = tuple[PromptKey, str, tuple[Span, ...]]

FIRST_WAIT_S, LONGEST_WAIT_S = 0.5, 30.0
HEALTH_TIMEOUT_S = 30.0
TRY_AGAIN = (408, 502, 503, 504)  # 408: the network held up what was sent
LONGEST_ASKED_WAIT_S = 60.0  # of what a server asks for with Retry-After
IDENTITY = ("name", "kind", "boundary", "prompt_format")
ROW = re.compile(r"((?:field '\w+', )?row )(\d{1,9})(?=:)")


class RemoteRewardModel:
    """A PRM or an ORM behind a URL, with what a `RewardModel` says of itself and its `score`.

    Args:
        url: where `rlstep serve` listens, for example http://gpu7:8000.
        timeout: seconds to wait for one request's scores, and as many again while the server says that it has too
            much to do (429): the request is sent again when it asks for that (Retry-After).
        retries: how often a request is sent again when there is no connection, what was sent did not arrive (408), or
            the server is unavailable (502, 503, 504). Waits double from half a second to 30 seconds: 5 retries last 15
            seconds, 20 last seven minutes.
        batch_rows: rows per request; fewer where they would exceed the server's limit in bytes. How rows are batched
            moves the scores' last digits.
        token: the server's token, where it asks for one; the environment's RLSTEP_SERVE_TOKEN by default.

    Raises:
        UserError: an option is wrong, no server is there, or it is no verifier.
    """

    gives: Literal["probability", "reward"] = "probability"  # the protocol has no other values

    def __init__(
        self, url: str, timeout: float = 600.0, retries: int = 5, batch_rows: int = 1024, token: str | None = None
    ):
        if not 0 < timeout < math.inf:
            raise UserError(f"timeout is {timeout}; it must be a number of seconds above 0.")
        if retries < 0:
            raise UserError(f"retries is {retries}; it must be 0 or more.")
        if batch_rows < 1:
            raise UserError(f"batch_rows is {batch_rows}; it must be at least 1.")
        self.timeout, self.retries, self.batch_rows = timeout, retries, batch_rows
        self._token = find_token(token)
        # None is kept open, so that processes that were forked from this one do not read each other's answers.
        self._connection = JsonConnection(url, self._token, "verifier", connections=0)
        self.url = self._connection.url
        self._spread = random.Random()  # its own: a run's random numbers do not depend on how busy the server is
        self._health = self._persistently(self._ask_health)
        self.kind: Literal["prm", "orm"] = self._health["kind"]
        self.boundary = Boundary.from_dict(self._health["boundary"])
        self.prompt_format = _prompt_format(self._health)

    @property
    def identity(self) -> dict:
        """What tells this verifier from others, wherever it is served; a server of an older version says less."""
        return {name: self._health[name] for name in (*IDENTITY, "fingerprint")}

    def score(
        self,
        prompts: Sequence[Prompt],
        completions: Sequence[str],
        steps: Sequence[list[Span]] | None = None,
        cut: bool = False,
    ) -> list[list[float]]:
        """One value in [0, 1] for each step of each completion, in the order given.

        Args:
            prompts, completions: one pair per row; equal rows are sent once.
            steps: character spans in the completions; by default the verifier's boundary rule splits them.
            cut: a row that is longer than the model is read up to the last step that fits, as if it ended there, and
                has values of these steps alone; otherwise the server refuses it.

        Raises:
            UserError: the server refuses the rows, gives something else than scores, has become another verifier, or
                is not reached after all retries.
        """
        if len(prompts) != len(completions) or (steps is not None and len(steps) != len(prompts)):
            counts = (
                f"{counted(len(prompts), 'prompt')}, {counted(len(completions), 'completion')}, "
                f"steps: {steps and len(steps)}"
            )
            raise UserError(f"score() needs lists of one length; got {counts}.")
        if steps is None:
            steps = [self.boundary.split(completion) for completion in completions]
        keys = [(prompt_key(p), c, tuple(map(tuple, s))) for p, c, s in zip(prompts, completions, steps, strict=True)]
        first: dict[Row, int] = {}  # in this order the server batches rows as a verifier in this process would
        for row, key in enumerate(keys):
            first.setdefault(key, row)
        unique, values = list(first.items()), {}
        for start in range(0, len(unique), self.batch_rows):
            for rows, body in self._bodies(unique[start : start + self.batch_rows], cut):
                values |= self._values(rows, body, cut)
        return [list(values[key]) for key in keys]

    def _bodies(self, rows: list[tuple[Row, int]], cut: bool) -> Iterator[tuple[list[tuple[Row, int]], bytes]]:
        """The rows, in halves as long as they exceed the server's limit, with their requests."""
        body = _encoded(rows, cut)
        limit = self._health["max_request_bytes"]
        if len(body) <= limit:
            yield rows, body
        elif len(rows) == 1:
            raise UserError(
                f"row {rows[0][1]} makes a request of {len(body)} bytes; {self.url} takes {limit}. Drop the row, or "
                "start the server with a larger --max_request_mb."
            )
        else:
            for part in (rows[: len(rows) // 2], rows[len(rows) // 2 :]):
                yield from self._bodies(part, cut)

    def _values(self, rows: list[tuple[Row, int]], body: bytes, cut: bool) -> dict[Row, list[float]]:
        numbers = [number for _, number in rows]
        reply = self._persistently(lambda: self._ask_same("/score", body, numbers))
        scores = reply.get("scores") if isinstance(reply, dict) else None
        if not isinstance(scores, list) or len(scores) != len(rows):
            raise self._not_scores(f"expected scores of {counted(len(rows), 'row')}, got {shown(scores)}")
        for ((_, _, steps), number), values in zip(rows, scores, strict=True):
            if not isinstance(values, list) or len(values) > len(steps) or (len(values) < len(steps) and not cut):
                wanted = counted(len(steps), "score")
                raise self._not_scores(f"row {number}: expected {wanted}, one per step, got {shown(values)}")
            for value in values:
                # True is a number to Python, and no comparison holds for one that is not finite.
                if type(value) not in (int, float) or not 0 <= value <= 1:
                    raise self._not_scores(f"row {number}: expected numbers from 0 to 1, got {shown(value)}")
        return {key: [float(value) for value in values] for (key, _), values in zip(rows, scores, strict=True)}

    def _ask_same(self, path: str, body: bytes, numbers: list[int]):
        """The reply of the verifier that was there at first.

        A server that was started again, before a retry or unnoticed between two updates, may hold another one, and the
        policy would go on training on other rewards.
        """
        before, now = ({name: health[name] for name in IDENTITY} for health in (self._health, self._ask_health()))
        if now != before:
            raise UserError(
                f"{self.url} has become another verifier: it was {json.dumps(before)}, now it is {json.dumps(now)}. "
                "Start the former one there."
            )
        return self._request(path, body, self.timeout, numbers)

    def _not_scores(self, what: str) -> UserError:
        return UserError(f"{self.url} gave no scores: {what}. Is it an `rlstep serve` of this version?")

    def _ask_health(self) -> dict:
        """What the server says of its verifier: kind, boundary, name and max_request_bytes."""
        reply = self._request("/health", None, min(self.timeout, HEALTH_TIMEOUT_S))
        names = (*IDENTITY, "fingerprint", "max_request_bytes")
        health = {name: reply.get(name) for name in names} if isinstance(reply, dict) else {}
        limit = health.get("max_request_bytes")
        if self._token is None and isinstance(reply, dict) and reply.get("status") == "ready" and "kind" not in reply:
            raise self._without_token("asks for a token")
        try:
            if health.get("kind") not in ("prm", "orm") or type(limit) is not int or limit < 1:
                raise UserError("a PRM or an ORM says its kind and the size of its requests")
            Boundary.from_dict(health["boundary"])
            _prompt_format(health)
        except UserError as error:
            raise UserError(
                f"{self.url} is no verifier: /health gives {shown(reply)} ({error}). Start one there: "
                "`rlstep serve --model PATH`."
            ) from None
        return health

    def _persistently(self, ask: Callable[[], T]) -> T:
        """What `ask` returns; it is called again while the server is unavailable or has too much to do."""
        failures, busy, waited = 0, 0, 0.0
        while True:
            try:
                return ask()
            except _Busy as error:
                busy += 1
                # Clients that were refused together should not come back together. A server that says when knows it:
                # longer waits than that would leave those behind who were refused often.
                wait = (error.retry_after or _doubling(busy)) * self._spread.uniform(1, 1.5)
                if waited + wait > self.timeout:
                    raise UserError(
                        f"{self.url} has too much to do ({error}): it refused a request {counted(busy, 'time')} in "
                        f"{waited:.0f} seconds. Start it with more --workers or a larger --max_queue, ask it from "
                        "fewer processes, or wait longer with a larger timeout."
                    ) from None
                waited += wait
            except _Unavailable as error:
                failures += 1
                if failures > self.retries:
                    raise UserError(
                        f"{self.url} cannot be reached ({error}), after {counted(failures, 'attempt')}. Start a "
                        "verifier there (`rlstep serve --model PATH`), correct the address, or wait "
                        "longer with more retries."
                    ) from None
                wait = max(_doubling(failures), error.retry_after)
            time.sleep(wait)

    def _request(self, path: str, body: bytes | None, timeout: float, numbers: Sequence[int] = ()):
        """The JSON of one reply.

        Args:
            path: what is asked for.
            body: what is posted; None gets.
            timeout: seconds.
            numbers: the caller's numbers of the rows in the body, for messages.

        Raises:
            _Unavailable: it may be there on another attempt.
            _Busy: it may have room on another attempt.
            UserError: it would say the same again.
        """
        try:
            return self._connection.ask(path, body, timeout)
        except Unreachable as error:
            raise _Unavailable(str(error)) from None
        except Late:
            if body is None:
                raise _Unavailable(f"no answer within {timeout:g} seconds") from None
            # Sent again it would wait for itself: the server goes on with what was asked before.
            raise UserError(
                f"{self.url}{path} has not answered within {timeout:g} seconds. Raise the timeout, send fewer rows per "
                "request, or give the server a faster device."
            ) from None
        except BadStatus as error:
            raise self._refused(path, error, numbers) from None

    def _without_token(self, what: str) -> UserError:
        return UserError(f"{self.url} {what}. Set {TOKEN_VARIABLE} to the token of the server.")

    def _refused(self, path: str, error: BadStatus, numbers: Sequence[int]) -> Exception:
        wait = min(error.retry_after or 0.0, LONGEST_ASKED_WAIT_S)
        if error.status in TRY_AGAIN:
            return _Unavailable(str(error), wait)
        if error.status == 429:
            return _Busy(str(error), wait)
        if error.status == 401:
            answer = "asks for a token" if self._token is None else "refuses the token that it was given"
            return self._without_token(f"{answer} (status 401)")
        if error.status in (400, 422) and numbers:
            return UserError(f"{self.url} refuses the rows: {_renumbered(error.reason, numbers)}")
        return UserError(f"{self.url}{path} answers with {error}")


class _Unavailable(Exception):
    """No connection, or a server that says that it cannot answer now.

    Attributes:
        retry_after: seconds that it asks to wait.
    """

    def __init__(self, reason: str, retry_after: float = 0.0):
        super().__init__(reason)
        self.retry_after = retry_after


class _Busy(_Unavailable):
    """A server that is there, and has too much to do."""


def _doubling(attempt: int) -> float:
    """Seconds to wait after a number of attempts, where the server does not ask for more."""
    return min(FIRST_WAIT_S * 2 ** (attempt - 1), LONGEST_WAIT_S)


def _prompt_format(health: dict) -> PromptFormat | None:
    """What a server says of how prompts are written; None of one that is given the problem's text."""
    return None if health["prompt_format"] is None else PromptFormat.from_dict(health["prompt_format"])


def _encoded(rows: list[tuple[Row, int]], cut: bool) -> bytes:
    for (key, completion, _), number in rows:
        texts = (key,) if isinstance(key, str) else (content for _, content in key)
        if not all(map(encodable, (*texts, completion))):  # two halves would become one character in JSON
            raise UserError(f"row {number}: half a surrogate pair is no character. Replace it, or drop the row.")
    keys, completions, steps = zip(*(row for row, _ in rows), strict=True)
    prompts = [prompt_of(key) for key in keys]
    body = {"prompts": prompts, "completions": completions, "steps": steps} | ({"cut": True} if cut else {})
    return json.dumps(body, ensure_ascii=False).encode("utf-8")


def _renumbered(reason: str, numbers: Sequence[int]) -> str:
    """A server's reason, which begins with the row as the request counts, with the row as the caller counts."""
    row = ROW.match(reason)
    if not row or int(row[2]) >= len(numbers):
        return reason
    return f"{row[1]}{numbers[int(row[2])]}{reason[row.end() :]}"
