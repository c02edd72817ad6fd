"""The command line: finds the command, reports what it returns, and turns wrong input into one line and exit code 2."""

import difflib
import os
import sys

from rlstep import __version__
from rlstep.runtime.errors import UserError
from rlstep.runtime.processes import end_processes
from rlstep.runtime.ranks import is_first_process, speak_once, wait_for_the_first
from rlstep.stages import COMMANDS, run

# These commands print their results themselves.
TALKATIVE = ("lab", "example", "report", "data", "evaluate", "plan")


def main(argv: list[str] | None = None) -> int:
    """Runs one command and returns the exit code: 0, 2 for wrong input, 130 when interrupted."""
    argv = _take_local_rank(sys.argv[1:] if argv is None else argv)
    speak_once()
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
    try:
        metrics = run(name, options)
        if metrics and name not in TALKATIVE and is_first_process():
            print(f"{name}: {_summary(metrics)}")
        sys.stdout.flush()
        end_processes()
    except UserError as error:
        return _fail(f"rlstep {name}", error)
    except BrokenPipeError:
        # The reader (head, less) is gone; redirect stdout so that the interpreter's final flush raises no error.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except OSError as error:
        # A missing model or folder, a full disk, an unreachable hub: the message says it, a traceback would hide it.
        if os.environ.get("RLSTEP_TRACEBACK"):
            raise
        return _fail(f"rlstep {name}", f"{error} (RLSTEP_TRACEBACK=1 shows where.)")
    except KeyboardInterrupt:
        print(f"rlstep {name}: interrupted", file=sys.stderr)
        return 130
    return 0


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


def _summary(metrics: dict) -> str:
    """The scalar values among a stage's metrics, on one line."""
    shown = {key: f"{value:.4g}" if isinstance(value, float) else value for key, value in metrics.items()}
    return ", ".join(f"{key} {value}" for key, value in shown.items() if isinstance(value, (str, int)))


def _fail(who: str, message: object) -> int:
    wait_for_the_first()
    print(f"{who}: error: {' '.join(str(message).split())}", file=sys.stderr)
    return 2
