"""A process beside the ranks of each machine, which says once what ended them.

A rank that is killed can say nothing, those that waited for it say what they saw of it in a hundred lines, and ranks
that all refuse the same input say so as often as there are ranks. So each rank tells the reporter what ends it, or that
it ends as it should, over a socket that closes with it; the reporter prints the cause and leaves out what followed from
it. A launcher ends the other ranks as soon as one has ended.

It needs neither torch nor anything else of rlstep, and starts in a moment.
"""

import contextlib
import json
import os
import selectors
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn

# How long the reporter waits for other ranks to fail in the same way, and a rank for what it told to be printed.
SETTLE_S = 1.0
ACKNOWLEDGED_S = 15.0
CONNECT_S = 10.0
LONGEST_PATH = 100  # that a socket can have


class Link:
    """A rank's connection to the reporter of its machine."""

    def __init__(self, connection: socket.socket):
        self._connection = connection
        self._tell({"rank": int(os.environ["RANK"])})

    def end(self) -> None:
        """This rank ends as it should."""
        self._tell({"ended": True})

    def report(self, message: str, resumable: bool = False, lost: bool = False) -> None:
        """Returns once what this rank failed of is printed.

        Args:
            message: what is printed, unless another rank has told the same.
            resumable: whether the run could go on from here, which is said with it.
            lost: this rank found another one gone; printed if nothing better is known.
        """
        self._tell({"failed": message, "resumable": resumable, "lost": lost})
        with contextlib.suppress(OSError):
            self._connection.settimeout(ACKNOWLEDGED_S)
            self._connection.recv(1)

    def leave(self, code: int) -> NoReturn:
        """Ends this process, with all threads that might keep it."""
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)

    def _tell(self, message: dict) -> None:
        # The reporter may be gone with the machine's memory; the launcher ends the ranks all the same.
        with contextlib.suppress(OSError):
            self._connection.sendall(json.dumps(message).encode() + b"\n")


def join(command: str, remedy: str) -> Link | None:
    """Connects a rank with its machine's reporter, which the first rank there starts.

    Args:
        command: what is run, for messages.
        remedy: how a run goes on that has ended early.

    Returns:
        None for a process that has no others beside it, and where the reporter could not be reached.
    """
    if "RANK" not in os.environ or int(os.environ.get("WORLD_SIZE", "1")) == 1 or not hasattr(socket, "AF_UNIX"):
        return None
    # Ranks of a machine have one parent, the launcher, which may start them anew where a rank has ended.
    of_launch = [
        str(os.getppid()),
        *(os.environ.get(name, "0") for name in ("MASTER_PORT", "TORCHELASTIC_RESTART_COUNT")),
    ]
    path = Path(tempfile.gettempdir()) / f"rlstep-{os.getuid()}-{'-'.join(of_launch)}.socket"
    if len(os.fsencode(path)) > LONGEST_PATH:
        return None
    if os.environ.get("LOCAL_RANK", "0") == "0":
        with contextlib.suppress(OSError):  # a full disk, or a file of another user: the run goes on without a reporter
            _start(path, command, remedy)
    deadline = time.monotonic() + CONNECT_S
    while time.monotonic() < deadline:
        connection = socket.socket(socket.AF_UNIX)
        try:
            connection.connect(str(path))
            of_this_user = path.lstat().st_uid == os.getuid()
        except OSError:
            connection.close()
            time.sleep(0.05)
        else:
            return Link(connection) if of_this_user else None
    return None


def _start(path: Path, command: str, remedy: str) -> None:
    path.unlink(missing_ok=True)
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))
        path.chmod(0o600)
        server.listen(256)
        words = [str(server.fileno()), str(path), command, remedy, os.environ.get("LOCAL_WORLD_SIZE", "0")]
        subprocess.Popen(
            [sys.executable, "-I", __file__, *words],  # isolated: this folder is no place to import from
            stdin=subprocess.DEVNULL,
            pass_fds=[server.fileno()],
            start_new_session=True,  # a launcher's signal to the rank's group is not for the reporter
        )


