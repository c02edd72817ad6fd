"""Mathematical equality by math-verify, in a process of its own that the kernel stops when a grading takes too long.

A model may write 9^(9^9). Computing that takes longer than anybody waits, most of it within one C call that no Python
signal handler or thread interrupts. Hence a worker process under a timer with the *default* signal action, which ends
the process whatever it is doing. The timer counts the processor time of one grading, start-up not included, so a busy
machine does not turn right answers wrong. A grading that was stopped counts as wrong; the next one gets a new worker.

The worker is a plain child process with pipes (`python -m rlstep.steps.grader`), so it works off the main thread, in
daemonic processes and below any launcher; each rank has its own. It speaks JSON lines: `[answer, reference, seconds]`
in, `true` or `false` out. POSIX only.
"""

import atexit
import contextlib
import json
import logging
import os
import re
import signal
import subprocess
import sys
import threading

SECONDS = 5.0
MEMORY = 4 << 30
MAX_LENGTH = 300

_NUMBER = re.compile(r"[0-9]+|[0-9]+\.[0-9]*|\.[0-9]+")
_logger = logging.getLogger(__name__)


class Grader:
    """Grades pairs of expressions in a worker that starts with the first one.

    Args:
        seconds: processor time that one grading may take.

    Attributes:
        stopped: gradings that were stopped so far, each counted as wrong.
    """

    def __init__(self, seconds: float = SECONDS):
        self.seconds = seconds
        self.stopped = 0
        self._process: subprocess.Popen | None = None
        self._lock = threading.Lock()
        atexit.register(self.close)
        # A forked child must not speak into its parent's conversation.
        os.register_at_fork(after_in_child=self._forget)

    def same(self, answer: str, reference: str) -> bool:
        """Whether two LaTeX or plain expressions are equal; False where it cannot be found out within the limit."""
        if len(answer) > MAX_LENGTH:
            return False
        with self._lock:
            reply = self._ask(json.dumps([answer, reference, self.seconds]) + "\n")
            if not reply:
                self._end()
                self.stopped += 1
                if self.stopped == 1:
                    _logger.warning(
                        "grading the answer %r was stopped after %g s; it counts as wrong", answer, self.seconds
                    )
        return reply == "true\n"

    def close(self) -> None:
        """Ends the worker; a later grading starts another."""
        with self._lock:
            self._end()

    def _ask(self, request: str) -> str:
        for _ in range(2):
            if self._process is None:
                self._process = _start()
            try:
                self._process.stdin.write(request)
                self._process.stdin.flush()
            except BrokenPipeError:
                # It was killed from outside since the last grading, which says nothing about this answer.
                self._end()
                continue
            return self._process.stdout.readline()
        return ""

    def _end(self) -> None:
        if self._process is not None:
            self._process.kill()
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
    )
    if process.stdout.readline() != "ready\n":
        process.kill()
        process.wait()
        raise RuntimeError("the grading worker does not start; `python -m rlstep.steps.grader` shows why")
    return process


def _equality():
    """The comparison, with math-verify's own alarms off.

    SymPy reads even a number's digits by `eval`, through `parse_expr`. Here that reads number literals, by itself, and
    refuses all other text, so nothing that a model wrote is evaluated as code.
    """
    import sympy
    import sympy.parsing.sympy_parser as sympy_parser
    from math_verify import LatexExtractionConfig, parse, verify

    def read_number(text: str, *_, **__):
        if not _NUMBER.fullmatch(text):
            raise ValueError(f"not a number: {text!r}")
        return sympy.Float(text) if "." in text else sympy.Integer(int(text))

    sympy_parser.parse_expr = read_number
    config = [LatexExtractionConfig(boxed_match_priority=0)]

    def read(text: str):
        boxed = "\\boxed{" + text + "}"
        return parse(boxed, config, fallback_mode="no_fallback", parsing_timeout=None)

    def equal(answer: str, reference: str) -> bool:
        return bool(verify(read(reference), read(answer), timeout_seconds=None))

    return equal


def serve() -> None:
    """The worker's side: answers requests until its input ends."""
    import resource

    replies, sys.stdout = sys.stdout, sys.stderr
    signal.signal(signal.SIGPROF, signal.SIG_DFL)
    # Ctrl-C reaches the whole process group; the parent decides when this process ends.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    equal = _equality()
    logging.disable()
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, resource.getrlimit(resource.RLIMIT_AS)[1]))
    print("ready", file=replies, flush=True)
    for line in sys.stdin:
        answer, reference, seconds = json.loads(line)
        signal.setitimer(signal.ITIMER_PROF, seconds)
        try:
            right = equal(answer, reference)
        except Exception:  # whatever a parser of arbitrary text may raise: not shown to be equal
            right = False
        signal.setitimer(signal.ITIMER_PROF, 0)
        print(json.dumps(right), file=replies, flush=True)


if __name__ == "__main__":
    serve()
