"""What the documentation tells to type works: shell lines are parsed by the command line, Python is run."""

import doctest
import json
import os
import re
import shlex
import tomllib
from fnmatch import fnmatch
from functools import cache
from itertools import zip_longest

import pytest
import yaml

from rlstep.policy.monitoring.glossary import METRICS
from rlstep.runtime.config import StrictParser
from rlstep.runtime.describe import Setting, describe_settings
from rlstep.stages import COMMANDS, config_classes, run
from rlstep.stages import _named as named  # how the command line reads words without an option's name
from rlstep.steps.problems import KNOWN_AS
from rlstep.steps.readers import FORMATS
from rlstep.tasks import NAMES
from tests.docs.pages import PAGES, ROOT, SITE, blocks, commands, in_line

SHELL = [block for page in PAGES for block in blocks(page, "bash")]
PYCON = [page for page in PAGES if blocks(page, "pycon")]
YAML = [block for page in PAGES for block in blocks(page, "yaml")]
# Pages whose Python a test runs: here, and in `tests/test_own_end_to_end.py`.
RUN_PYTHON = (
    "README.md",
    "docs/quickstart.md",
    "docs/guide/stages.md",
    "docs/reference/verifiers.md",
    "docs/reference/policy.md",
)
RUN_ELSEWHERE = ("docs/guide/own.md",)
TRAINING = ("sft", "prm", "orm", "ppo")
# Programs that are not ours, and what a documented line may start with before ours comes.
FOREIGN = {"export", "python", "python3", "source", "pip", "git", "make", "vllm", ".venv/bin/pre-commit"}
LAUNCHERS = ("deepspeed", "torchrun", "accelerate", "srun")
# Options in running text that are other programs'.
FOREIGN_OPTIONS = {
    "deepspeed": {
        "num_gpus",
        "num_accelerators",
        "module",
        "hostfile",
        "include",
        "no_ssh",
        "node_rank",
        "master_addr",
    },
    "torchrun": {"max_restarts"},
    "slurm": {"requeue", "kill-on-bad-exit"},
    "vllm": {"lora-modules", "served-model-name", "max-model-len", "data-parallel-size", "max-lora-rank"},
    "pip": {"no-deps"},
    "benchmarks": {"work", "shape"},
    "every command": {"config", "print_config", "help", "version", "to", "key", "no_NAME"},
}
# A word that stands for what the reader fills in.
PLACEHOLDER = re.compile(r"[A-Z_]{1,}(:\w+)?|.*\b[A-Z]{3,}\.\w+|\.\.\.")
# What a fragment of a recipe of `ppo` leaves out.
AROUND_PPO = ["--model_name_or_path=m", "--problems=p", "--task=arithmetic", "--output_dir=o", "--use_cpu=true"]
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


@cache
def settings_of(name: str) -> dict[str, Setting]:
    return {setting.name: setting for kind in config_classes(name) for setting in describe_settings(kind)}


def everywhere(setting: str) -> list[Setting]:
    """A setting of this name in every command that has it."""
    return [settings_of(name)[setting] for name in COMMANDS if setting in settings_of(name)]


def choices(setting: Setting) -> set[str]:
    return set(setting.limits.removeprefix("one of ").split(", ")) if setting.limits.startswith("one of ") else set()


def name_of(page) -> str:
    return page.relative_to(ROOT).as_posix()


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_commands_in_running_text_parse(page, own_environment, monkeypatch):
    """`rlstep NAME --option value` in sentences and tables; what a fragment leaves out may be missing."""
    monkeypatch.chdir(ROOT)
    for code in in_line(page):
        words = shlex.split(re.sub(r"( \| \w+)+", "", code)) if re.match(r"(rlstep|deepspeed|torchrun) ", code) else []
        if "rlstep" not in words or words[-1] == "rlstep":
            continue
        name, options = ours(words)
        if name in ("COMMAND", "STAGE", "NAME") or name.startswith("-"):
            continue
        assert name in COMMANDS, code
        real = []
        for word, value in zip_longest(options, options[1:], fillvalue="--"):
            if not word.startswith("--"):
                real += [] if PLACEHOLDER.fullmatch(word) else [word]
            elif PLACEHOLDER.fullmatch(value) or value.startswith("--"):  # it is named, and given no value
                option = word.removeprefix("--")
                assert option in settings_of(name) or option in FOREIGN_OPTIONS["every command"], code
            else:
                real.append(word)
        StrictParser(config_classes(name), prog=name).resolved(named(COMMANDS[name].words, real))


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_settings_in_running_text_exist(page):
    """`--option`, and `key: value` where the key is a setting: it has that value."""
    foreign = set().union(*FOREIGN_OPTIONS.values())
    for code in in_line(page):
        if code.startswith("-"):
            option = re.match(r"--([\w-]+)", code)
            assert option is None or option[1] in foreign or everywhere(option[1]), code
        key, colon, values = code.partition(": ")
        if colon and (has := everywhere(key)) and all(choices(setting) for setting in has):
            given = set(re.split(r" \| |, ", values.strip("[]")))
            assert any(given <= choices(setting) for setting in has), code


