"""What a user brings, from the command line: the guide's page typed as it stands, and each thing that can be wrong."""

import json
import os
import re
import sys
from importlib.metadata import EntryPoint

import pytest

from rlstep.cli import main
from rlstep.runtime import packages, plugins
from rlstep.runtime.rows import write_rows
from rlstep.steps.records import read_solutions
from tests.docs.pages import ROOT, blocks, commands

PAGE = ROOT / "docs" / "guide" / "own.md"
MODEL = "Qwen/Qwen2.5-1.5B-Instruct"
QUICK = {
    "sample": {"n": 2, "max_new_tokens": 8},
    "ppo": {
        "use_cpu": "true", "bf16": "false", "max_steps": 1, "num_generations": 2, "per_device_train_batch_size": 4,
        "max_completion_length": 8, "gradient_checkpointing": "false", "disable_tqdm": "true", "logging_steps": 1,
        "lora_r": 2, "lora_target_modules": "all-linear", "save_strategy": "no",
    },
}  # fmt: skip
SUMS = [{"Q": f"{a} + 3?", "meta": {"gold": a + 3}, "level": a} for a in (1, 2, 3, 4)]
FIELDS = "--fields=prompt=Q,reference=meta.gold"


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """An empty working directory; modules that are imported from it are forgotten afterwards."""
    before, path = set(sys.modules), list(sys.path)
    environment = dict(os.environ)
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    for name in set(sys.modules) - before:
        if str(getattr(sys.modules[name], "__file__", "")).startswith(str(tmp_path)):
            del sys.modules[name]
    sys.path[:] = path
    os.environ.clear()
    os.environ.update(environment)


@pytest.fixture
def rlstep(capsys, chat_lm):
    """Types a command, with the tiny model for the page's and sizes that take a second; returns (exit code, stderr)."""

    def type_in(name: str, *options: str) -> tuple[int, str]:
        given = [chat_lm if word == MODEL else word for word in options]
        capsys.readouterr()
        code = main([name, *given, *(f"--{key}={value}" for key, value in QUICK.get(name, {}).items())])
        return code, capsys.readouterr().err

    return type_in


@pytest.fixture
def ppo(rlstep, folder):
    write_rows(folder / "sums.jsonl", SUMS)

    def run(*options: str):
        given = ["--model_name_or_path", MODEL, "--use_peft=true", "--problems=sums.jsonl", FIELDS, "--output_dir=ppo"]
        given += [] if any(word.startswith("--task") for word in options) else ["--task=answers", "--grader=number"]
        return rlstep("ppo", *given, *options)

    return run


def last_line(folder) -> dict:
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    return next(json.loads(line) for line in lines if "reward/outcome" in line)


def test_the_page_as_it_stands(folder, rlstep):
    (rows,) = blocks(PAGE, "json")
    (folder / "sums.jsonl").write_text(rows.text)
    task, rewards = blocks(PAGE, "python")
    (folder / "my_task.py").write_text(task.text)
    (folder / "my_rewards.py").write_text(rewards.text)
    done = []
    for block in blocks(PAGE, "bash"):
        for _, name, *options in commands(block):
            code, error = rlstep(name, *options)
            assert code == 0, error
            done.append(name)
    assert done == ["sample", "label", "label", "label", "ppo"]
    for name in ("samples", "labelled", "tagged", "checked"):
        solutions = read_solutions(f"runs/sums/{name}.jsonl")
        assert [s.reference for s in solutions] == ["5", "5", "15", "15", "2", "2", "13", "13"]
        assert [s.extra for s in solutions[:3]] == [{"meta": {}, "level": 1}] * 2 + [{"meta": {}, "level": 2}]
    line = last_line(folder / "runs/sums/ppo")
    assert line["reward/own/my_rewards:short"] <= 0
    assert line["reward/own/my_rewards:terse_steps"] == 0


def test_the_pages_task_and_rewards_by_hand(folder):
    scope: dict = {}
    for block in blocks(PAGE, "python"):
        exec(compile(block.text, block.name, "exec"), scope)
    check = scope["Sums"]().check("", "2 + 3 = 5\nso\n5 + 1 = 7", "7")
    assert (check.labels, check.answer, check.correct) == ([1, None, 0], "7", True)
    assert scope["short"](["p"] * 2, ["x" * 500] * 2, ["5"] * 2, [1, 2]) == [-0.5, 0.0]
    assert scope["terse_steps"](["p"], ["x"], ["5"], [[(0, 80), (80, 200)]]) == [[0.0, -1.0]]


