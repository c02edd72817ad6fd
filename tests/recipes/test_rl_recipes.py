"""Two steps of every recipe of the RL families, one after the other, on tiny models.

The rows are written by hand in the published schemas. What a test without GPUs and hours needs is overridden; the rest
is each recipe's own, and what one recipe wrote is what the next one reads.
"""

import json
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import pytest
from safetensors.torch import load_file
from transformers import set_seed

from rlstep.runtime.config import load_recipe
from rlstep.runtime.rows import write_rows
from rlstep.stages import run
from rlstep.steps.records import read_solutions
from rlstep.tasks import get
from rlstep.tasks.small import small_model
from rlstep.verifiers.spec import VerifierSpec
from rlstep.verifiers.training.start import new_verifier

ROOT = Path(__file__).resolve().parents[2]
FAMILIES = ("arithmetic", "gsm8k", "math")
ARMS = sorted(path for family in FAMILIES for path in (ROOT / "recipes" / family).glob("ppo*.yaml"))
HERE = {"use_cpu": True, "bf16": False, "report_to": "none", "disable_tqdm": True, "dataloader_pin_memory": False}
TWO_STEPS = HERE | {"max_steps": 2, "save_strategy": "no", "logging_steps": 1, "warmup_steps": 0}
RL = TWO_STEPS | {
    "dtype": "float32", "use_vllm": False, "num_generations": 2, "num_generations_eval": 2, "eval_steps": 2,
    "per_device_eval_batch_size": 8, "max_completion_length": 24,
}  # fmt: skip


class Family(NamedTuple):
    """Files of a family, as its recipes wrote them.

    Attributes:
        generator: the policy's base, a plain model.
        problems: problems-rl.jsonl and problems-test.jsonl lie in it.
        labelled: labelled solutions.
        verifiers: option -> checkpoint.
    """

    generator: Path
    problems: Path
    labelled: Path
    verifiers: dict[str, Path]


def stage(command: str, recipe: str, **options) -> dict:
    """Runs a recipe with options over its own."""
    return run(command, [f"--config={recipe}", *(f"--{key}={value}" for key, value in options.items())])


def gsm8k(k: int) -> dict:
    text = f"There are {k}+{k}=<<{k}+{k}={2 * k}>>{2 * k} legs.\nOne more makes <<{2 * k}+1={2 * k + 1}>>{2 * k + 1}."
    return {"question": f"How many legs have {k} birds and a stool?", "answer": f"{text}\n#### {2 * k + 1}"}


def math(k: int) -> dict:
    return {
        "problem": f"Compute $\\frac{{{k}}}{{2}} + 1$.",
        "solution": f"We add.\n\\[\n\\frac{{{k}}}{{2}} + 1 = \\frac{{{k + 2}}}{{2}}.\n\\]\n\nIt is "
        f"$\\boxed{{\\frac{{{k + 2}}}{{2}}}}$.",
        "answer": f"\\frac{{{k + 2}}}{{2}}",
        "subject": "Prealgebra",
        "level": "Level 1",
        "unique_id": f"train/{k}.json",
    }


def tiny(tokenizer, path: Path) -> Path:
    small_model(tokenizer, hidden_size=32, layers=2, heads=2, intermediate_size=64).save_pretrained(path)
    tokenizer.save_pretrained(path)
    return path


def with_wrong_ones(folder: Path) -> Path:
    """The demonstrations, and each again with other digits, for labels of both kinds."""
    right = read_solutions(folder / "demonstrations.jsonl")
    wrong = [replace(s, sample=1, completion=s.completion.replace("1", "7").replace("2", "9")) for s in right]
    write_rows(folder / "both.jsonl", (s.to_row() for s in [*right, *wrong]))
    return folder / "both.jsonl"


def build(family: str, folder: Path) -> Family:
    """Runs the recipes before RL: prepare, sft, export where sft writes an adapter, sample, label, prm, orm."""
    sizes = {"train": 6, "rl": 16, "test": 4, "demonstrations": 24}
    if family != "arithmetic":
        for split, numbers in {"train": range(2, 42), "test": range(50, 60)}.items():
            write_rows(folder / "data" / f"{split}.jsonl", [{"gsm8k": gsm8k, "math": math}[family](k) for k in numbers])
        sizes["task_path"] = folder / "data"
    problems = folder / "prepare"
    stage("prepare", f"{family}/prepare", out=problems, small_model=False, **sizes)
    start = tiny(get(family, sizes.get("task_path")).tokenizer(), folder / "start")
    generator = folder / "sft"
    stage(
        "sft", f"{family}/sft", model_name_or_path=start, data=problems / "demonstrations.jsonl", output_dir=generator,
        **TWO_STEPS | {"dtype": "float32"},
    )  # fmt: skip
    if family == "math":
        stage("export", "math/export", policy=generator, out=folder / "generator", dtype="float32")
        generator = folder / "generator" / "merged"
    labelled = folder / "labelled.jsonl"
    stage("label", f"{family}/label", data=with_wrong_ones(problems), out=labelled)
    verifiers = {"prm": folder / "prm"} if family == "math" else {}
    if family == "math":
        # Its PRM is a published one.
        new_verifier(str(generator), VerifierSpec("prm")).save_pretrained(verifiers["prm"])
        get(family, folder / "data").tokenizer().save_pretrained(verifiers["prm"])
    for path in sorted((ROOT / "recipes" / family).glob("*rm*.yaml")):
        if path.stem not in ("prm", "orm", "orm_implicit"):
            continue
        recipe = load_recipe(path)
        more = {"eval_data": labelled, "eval_steps": 2} if "eval_data" in recipe else {}
        more |= {"dtype": "float32"} if "dtype" in recipe else {}
        out = verifiers["implicit" if path.stem == "orm_implicit" else path.stem] = folder / path.stem
        stage(
            path.stem[:3], name_of(path), model_name_or_path=generator, data=labelled, output_dir=out,
            **TWO_STEPS | {"per_device_train_batch_size": 4, "gradient_accumulation_steps": 1} | more,
        )  # fmt: skip
    return Family(generator, problems, labelled, verifiers)


