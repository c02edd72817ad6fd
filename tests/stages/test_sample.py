import json
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig, GenerationMixin

from rlstep.runtime.errors import DataError, UserError
from rlstep.runtime.rows import write_rows
from rlstep.stages.sample import SampleConfig, sample
from rlstep.steps.problems import read_problems
from rlstep.steps.records import read_solutions


@pytest.fixture
def config(tiny_lm, task, tmp_path) -> SampleConfig:
    """Three problems, four solutions each, in batches of five: 5 + 5 + 2."""
    write_rows(tmp_path / "problems.jsonl", (asdict(p) for p in task.problems("test", 3, seed=0)))
    return SampleConfig(
        model=tiny_lm,
        problems=str(tmp_path / "problems.jsonl"),
        out=str(tmp_path / "out" / "samples.jsonl"),
        n=4,
        max_new_tokens=12,
        batch_size=5,
    )


def run(config: SampleConfig) -> list[dict]:
    sample(config)
    return [json.loads(line) for line in Path(config.out).read_text().splitlines()]


def test_n_solutions_of_every_problem_in_order(config, tmp_path):
    metrics = sample(config)
    solutions, problems = read_solutions(config.out), read_problems(config.problems)
    actual = [(s.problem_id, s.prompt, s.reference, s.sample) for s in solutions]
    assert actual == [(p.id, p.prompt, p.reference, index) for p in problems for index in range(4)]
    assert len({s.completion for s in solutions}) > 6
    assert all(s.steps is None and s.labels is None and s.correct is None for s in solutions)
    finished = sum(s.finished for s in solutions) / 12
    assert metrics == {"problems": 3, "solutions": 12, "finished": finished, "processes": 1}
    assert [path.name for path in (tmp_path / "out").glob("*")] == ["samples.jsonl", "samples.jsonl.run.json"]


def test_the_seed_decides(config, tmp_path):
    first = run(config)
    assert run(replace(config, out=str(tmp_path / "again.jsonl"))) == first
    assert run(replace(config, out=str(tmp_path / "other.jsonl"), seed=1)) != first


class Killed(Exception):
    pass


def kill_before(batch: int, monkeypatch) -> None:
    """Lets the model generate `batch` batches and raises at the next."""
    generate, calls = GenerationMixin.generate, []

    def mortal(*args, **options):
        calls.append(None)
        if len(calls) > batch:
            raise Killed
        return generate(*args, **options)

    monkeypatch.setattr(GenerationMixin, "generate", mortal)


@pytest.mark.parametrize("batches", [0, 1, 2])
def test_a_killed_run_continues_to_the_same_rows(config, tmp_path, monkeypatch, batches):
    whole = run(replace(config, out=str(tmp_path / "whole.jsonl")))
    with monkeypatch.context() as patch:
        kill_before(batches, patch)
        with pytest.raises(Killed):
            sample(config)
    partial = Path(config.out + ".partial")
    assert sum(len(file.read_text().splitlines()) for file in partial.glob("*.jsonl")) == 5 * batches
    assert not Path(config.out).exists()
    with monkeypatch.context() as patch:
        kill_before(3 - batches, patch)
        assert run(config) == whole
    assert not partial.exists()


@pytest.mark.parametrize("number", range(3))
def test_a_batch_cut_in_two_is_drawn_again(config, tmp_path, monkeypatch, number):
    whole = run(replace(config, out=str(tmp_path / "whole.jsonl")))
    with monkeypatch.context() as patch:
        patch.setattr("rlstep.runtime.output.Output._join", lambda *_: None)
        sample(config)
    part = sorted(Path(config.out + ".partial").glob("*.jsonl"))[number]
    part.write_bytes(part.read_bytes()[:40])
    with monkeypatch.context() as patch:
        kill_before(1, patch)
        assert run(config) == whole


def test_a_folder_gets_the_same_solutions_as_shards(config, tmp_path):
    folder = replace(config, out=str(tmp_path / "shards"))
    metrics = sample(folder)
    assert sample(config) == metrics
    assert read_solutions(folder.out) == read_solutions(config.out)
    parts = [f"part-0000{number}.parquet" for number in range(3)]
    assert sorted(path.name for path in Path(folder.out).iterdir()) == ["_manifest.json", *parts]


def test_a_mended_problem_leaves_other_batches_as_they_are(config, tmp_path, monkeypatch, task):
    """Five of problem a's and b's, five of b's and c's, two of c's: after a change of a the first are drawn again."""
    config = replace(config, out=str(tmp_path / "shards"))
    sample(config)
    before = read_solutions(config.out)
    rows = [asdict(p) for p in task.problems("test", 3, seed=0)]
    write_rows(config.problems, [rows[0] | {"reference": "99"}, *rows[1:]])
    kill_before(1, monkeypatch)
    sample(config)
    after = read_solutions(config.out)
    assert after[5:] == before[5:]
    assert [solution.reference for solution in after[:4]] == ["99"] * 4


