import json
from dataclasses import replace

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from rlstep.runtime.errors import UserError
from rlstep.stages.prepare import PrepareConfig, prepare
from rlstep.steps.problems import read_problems
from rlstep.steps.records import read_solutions
from rlstep.tasks.gsm8k import GSM8K


@pytest.fixture
def config(tmp_path) -> PrepareConfig:
    sizes = {"train": 30, "rl": 20, "test": 10, "ood": 5, "demonstrations": 40}
    return PrepareConfig(out=str(tmp_path / "out"), small_model=False, **sizes)


def test_files_are_complete_and_splits_share_no_problem(config, tmp_path):
    metrics = prepare(config)
    out = tmp_path / "out"
    sizes = {"train": 30, "rl": 20, "test": 10, "ood_long": 5, "ood_mix": 5}
    prompts = {split: [p.prompt for p in read_problems(out / f"problems-{split}.jsonl")] for split in sizes}
    assert {split: len(actual) for split, actual in prompts.items()} == sizes
    assert len({prompt for actual in prompts.values() for prompt in actual}) == sum(sizes.values())
    assert len(read_solutions(out / "demonstrations.jsonl")) == 40
    assert metrics == sizes | {"demonstrations": 40}
    record = json.loads((out / "run.json").read_text())
    assert (record["stage"], record["seed"], record["metrics"]) == ("prepare", 0, metrics)


def test_the_same_seed_writes_the_same_files(config, tmp_path):
    for name, seed in (("a", 3), ("b", 3), ("c", 4)):
        prepare(replace(config, out=str(tmp_path / name), seed=seed))
    texts = [[p.read_text() for p in sorted((tmp_path / name).glob("*.jsonl"))] for name in "abc"]
    assert texts[0] == texts[1]
    assert all(one != other for one, other in zip(texts[0], texts[2], strict=True))


def test_splits_of_no_size_leave_no_file(config, tmp_path):
    prepare(replace(config, rl=0, ood=0))
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        "problems-train.jsonl",
        "problems-test.jsonl",
        "demonstrations.jsonl",
        "run.json",
    }


def test_the_small_model_is_an_ordinary_one(config, tmp_path):
    metrics = prepare(replace(config, small_model=True))
    path = tmp_path / "out" / "model"
    model, tokenizer = AutoModelForCausalLM.from_pretrained(path), AutoTokenizer.from_pretrained(path)
    assert model.num_parameters() == metrics["parameters"]
    assert model.get_input_embeddings().num_embeddings == len(tokenizer)
    assert model.generation_config.eos_token_id == tokenizer.eos_token_id
    ids = tokenizer(read_problems(tmp_path / "out" / "problems-train.jsonl")[0].prompt, return_tensors="pt")
    with torch.no_grad():
        assert model(**ids).logits.isfinite().all()


def test_gsm8k_rows(gsm8k_dir, config, tmp_path):
    prepare(replace(config, task="gsm8k", ood=0, task_path=str(gsm8k_dir), small_model=True))
    out = tmp_path / "out"
    prompts = {s: {p.prompt for p in read_problems(out / f"problems-{s}.jsonl")} for s in ("train", "rl", "test")}
    assert [len(actual) for actual in prompts.values()] == [30, 20, 10]
    assert len(set().union(*prompts.values())) == 60
    task, tokenizer = GSM8K(str(gsm8k_dir)), AutoTokenizer.from_pretrained(out / "model")
    texts = [solution.completion for solution in read_solutions(out / "demonstrations.jsonl")]
    ids = tokenizer(texts)["input_ids"]
    assert ids == task.tokenizer()(texts)["input_ids"]
    assert tokenizer.batch_decode(ids) == texts
    assert AutoModelForCausalLM.from_pretrained(out / "model").config.vocab_size == len(tokenizer)


def test_more_demonstrations_than_rows_is_a_user_error(gsm8k_dir, config):
    with pytest.raises(UserError, match="rows of the split train were asked for; there are .* Ask for fewer"):
        prepare(replace(config, task="gsm8k", ood=0, task_path=str(gsm8k_dir), demonstrations=100_000))


def test_a_path_for_a_task_that_needs_none_is_a_user_error(config):
    with pytest.raises(UserError, match="task is 'arithmetic', so task_path would do nothing"):
        prepare(replace(config, task_path="data"))


def test_a_larger_model_is_wider_and_deeper(config, tmp_path):
    prepare(replace(config, small_model=True, hidden_size=16, layers=2))
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "out" / "model").config
    assert (model.hidden_size, model.intermediate_size, model.num_hidden_layers) == (16, 48, 2)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"hidden_size": 20}, "hidden_size is 20; give a multiple of 8"),
        ({"pretrained": "somewhere", "layers": 4}, "pretrained is somewhere, so layers would do nothing"),
        ({"small_model": False, "layers": 4}, "layers"),
    ],
)
def test_a_size_that_cannot_be_or_is_not_read_is_refused(options, message, tmp_path):
    with pytest.raises(UserError, match=message):
        PrepareConfig(out=str(tmp_path / "out"), **options)