def test_what_is_known_of_a_problem_comes_out_of_every_stage(folder, rlstep, verifier_paths):
    write_rows(folder / "sums.jsonl", SUMS)
    sizes = ["--n", "1", "--max_new_tokens", "4"]
    assert rlstep("sample", "--model", MODEL, "--problems", "sums.jsonl", FIELDS, "--out", "s.jsonl", *sizes)[0] == 0
    assert rlstep("label", "--task", "answers", "--data", "s.jsonl", "--out", "l.jsonl")[0] == 0
    assert rlstep("score", "--model", verifier_paths["prm"], "--data", "l.jsonl", "--out", "scored")[0] == 0
    assert [s.extra["level"] for s in read_solutions("scored")] == [1, 1, 2, 2, 3, 3, 4, 4]


def test_prepare_takes_any_problems(folder, rlstep):
    rows = [{"problem": f"What is {n} + 1?", "answer": n + 1, "level": n % 3} for n in range(40)]
    write_rows(folder / "aime.jsonl", rows)
    given = ["--task", "answers", "--task_path", "aime.jsonl", "--out", "p", "--demonstrations", "0"]
    assert rlstep("prepare", *given, "--train", "6", "--rl", "4", "--test", "3", "--small_model", "true")[0] == 0
    splits = ("train", "rl", "test")
    written = {split: (folder / f"p/problems-{split}.jsonl").read_text().splitlines() for split in splits}
    assert {split: len(lines) for split, lines in written.items()} == {"train": 6, "rl": 4, "test": 3}
    problems = [json.loads(line) for lines in written.values() for line in lines]
    assert len({problem["prompt"] for problem in problems}) == 13
    for problem in problems:
        number = int(problem["prompt"].split()[2])
        assert (problem["reference"], problem["extra"]) == (str(number + 1), {"level": number % 3})
    assert (folder / "p/model/tokenizer.json").is_file()
    code, error = rlstep("prepare", *given[:-1], "5", "--train", "6", "--rl", "4", "--test", "3")
    assert (code, "task answers has none; set demonstrations: 0" in error) == (2, True)


TASK = """
from rlstep.steps.boundaries import line_steps
from rlstep.tasks.base import Check

class Right:
    def check(self, prompt, completion, reference):
        return Check(steps=line_steps(completion), labels=[1] * len(line_steps(completion)), answer="1", correct=True)

class Nothing:
    pass

class Needy:
    def __init__(self, a, b):
        pass

class Wrong(Right):
    def check(self, prompt, completion, reference):
        return RETURNED
"""


def test_a_task_of_ones_own_labels_and_pays(folder, ppo, rlstep):
    (folder / "own_task.py").write_text(TASK)
    assert ppo("--task=own_task:Right", "--reward", "outcome")[0] == 0
    assert last_line(folder / "ppo")["reward/outcome"] == 1
    assert rlstep("sample", "--model", MODEL, "--problems", "sums.jsonl", FIELDS, "--out", "s.jsonl")[0] == 0
    assert rlstep("label", "--task", "own_task:Right", "--data", "s.jsonl", "--out", "l.jsonl")[0] == 0
    assert all(s.correct and s.answer == "1" for s in read_solutions("l.jsonl"))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "sudoku",
            "no task 'sudoku'; there are arithmetic, .*increasing, .*answers, or your own as",
        ),
        ("nowhere:Right", "there is no module 'nowhere' in "),
        ("own_task:Left", r"own_task has no 'Left'; it has .*Right, Nothing, Needy"),
        ("own_task:Nothing", r"has no check\(prompt, completion, reference\), which this command calls"),
        ("own_task:Needy", "cannot be made without arguments: .*missing 2 required positional arguments"),
        ("broken:Right", r"importing broken fails: ZeroDivisionError: division by zero \(.*broken.py, line 2\)"),
        ("lacking:Right", "importing lacking fails, for it needs 'no_such_package'"),
    ],
)
@pytest.mark.parametrize("command", ["label", "ppo"])
def test_a_task_that_cannot_be_used_says_why(command, name, message, folder, ppo, rlstep, matches):
    (folder / "own_task.py").write_text(TASK)
    (folder / "broken.py").write_text("x = 1\n1 / 0\n")
    (folder / "lacking.py").write_text("import no_such_package\n")
    (folder / "s.jsonl").write_text('{"problem_id": "a", "prompt": "p", "completion": "c", "reference": "1"}\n')
    label = ("label", f"--task={name}", "--data", "s.jsonl", "--out", "l.jsonl")
    matches(ppo(f"--task={name}") if command == "ppo" else rlstep(*label), message)


