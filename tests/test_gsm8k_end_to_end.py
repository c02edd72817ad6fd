"""Every stage, one after the other, over published GSM8K rows with a model far too small for them.

A model of this size answers nothing, so published solutions, and the same with a wrong result put in, stand beside its
samples wherever a stage needs right and wrong ones.
"""

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from peft import AutoPeftModelForCausalLM
from transformers import AutoModelForCausalLM, AutoTokenizer

from rlstep.runtime.rows import write_rows
from rlstep.stages import run
from rlstep.steps.problems import read_problems
from rlstep.steps.records import Solution, read_solutions
from rlstep.tasks.calculator import annotations_hold

SAMPLES = 4
QUICK = {"use_cpu": "true", "disable_tqdm": "true", "dataloader_pin_memory": "false", "save_strategy": "no"}
POLICY = QUICK | {"bf16": "false", "gradient_checkpointing": "false", "dtype": "float32"}


def stage(command: str, /, **options) -> dict:
    words = []
    for key, value in options.items():
        words += [f"--{key}", *(map(str, value) if isinstance(value, list) else [str(value)])]
    return run(command, words)


def record(path: Path) -> dict:
    actual = json.loads(path.read_text())
    assert actual["seconds"] > 0
    assert actual["versions"]["torch"] == torch.__version__
    return actual


@pytest.fixture(scope="module")
def published_rows(gsm8k_dir, tmp_path_factory) -> Path:
    """A folder with the first short rows of each published file: with few merges a long one is beyond the model."""
    folder = tmp_path_factory.mktemp("published")
    for name in ("train.jsonl", "test.jsonl"):
        lines = (gsm8k_dir / name).read_text(encoding="utf-8").splitlines()
        write_rows(folder / name, [json.loads(line) for line in lines if len(line) < 400][:300])
    return folder


@pytest.fixture(scope="module")
def folder(published_rows, tmp_path_factory) -> Path:
    """Problems, a small model, and that model after a little imitation."""
    folder = tmp_path_factory.mktemp("gsm8k")
    task = {"task": "gsm8k", "task_path": published_rows}
    stage("prepare", out=folder / "prepare", **task, train=4, rl=4, test=3, demonstrations=32)
    stage(
        "sft", model_name_or_path=folder / "prepare" / "model", data=folder / "prepare" / "demonstrations.jsonl",
        output_dir=folder / "sft", max_steps=8, per_device_train_batch_size=8, learning_rate=3e-3, logging_steps=1,
        **POLICY,
    )  # fmt: skip
    return folder


@pytest.fixture(scope="module")
def published(folder) -> list[Solution]:
    return read_solutions(folder / "prepare" / "demonstrations.jsonl")


@pytest.fixture(scope="module")
def verifiers(folder, published_rows, published) -> Path:
    """Samples of the training problems, labelled, and a PRM and an ORM trained on them and on published solutions."""
    stage(
        "sample", model=folder / "sft", problems=folder / "prepare" / "problems-train.jsonl",
        out=folder / "train" / "samples.jsonl", n=2, max_new_tokens=24,
    )  # fmt: skip
    samples = read_solutions(folder / "train" / "samples.jsonl")
    wrong = [replace(s, sample=1, completion=with_wrong_result(s)) for s in published]
    write_rows(folder / "train" / "all.jsonl", (s.to_row() for s in [*samples, *published, *wrong]))
    stage(
        "label", data=folder / "train" / "all.jsonl", out=folder / "train" / "labelled.jsonl", task="gsm8k",
    )  # fmt: skip
    for kind in ("prm", "orm"):
        stage(
            kind, model_name_or_path=folder / "sft", data=folder / "train" / "labelled.jsonl", output_dir=folder / kind,
            num_train_epochs=1, per_device_train_batch_size=16, learning_rate=1e-3, logging_steps=1, **QUICK,
        )  # fmt: skip
    return folder


def with_wrong_result(solution: Solution) -> str:
    """The published solution with another result in its last annotation and another answer."""
    before, _, after = solution.completion.rpartition("=")
    return f"{before}=1{after}".replace("#### ", "#### 1")


def test_prepare_writes_published_rows(folder):
    prepared = folder / "prepare"
    train, rl, test = (read_problems(prepared / f"problems-{split}.jsonl") for split in ("train", "rl", "test"))
    assert [len(train), len(rl), len(test)] == [4, 4, 3]
    assert len({p.prompt for p in [*train, *rl, *test]}) == 11
    assert all(math.isfinite(float(p.reference.replace(",", ""))) for p in [*train, *rl, *test])
    tokenizer = AutoTokenizer.from_pretrained(prepared / "model")
    for problem in train:
        assert tokenizer.decode(tokenizer(problem.prompt)["input_ids"]) == problem.prompt


def test_sft_lowers_the_loss(folder, published):
    metrics = record(folder / "sft" / "run.json")["metrics"]
    assert metrics["demonstrations"] == 32
    tokenizer = AutoTokenizer.from_pretrained(folder / "sft")
    losses = []
    for path in ("prepare/model", "sft"):
        model = AutoModelForCausalLM.from_pretrained(folder / path)
        with torch.no_grad():
            texts = [tokenizer(s.prompt + s.completion, return_tensors="pt")["input_ids"] for s in published[:8]]
            losses.append(sum(model(ids, labels=ids).loss.item() for ids in texts) / 8)
    # An untrained model of some 1,000 tokens holds all of them equally likely.
    assert losses[0] == pytest.approx(math.log(len(tokenizer)), abs=0.5)
    assert losses[1] < losses[0] - 1
    assert losses[1] < metrics["train_loss"] < losses[0]


