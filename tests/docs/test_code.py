"""What the documentation tells to type works: shell lines are parsed by the command line, Python is run."""

import doctest
import os
import re

import pytest

from rlstep.runtime.config import StrictParser
from rlstep.stages import COMMANDS, config_classes, run
from rlstep.stages import _named as named  # how the command line reads words without an option's name
from tests.docs.pages import PAGES, ROOT, blocks, commands

SHELL = [block for page in PAGES for block in blocks(page, "bash")]
PYCON = [page for page in PAGES if blocks(page, "pycon")]
TRAINING = ("sft", "prm", "orm", "ppo")
# Programs that are not ours, and what a documented line may start with before ours comes.
FOREIGN = {"export", "python", "python3", "source", "pip", "git", "make", "vllm", ".venv/bin/pre-commit"}
LAUNCHERS = ("deepspeed", "torchrun", "accelerate", "srun")
# What makes a stage of the quickstart take a second instead of a minute; all else is the recipes' own.
QUICK = {"use_cpu": "true", "max_steps": 2, "report_to": "none", "disable_tqdm": "true"}
SMALL = {
    "prepare": {"train": 6, "rl": 12, "test": 3, "demonstrations": 64},
    "sft": QUICK | {"per_device_train_batch_size": 8, "warmup_steps": 0},
    "sample": {"n": 2, "max_new_tokens": 24},
    # After two steps nothing is right that a model writes, and a PRM needs both kinds: the demonstrations have them.
    "label": {"data": "runs/demo/prepare/demonstrations.jsonl"},
    "prm": QUICK | {"per_device_train_batch_size": 4},
    "ppo": QUICK | {
        "per_device_train_batch_size": 8, "num_generations": 2, "num_generations_eval": 2, "eval_steps": 2,
        "per_device_eval_batch_size": 4, "max_completion_length": 16, "warmup_steps": 0, "logging_steps": 1,
    },
    "example": {"n": 10},
}  # fmt: skip


@pytest.fixture
def own_environment():
    """Configurations set environment variables (wandb, accelerate, DeepSpeed); a test's must not reach the next."""
    before = dict(os.environ)
    yield
    os.environ.clear()
    os.environ.update(before)


def ours(words: list[str]) -> tuple[str, list[str]] | None:
    """The rlstep command and its options in a command line, also under a launcher; None for other programs."""
    if words[0] in LAUNCHERS:
        place = words.index("rlstep")
        assert words[place - 1] in ("--module", "-m")
        return words[place + 1], words[place + 2 :]
    if words[0] == "rlstep":
        return words[1], words[2:]
    assert words[0] in FOREIGN, f"{words[0]}: no program that the documentation should call"
    return None


@pytest.mark.parametrize("block", SHELL, ids=lambda block: block.name)
def test_shell_lines_parse(block, own_environment, monkeypatch):
    monkeypatch.chdir(ROOT)
    for words in commands(block):
        if words[0] == "make":
            targets = re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(), re.M)
            assert words[1] in targets
        if words[0] == "export":
            os.environ.update(word.split("=", 1) for word in words[1:])
        if (actual := ours(words)) is None:
            continue
        name, options = actual
        assert name in COMMANDS
        # bfloat16, which TRL's trainers have on, is refused where there is no GPU, unless the CPU is asked for.
        here = ["--use_cpu", "true"] if name in TRAINING else []
        StrictParser(config_classes(name), prog=name).parse([*named(COMMANDS[name].words, options), *here])


def test_commands_in_tables_exist():
    """`rlstep NAME` in running text and tables."""
    for page in PAGES:
        for name in re.findall(r"`rlstep (\w+)", page.read_text(encoding="utf-8")):
            assert name in COMMANDS or name in ("COMMAND", "STAGE", "NAME"), f"{page}: rlstep {name}"


@pytest.mark.parametrize("page", PYCON, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_interactive_examples_print_what_they_show(page):
    text = "\n".join(block.text for block in blocks(page, "pycon"))
    test = doctest.DocTestParser().get_doctest(text, {}, page.name, str(page), 0)
    assert test.examples
    result = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS, verbose=False).run(test)
    assert result.failed == 0


def test_the_quickstart_and_the_python_of_the_api_pages_run(at_a_checkout, own_environment, capsys):
    """The quickstart's own stages in order on tiny sizes, then its Python and that of the pages that build on them."""
    page = ROOT / "docs" / "quickstart.md"
    done = []
    for block in blocks(page, "bash", "python"):
        if block.language == "python":
            exec(compile(block.text, block.name, "exec"), {})
            continue
        for words in commands(block):
            actual = ours(words)
            # The lab is all of the stages at full size; its own tests run it.
            if actual is None or actual[0] == "lab":
                continue
            name, options = actual
            run(name, [*options, *(f"--{key}={value}" for key, value in SMALL[name].items())])
            done.append(name)
    assert done == ["example", "prepare", "sft", "sample", "label", "prm", "ppo"]
    assert (at_a_checkout / "runs/demo/ppo_process/adapter_model.safetensors").is_file()
    assert (at_a_checkout / "runs/demo/ppo_process/metrics.jsonl").is_file()
    for other in ("README.md", "docs/reference/verifiers.md", "docs/reference/policy.md"):
        python = blocks(ROOT / other, "python")
        assert python
        for block in python:
            exec(compile(block.text, block.name, "exec"), {})
