"""The shipped recipes of the arithmetic task at the smallest sizes that still give the verifiers both labels."""

from collections.abc import Sequence
from pathlib import Path

import yaml

from rlstep.runtime.pipeline import Pipeline, Stage

RECIPES = Path(__file__).resolve().parents[1] / "recipes" / "arithmetic"

# Sixteen demonstrations learnt nearly by heart: samples of their problems have right steps and wrong ones.
VERIFIER = {"num_train_epochs": 1, "per_device_train_batch_size": 16}
PPO = {
    "max_steps": 2,
    "per_device_train_batch_size": 4,
    "per_device_eval_batch_size": 8,
    "num_generations": 2,
    "num_generations_eval": 2,
    "max_completion_length": 40,
    "eval_steps": 2,
    "save_steps": 1,
}
TINY = {
    "prepare": {"train": 16, "rl": 8, "test": 4, "ood": 4, "demonstrations": 16},
    "sft": {"max_steps": 60, "per_device_train_batch_size": 8, "save_steps": 20},
    "sample_train": {"n": 2, "max_new_tokens": 64},
    "sample_test": {"n": 2, "max_new_tokens": 64},
    "prm": VERIFIER,
    "orm": VERIFIER,
    "ppo": PPO,
    "ppo_filtered": {"num_generations": 4, "keep_samples": 2},
    "evaluate": {"ns": [1, 2], "trials": 10},
    "evaluate_domains": {"n": 2, "trials": 10},
}


def small_recipes(folder: Path) -> Path:
    """Writes them to a folder, which it returns."""
    folder.mkdir(exist_ok=True)
    for path in RECIPES.glob("*.yaml"):
        recipe = yaml.safe_load(path.read_text()) | TINY.get(path.stem, {})
        (folder / path.name).write_text(yaml.safe_dump(recipe))
    return folder


def check_order(wanted: Sequence[Stage]) -> None:
    """Each stage comes after those it reads from, reads what some stage writes, and writes where no other does."""
    before = set()
    written = {stage.output[1] for stage in wanted}
    for stage, needs in Pipeline(wanted, Path(), print, str).with_needs():
        assert before >= set(needs)
        before.add(stage.name)
        assert all(any(path == out or path.startswith(f"{out}/") for out in written) for path in stage.paths)
    assert len(before) == len(written) == len(wanted)
