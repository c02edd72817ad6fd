"""Every shipped recipe parses by the command in its header, holds differences only, and arms are fair contrasts."""

import os
import re
from pathlib import Path

import pytest
import yaml

from rlstep.runtime.config import StrictParser, load_recipe, settings
from rlstep.stages import config_classes

ROOT = Path(__file__).resolve().parents[2]
RECIPES = sorted((ROOT / "recipes").rglob("*.yaml"))
FAMILIES = ("arithmetic", "gsm8k", "math", "real", "real_word_problems")
# Everything by which a reward is given. `step_discount` is one of them where rewards mean something in sums alone.
REWARD = {"reward", "prm", "orm", "implicit", "credit", "credit_parameters", "centre_wrong"}
CREDITS = {
    "sum": set(),
    "log": {"credit_parameters"},
    "clip": {"credit_parameters"},
    "delta": {"step_discount"},
    "clip_delta": {"credit_parameters", "step_discount"},
    "progress": {"credit_parameters"},
    "min_form": set(),
}


def name_of(path: Path) -> str:
    return path.relative_to(ROOT / "recipes").with_suffix("").as_posix()


def own(path: Path) -> dict:
    """What a recipe itself says, without its base's values."""
    return yaml.safe_load(path.read_text())


def changed(name: str, base: str) -> set[str]:
    """The keys in which a recipe's resolved values differ from those of another one, the output aside."""
    a, b = load_recipe(name), load_recipe(base)
    return {key for key in a | b if key not in a or key not in b or a[key] != b[key]} - {"output_dir"}


@pytest.fixture
def own_environment():
    """Configurations set environment variables (wandb, accelerate, DeepSpeed); a test's must not reach the next."""
    before = dict(os.environ)
    yield
    os.environ.clear()
    os.environ.update(before)


@pytest.mark.parametrize("path", RECIPES, ids=name_of)
def test_recipe_parses_by_the_command_in_its_header(path, own_environment, monkeypatch, tmp_path):
    relative = path.relative_to(ROOT).as_posix()
    header = re.match(r"(?:#.*\n)+", path.read_text())
    assert header, f"{relative} has no header comment"
    command = re.search(rf"\brlstep (\w+) --config {re.escape(relative)}(?:\s|$)", header[0])
    assert command, f"the header of {relative} does not hold its command, `rlstep NAME --config {relative}`"
    for named in re.findall(r"--deepspeed (\S+)", header[0]):
        assert (ROOT / named).is_file()
    # DeepSpeed's configuration is named relative to the checkout; outputs must not go there.
    monkeypatch.chdir(ROOT)
    # bfloat16, which TRL's trainers have on, is refused where there is no GPU, unless the CPU is asked for.
    here = ["--use_cpu", "true"] if command[1] in ("sft", "prm", "orm", "ppo") else []
    classes = config_classes(command[1])
    parsed = StrictParser(classes, prog=command[1]).parse(["--config", relative, *here])
    assert len(parsed) == len(classes)
    # What --print_config prints is a recipe that gives the same settings.
    printed = tmp_path / "printed.yaml"
    printed.write_text(StrictParser(classes).resolved(["--config", relative, *here]))
    assert [settings(part) for part in StrictParser(classes).parse(["--config", str(printed)])] == [
        settings(part) for part in parsed
    ]


@pytest.mark.parametrize("path", [path for path in RECIPES if "base" in own(path)], ids=name_of)
def test_a_recipe_on_a_base_holds_differences_only(path):
    recipe = own(path)
    base = load_recipe(path.parent / recipe.pop("base"))
    assert recipe, "it is its base again"
    same = sorted(key for key, value in recipe.items() if key in base and base[key] == value)
    assert not same, f"{name_of(path)} repeats values of its base: {', '.join(same)}"


@pytest.mark.parametrize("path", RECIPES, ids=name_of)
def test_the_readme_lists_a_recipe(path):
    listed = (ROOT / "recipes" / "README.md").read_text()
    section = listed[listed.index(f"`recipes/{path.parent.name}/`") :]
    assert re.search(rf"(?<![\w.]){re.escape(path.name)}\b", section)