PREPARED = """
from rlstep.steps.records import Problem, Solution
from rlstep.tasks.arithmetic import Arithmetic
from rlstep.tasks.base import Check

class Words:
    splits = ("train", "test", "ood_long")

    def __init__(self, path="cats"):
        self.word = path

    def problems(self, split, n, seed):
        return [Problem(f"{split}-{k}", f"{self.word} {k}?", str(k), {"k": k}) for k in range(n)]

    def demonstrations(self, n, seed):
        return [Solution(f"d-{k}", f"{self.word} {k}?", f"{k}", str(k)) for k in range(n)]

    def check(self, prompt, completion, reference):
        return Check([], [], None, False)

    def tokenizer(self):
        return Arithmetic().tokenizer()

class Fewer(Words):
    def problems(self, split, n, seed):
        return super().problems(split, n - 1, seed)

class Rows(Words):
    def problems(self, split, n, seed):
        return [{"prompt": "p"}] * n
"""


def test_prepare_takes_a_task_of_ones_own(folder, rlstep, matches):
    (folder / "words.py").write_text(PREPARED)
    sizes = ["--out", "p", "--train", "2", "--rl", "1", "--test", "2", "--ood", "1", "--demonstrations", "3"]
    assert rlstep("prepare", "--task", "words:Words", "--task_path", "dogs", *sizes)[0] == 0
    rows = [json.loads(line) for line in (folder / "p/problems-train.jsonl").read_text().splitlines()]
    assert rows[1] == {"id": "train-1", "prompt": "dogs 1?", "reference": "1", "extra": {"k": 1}}
    assert [s.completion for s in read_solutions("p/demonstrations.jsonl")] == ["0", "1", "2"]
    assert (folder / "p/problems-ood_long.jsonl").is_file()
    assert (folder / "p/model/config.json").is_file()
    matches(rlstep("prepare", "--task", "words:Fewer", *sizes), "problems returned 2, and 3 were asked for")
    matches(
        rlstep("prepare", "--task", "words:Rows", *sizes), "problems returned dict, no rlstep.steps.records.Problem"
    )
    (folder / "own_task.py").write_text(TASK)
    lacking = r"has no problems\(split, n, seed\) and no demonstrations\(n, seed\) and no tokenizer\(\)"
    matches(rlstep("prepare", "--task", "own_task:Right", *sizes), lacking)


def test_columns_reach_rewards_of_rollouts_too(folder, ppo):
    (folder / "own_rewards.py").write_text(
        "def level(prompts, completions, references, level):\n"
        "    assert [int(p.split()[0]) for p in prompts] == level, (prompts, level)\n"
        "    return level\n"
    )
    code, error = ppo("--reward", "own_rewards:level", "--advantage=vine", "--vine_rollouts=2")
    assert code == 0, error
    assert last_line(folder / "ppo")["vine/states"] > 0


@pytest.mark.parametrize(
    ("returned", "message"),
    [
        ("True", r"check returned bool, no rlstep.tasks.base.Check\(steps, labels, answer, correct\)"),
        ("Check([(0, 1)], [], '1', True)", "0 labels for 1 step"),
        ("Check([(0, 99)], [1], '1', True)", r"the step \(0, 99\), which is out of order or outside"),
        ("Check([], [], 1, True)", "the answer 1, which is neither text nor None"),
        ("Check([], [], '1', 1)", "correct: 1, which is neither True nor False"),
        ("Check([(0, 1)], [2], '1', True)", r"the labels \[2\]; a label is 1, 0 or None"),
    ],
)
def test_a_checks_mistakes_are_named(returned, message, folder, rlstep, matches):
    (folder / "own_task.py").write_text(TASK.replace("RETURNED", returned))
    (folder / "s.jsonl").write_text('{"problem_id": "a", "prompt": "p", "completion": "c", "reference": "1"}\n')
    matches(rlstep("label", "--task", "own_task:Wrong", "--data", "s.jsonl", "--out", "l.jsonl"), message)


