"""Several processes fill one output of `sample` and `score`, each with its share of the batches and chunks."""

import json
import time
from dataclasses import asdict
from pathlib import Path

import pytest

from rlstep.runtime.rows import write_rows
from rlstep.stages.sample import SampleConfig, sample
from rlstep.stages.score import ScoreConfig, score
from rlstep.steps.chunks import chunk_units
from rlstep.steps.records import read_solutions
from rlstep.verifiers.spec import ImplicitSpec
from tests.distributed.conftest import also

pytestmark = [pytest.mark.distributed, pytest.mark.slow]


@pytest.fixture
def data(task, tmp_path) -> str:
    """Fifty solutions."""
    from rlstep.tasks.base import checked

    path = tmp_path / "solutions.jsonl"
    write_rows(path, (checked(task, solution).to_row() for solution in task.demonstrations(50, seed=0)))
    return str(path)


@pytest.fixture
def problems(task, tmp_path) -> str:
    """Six problems."""
    write_rows(tmp_path / "problems.jsonl", (asdict(problem) for problem in task.problems("test", 6, seed=0)))
    return str(tmp_path / "problems.jsonl")


def words(options: dict) -> list[str]:
    return [word for name, value in options.items() for word in (f"--{name}", str(value))]


def recipe(folder: Path) -> list[str]:
    """Four samples of each problem; launchers take `--n` for an option of their own that is not written out."""
    (folder / "sample.yaml").write_text("n: 4\n")
    return ["--config", str(folder / "sample.yaml")]


def metrics(out: Path) -> dict:
    return json.loads(out.with_name(out.name + ".run.json").read_text())["metrics"]


# `accelerate launch` starts CPU processes through MPI alone; on GPUs it does what torchrun does.
@pytest.mark.parametrize(("by", "name"), [("torchrun", "two.jsonl"), also("torchrun", "two"), also("deepspeed", "two")])
def test_two_processes_score_what_one_does(verifier_paths, data, tmp_path, launch, by, name):
    options = {"model": verifier_paths["prm"], "data": data, "chunk_rows": 12}
    score(ScoreConfig(**options, out=str(tmp_path / "one")))
    log = launch(["score", *words(options), "--out", str(tmp_path / name)], by=by)
    assert metrics(tmp_path / name)["processes"] == 2
    assert log.count("score: rows 50") == 1
    one, two = read_solutions(tmp_path / "one"), read_solutions(tmp_path / name)
    assert [(s.problem_id, s.sample) for s in one] == [(s.problem_id, s.sample) for s in two]
    for left, right in zip(one, two, strict=True):
        assert left.scores["prm"] == pytest.approx(right.scores["prm"], abs=1e-6)


@pytest.mark.parametrize(("by", "name"), [("deepspeed", "two"), also("torchrun", "two.jsonl")])
def test_two_processes_sample_what_one_does(tiny_lm, problems, tmp_path, launch, by, name):
    options = {"model": tiny_lm, "problems": problems, "batch_size": 5, "max_new_tokens": 12}
    sample(SampleConfig(**options, n=4, out=str(tmp_path / "one.jsonl")))
    log = launch(["sample", *recipe(tmp_path), *words(options), "--out", str(tmp_path / name)], by=by)
    assert metrics(tmp_path / name)["processes"] == 2
    assert read_solutions(tmp_path / name) == read_solutions(tmp_path / "one.jsonl")
    # The first batch has no answer: a warning of the process that drew it, once.
    assert log.count("of the first 5 completions") == 1


def test_long_rows_of_all_processes_are_in_one_error(verifier_paths, data, tmp_path, launch):
    """Of two chunks, one row each; both processes know of both."""
    solutions = read_solutions(data)
    for number in (3, 45):
        solutions[number].completion = "7 + 3 = 10\n" * 200
        solutions[number].steps = solutions[number].labels = None
    write_rows(data, (solution.to_row() for solution in solutions))
    options = {"model": verifier_paths["prm"], "data": data, "chunk_rows": 12, "out": str(tmp_path / "two")}
    log = launch(["score", *words(options)], code=1)
    assert log.count("rlstep score: error:") == 1
    assert "solutions.jsonl, row 4 (" in log
    assert "Rows that are too long: 2; " in log
    assert "solutions.jsonl, row 46 (" in log
    log = launch(["score", *words(options), "--on_long_row", "skip"])
    assert log.count("2 rows are longer than the verifier") == 1
    assert metrics(tmp_path / "two")["skipped_rows"] == 2
    assert len(read_solutions(tmp_path / "two")) == 48


def test_an_error_of_one_process_ends_all_of_them(tiny_lm, tokenizer, data, tmp_path, launch):
    """The second has a row that an implicit PRM cannot be asked about; the first waits for it."""
    from transformers import AutoModelForCausalLM

    path = tmp_path / "implicit"
    model = AutoModelForCausalLM.from_pretrained(tiny_lm)
    model.save_pretrained(path)
    told = json.loads((path / "config.json").read_text()) | {"rlstep_verifier": ImplicitSpec(beta=0.1).to_config()}
    (path / "config.json").write_text(json.dumps(told))
    model.save_pretrained(path / "reference")
    tokenizer.save_pretrained(path)
    solutions = read_solutions(data)
    solutions[next(chunk_units(solutions, 12, "")).rows].prompt = ""
    write_rows(data, (solution.to_row() for solution in solutions))
    options = {"model": path, "data": data, "chunk_rows": 12, "out": tmp_path / "out"}
    log = launch(["score", *words(options)], by="torchrun", code=1)
    assert log.count("a prompt is empty") == 1
    # The launcher has a traceback of its own; ours say in a line what happened.
    assert "[rank0]: Traceback" not in log


def test_a_killed_run_of_one_process_is_finished_by_two(tiny_lm, problems, tmp_path, launch, warm):
    """SIGKILL after two of twelve batches."""
    options = {"model": tiny_lm, "problems": problems, "batch_size": 2, "max_new_tokens": 12}
    sample(SampleConfig(**options, n=4, out=str(tmp_path / "whole")))
    out = tmp_path / "out"
    asked = ["sample", *recipe(tmp_path), *words(options), "--out", str(out)]
    partial = tmp_path / "out.partial"
    run = warm().start("tests.warm:command", *asked, log=tmp_path / "killed.txt")
    while len(kept := list(partial.glob("*.json"))) < 3 and run.alive:
        time.sleep(0.01)
    run.kill()
    times = {path: path.stat().st_mtime_ns for path in kept if path.is_file()}
    if partial.is_dir():  # else it was faster than we are
        launch(asked)
    assert times
    assert read_solutions(out) == read_solutions(tmp_path / "whole")
    assert sorted(path.name for path in tmp_path.iterdir() if path.name.startswith("out")) == ["out", "out.run.json"]