def name_of(path: Path) -> str:
    return path.relative_to(ROOT / "recipes").with_suffix("").as_posix()


@pytest.fixture(scope="module")
def family_of(tmp_path_factory):
    """family_of(name): the family's files, made once."""
    made: dict[str, Family] = {}

    def give(family: str) -> Family:
        if family not in made:
            set_seed(0)
            made[family] = build(family, tmp_path_factory.mktemp(family))
        return made[family]

    return give


@pytest.mark.parametrize("family", FAMILIES)
def test_the_stages_before_rl_fit_together(family, family_of):
    files = family_of(family)
    rows = read_solutions(files.labelled, need=("steps", "labels", "correct"))
    assert {solution.correct for solution in rows} == {True, False}
    assert {0, 1} <= {label for solution in rows for label in solution.labels}
    for kind, path in files.verifiers.items():
        # GSM8K's and MATH's own verifiers are adapters, to stand on the policy's base.
        adapter = family != "arithmetic" and (family, kind) != ("math", "prm")
        assert (path / "adapter_config.json").is_file() == adapter
        assert (path / "config.json").is_file() or adapter


@pytest.mark.parametrize("split", ["train", "test"])
@pytest.mark.parametrize("family", FAMILIES)
def test_samples_are_drawn(family, split, family_of, tmp_path):
    files, out = family_of(family), tmp_path / "samples.jsonl"
    given = {"model": files.generator, "problems": files.problems / f"problems-{split}.jsonl", "out": out}
    actual = stage("sample", f"{family}/sample_{split}", **given, n=2, max_new_tokens=8, dtype="float32")
    assert len(read_solutions(out)) == actual["solutions"] == 2 * {"train": 6, "test": 4}[split]


def test_steps_are_labelled_by_rollouts(family_of, tmp_path):
    files, out = family_of("arithmetic"), tmp_path / "labelled.jsonl"
    given = {"data": files.problems / "both.jsonl", "policy": files.generator, "out": out}
    actual = stage("label", "arithmetic/label_monte_carlo", **given, rollouts=2, max_new_tokens=8)
    assert len(read_solutions(out, need=("steps", "labels", "correct"))) == actual["rows"] == 48
    assert actual["rollouts"] > 0


@pytest.mark.parametrize("path", ARMS, ids=name_of)
def test_two_steps_of_an_rl_recipe(path, family_of, tmp_path):
    recipe, files, out = load_recipe(path), family_of(path.parent.name), tmp_path / "out"
    given = {
        "model_name_or_path": files.generator, "problems": files.problems / "problems-rl.jsonl",
        "eval_problems": files.problems / "problems-test.jsonl", "output_dir": out,
        "per_device_train_batch_size": 2 if "steps_per_generation" in recipe else 4,
    }  # fmt: skip
    given |= {kind: files.verifiers[kind] for kind in ("prm", "orm", "implicit") if kind in recipe}
    if recipe.get("advantage") == "gae":
        given["guard_no_answer"] = "false"  # else no step of such a model is paid
    if "keep_samples" in recipe:
        given |= {"num_generations": 4, "keep_samples": 2}
    if "refresh_every" in recipe:
        given |= {"refresh_every": 1, "refresh_replay": files.labelled}
    metrics = stage("ppo", name_of(path), **RL | given)

    assert metrics["samples"] == given["per_device_train_batch_size"] * recipe.get("steps_per_generation", 1)
    curve = [json.loads(line) for line in (out / "eval.jsonl").read_text().splitlines()]
    assert [row["samples"] for row in curve] == [0, metrics["samples"]]
    # What was not overridden reached the run as the recipe says.
    config = json.loads((out / "run.json").read_text())["config"]
    for key in set(recipe) - set(RL) - set(given):
        if not key.startswith("vllm_"):  # switched off with use_vllm
            assert config[key] == recipe[key], key
    weights = load_file(out / "adapter_model.safetensors")
    moved = any(tensor.any() for name, tensor in weights.items() if "lora_B" in name)
    # A model that was taught nothing answers nothing, so only what judges steps tells its samples apart.
    # Of these two schemes not even that: no score may be below the threshold, and one sample alone have steps.
    if {"prm", "implicit"} & set(recipe.get("reward", ())) and recipe.get("credit") not in ("coherence", "first_error"):
        assert moved