# Where every value of a setting is explained.
EXPLAINED = {
    "docs/guide/ppo.md": [("ppo", name) for name in ("credit", "advantage", "step_baseline", "critic", "kl", "alarm",
        "kl_estimator", "truncated", "refresh_labels", "vllm_sync", "keep_wrong")],
    "docs/guide/labels.md": [("label", "by"), ("label", "labels"), ("label", "search"), ("select", "strategy")],
    "docs/guide/data.md": [("prm", "boundary"), ("prm", "neutral"), ("prm", "after_first_error"),
        ("data", "on_bad_row")],
    "docs/guide/own.md": [("label", "grader")],
    "docs/guide/scale.md": [("sample", "engine"), ("score", "on_long_row")],
    "docs/guide/evaluation.md": [("evaluate", "aggregate"), ("sample", "search")],
    "docs/guide/instruct-models.md": [("sample", "prompt_format")],
    "docs/guide/verifiers.md": [("prm", "head"), ("orm", "loss"), ("evaluate", "aggregate")],
    "docs/guide/stages.md": [("ppo", "artifacts"), ("export", "what")],
    "docs/concepts.md": [("prm", "boundary")],
}  # fmt: skip


@pytest.mark.parametrize("page", EXPLAINED)
def test_a_page_names_every_value_of_its_settings(page):
    text = (ROOT / page).read_text(encoding="utf-8")
    for command, name in EXPLAINED[page]:
        values = choices(settings_of(command)[name])
        assert values, f"{command}: {name} has no choices"
        assert {value for value in values if not re.search(rf"\b{value}\b", text)} == set(), f"{command}: {name}"


# "`min_form` (default)", "`critic: head` (default)", "`kept_logits_gib` (1 by default)"
STATED_DEFAULT = re.compile(r"`(?P<code>[^`\n]+)`\s\((?:(?P<value>[^()`]+) by default|default)\)")


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_defaults_that_are_stated_are_the_defaults(page):
    for match in STATED_DEFAULT.finditer(page.read_text(encoding="utf-8")):
        key, colon, value = match["code"].partition(": ")
        if match["value"] or colon:
            has, value = everywhere(key), match["value"] or value
        else:  # one of the choices of a setting that the page explains
            explained = [settings_of(command)[name] for command, name in EXPLAINED.get(name_of(page), ())]
            has, value = [setting for setting in explained if key in choices(setting)], key
        assert any(yaml.safe_load(setting.default) == yaml.safe_load(value) for setting in has), match[0]


def test_metrics_that_are_named_are_logged():
    parts = {name.partition("/")[0] for name in METRICS if "/" in name}
    named = {code for page in SITE for code in in_line(page) if re.fullmatch(r"\w+/\w+", code)}
    named = {code for code in named if code.partition("/")[0] in parts}
    assert len(named) > 5
    assert {code for code in named if not any(fnmatch(code, name) for name in METRICS)} == set()


def test_other_peoples_names_of_fields_are_listed():
    rows = [line for line in (ROOT / "docs/guide/own.md").read_text(encoding="utf-8").splitlines() if line[:1] == "|"]
    for name, others in KNOWN_AS.items():
        [row] = [row for row in rows if row.startswith(f"| {name} |")]
        assert [other for other in others if f"`{other}`" not in row] == []


def test_pages_have_a_row_for_each_thing():
    """A command, a task, a data format, a guard that is new has a place where a reader meets it."""

    def rows(page: str) -> str:
        text = (ROOT / "docs" / "guide" / page).read_text(encoding="utf-8")
        return "\n".join(line for line in text.splitlines() if line.startswith("|"))

    assert [name for name in COMMANDS if f"`rlstep {name}`" not in rows("stages.md")] == []
    assert [name for name in NAMES if f"| `{name}` |" not in rows("tasks.md")] == []
    assert [name for name in FORMATS if f"`{name}`" not in rows("data.md")] == []
    guards = [name for name in settings_of("ppo") if name.startswith("guard_")]
    assert len(guards) > 5
    assert [name for name in guards if f"| `{name}` |" not in rows("ppo.md")] == []


@pytest.mark.parametrize("block", YAML, ids=lambda block: block.name)
def test_fragments_of_recipes_parse(block, own_environment, tmp_path):
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(block.text)
    around = list(AROUND_PPO)
    if "prm" in yaml.safe_load(block.text)["reward"]:
        around.append("--prm=folder")
    StrictParser(config_classes("ppo"), prog="ppo").parse(["--config", str(recipe), *around])


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_other_blocks_are_what_they_say(page):
    for block in blocks(page, "json"):
        try:
            json.loads(block.text)
        except json.JSONDecodeError:  # JSON lines
            for line in block.text.splitlines():
                json.loads(line)
    for block in blocks(page, ""):
        assert not re.search(r"^(rlstep|deepspeed|torchrun|accelerate) ", block.text, re.M), f"{block.name}: say bash"
    for block in blocks(page, "toml"):
        tomllib.loads(block.text)
    if blocks(page, "python"):
        assert name_of(page) in (*RUN_PYTHON, *RUN_ELSEWHERE), "no test runs the page's Python"


def test_benchmarks_that_are_named_take_the_options_that_are_named():
    for page in PAGES:
        for code in in_line(page):
            if match := re.search(r"\bbench_\w+", code):
                script = (ROOT / "tests" / "benchmarks" / f"{match[0]}.py").read_text(encoding="utf-8")
                for option in re.findall(r"--[\w-]+", code):
                    assert f'"{option}"' in script, code


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
    run("export", ["runs/demo/ppo_process", "--to", "runs/demo/exported"])  # as in stages.md
    for other in RUN_PYTHON:
        if ROOT / other == page:
            continue
        python = blocks(ROOT / other, "python")
        assert python
        for block in python:
            exec(compile(block.text, block.name, "exec"), {})
