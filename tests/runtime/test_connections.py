"""A server's connections that nothing comes through, and what it says when there can be no more of them."""

import asyncio
import errno
import socket
import threading
import time

import pytest
import uvicorn

from rlstep.runtime import connections
from rlstep.runtime.connections import Connection, Server, TellsOfNoRoom
from rlstep.runtime.http import bind

LARGE = b"x" * (32 << 20)  # more than the system's buffers take
REQUEST = b"GET %s HTTP/1.1\r\nHost: x\r\n\r\n"


async def app(scope, receive, send):
    """Answers /late after a second, and all else at once."""
    await asyncio.sleep(1 if scope["path"] == "/late" else 0)
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": LARGE if scope["path"] == "/large" else b"late"})


@pytest.fixture
def port(monkeypatch):
    monkeypatch.setattr(connections, "SILENCE_S", 0.2)
    held = bind("127.0.0.1", 0)
    held.listen()
    server = Server(uvicorn.Config(app, http=Connection, lifespan="off", log_config=None, timeout_keep_alive=60))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [held]})
    thread.start()
    yield held.getsockname()[1]
    server.should_exit = True
    thread.join()
    held.close()


def ending(port: int, sent: bytes) -> bytes:
    """The last 64 KiB before the server closes a connection, in however many pieces; fails if it leaves it open."""
    with socket.create_connection(("127.0.0.1", port), timeout=30) as connection:
        connection.sendall(sent)
        last = b""
        try:
            while some := connection.recv(1 << 16):
                last = (last + some)[-(1 << 16) :]
        except ConnectionResetError:
            pass
        return last


@pytest.mark.parametrize("sent", [b"", b"GET / HTTP/1.1\r\nHo"])
def test_a_connection_without_a_request_is_closed(port, sent, caplog):
    assert ending(port, sent) == b""
    assert "127.0.0.1: nothing has come for 0.2 seconds; the connection is closed" in caplog.text


def test_a_request_that_takes_long_is_answered(port):
    assert b"late" in ending(port, REQUEST % b"/late")


def test_an_answer_that_nobody_reads_is_given_up(port, caplog):
    with socket.create_connection(("127.0.0.1", port)) as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.sendall(REQUEST % b"/large")
        closed = threading.Event()
        caplog.handler.emit, emit = lambda record: (emit(record), closed.set()), caplog.handler.emit
        assert closed.wait(30)
    assert "the connection is closed" in caplog.text


def test_an_answer_that_is_read_slowly_is_not(port):
    with socket.create_connection(("127.0.0.1", port), timeout=30) as connection:
        connection.sendall(REQUEST % b"/large")
        read = 0
        while read < len(LARGE):
            some = connection.recv(1 << 20)
            assert some, "it was closed"
            read += len(some)
            time.sleep(0.03)  # in all for longer than it may be silent


def test_no_room_for_a_connection_is_told_once(caplog):
    handler, loop = TellsOfNoRoom(), asyncio.new_event_loop()
    loop.set_exception_handler(handler)
    try:
        error = OSError(errno.EMFILE, "Too many open files")
        for _ in range(1000):
            loop.call_exception_handler({"message": "socket.accept() out of system resource", "exception": error})
        assert [record.getMessage() for record in caplog.records] == [
            "no further connection can be taken (Too many open files): clients wait until others end. Let the process "
            "have more open files (ulimit -n)."
        ]
        loop.call_exception_handler({"message": "another fault"})
        assert caplog.records[-1].getMessage() == "another fault"
    finally:
        loop.close()
