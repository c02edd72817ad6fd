"""The command line: finds the command, reports what it returns, and turns wrong input into one line and exit code 2.

Where several processes run, only one of them reports (`rlstep.runtime.reporter`).
"""

import contextlib
import difflib
import os
import select
import sys
import traceback
from contextlib import nullcontext
from typing import NoReturn

from rlstep import __version__
from rlstep.runtime.errors import UserError
from rlstep.runtime.failure import Terminated, announced_by, clean_up, is_resumable, terminable
from rlstep.runtime.processes import end_processes, is_launched, leave, lost_another
from rlstep.runtime.ranks import (
    hide_calls_of_libraries,
    is_first_process,
    is_one_of_several,
    speak_once,
    wait_for_the_first,
)
from rlstep.runtime.reporter import Link, join
from rlstep.stages import COMMANDS, run

# These commands print their results themselves.
TALKATIVE = ("lab", "example", "report", "data", "evaluate", "bench", "plan")
# How a run that was cut short goes on.
RESUME, AGAIN = "continue with --resume true", "start it again, and it goes on"
REMEDIES = dict.fromkeys(("sft", "prm", "orm", "ppo"), RESUME)


def entry() -> NoReturn:
    """Runs the command of this process and ends it: what `rlstep` and `python -m rlstep` call."""
    try:
        sys.exit(main())  # trackers wrap it, to learn whether the run has failed
    except SystemExit as end:
        if is_launched() and isinstance(end.code, int):
            leave(end.code)
        raise
    except Exception:
        if is_launched():
            sys.excepthook(*sys.exc_info())  # trackers wrap this, too
            leave(1)
        raise


def main(argv: list[str] | None = None) -> int:
    """Runs one command and returns the exit code: 0, 2 for wrong input, 130 when interrupted, 143 by SIGTERM."""
    argv = _take_local_rank(sys.argv[1:] if argv is None else argv)
    speak_once()
    hide_calls_of_libraries()
    try:
        try:
            return _command(argv)
        finally:
            sys.stdout.flush()  # here, because nobody catches what Python's own last flush raises
    except BrokenPipeError:
        if not _reader_is_gone():
            raise
        # Redirected, so that the interpreter's final flush raises no error.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1


def _command(argv: list[str]) -> int:
    if not argv or argv[0] in ("-h", "--help"):
        print(_help())
        return 0 if argv else 2
    if argv[0] == "--version":
        print(f"rlstep {__version__}")
        return 0
    name, *options = argv
    if name not in COMMANDS:
        close = difflib.get_close_matches(name, COMMANDS, n=1)
        hint = f" (did you mean '{close[0]}'?)" if close else ""
        return _fail("rlstep", f"unknown command '{name}'{hint}. `rlstep --help` lists the commands.")
    link = join(name, REMEDIES.get(name, AGAIN))
    failure = _Failure(name, link)
    try:
        # A rank that waits for others cannot act on a signal: it ends at once, and the reporter says so.
        with announced_by(failure.say), nullcontext() if is_one_of_several() else terminable():
            metrics = run(name, options)
        if metrics and name not in TALKATIVE and is_first_process():
            print(f"{name}: {summary(metrics)}")
        sys.stdout.flush()
        end_processes()
    except BrokenPipeError as error:
        if not _reader_is_gone():  # it was another pipe, of a server or a process
            return failure.end(error)
        if link is not None:
            link.end()
        raise
    except SystemExit:  # the parser's, which has said why
        if link is not None:
            link.end()
        raise
    except (Exception, KeyboardInterrupt) as error:
        return failure.end(error)
    if link is not None:
        link.end()
    return 0