@pytest.fixture
def matches():
    def check(result: tuple[int, str], message: str) -> None:
        code, error = result
        assert code == 2, error
        assert re.search(message, error), error

    return check


REWARDS = """
def half(prompts, completions, references):
    return [0.5] * len(completions)

def levels(prompts, completions, references, **columns):
    return columns["level"]

def steps(prompts, completions, references, steps):
    return [[0.25 for _ in spans] for spans in steps]

def two(prompts, completions):
    return [0.0] * len(completions)

def fewer(prompts, completions, references):
    return [0.5]

def infinite(prompts, completions, references):
    return [float("inf") if text else 0.0 for text in completions]

def many(prompts, completions, references, steps):
    return [[0.0] * (len(spans) + bool(spans)) for spans in steps]

def both(prompts, completions, references):
    return [[] if text else 0.0 for text in completions]

def fails(prompts, completions, references):
    return [1 / len(text) for text in completions]

def asks(prompts, completions, references, difficulty):
    return [0.0]

def asks_and_takes(prompts, completions, references, difficulty, **columns):
    return [0.0]

def one_and_takes(prompts, **columns):
    return [0.0]

def nothing(prompts, completions, references):
    return None
"""


def test_rewards_of_ones_own_are_weighted_and_logged_by_name(folder, ppo):
    (folder / "own_rewards.py").write_text(REWARDS)
    weights = json.dumps({"own_rewards:half": 3, "own_rewards:levels": 0.0})
    off = [f"--guard_{name}=false" for name in ("repeats", "filler", "after_answer", "no_answer")]
    off += ["--guard_min_steps=0", "--guard_max_steps=null", "--guard_max_step_chars=null", "--guard_restated=null"]
    off += ["--guard_reward_clip=null", "--process_weight=2", "--outcome_weight=0.5"]
    names = ["own_rewards:half", "own_rewards:levels", "own_rewards:steps"]
    code, error = ppo("--reward", *names, "--source_weights", weights, *off)
    assert code == 0, error
    line = last_line(folder / "ppo")
    assert line["reward/outcome"] == 0.5 * 3 * 0.5
    assert line["reward/own/own_rewards:half"] == 0.5
    assert 1 <= line["reward/own/own_rewards:levels"] <= 4
    count = line["steps/count"]
    assert count > 0
    assert line["reward/own/own_rewards:steps"] == pytest.approx(0.25 * count)
    assert line["reward/process"] == pytest.approx(2 * 0.25 * count)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("length", "no reward 'length'; there are prm, checker, implicit, orm, outcome, or your own"),
        ("own_rewards:none", "own_rewards has no 'none'; it has half, levels"),
        ("own_rewards:two", r"takes 2 arguments; write it as f\(prompts, completions, references, \*\*columns\)"),
        ("own_rewards:fewer", "1 value for 4 completions"),
        ("own_rewards:infinite", "inf for completion 0; a reward is a finite number"),
        ("own_rewards:many", "rewards? for the . steps? of completion 0"),
        ("own_rewards:both", r"\[\] for completion 0; before, it gave one number per completion"),
        ("own_rewards:fails", "tried on the first problem with an empty completion, it fails: ZeroDivisionError"),
        ("own_rewards:asks", "asks for difficulty, which the problems do not have; there is level, meta, steps"),
        ("own_rewards:asks_and_takes", "asks for difficulty, which the problems do not have; there is level, meta, st"),
        (
            "own_rewards:one_and_takes",
            r"takes 1 argument; write it as f\(prompts, completions, references, \*\*columns",
        ),
        ("own_rewards:nothing", "NoneType for 1 completion"),
    ],
)
def test_a_reward_that_cannot_be_used_says_why(name, message, folder, ppo, matches):
    (folder / "own_rewards.py").write_text(REWARDS)
    matches(ppo("--reward", "outcome", name), message)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["own_rewards:half", "--process_weight=2"], "pays nothing for steps, so process_weight would do nothing"),
        (["own_rewards:steps", "--outcome_weight=2"], "has no outcome reward, so outcome_weight would do nothing"),
        (
            ["own_rewards:steps", "--credit=sum"],
            "own_rewards:steps give rewards, not scores, so credit would do",
        ),
        (["own_rewards:half", "--step_discount=1"], "has no step rewards, so step_discount would do nothing"),
    ],
)
def test_settings_that_do_nothing_beside_it_are_refused(options, message, folder, ppo, matches):
    (folder / "own_rewards.py").write_text(REWARDS)
    matches(ppo("--reward", *options), message)