@pytest.mark.parametrize("family", FAMILIES)
def test_arms_differ_in_what_pays_alone(family):
    """The settings of an arm are those of `ppo`, which all share, but for its reward."""
    arms = {path.stem: path for path in (ROOT / "recipes" / family).glob("ppo_*.yaml")}
    rewards = {name: load_recipe(path)["reward"] for name, path in arms.items()}
    expected = {
        "ppo_outcome": ["outcome"], "ppo_orm": ["orm"], "ppo_process": ["prm", "outcome"], "ppo_process_only": ["prm"],
    } | ({"ppo_checker": ["checker"], "ppo_implicit": ["implicit"]} if family == "arithmetic" else {})  # fmt: skip
    if family.startswith("real"):
        expected = {name: expected[name] for name in ("ppo_outcome", "ppo_process")}
    for name, reward in expected.items():
        assert rewards[name] == reward
        assert changed(f"{family}/{name}", f"{family}/ppo") <= REWARD
    assert "reward" not in load_recipe(f"{family}/ppo")


def test_the_credit_contrast_changes_the_credit_alone():
    for credit, more in CREDITS.items():
        name = f"arithmetic/ppo_process_{credit}"
        assert load_recipe(name)["credit"] == credit
        assert changed(name, "arithmetic/ppo") == {"reward", "prm", "credit"} | more
        assert load_recipe(name)["reward"] == ["prm"]


@pytest.mark.parametrize(
    ("name", "base", "keys"),
    [
        ("arithmetic/ppo_gae", "arithmetic/ppo_process", {"advantage"}),
        ("arithmetic/ppo_rloo", "arithmetic/ppo_process", {"advantage"}),
        ("arithmetic/ppo_vine", "arithmetic/ppo_outcome", {"advantage"}),
        (
            "arithmetic/ppo_first_error",
            "arithmetic/ppo_process",
            {"credit", "credit_parameters", "first_error_threshold", "process_weight", "advantage"},
        ),
        ("arithmetic/ppo_centred", "arithmetic/ppo_process", {"credit", "centre_wrong"}),
        ("arithmetic/ppo_filtered", "arithmetic/ppo_outcome", {"prm", "keep_samples"}),
        ("gsm8k/ppo_rloo", "gsm8k/ppo_process", {"advantage", "credit", "centre_wrong"}),
        ("math/ppo_rloo", "math/ppo_process", {"advantage", "credit", "centre_wrong"}),
        ("arithmetic/orm", "arithmetic/prm", set()),
        ("arithmetic/orm_implicit", "arithmetic/orm", {"loss"}),
        ("gsm8k/orm", "gsm8k/prm", {"num_train_epochs"}),
    ],
)
def test_a_contrast_is_of_one_thing(name, base, keys):
    assert changed(name, base) == keys


@pytest.mark.parametrize("family", [*FAMILIES, "paper"])
def test_what_a_recipe_reads_another_one_writes(family):
    """The paths of a run by hand and of the lab agree, and no recipe writes where another one does."""
    paths = [path for path in (ROOT / "recipes" / family).glob("*.yaml") if path.stem != "lab"]
    recipes = {path.stem: load_recipe(path) for path in paths}
    outputs = [recipe.get("out", recipe.get("output_dir")) for recipe in recipes.values()]
    assert len(set(outputs)) == len(outputs)
    # One recipe labels both the training and the test samples; its header gives the other's paths.
    written = {
        *outputs, *(out for path in paths for out in re.findall(r"--(?:out|output_dir) (\S+)", path.read_text()))
    }  # fmt: skip
    read = ("data", "eval_data", "model", "model_name_or_path", "problems", "eval_problems", "policy", "prm", "orm",
            "implicit", "refresh_replay", "teacher", "other")  # fmt: skip
    for name, recipe in recipes.items():
        for path in (recipe[key] for key in read if str(recipe.get(key)).startswith("runs/")):
            assert any(path == out or path.startswith(f"{out}/") for out in written), f"{name}: nobody writes {path}"


@pytest.mark.parametrize("path", [path for path in RECIPES if path.stem.startswith("ppo")], ids=name_of)
def test_an_arm_writes_where_its_name_says(path):
    folder = "demo" if path.parent.name == "arithmetic" else path.parent.name
    assert load_recipe(path)["output_dir"] == f"runs/{folder}/{path.stem}"