def test_samples_are_labelled_and_so_are_published_solutions(verifiers, published):
    train = {p.id: p for p in read_problems(verifiers / "prepare" / "problems-train.jsonl")}
    rows = read_solutions(verifiers / "train" / "labelled.jsonl", need=("steps", "labels", "correct"))
    samples, right, wrong = rows[:8], rows[8:40], rows[40:]
    assert [(s.problem_id, s.sample) for s in samples] == [(name, index) for name in train for index in range(2)]
    assert all(s.prompt == train[s.problem_id].prompt for s in samples)
    assert sum(len(s.completion) > 0 for s in samples) > 4

    assert [s.completion for s in right] == [s.completion for s in published]
    assert all(s.correct and 0 not in s.labels and s.labels[-1] == 1 for s in right)
    assert not any(s.correct or s.labels[-1] for s in wrong)
    for solution in [*right, *wrong]:
        for text, label in list(zip(solution.step_texts, solution.labels, strict=True))[:-1]:
            assert annotations_hold(text) == (None if label is None else bool(label))
    assert sum(0 in s.labels[:-1] for s in wrong) > 16
    metrics = record(verifiers / "train" / "labelled.jsonl.run.json")["metrics"]
    assert (metrics["rows"], metrics["accuracy"]) == (72, pytest.approx(32 / 72))


def test_curves_of_published_solutions_among_samples(verifiers, published_rows):
    test = {p.id: p for p in read_problems(verifiers / "prepare" / "problems-test.jsonl")}
    stage(
        "sample", model=verifiers / "sft", problems=verifiers / "prepare" / "problems-test.jsonl",
        out=verifiers / "test" / "samples.jsonl", n=SAMPLES, max_new_tokens=24,
    )  # fmt: skip
    solutions = read_solutions(verifiers / "test" / "samples.jsonl")
    assert len(solutions) == len(test) * SAMPLES
    texts = {}
    for line in (published_rows / "test.jsonl").read_text().splitlines():
        row = json.loads(line)
        texts[row["question"].strip()] = row["answer"]
    for solution in solutions:
        if solution.sample == 0:
            solution.completion = next(text for question, text in texts.items() if question in solution.prompt)
    write_rows(verifiers / "test" / "mixed.jsonl", (s.to_row() for s in solutions))

    stage(
        "label", data=verifiers / "test" / "mixed.jsonl", out=verifiers / "test" / "labelled.jsonl", task="gsm8k",
    )  # fmt: skip
    source = "labelled"
    for kind in ("prm", "orm"):
        stage(
            "score", model=verifiers / kind, name=kind, data=verifiers / "test" / f"{source}.jsonl",
            out=verifiers / "test" / f"{kind}.jsonl",
        )  # fmt: skip
        source = kind
    scored = read_solutions(verifiers / "test" / "orm.jsonl", need=("steps", "labels", "correct"))
    for solution in scored:
        assert solution.correct == (solution.sample == 0)
        for kind in ("prm", "orm"):
            assert len(solution.scores[kind]) == len(solution.steps)
            assert all(0 < value < 1 for value in solution.scores[kind])
    assert len({value for s in scored for value in s.scores["prm"]}) > len(test)

    stage("evaluate", data=verifiers / "test" / "orm.jsonl", out=verifiers / "evaluate", ns=[1, 2, SAMPLES])
    curves = json.loads((verifiers / "evaluate" / "best_of_n.json").read_text())
    assert (curves["ns"], curves["problems"], curves["samples_per_problem"]) == ([1, 2, 4], 3, 4)
    # One right sample of four: drawn with N of them with probability N / 4.
    assert curves["pass_at_n"]["mean"] == pytest.approx([0.25, 0.5, 1.0])
    assert all(0 <= value <= 1 for name in ("prm", "orm", "majority") for value in curves[name]["mean"])


def test_ppo_and_export(verifiers, published_rows):
    problems = {"problems": "rl", "eval_problems": "test"}
    metrics = stage(
        "ppo", model_name_or_path=verifiers / "sft", task="gsm8k", reward="prm",
        guard_no_answer="false", guard_min_steps=0,
        prm=verifiers / "prm", advantage="gae", output_dir=verifiers / "ppo", use_peft="true", lora_r=4,
        lora_target_modules="all-linear", learning_rate=1e-2, beta=0.01, max_steps=2, logging_steps=1,
        per_device_train_batch_size=8, num_generations=4, max_completion_length=24, eval_strategy="steps", eval_steps=2,
        per_device_eval_batch_size=3, num_generations_eval=1,
        **{key: verifiers / "prepare" / f"problems-{split}.jsonl" for key, split in problems.items()}, **POLICY,
    )  # fmt: skip
    assert metrics["samples"] == 8
    assert math.isfinite(metrics["train_loss"])
    (row,) = [json.loads(line) for line in (verifiers / "ppo" / "eval.jsonl").read_text().splitlines()]
    assert (row["update"], row["samples"]) == (1, 8)
    assert 0 <= row["clean_accuracy"] <= row["accuracy"] <= 1

    stage("export", policy=verifiers / "ppo", out=verifiers / "export")
    tokenizer = AutoTokenizer.from_pretrained(verifiers / "export" / "merged")
    ids = tokenizer(read_problems(verifiers / "prepare" / "problems-test.jsonl")[0].prompt, return_tensors="pt")
    with torch.no_grad():
        adapted = AutoPeftModelForCausalLM.from_pretrained(verifiers / "export" / "adapter")(**ids).logits
        merged = AutoModelForCausalLM.from_pretrained(verifiers / "export" / "merged")(**ids).logits
        before = AutoModelForCausalLM.from_pretrained(verifiers / "sft")(**ids).logits
    torch.testing.assert_close(merged, adapted, atol=1e-4, rtol=1e-4)
    assert not torch.allclose(merged, before, atol=1e-2)
