"""The commands: one per stage, each a function that takes configuration dataclasses.

The dataclasses are those that the stage's function is annotated with, so the table below holds no second list of
them. A stage's module is imported when it is called: the table itself needs neither torch nor transformers.
"""

from collections.abc import Sequence
from dataclasses import is_dataclass
from importlib import import_module
from itertools import takewhile
from typing import NamedTuple, get_type_hints

from rlstep.runtime.errors import UserError


class Command(NamedTuple):
    """What `rlstep NAME` calls."""

    module: str
    function: str
    help: str
    words: tuple[str, ...] = ()  # options that may be given as words, without their names, before the others


COMMANDS = {
    "lab": Command("rlstep.stages.lab", "lab", "The whole pipeline, from problems to curves and a report, on CPU."),
    "example": Command("rlstep.stages.example", "example", "Process and outcome supervision on a few sequences."),
    "data": Command(
        "rlstep.stages.data", "data", "Check, count and convert a data set of solutions.", ("format", "path")
    ),
    "plan": Command("rlstep.stages.plan", "plan", "Memory, tokens and hours of recipes, before a launch.", ("recipe",)),
    "prepare": Command("rlstep.stages.prepare", "prepare", "Write a task's problems, demonstrations and small model."),
    "sft": Command("rlstep.stages.sft", "sft", "Train a generator on demonstrations."),
    "sample": Command("rlstep.stages.sample", "sample", "Sample N solutions of every problem."),
    "label": Command("rlstep.stages.label", "label", "Label solutions and their steps: checker, rollouts, models."),
    "select": Command("rlstep.stages.select", "select", "Choose which scored solutions to label, and their order."),
    "annotate": Command("rlstep.stages.annotate", "annotate", "A page to label steps by hand, as in PRM800K."),
    "prm": Command("rlstep.stages.prm", "prm", "Train a process reward model on step labels."),
    "orm": Command("rlstep.stages.orm", "orm", "Train an outcome reward model on answer labels."),
    "score": Command("rlstep.stages.score", "score", "Add a reward model's step scores to solutions."),
    "serve": Command("rlstep.stages.serve", "serve", "Serve a reward model's step scores over HTTP."),
    "bench": Command(
        "rlstep.stages.bench", "bench", "Verifiers side by side on ProcessBench, PRMBench and best-of-N.", ("models",)
    ),
    "evaluate": Command("rlstep.stages.evaluate", "evaluate", "Best-of-N curves of scored solutions."),
    "ppo": Command("rlstep.stages.ppo", "ppo", "Train the policy by PPO on step rewards or on the outcome."),
    "export": Command(
        "rlstep.stages.export", "export", "Write a policy or verifier for PEFT, transformers and vLLM.", ("policy",)
    ),
    "report": Command(
        "rlstep.stages.report", "report", "Summary, tables, figures and an HTML page of a run.", ("run",)
    ),
}


def function_of(name: str):
    command = COMMANDS[name]
    return getattr(import_module(command.module), command.function)


def config_classes(name: str) -> list[type]:
    """The dataclasses that a command's function takes, in order."""
    hints = get_type_hints(function_of(name))
    hints.pop("return", None)
    return [kind for kind in hints.values() if is_dataclass(kind)]


def run(name: str, options: Sequence[str]) -> dict | None:
    """Parses a command's options and calls it; returns its metrics. With `--print_config` it only prints the options.

    Raises:
        UserError: an option, a recipe or an input is wrong.
    """
    from rlstep.runtime.config import PRINT_CONFIG, StrictParser

    parser = StrictParser(
        config_classes(name),
        prog=f"rlstep {name}",
        usage=_usage(name),
        description=COMMANDS[name].help,
        epilog="A recipe's keys are the options' names; options on the command line override it.",
    )
    words = _named(COMMANDS[name].words, options)
    if PRINT_CONFIG in words:
        print(f"# rlstep {name}", parser.resolved([word for word in words if word != PRINT_CONFIG]), sep="\n")
        return None
    return function_of(name)(*parser.parse(words))


def _usage(name: str) -> str:
    named = f"rlstep {name} [--config RECIPE.yaml] [--key value ...]"
    if not (words := COMMANDS[name].words):
        return named
    return f"rlstep {name} {' '.join(map(str.upper, words))} [--key value ...]\n       {named}"


def _named(names: Sequence[str], options: Sequence[str]) -> list[str]:
    """The options with their leading words named: `gsm8k x.jsonl --show 2` -> `--format gsm8k --path x.jsonl ...`."""
    words = list(takewhile(lambda word: not word.startswith("-"), options))[: len(names)]
    rest = list(options[len(words) :])
    for name in names[: len(words)]:
        if any(word.partition("=")[0] == f"--{name}" for word in rest):
            raise UserError(f"the {name} is given by position and as --{name}; give one of them.")
    return [part for name, word in zip(names, words, strict=False) for part in (f"--{name}", word)] + rest
