"""What scores a server's batches: a verifier in a process of its own.

It is spoken to through a pipe, in JSON: floats come back as they were, and nothing is unpickled.
"""

import json
import logging
import multiprocessing
import os
import signal
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from typing import Any, Protocol

import torch
from transformers.utils import logging as transformers_logging

from rlstep.runtime.cores import usable_cores
from rlstep.runtime.counted import counted
from rlstep.runtime.errors import UserError
from rlstep.runtime.json_client import NoAnswer
from rlstep.steps.boundaries import Boundary
from rlstep.steps.prompt_options import PromptOptions
from rlstep.verifiers.load import load_verifier
from rlstep.verifiers.scoring.scorer import RowScorer, TooLong
from rlstep.verifiers.serving.batching import Row

LAST_WORDS_S = 5.0  # for a process that is told to end; then it is killed


IDENTITY = ("kind", "boundary", "prompt_format")  # what tells one verifier from another


class Refused(Exception):
    """Rows that the verifier cannot score.

    Attributes:
        reason: without the row.
        row: the one at fault, as the batch counts; None if it is not known.
    """

    def __init__(self, reason: str, row: int | None = None):
        super().__init__(reason)
        self.reason, self.row = reason, row


class Unreached(Exception):
    """The server that holds the verifier's weights does not answer; the message says how."""


class Failed(Exception):
    """A fault of the server's; the message is its traceback."""


class Died(Exception):
    """The worker's process has ended; the message says how."""


class Worker(Protocol):
    """What the server asks of whatever scores.

    Attributes:
        identity: kind, boundary and prompt_format of the verifier, as JSON has them; None until it is loaded.
        alive: whether it has not ended.
    """

    identity: dict[str, Any] | None

    @property
    def alive(self) -> bool: ...

    def load(self) -> None:
        """Returns when it can score, which may take minutes.

        Raises:
            UserError: the verifier cannot be loaded.
            Died: the process ended while it was loading.
        """

    def score(self, rows: Sequence[Row]) -> tuple[list[list[float]], int]:
        """(scores, tokens that they took).

        Raises:
            Refused, Unreached, Failed, Died: there are none.
        """

    def kill(self) -> None:
        """Ends a `load` or a `score` that runs in another thread, if that can be done."""

    def close(self) -> None: ...


def identity(verifier: RowScorer) -> dict[str, Any]:
    """The values of `IDENTITY`."""
    prompt_format = verifier.prompt_format
    values = (verifier.kind, verifier.boundary.to_dict(), None if prompt_format is None else prompt_format.to_dict())
    return dict(zip(IDENTITY, values, strict=True))


def score_rows(verifier: RowScorer, rows: Sequence[Row]) -> tuple[list[list[float]], int]:
    """(scores, tokens that they took).

    Raises:
        Refused, Unreached, Failed: there are none.
    """
    before = verifier.tokens_scored
    scores: list[list[float]] = [[] for _ in rows]
    try:
        for cut in (False, True):
            chosen = [row for row, (*_, may_be_cut) in enumerate(rows) if may_be_cut is cut]
            values = _scores(verifier, [rows[row] for row in chosen], cut) if chosen else []
            for row, of_row in zip(chosen, values, strict=True):
                scores[row] = of_row
        return scores, verifier.tokens_scored - before
    except TooLong as error:
        raise Refused(error.problem, chosen[error.row]) from None
    except NoAnswer as error:
        raise Unreached(str(error)) from None
    except UserError as error:
        raise Refused(str(error)) from None
    except Exception:  # a fault of ours, or a full GPU
        raise Failed(traceback.format_exc()) from None


def _scores(verifier: RowScorer, rows: Sequence[Row], cut: bool) -> list[list[float]]:
    prompts, completions, steps, _ = zip(*rows, strict=True)
    # Requests with spans and without are one batch.
    spans = [verifier.boundary.split(c) if s is None else s for c, s in zip(completions, steps, strict=True)]
    scores = verifier.score(prompts, completions, spans, cut)
    if len(scores) != len(rows):
        raise ValueError(f"the verifier gives scores of {counted(len(scores), 'row')} for {len(rows)}")
    return scores


