"""Every shipped recipe parses by the command in its header, and the RL arms are a fair pair."""

import os
import re
from pathlib import Path

import pytest
import yaml

from rlstep.commands import config_classes
from rlstep.runtime.config import StrictParser

ROOT = Path(__file__).resolve().parents[2]
RECIPES = sorted((ROOT / "recipes").rglob("*.yaml"))
ARMS = {name: ROOT / "recipes" / "arithmetic" / f"ppo_{name}.yaml" for name in ("outcome", "process", "process_only")}


@pytest.fixture
def own_environment():
    """Configurations set environment variables (wandb, accelerate, DeepSpeed); a test's must not reach the next."""
    before = dict(os.environ)
    yield
    os.environ.clear()
    os.environ.update(before)


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.relative_to(ROOT / "recipes").as_posix())
def test_recipe_parses_by_the_command_in_its_header(path, own_environment, monkeypatch):
    relative = path.relative_to(ROOT).as_posix()
    header = re.match(r"(?:#.*\n)+", path.read_text())
    assert header, f"{relative} has no header comment"
    command = re.search(rf"\brlstep (\w+) --config {re.escape(relative)}(?:\s|$)", header[0])
    assert command, f"the header of {relative} does not hold its command, `rlstep NAME --config {relative}`"
    # DeepSpeed's configuration is named relative to the checkout; outputs must not go there.
    monkeypatch.chdir(ROOT)
    # bfloat16 is refused where there is no GPU, unless the CPU is asked for.
    here = ["--use_cpu", "true"] if "bf16" in yaml.safe_load(path.read_text()) else []
    parsed = StrictParser(config_classes(command[1]), prog=command[1]).parse(["--config", relative, *here])
    assert len(parsed) == len(config_classes(command[1]))


def lines(path: Path) -> set[str]:
    """A recipe's `key: value` lines, without its comments."""
    return {line for line in path.read_text().splitlines() if line and not line.startswith("#")}


def test_the_arms_differ_in_the_reward_lines_alone():
    shared = set.intersection(*map(lines, ARMS.values()))
    own = {arm: sorted(lines(path) - shared) for arm, path in ARMS.items()}
    process = ["output_dir: runs/demo/ppo_process", "reward: process", "reward_model: runs/demo/prm"]
    assert own == {
        "outcome": ["output_dir: runs/demo/ppo_outcome", "reward: outcome"],
        "process": process,
        "process_only": ["outcome_weight: 0", process[0] + "_only", *process[1:]],
    }


def test_an_arm_starts_from_the_generator_and_saves_what_it_was_given():
    """What a recipe writes is what the ones behind it read: the paths of a run by hand and of the lab agree."""
    recipes = {path.stem: yaml.safe_load(path.read_text()) for path in (ROOT / "recipes" / "arithmetic").glob("*.yaml")}
    written = {recipe.get("out", recipe.get("output_dir")) for recipe in recipes.values()}
    read = ("data", "model", "model_name_or_path", "problems", "eval_problems", "policy", "reward_model")
    # One recipe labels both the training and the test samples; its header gives the other's paths.
    written.add("runs/demo/test/labelled.jsonl")
    for name, recipe in recipes.items():
        for path in (recipe[key] for key in read if key in recipe):
            assert any(path == out or path.startswith(f"{out}/") for out in written), f"{name}: nobody writes {path}"
