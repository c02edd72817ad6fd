r"""Mathematical equality (`rlstep.steps.grading`) in a separate process, with limits on time and memory.

A model may write 9^(9^9). Computing that takes practically forever, mostly inside one C call that no Python signal
handler or thread can interrupt. Hence a child process under timers with the *default* signal action, which ends the
process whatever it is doing. One timer counts CPU time, so that a busy machine does not turn right answers wrong; the
other counts wall-clock time with a limit several times as high, so that every grading ends. A grading that was stopped
counts as wrong.

The worker (`python -m rlstep.steps.grader`) imports SymPy once and forks a process that grades; when that one is
stopped, it forks the next, which takes milliseconds. It is a plain child process with pipes, so it works off the main
thread, in daemonic processes and below any launcher; each rank has its own. It speaks JSON lines. In: `{"pairs": [...],
"readable": true, "seconds": 2, "clock": 7}`, or `text` in place of the first two; out: `{"same": true}` or
`{"signature": [1.5, 0]}`, `{"stopped": true}` or `{"error": "..."}`. POSIX only.

Nothing in an answer or a reference is evaluated as code: the grammar builds SymPy objects itself, numbers included, and
in the process that grades, an audit hook refuses to run code that is not a module's, to start processes and to write
files.
"""

import atexit
import contextlib
import json
import logging
import os
import signal
import subprocess
import sys
import threading

SECONDS = 2.0
CLOCK = 7.0
MEMORY = 2 << 30
MAX_LENGTH = 300

_logger = logging.getLogger(__name__)


class Grader:
    """Grades pairs of expressions in a worker that starts with the first one.

    Args:
        seconds: processor time that one grading may take.
        clock: seconds on the clock that it may take.

    Attributes:
        stopped: gradings that were stopped so far, each counted as wrong.
        errors: gradings that failed so far, a reference that cannot be read among them, each counted as wrong.
    """

    def __init__(self, seconds: float = SECONDS, clock: float = CLOCK):
        self.seconds = seconds
        self.clock = clock
        self.stopped = 0
        self.errors = 0
        self._process: subprocess.Popen | None = None
        self._lock = threading.Lock()
        atexit.register(self.close)
        # A forked child must not speak into its parent's conversation.
        os.register_at_fork(after_in_child=self._forget)

    def same(self, answer: str, reference: str) -> bool:
        """Whether two texts in the spelling of `grading.spelling.tidy` are equal; False if that cannot be decided."""
        return self.any_same((answer, reference))

    def any_same(self, *pairs: tuple[str, str], readable: bool = True) -> bool:
        """Whether the texts of any (answer, reference) are equal, within the limits of one grading.

        Args:
            readable: whether a reference that is no mathematics is an error, and not just another answer.
        """
        pairs = [pair for pair in pairs if max(map(len, pair)) <= MAX_LENGTH]
        if not pairs:
            return False
        with self._lock:
            reply = self._ask(pairs=pairs, readable=readable)
            if "same" in reply:
                return reply["same"]
            if "error" in reply:
                self.errors += 1
                first, trouble = self.errors == 1, f"failed ({reply['error']})"
            else:
                self.stopped += 1
                first, trouble = (
                    self.stopped == 1,
                    f"was stopped after {self.seconds:g} s of processor time or {self.clock:g} s",
                )
        if first:
            _logger.warning(
                "grading the answer %r against the reference %r %s; it counts as wrong. Further ones are counted "
                "without a warning.", *pairs[0], trouble,
            )  # fmt: skip
        return False

    def signature(self, text: str) -> complex | None:
        """An expression's value at a fixed point, which equal ones share (`grading.signature`); None without one.

        NaN if computing it was stopped, which counts as a grading that was.
        """
        if len(text) > MAX_LENGTH:
            return None
        with self._lock:
            reply = self._ask(text=text)
            if "stopped" in reply:
                self.stopped += 1
                return complex("nan")
        parts = reply.get("signature")
        return None if parts is None else complex(*parts)

    def counts(self) -> dict[str, int]:
        """Gradings without a verdict so far, by kind; for a stage's metrics."""
        return {"gradings_stopped": self.stopped, "grading_errors": self.errors}

    def close(self) -> None:
        """Ends the worker; a later grading starts another."""
        with self._lock:
            self._end()

    def _ask(self, **asked) -> dict:
        request = json.dumps(asked | {"seconds": self.seconds, "clock": self.clock}) + "\n"
        for _ in range(2):
            if self._process is None:
                self._process = _start()
            with contextlib.suppress(BrokenPipeError):
                self._process.stdin.write(request)
                self._process.stdin.flush()
                if reply := self._process.stdout.readline():
                    return json.loads(reply)
            # It was killed from outside, which says nothing about this answer.
            self._end()
        return {"stopped": True}

    def _end(self) -> None:
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
            self._drop()

    def _drop(self) -> None:
        for pipe in (self._process.stdin, self._process.stdout):
            # What was not sent has nobody to read it.
            with contextlib.suppress(BrokenPipeError):
                pipe.close()
        self._process = None

    def _forget(self) -> None:
        self._lock = threading.Lock()
        if self._process is not None:
            self._process.returncode = 0  # it is no child of this process, which must not wait for it
            self._drop()


