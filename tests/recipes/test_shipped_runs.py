"""Two steps of every recipe on public data, on a tiny model and rows written by hand in the public schemas."""

import re
from pathlib import Path

import pytest
import yaml

from rlstep.runtime.rows import write_rows
from rlstep.stages import run
from rlstep.steps.records import read_solutions, write_solutions
from rlstep.verifiers.scoring.reward_model import RewardModel

ROOT = Path(__file__).resolve().parents[2]
FAMILIES = ("prm800k", "math_shepherd")
TRAINING = sorted(
    path
    for family in FAMILIES
    for path in (ROOT / "recipes" / family).glob("*.yaml")
    if path.stem[:3] in ("prm", "orm")
)
# What a machine without GPUs and a test without hours need; everything else is the recipe's own.
SMALL = [
    "--max_steps=2", "--per_device_train_batch_size=4", "--gradient_accumulation_steps=1", "--save_strategy=no",
    "--use_cpu=true", "--bf16=false", "--report_to=none", "--dataloader_pin_memory=false", "--disable_tqdm=true",
]  # fmt: skip


def name_of(path: Path) -> str:
    return path.relative_to(ROOT / "recipes").as_posix()


@pytest.fixture
def rows(tmp_path, solutions) -> str:
    """Labelled solutions, one with a neutral step and a branch, as the `data` stage writes them."""
    solutions[0].labels, solutions[0].neutral = [None, *solutions[0].labels[1:]], [0]
    solutions[0].tree = solutions[1].tree = "t"
    write_solutions(tmp_path / "rows.parquet", solutions)
    return str(tmp_path / "rows.parquet")


@pytest.mark.parametrize("path", TRAINING, ids=name_of)
def test_two_steps_of_a_training_recipe(path, tiny_lm, rows, tmp_path):
    recipe = yaml.safe_load(path.read_text())
    out, kind = tmp_path / "out", path.stem[:3]
    paths = [f"--model_name_or_path={tiny_lm}", f"--data={rows}", f"--eval_data={rows}", f"--output_dir={out}"]
    metrics = run(kind, [f"--config={path}", *paths, *SMALL])
    assert metrics["rows"] == 12
    assert {"train_loss", "eval_accuracy", "eval_auroc"} <= set(metrics)
    verifier = RewardModel.from_pretrained(str(out))
    assert verifier.kind == kind
    # The checkpoint's name in the recipe says which head it trains.
    layout = verifier.model.config.rlstep_verifier
    assert layout["head"] == recipe.get("head", "classification")
    assert layout["neutral"] == recipe.get("neutral", "positive")
    assert layout["after_first_error"] == recipe.get("after_first_error", "mask")


def prm800k(*ratings: int, reason: str) -> dict:
    """A row whose one path has these ratings; the last step states an answer."""
    texts = [f"line {k}" for k in range(1, len(ratings))] + ["# Answer\n\n14"]
    steps = [
        {"completions": [{"text": text, "rating": rating, "flagged": None}], "human_completion": None,
         "chosen_completion": 0}
        for text, rating in zip(texts, ratings, strict=True)
    ]  # fmt: skip
    return {
        "labeler": "l", "timestamp": "2023-01-22T04:34:27", "generation": 9, "is_quality_control_question": False,
        "is_initial_screening_question": False,
        "question": {"problem": "What is 2 + 3 * 4?", "ground_truth_answer": "14"},
        "label": {"steps": steps, "total_time": 1, "finish_reason": reason},
    }  # fmt: skip


def shepherd(number: int, sign: str) -> dict:
    text = f"What is {number} + 1? Step 1: It is {number} + 1. {{}}\nStep 2: The answer is: {number + 1} {{}}"
    return {"input": text.format("ки", "ки"), "label": text.format("+", sign), "task": "GSM8K"}


PROCESSBENCH = {
    "id": "gsm8k-0", "generator": "g", "problem": "What is 1 + 1?", "steps": ["1 + 1 = 3", "So 3."],
    "final_answer_correct": False, "label": 0,
}  # fmt: skip