class _Failure:
    """How a command ends early: what is said of its error, and the exit code.

    Args:
        name: the command's.
        link: to the reporter, which speaks for all processes; None for one without others beside it.
    """

    def __init__(self, name: str, link: Link | None):
        self._name, self._link = name, link
        self._code: int | None = None  # once something has been said

    def say(self, error: BaseException) -> None:
        """Says why the command ends, unless it has been said: what follows from that is no news."""
        if self._code is not None or (isinstance(error, BrokenPipeError) and _reader_is_gone()):
            return
        lost = lost_another(error)
        self._code, message = (1, None) if lost else _explained(self._name, error, self._remedy(error))
        text = message or "".join(traceback.format_exception(error)).rstrip()
        if self._link is not None:
            self._link.report(text, message is None or is_resumable(error), lost)
            return
        if self._code == 2:
            wait_for_the_first()
        print(text if message else f"{text}{self._remedy(error)}", file=sys.stderr, flush=True)

    def end(self, error: BaseException) -> int:
        """Says why the command ends, and returns its exit code; a rank that has others beside it ends here.

        Raises:
            Exception: the one that is being handled, if it needs its traceback and has not been said.
        """
        unexplained = lost_another(error) or _explained(self._name, error, "")[1] is None
        if self._code is None and self._link is None and unexplained:
            if remedy := self._remedy(error):
                error.add_note(remedy.removeprefix("; "))
            raise
        self.say(error)
        if self._link is not None:
            clean_up()
            self._link.leave(self._code)
        return self._code

    def _remedy(self, error: BaseException) -> str:
        """How the command goes on; the reporter says it by itself, and wrong input has to be mended first."""
        if self._link is not None or isinstance(error, UserError) or not is_resumable(error):
            return ""
        return f"; {REMEDIES.get(self._name, AGAIN)}"


def _reader_is_gone() -> bool:
    """Whether nobody reads what is printed any more: head and less end early."""
    outputs = select.poll()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):  # a notebook's is no file
            outputs.register(stream.fileno(), 0)  # errors are told without being asked for
    return bool(outputs.poll(0))


def _explained(name: str, error: BaseException, remedy: str) -> tuple[int, str | None]:
    """The exit code, and one line for an error that its message explains; None for one that needs its traceback."""
    match error:
        case UserError():
            return 2, _line(f"rlstep {name}", error)
        case OSError() if not os.environ.get("RLSTEP_TRACEBACK"):
            # A missing model, a full disk, an unreachable hub: the message says it, a traceback would hide it.
            return 2, _line(f"rlstep {name}", f"{error}{remedy} (RLSTEP_TRACEBACK=1 shows where.)")
        case Terminated():
            return 143, f"rlstep {name}: ended by SIGTERM{remedy}"
        case KeyboardInterrupt():
            return 130, f"rlstep {name}: interrupted{remedy}"
    return 1, None


def _take_local_rank(argv: list[str]) -> list[str]:
    """Drops the `--local_rank=N` that the deepspeed launcher adds, and passes it on as LOCAL_RANK."""
    rest = []
    for word in argv:
        option, _, rank = word.partition("=")
        if option in ("--local_rank", "--local-rank") and rank:
            os.environ.setdefault("LOCAL_RANK", rank)
        else:
            rest.append(word)
    return rest


def _help() -> str:
    width = max(map(len, COMMANDS))
    return "\n".join(
        [
            "usage: rlstep COMMAND [--config RECIPE.yaml] [--key value ...]",
            "",
            "Fine-tunes language models by reinforcement learning with dense step rewards.",
            "",
            "commands:",
            *(f"  {name:<{width}}  {command.help}" for name, command in COMMANDS.items()),
            "",
            "`rlstep COMMAND --help` lists a command's options; `rlstep --version` prints the version.",
            "",
            "example:",
            "  rlstep sample --config recipes/arithmetic/sample_test.yaml --n 8",
        ]
    )


def summary(metrics: dict) -> str:
    """The scalar values among a stage's metrics, on one line; a share of 1 is `1.0`, to be told from a count."""
    shown = {key: _number(value) if isinstance(value, float) else value for key, value in metrics.items()}
    return ", ".join(f"{key} {value}" for key, value in shown.items() if isinstance(value, (str, int)))


def _number(value: float) -> str:
    short = f"{value:.4g}"
    return f"{short}.0" if short.lstrip("-").isdigit() else short


def _fail(who: str, message: object) -> int:
    wait_for_the_first()
    print(_line(who, message), file=sys.stderr)
    return 2


def _line(who: str, message: object) -> str:
    return f"{who}: error: {' '.join(str(message).split())}"
