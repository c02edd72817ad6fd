"""Two processes fill one folder of shards, each with its share of the chunks."""

import json

import pytest

from rlstep.runtime.rows import write_rows
from rlstep.stages.score import ScoreConfig, score
from rlstep.steps.records import read_solutions
from rlstep.verifiers.spec import VerifierSpec
from rlstep.verifiers.training.start import new_verifier


@pytest.mark.distributed
@pytest.mark.slow
def test_two_processes_score_what_one_does(tiny_lm, tokenizer, task, tmp_path, launch):
    from rlstep.tasks.base import checked

    new_verifier(tiny_lm, VerifierSpec("prm")).save_pretrained(tmp_path / "prm")
    tokenizer.save_pretrained(tmp_path / "prm")
    data = tmp_path / "solutions.jsonl"
    write_rows(data, (checked(task, solution).to_row() for solution in task.demonstrations(50, seed=0)))
    options = {"model": str(tmp_path / "prm"), "data": str(data), "chunk_rows": 8}
    score(ScoreConfig(**options, out=str(tmp_path / "one")))
    words = [word for name, value in options.items() for word in (f"--{name}", str(value))]
    # `accelerate launch` starts CPU processes through MPI alone; on GPUs it does what torchrun does.
    launch(["score", *words, "--out", str(tmp_path / "two")])
    assert json.loads((tmp_path / "two.run.json").read_text())["metrics"]["processes"] == 2
    assert sorted(path.name for path in (tmp_path / "two").iterdir()) == [f"part-{i:05d}.parquet" for i in range(7)]
    one, two = read_solutions(tmp_path / "one"), read_solutions(tmp_path / "two")
    assert [(s.problem_id, s.sample) for s in one] == [(s.problem_id, s.sample) for s in two]
    for left, right in zip(one, two, strict=True):
        assert left.scores["prm"] == pytest.approx(right.scores["prm"], abs=1e-6)