@pytest.mark.parametrize("change", ["problems", "settings", "model"])
def test_rows_of_another_run_are_not_continued(config, tmp_path, monkeypatch, change, tiny_lm):
    model = tmp_path / "model"
    AutoModelForCausalLM.from_pretrained(tiny_lm).save_pretrained(model)
    AutoTokenizer.from_pretrained(tiny_lm).save_pretrained(model)
    config = replace(config, model=str(model))
    kill_before(1, monkeypatch)
    with pytest.raises(Killed):
        sample(config)
    monkeypatch.undo()
    if change == "problems":
        rows = Path(config.problems).read_text().splitlines(keepends=True)
        Path(config.problems).write_text("".join(reversed(rows)))
    elif change == "settings":
        config = replace(config, temperature=0.5)
    else:
        trained = AutoModelForCausalLM.from_pretrained(model)
        torch.nn.init.normal_(trained.model.embed_tokens.weight)
        trained.save_pretrained(model)
    actual = run(config)
    assert actual == run(replace(config, out=str(tmp_path / "fresh.jsonl")))


def test_greedy_takes_the_likeliest_token_each_time(config):
    config = replace(config, n=1, temperature=0.0)
    model, tokenizer = AutoModelForCausalLM.from_pretrained(config.model), AutoTokenizer.from_pretrained(config.model)
    for solution in (sample(config), read_solutions(config.out))[1]:
        ids, new = tokenizer(solution.prompt)["input_ids"], []
        while len(new) < 12 and new[-1:] != [tokenizer.eos_token_id]:
            with torch.no_grad():
                new.append(model(torch.tensor([ids + new])).logits[0, -1].argmax().item())
        assert solution.completion == tokenizer.decode(new, skip_special_tokens=True)
        assert solution.finished == (new[-1] == tokenizer.eos_token_id)


def model_that_ends(config: SampleConfig, path: Path, **generation) -> str:
    """A model that writes <eos> half of the time, and `1` otherwise."""
    tokenizer = AutoTokenizer.from_pretrained(config.model)
    model = AutoModelForCausalLM.from_pretrained(config.model)
    hidden = model.config.hidden_size
    with torch.no_grad():
        # Every layer adds nothing, every token's embedding is the same but two, which the output favours.
        for layer in model.model.layers:
            layer.self_attn.o_proj.weight.zero_()
            layer.mlp.down_proj.weight.zero_()
        model.model.embed_tokens.weight.copy_(torch.ones(hidden).expand(len(tokenizer), -1))
        model.lm_head.weight = torch.nn.Parameter(torch.zeros(len(tokenizer), hidden))
        model.lm_head.weight[[tokenizer.eos_token_id, tokenizer.convert_tokens_to_ids("1")]] = 1.0
    model.config.tie_word_embeddings = False
    for name, value in generation.items():
        setattr(model.generation_config, name, value)
    model.save_pretrained(path)
    tokenizer.save_pretrained(path)
    return str(path)


def test_completions_end_at_eos(config, tmp_path):
    config = replace(config, model=model_that_ends(config, tmp_path / "ends"), n=40, batch_size=60, max_new_tokens=3)
    metrics = sample(config)
    solutions = read_solutions(config.out)
    assert {(s.completion, s.finished) for s in solutions} == {("", True), ("1", True), ("11", True), ("111", False)}
    assert metrics["finished"] == sum(s.finished for s in solutions) / 120
    # 1 - 2^-3, give or take four standard deviations
    assert metrics["finished"] == pytest.approx(0.875, abs=0.12)


def test_completions_end_at_any_end_token_as_in_training(config, tmp_path):
    """At the tokenizer's, and at those of the generation configuration: the end of a turn, of a chat model."""
    one = AutoTokenizer.from_pretrained(config.model).convert_tokens_to_ids("1")
    path = model_that_ends(config, tmp_path / "turns", eos_token_id=[one])
    config = replace(config, model=path, n=40, batch_size=60, max_new_tokens=3)
    assert sample(config)["finished"] == 1
    assert {(s.completion, s.finished) for s in read_solutions(config.out)} == {("", True), ("1", True)}


def test_only_the_options_shape_the_sampling(config, tmp_path):
    """What a published model's generation_config.json would add in silence is left out."""
    config = replace(config, n=40, batch_size=120, max_new_tokens=3)
    plain = run(replace(config, model=model_that_ends(config, tmp_path / "plain")))
    habits = {"repetition_penalty": 50.0, "do_sample": True, "top_k": 1, "min_new_tokens": 3, "temperature": 9.0}
    model = model_that_ends(config, tmp_path / "habits", **habits)
    assert GenerationConfig.from_pretrained(model).repetition_penalty == 50
    assert run(replace(config, model=model, out=str(tmp_path / "b.jsonl"))) == plain


