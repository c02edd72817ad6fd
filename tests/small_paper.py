"""The recipes of the paper's experiments at the smallest sizes that still give every verifier both labels."""

from pathlib import Path

import yaml

from rlstep.runtime.recipes import load_recipe

RECIPES = Path(__file__).resolve().parents[1] / "recipes" / "paper"

VERIFIER = {"max_steps": 2, "per_device_train_batch_size": 8}
# Enough for some right steps in samples of new problems, and wrong ones.
SFT = {"max_steps": 150, "per_device_train_batch_size": 16}
PREPARE = {"train": 16, "rl": 8, "test": 4, "demonstrations": 400}
TINY = {
    "prepare": PREPARE,
    "prepare_active": PREPARE,
    "prepare_teacher": {"train": 16, "demonstrations": 400, "hidden_size": 32, "layers": 1},
    "sft": SFT,
    "sft_teacher": SFT,
    "sft_active": SFT,
    "sample_pool": {"n": 6},
    "sample_active": {"n": 6},
    "sample_test": {"n": 4},
    "sample_test_active": {"n": 4},
    "prm_teacher": {"max_steps": 10, "per_device_train_batch_size": 8},
    # A teacher that was hardly taught is sure of nothing: at this threshold it passes some steps and not others.
    "label_teacher": {"p_negative": 0.55},
    "label_outcome": {"p_negative": 0.8},
    "select_few": {"budget": 30},
    "label_monte_carlo": {"token_budget": 4000},
    "prm": VERIFIER,
    "prm_synthetic": VERIFIER,
    "orm": VERIFIER,
    "evaluate": {"ns": [1, 4]},
}


def small_recipes(folder: Path) -> Path:
    """Writes them, without bases, to a folder, which it returns."""
    folder.mkdir(exist_ok=True)
    for path in RECIPES.glob("*.yaml"):
        (folder / path.name).write_text(yaml.safe_dump(load_recipe(path) | TINY.get(path.stem, {})))
    return folder