def test_entry_points_give_names(folder, ppo, matches, monkeypatch):
    (folder / "own_task.py").write_text(TASK)
    (folder / "own_rewards.py").write_text(REWARDS)
    points = [
        EntryPoint("right", "own_task:Right", "rlstep.tasks"),
        EntryPoint("math", "own_task:Right", "rlstep.tasks"),
        EntryPoint("half", "own_rewards:half", "rlstep.rewards"),
    ]
    monkeypatch.setattr(plugins, "entry_points", lambda group: [point for point in points if point.group == group])
    assert ppo("--task=right", "--reward", "outcome", "half")[0] == 0
    line = last_line(folder / "ppo")
    assert (line["reward/outcome"], line["reward/own/half"]) == (1.5, 0.5)
    matches(ppo("--task=sums"), "there are arithmetic, .*answers, math, right, or your own")
    matches(ppo("--task=math"), "task 'math' is rlstep's own, and the installed own_task:Right has the same name")


def test_an_empty_reference_is_a_data_error_everywhere(folder, ppo, rlstep, matches):
    write_rows(folder / "sums.jsonl", [*SUMS, {"Q": "?", "meta": {"gold": ""}}])
    message = r"sums.jsonl, row 5, field 'meta.gold': is empty"
    matches(ppo(), message)
    matches(rlstep("sample", "--model", MODEL, "--problems", "sums.jsonl", FIELDS, "--out", "s.jsonl"), message)
    given = ["--task", "answers", "--task_path", "sums.jsonl", "--out", "p", "--demonstrations", "0"]
    matches(rlstep("prepare", *given, FIELDS), message)
    rows = [{"problem_id": "a", "prompt": "p", "completion": "c", "reference": text} for text in ("1", " ")]
    write_rows(folder / "s.jsonl", rows)
    label = ("label", "--task", "answers", "--data", "s.jsonl", "--out", "l.jsonl")
    matches(rlstep(*label), r"s.jsonl, row 2, field 'reference': is empty")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--use_vllm=true"], r"use_vllm is true, which needs vllm, .* pip install 'rlstep\[vllm\]'"),
        (
            ["--report_to=wandb"],
            "report_to is 'wandb', which needs wandb, .* not installed: pip install wandb",
        ),
        (
            ["--optim=paged_adamw_8bit"],
            "'paged_adamw_8bit', which needs bitsandbytes, .*pip install bitsandbytes",
        ),
        (["--attn_implementation=flash_attention_2"], "needs flash_attn, .*pip install flash-attn"),
        (["--attn_implementation=flash_attention_3"], "needs flash_attn_interface, .*pip install kernels"),
        (["--attn_implementation=somebody/kernel"], "'somebody/kernel', which needs kernels, .*pip install kernels"),
        (
            ["--attn_implementation=sparse"],
            "attn_implementation is 'sparse', which transformers does not have; choose sdpa, eager, flex_attention, ",
        ),
    ],
)
def test_a_missing_package_is_named_before_a_model_is_loaded(options, message, ppo, rlstep, monkeypatch, matches):
    monkeypatch.setattr(packages, "find_spec", lambda name: None)
    # A model that is not there would be the next thing to fail.
    matches(ppo("--model_name_or_path=no/model", *options), message)
    if "vllm" not in options[0]:
        given = (
            "--model_name_or_path=no/model",
            "--data=none.jsonl",
            "--output_dir=o",
            "--use_cpu=true",
            "--bf16=false",
        )
        matches(rlstep("sft", *given, *options), message)
    if "attn_implementation" in options[0]:
        matches(rlstep("prm", *given, *options), message)
        matches(rlstep("score", "--model=no/model", "--data=none.jsonl", "--out=o.jsonl", *options), message)
        matches(rlstep("serve", "--model=no/model", "--port=0", *options), message)