def write_public(folder: Path) -> None:
    """Shards with the published names; those of the other split must not be taken."""
    train = [prm800k(1, 0, 1, reason="solution"), prm800k(1, -1, reason="found_error")]
    for phase in ("phase1", "phase2"):
        write_rows(folder / f"{phase}_train.jsonl", train)
        write_rows(folder / f"{phase}_test.jsonl", train[:1])


def test_prm800k_is_read_by_its_recipes(tmp_path):
    folder = tmp_path / "public"
    folder.mkdir()
    write_public(folder)
    actual = {}
    for name, more in {"data": [], "data_test": [], "data_graded": ["--grade=true"]}.items():
        recipe, out = f"prm800k/{name.removesuffix('_graded')}", tmp_path / f"{name}.parquet"
        run("data", [f"--config={recipe}", f"--path={folder}", f"--out={out}", *more])
        actual[name] = read_solutions(out)
    assert [solution.labels for solution in actual["data"]] == [[1, None, 1], [1, 0]] * 2
    assert [solution.labels for solution in actual["data_test"]] == [[1, None, 1]] * 2
    assert {solution.correct for solution in actual["data"]} == {None}  # whatever the finish reason
    # The graded ones are what the ORM's recipe can train on.
    assert [solution.correct for solution in actual["data_graded"]] == [True, True] * 2


def test_math_shepherd_is_read_by_its_recipes(tmp_path):
    folder = tmp_path / "public"
    folder.mkdir()
    broken = {**shepherd(3, "+"), "label": "nothing of it"}
    write_rows(folder / "train.jsonl", [shepherd(1, "+"), broken, shepherd(2, "-")])
    write_rows(folder / "gsm8k.jsonl", [PROCESSBENCH])
    for name, labels in {"data": [[1, 1], [1, 0]], "data_eval": [[0, None]]}.items():
        out = tmp_path / f"{name}.parquet"
        run("data", [f"--config=math_shepherd/{name}", f"--path={folder}", f"--out={out}"])
        assert [solution.labels for solution in read_solutions(out)] == labels
    assert len((tmp_path / "data.parquet.bad_rows.jsonl").read_text().splitlines()) == 1


def test_the_score_recipe_writes_shards(verifier_path, rows, tmp_path):
    out = tmp_path / "scored"
    run("score", ["--config=prm800k/score", f"--model={verifier_path}", f"--data={rows}", f"--out={out}"])
    assert all("prm" in solution.scores for solution in read_solutions(out))
    assert sorted(path.suffix for path in out.iterdir()) == [".json", ".parquet"]  # the manifest, a shard


@pytest.fixture
def verifier_path(tiny_lm, tokenizer, tmp_path) -> str:
    from rlstep.verifiers.spec import VerifierSpec
    from rlstep.verifiers.training.start import new_verifier

    path = tmp_path / "verifier"
    new_verifier(tiny_lm, VerifierSpec("prm")).save_pretrained(path)
    tokenizer.save_pretrained(path)
    return str(path)


@pytest.mark.parametrize("family", FAMILIES)
def test_what_a_recipe_reads_another_one_writes(family):
    texts = {path.stem: path.read_text() for path in (ROOT / "recipes" / family).glob("*.yaml")}
    recipes = {name: yaml.safe_load(text) for name, text in texts.items()}
    written = {recipe.get("out", recipe.get("output_dir")) for recipe in recipes.values()}
    # A header may give the same recipe's command with another output.
    written |= {out for text in texts.values() for out in re.findall(r"--out (\S+)", text)}
    for name, recipe in recipes.items():
        for key in ("data", "eval_data", "model"):
            assert recipe.get(key) in written | {None}, f"{name}: nobody writes {recipe.get(key)}"
    outputs = [recipe.get("out", recipe.get("output_dir")) for recipe in recipes.values()]
    assert len(set(outputs)) == len(outputs)


@pytest.mark.parametrize("path", TRAINING, ids=name_of)
def test_a_recipe_writes_where_its_name_says(path):
    assert yaml.safe_load(path.read_text())["output_dir"] == f"runs/{path.parent.name}/{path.stem}"