@pytest.mark.parametrize("option", [{"top_p": 0.05}, {"top_k": 1}, {"temperature": 0.05}])
def test_each_way_to_truncate_narrows_the_choice(config, tmp_path, option):
    def kinds(**options) -> int:
        out = str(tmp_path / f"{len(options)}.jsonl")
        rows = run(replace(config, n=30, max_new_tokens=1, batch_size=90, out=out, **options))
        return len({row["completion"] for row in rows})

    assert kinds(**option) < kinds() / 2


def test_an_adapter_samples_as_its_merged_model(config, tmp_path):
    lora = LoraConfig(r=4, lora_alpha=64, target_modules="all-linear", init_lora_weights=False)
    torch.manual_seed(0)
    policy = get_peft_model(AutoModelForCausalLM.from_pretrained(config.model), lora)
    tokenizer = AutoTokenizer.from_pretrained(config.model)
    for name, model in (("adapter", policy), ("merged", None)):
        (model or policy.merge_and_unload()).save_pretrained(tmp_path / name)
        tokenizer.save_pretrained(tmp_path / name)
    rows = {}
    for name in ("adapter", "merged"):
        out = str(tmp_path / f"{name}.jsonl")
        rows[name] = run(replace(config, model=str(tmp_path / name), out=out, n=1, temperature=0.0))
    assert rows["adapter"] == rows["merged"]
    assert rows["adapter"] != run(replace(config, n=1, temperature=0.0))


@pytest.fixture
def long_prompt(config, task) -> None:
    """The second of the three prompts fills the model's 512 positions."""
    rows = [asdict(p) for p in task.problems("test", 3, seed=0)]
    rows[1] |= {"id": "endless", "prompt": "Left to right, mod 20: 1" + " + 1" * 600 + "\n"}
    write_rows(config.problems, rows)


@pytest.mark.usefixtures("long_prompt")
def test_a_prompt_longer_than_the_model_is_named_before_anything_is_sampled(config, monkeypatch):
    kill_before(0, monkeypatch)
    named = (
        r"problems.jsonl, row 2, field 'prompt': 603 tokens \(problem 'endless'\) and 12 new ones exceed the model's"
    )
    with pytest.raises(DataError, match=named + " 512.* that are too long: 1. With on_long_row: skip"):
        sample(config)
    assert not Path(config.out).exists()


@pytest.mark.usefixtures("long_prompt")
def test_a_prompt_longer_than_the_model_may_be_left_out(config, caplog):
    config = replace(config, on_long_row="skip")
    metrics = sample(config)
    assert [(s.problem_id == "endless", s.sample) for s in read_solutions(config.out)] == [
        (False, index) for _ in range(2) for index in range(4)
    ]
    assert (metrics["solutions"], metrics["skipped_rows"]) == (8, 4)
    assert caplog.text.count("the prompts of 1 problem are too long") == 1
    # Batches of long prompts alone are passed over; with an error they are not taken for finished.
    config = replace(config, batch_size=1, out=config.out.removesuffix(".jsonl"))
    assert sample(config)["solutions"] == 8
    with pytest.raises(DataError, match="on_long_row"):
        sample(replace(config, on_long_row="error"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"temperature": 0.0, "n": 2}, "temperature 0 gives one solution 2 times over"),
        ({"temperature": -1.0}, "temperature is -1.0; it must be at least 0"),
        ({"n": 0}, "n is 0; it must be at least 1"),
        ({"batch_size": 0}, "batch_size is 0"),
        ({"max_new_tokens": 0}, "max_new_tokens is 0"),
        ({"top_p": 0.0}, "top_p is 0.0; it must be above 0 and at most 1"),
        ({"top_p": 1.5}, "top_p is 1.5"),
        ({"top_k": -1}, "top_k is -1"),
    ],
)
def test_settings_that_make_no_sense_are_refused(config, change, message):
    with pytest.raises(UserError, match=message):
        replace(config, **change)


def test_the_problems_are_not_replaced(config):
    before = Path(config.problems).read_text()
    with pytest.raises(UserError, match="which this run reads and would be replaced"):
        sample(replace(config, out=config.problems))
    assert Path(config.problems).read_text() == before


def test_a_missing_model_is_named(config, tmp_path):
    with pytest.raises(UserError, match="no-model: no tokenizer can be loaded from here"):
        sample(replace(config, model=str(tmp_path / "no-model")))