class Reporter:
    """Listens to the ranks of one machine until the last of them is gone.

    Args:
        server: where they connect.
        command: what they run.
        remedy: how a run goes on that has ended early.
        ranks: how many there are here; 0 if the launcher does not say.
    """

    def __init__(self, server: socket.socket, command: str, remedy: str, ranks: int):
        self.server, self.command, self.remedy, self.ranks = server, command, remedy, ranks
        self.selector = selectors.DefaultSelector()
        self.selector.register(server, selectors.EVENT_READ)
        self.unread: dict[socket.socket, bytes] = {}
        self.names: dict[socket.socket, int] = {}
        self.ended: set[socket.socket] = set()  # as they should, or after they have told why not
        self.failures: dict[int, dict] = {}
        self.print_at: float | None = None
        self.reported = self.printed = False

    def run(self) -> None:
        deadline = time.monotonic() + CONNECT_S
        while self.unread or (not self.names and time.monotonic() < deadline):
            wait = 1.0 if self.print_at is None else max(0.0, self.print_at - time.monotonic())
            events = self.selector.select(wait)
            for key, _ in events:
                if key.fileobj is self.server:
                    self._accept()
                else:
                    self._listen(key.fileobj)
            if self.print_at is not None and time.monotonic() >= self.print_at:
                self._report_failures()

    def _accept(self) -> None:
        connection, _ = self.server.accept()
        self.unread[connection] = b""
        self.selector.register(connection, selectors.EVENT_READ)

    def _listen(self, connection: socket.socket) -> None:
        try:
            received = connection.recv(1 << 16)
        except OSError:
            received = b""
        if not received:
            self._gone(connection)
            return
        *lines, self.unread[connection] = (self.unread[connection] + received).split(b"\n")
        for line in lines:
            self._hear(connection, json.loads(line))

    def _hear(self, connection: socket.socket, message: dict) -> None:
        if "rank" in message:
            self.names[connection] = message["rank"]
            return
        self.ended.add(connection)
        if "failed" not in message:
            return
        if self.reported:
            self._acknowledge(connection)
            return
        self.failures[self.names[connection]] = message
        # A rank that is gone is noticed by the others before this process is told of it, if it is on another machine.
        self.print_at = self.print_at or time.monotonic() + SETTLE_S

    def _gone(self, connection: socket.socket) -> None:
        self.selector.unregister(connection)
        connection.close()
        del self.unread[connection]
        if connection not in self.ended and not self.reported and connection in self.names:
            if any(not failure["lost"] for failure in self.failures.values()):
                self._report_failures()
                return
            self._say(f"rank {self.names[connection]} ended without a word (killed, out of memory, or crashed)", True)
            self._close_report()

    def _report_failures(self) -> None:
        causes = {rank: failure for rank, failure in self.failures.items() if not failure["lost"]}
        if causes:
            told: dict[str, list[int]] = {}
            for rank, failure in sorted(causes.items()):
                told.setdefault(failure["failed"], []).append(rank)
            for message, ranks in told.items():
                self._print(message if self._are_all(ranks) else f"{_named(ranks)}: {message}")
            if any(failure["resumable"] for failure in causes.values()):
                others = "" if self._are_all(sorted(causes)) else ", and the others end with it"
                self._say(f"{_named(sorted(causes))} failed{others}", True)
        else:
            waited = sorted(self.failures)
            silent = sorted(set(self.names.values()) - set(waited))
            seen = self.failures[waited[0]]["failed"].strip().splitlines()[-1]
            missing = f"; no word from {_named(silent)}" if silent else ", on another machine"
            self._say(f"{_named(waited)} waited in vain for another one{missing} ({seen})", True)
        self._close_report()

    def _are_all(self, ranks: list[int]) -> bool:
        return len(ranks) == (self.ranks or len(self.names))

    def _say(self, what: str, resumable: bool) -> None:
        self._print(f"rlstep {self.command}: {what}" + (f"; {self.remedy}" if resumable else ""))

    def _print(self, text: str) -> None:
        # The first on a line of its own: a progress bar has no end of line, nor has what a rank has half written.
        print(text if self.printed else f"\n{text}", file=sys.stderr)
        self.printed = True

    def _close_report(self) -> None:
        sys.stderr.flush()
        self.reported, self.print_at = True, None
        for connection in self.unread:
            if connection in self.ended:
                self._acknowledge(connection)

    def _acknowledge(self, connection: socket.socket) -> None:
        with contextlib.suppress(OSError):
            connection.sendall(b".")


def _named(ranks: list[int]) -> str:
    """`rank 1`, `ranks 0 and 3`, `ranks 0 to 7`."""
    if len(ranks) == 1:
        return f"rank {ranks[0]}"
    if len(ranks) > 2 and ranks == list(range(ranks[0], ranks[-1] + 1)):
        return f"ranks {ranks[0]} to {ranks[-1]}"
    return f"ranks {', '.join(map(str, ranks[:-1]))} and {ranks[-1]}"


@contextlib.contextmanager
def _listening(number: int, path: Path) -> Iterator[socket.socket]:
    try:
        with socket.socket(fileno=number) as server:
            yield server
    finally:
        path.unlink(missing_ok=True)


def main(number: str, path: str, command: str, remedy: str, ranks: str) -> None:
    # Launchers end all that a rank has started, and the terminal all of its processes; this one ends after the ranks.
    for ending in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(ending, signal.SIG_IGN)
    with _listening(int(number), Path(path)) as server:
        Reporter(server, command, remedy, int(ranks)).run()


if __name__ == "__main__":
    main(*sys.argv[1:])