def _start() -> subprocess.Popen:
    paths = os.pathsep.join(path for path in sys.path if path)
    process = subprocess.Popen(
        [sys.executable, "-m", "rlstep.steps.grader"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        encoding="utf-8",
        env={**os.environ, "PYTHONPATH": paths},
        # Ctrl-C reaches the whole group of a terminal; the parent decides when these processes end.
        process_group=0,
    )
    if process.stdout.readline() != "ready\n":
        process.kill()
        process.wait()
        raise RuntimeError("the grading worker does not start; `python -m rlstep.steps.grader` shows why")
    return process


def serve() -> None:
    """The worker's side: keeps a process that answers requests, until the input ends."""
    import resource

    requests, replies = os.dup(0), os.dup(1)
    os.dup2(2, 1)
    _warm_up()
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, resource.getrlimit(resource.RLIMIT_AS)[1]))
    resource.setrlimit(resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1]))
    os.write(replies, b"ready\n")
    while True:
        child = os.fork()
        if child == 0:
            _answer_requests(requests, replies)
            os._exit(0)
        _, status = os.waitpid(child, 0)
        if os.WIFEXITED(status) and os.WEXITSTATUS(status) == 0:
            return
        os.write(replies, b'{"stopped": true}\n')


def _warm_up() -> None:
    """Imports all that a grading may need, before the limits and before code is refused."""
    import sympy.physics.units  # noqa: F401  imported by simplify, at its first call

    from rlstep.steps.grading.equality import same
    from rlstep.steps.grading.signature import signature
    from rlstep.steps.grading.spelling import tidy

    for left, right in _EVERY_KIND:
        same(tidy(left), tidy(right))
        signature(tidy(left))
    logging.disable()


# One pair for each part of SymPy that imports or caches at its first use.
_EVERY_KIND = (
    ("x^2+2x+1", "(x+1)^2"), (r"\sqrt{5+2\sqrt6}", r"\sqrt2+\sqrt3"), ("x>2", r"(2,\infty)"), ("2x+1<7", "x<3"),
    ("x^2<4", "(-2,2)"), (r"\begin{pmatrix}1\\2\end{pmatrix}", r"\begin{bmatrix}1\\2\end{bmatrix}"),
    (r"\sin^2x", r"1-\cos^2x"), (r"\log_2 9", r"\frac{\ln 9}{\ln 2}"), (r"\{1\pm\sqrt5\}", r"\{1-\sqrt5,1+\sqrt5\}"),
    (r"(0,1)\cup(1,2)", r"(0,2)\setminus\{1\}"), ("5!", r"\binom{16}{2}"), ("|x|", r"\lfloor x\rfloor"),
    (r"x\neq 3", r"\mathbb{R}\setminus\{3\}"), (r"\begin{vmatrix}1&2\\3&4\end{vmatrix}", "-2"), ("e^{i}", "i^i"),
)  # fmt: skip


def _answer_requests(requests: int, replies: int) -> None:
    from rlstep.steps.grading.equality import UnreadableReference, same
    from rlstep.steps.grading.signature import signature

    for name in (signal.SIGPROF, signal.SIGALRM):
        signal.signal(name, signal.SIG_DFL)
    sys.addaudithook(_refuse)
    while line := _line(requests):
        asked = json.loads(line)
        signal.setitimer(signal.ITIMER_PROF, asked["seconds"])
        signal.setitimer(signal.ITIMER_REAL, asked["clock"])
        try:
            if "text" in asked:
                reply = {"signature": signature(asked["text"])}
            else:
                reply = {"same": any(same(answer, reference) for answer, reference in asked["pairs"])}
        except MemoryError:
            reply = {"stopped": True}
        except UnreadableReference as error:
            unread = {"error": f"the reference is no mathematics that can be read: {str(error)[:100]}"}
            reply = unread if asked["readable"] else {"same": False}
        except Exception as error:
            reply = {"error": f"{type(error).__name__}: {str(error)[:100]}"}
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.setitimer(signal.ITIMER_REAL, 0)
        os.write(replies, json.dumps(reply).encode() + b"\n")


def _line(requests: int) -> bytes:
    """The next line, read without a buffer: what comes after it belongs to whoever answers it."""
    line = b""
    while not line.endswith(b"\n"):
        if not (more := os.read(requests, 1 << 16)):
            return b""
        line += more
    return line


def _refuse(event: str, arguments: tuple) -> None:
    """Audit hook: no text becomes code here, whatever SymPy may do with one."""
    if event == "exec" and getattr(arguments[0], "co_filename", "<").startswith("<") and not _is_of_monomials():
        raise PermissionError("the grader does not evaluate text")
    if event in ("os.system", "subprocess.Popen", "os.exec", "os.posix_spawn", "os.fork", "socket.connect") or (
        event == "open" and isinstance(arguments[1], str) and set(arguments[1]) & set("wax+")
    ):
        raise PermissionError(f"the grader does nothing of the kind {event}")


def _is_of_monomials() -> bool:
    """Whether the code is the arithmetic of monomials, which SymPy writes from the number of variables alone."""
    return sys._getframe(2).f_globals.get("__name__") == "sympy.polys.monomials"


if __name__ == "__main__":
    serve()
