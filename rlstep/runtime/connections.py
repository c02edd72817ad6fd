"""Connections of the servers: one through which nothing comes is closed, and having no room for more is told in a line.

uvicorn waits without end for a request's head, and for a client to read its answer. Each of these connections keeps a
file open, of which a process mostly may have 1024; once none is left, nobody else is answered.
"""

import asyncio
import logging
import math
import time
from typing import Any

import h11
import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

logger = logging.getLogger(__name__)

SILENCE_S = 60.0
TOLD_EVERY_S = 60.0


class Connection(H11Protocol):
    """uvicorn's, which is closed once nothing has moved for a minute or two though it is the client's turn: to send a
    request's head, or to read an answer. A body that stops coming is the application's to refuse.
    """

    def connection_made(self, transport: asyncio.Transport) -> None:
        super().connection_made(transport)
        self._received, self._before = 0, None
        self._look()

    def data_received(self, data: bytes) -> None:
        self._received += len(data)
        super().data_received(data)

    def connection_lost(self, exc: Exception | None) -> None:
        self._next_look.cancel()
        super().connection_lost(exc)

    def _look(self) -> None:
        unread = self.transport.get_write_buffer_size()
        # None while its request is being answered, however long that takes.
        now = (self._received, unread) if unread or self.conn.their_state is h11.IDLE else None
        if now is not None and now == self._before:
            logger.warning("%s: nothing has come for %g seconds; the connection is closed", self._whose(), SILENCE_S)
            self.transport.abort()
            return
        self._before = now
        self._next_look = self.loop.call_later(SILENCE_S, self._look)

    def _whose(self) -> str:
        return self.client[0] if self.client else "unknown"


class Server(uvicorn.Server):
    """uvicorn's, which says once a minute, in a line, that the system gives it no further connection."""

    async def startup(self, sockets=None) -> None:
        asyncio.get_running_loop().set_exception_handler(TellsOfNoRoom())
        await super().startup(sockets)


class TellsOfNoRoom:
    """What a loop's errors are told to: asyncio itself would print a thousand tracebacks a second."""

    def __init__(self):
        self._told = -math.inf

    def __call__(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        if not context["message"].startswith("socket.accept()"):
            loop.default_exception_handler(context)
        elif time.monotonic() - self._told >= TOLD_EVERY_S:
            self._told = time.monotonic()
            reason = getattr(context.get("exception"), "strerror", None) or context["message"]
            logger.error(
                "no further connection can be taken (%s): clients wait until others end. Let the process have more "
                "open files (ulimit -n).",
                reason,
            )