@dataclass(frozen=True)
class Loading:
    """How a worker's process loads the verifier.

    Attributes:
        model: folder, hub id, or the address of a vLLM server.
        boundary, prompts, options: of `load_verifier`.
    """

    model: str
    boundary: Boundary | None
    prompts: PromptOptions
    options: dict[str, Any]

    def load(self, device: str) -> RowScorer:
        return load_verifier(self.model, device=device, boundary=self.boundary, prompts=self.prompts, **self.options)


class WorkerProcess:
    """A verifier in a process of its own.

    Args:
        loading: how it is loaded.
        workers: how many there are; on CPU they divide the cores.
        index: the worker's number, from 0; with several GPUs it says which one.
    """

    def __init__(self, loading: Loading, workers: int, index: int):
        self.identity: dict[str, Any] | None = None
        # A forked process could not use the GPU, and would have copies of the server's connections.
        context = multiprocessing.get_context("spawn")
        self._connection, theirs = context.Pipe()
        self.process = context.Process(
            target=_work, args=(theirs, loading, index, workers), name=f"worker {index}", daemon=True
        )
        self.process.start()
        theirs.close()

    @property
    def alive(self) -> bool:
        return self.process.is_alive()

    def load(self) -> None:
        reply = self._receive()
        if "refused" in reply:
            raise UserError(reply["refused"])
        self.identity = reply["identity"]

    def score(self, rows: Sequence[Row]) -> tuple[list[list[float]], int]:
        try:
            _send(self._connection, rows)
        except OSError:
            raise self._died() from None
        reply = self._receive()
        if "unreached" in reply:
            raise Unreached(reply["unreached"])
        if "failed" in reply:
            raise Failed(reply["failed"])
        if "refused" in reply:
            raise Refused(reply["refused"], reply["row"])
        return reply["scores"], reply["tokens"]

    def kill(self) -> None:
        self.process.kill()

    def close(self) -> None:
        self._connection.close()  # which it understands
        self.process.join(LAST_WORDS_S)
        self.process.kill()
        self.process.join()

    def _receive(self) -> dict:
        # A process that is killed closes its end; one whose children hold it open does not.
        wait([self._connection, self.process.sentinel])
        try:
            if self._connection.poll():
                return json.loads(self._connection.recv_bytes())
        except (EOFError, OSError):
            pass
        raise self._died()

    def _died(self) -> Died:
        self.process.join(LAST_WORDS_S)
        code = self.process.exitcode
        return Died(f"signal {-code}" if code is not None and code < 0 else f"exit code {code}")


def _send(connection: Connection, message: Any) -> None:
    connection.send_bytes(json.dumps(message).encode())


def _work(connection: Connection, loading: Loading, index: int, workers: int) -> None:
    """The process of a worker: loads, then answers batches until the server closes its end of the pipe."""
    # Ctrl-C and `kill` of a whole group of processes: the server says when the last batch has been scored.
    for signal_ in (signal.SIGINT, signal.SIGTERM):
        signal.signal(signal_, signal.SIG_IGN)
    if index > 0:  # the first one says it
        logging.disable(logging.WARNING)
        transformers_logging.disable_progress_bar()
    if "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(max(1, usable_cores() // workers))
    try:
        verifier = loading.load(choose_device(index))
    except UserError as error:
        _send(connection, {"refused": str(error)})
        return
    try:
        _send(connection, {"identity": identity(verifier)})
        while _usable():
            _send(connection, _reply(verifier, json.loads(connection.recv_bytes())))
    except (EOFError, OSError):
        pass  # the server has gone


def _reply(verifier: RowScorer, rows: list[Row]) -> dict:
    try:
        scores, tokens = score_rows(verifier, rows)
    except Refused as error:
        return {"refused": error.reason, "row": error.row}
    except Unreached as error:
        return {"unreached": str(error)}
    except Failed as error:
        return {"failed": str(error)}
    return {"scores": scores, "tokens": tokens}


def choose_device(index: int) -> str:
    """A worker's device: GPUs in turn, or the CPU. A GPU becomes the process' current one: it uses no other."""
    if not torch.cuda.is_available():
        return "cpu"
    number = index % torch.cuda.device_count()
    torch.cuda.set_device(number)
    return f"cuda:{number}"


def _usable() -> bool:
    """Whether the GPU still computes; after a fault in a kernel nothing in this process can use it."""
    try:
        if torch.cuda.is_available():
            torch.cuda.synchronize()
    except RuntimeError:
        traceback.print_exc()
        return False
    return True
