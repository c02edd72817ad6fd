import json
from dataclasses import replace

import pytest

from rlstep.runtime.errors import DataError, UserError
from rlstep.runtime.rows import write_rows
from rlstep.stages.score import ScoreConfig, score
from rlstep.steps.records import read_solutions
from rlstep.verifiers.scoring.reward_model import RewardModel


@pytest.fixture
def data(tmp_path, solutions) -> str:
    solutions[0].steps = solutions[0].labels = None  # not yet labelled
    path = tmp_path / "solutions.jsonl"
    write_rows(path, (solution.to_row() for solution in [*solutions, solutions[3]]))
    return str(path)


def config(verifier_paths, data, out, **changes) -> ScoreConfig:
    return ScoreConfig(**({"model": verifier_paths["prm"], "data": data, "out": str(out), "chunk_rows": 5} | changes))


def test_scores_are_added_and_nothing_else_changes(verifier_paths, data, tmp_path):
    out = tmp_path / "scored.jsonl"
    metrics = score(config(verifier_paths, data, out))
    verifier = RewardModel.from_pretrained(verifier_paths["prm"])
    for before, after in zip(read_solutions(data), read_solutions(out), strict=True):
        (wanted,) = verifier.score([before.prompt], [before.completion])
        assert after.scores.pop("prm") == pytest.approx(wanted, abs=1e-5)
        if before.steps is None:
            assert after.steps is not None
            after.steps = None
        assert after == before
    assert metrics["rows"] == 13
    assert metrics["rows_per_second"] > 0
    assert metrics["tokens_per_second"] > 0
    assert json.loads((tmp_path / "scored.jsonl.run.json").read_text())["stage"] == "score"


@pytest.mark.parametrize("out", ["scored.jsonl", "scored"])
def test_too_long_a_solution_is_named_as_in_its_file(verifier_paths, data, tmp_path, solutions, out):
    long = replace(solutions[6], completion="7 + 3 = 10\n" * 200, steps=None, labels=None)
    write_rows(data, (solution.to_row() for solution in [*solutions[:6], long]))
    named = rf"solutions.jsonl, problem '{long.problem_id}', sample {long.sample}: \d+ tokens exceed the verifier's 512"
    with pytest.raises(UserError, match=named):
        score(config(verifier_paths, data, tmp_path / out))


@pytest.mark.parametrize("cut", [False, True])
def test_a_killed_run_continues_to_the_same_file(verifier_paths, data, tmp_path, monkeypatch, cut):
    whole, out = tmp_path / "whole.jsonl", tmp_path / "out.jsonl"
    score(config(verifier_paths, data, whole))
    calls, plain = [], RewardModel.score

    def killed(self, *args):
        if len(calls) == 2:
            raise KeyboardInterrupt
        calls.append(len(args[0]))
        return plain(self, *args)

    monkeypatch.setattr(RewardModel, "score", killed)
    with pytest.raises(KeyboardInterrupt):
        score(config(verifier_paths, data, out))
    assert not out.exists()
    partial = tmp_path / "out.jsonl.partial"
    if cut:  # inside a row, inside a chunk
        partial.write_text(partial.read_text()[:-1000])
    calls[:] = []
    monkeypatch.setattr(RewardModel, "score", lambda self, *args: calls.append(len(args[0])) or plain(self, *args))
    score(config(verifier_paths, data, out))
    assert out.read_text() == whole.read_text()
    assert calls == ([5, 3] if cut else [3])


@pytest.mark.parametrize(("chunk_rows", "scored"), [(13, 12), (5, 13)])
def test_equal_rows_of_a_chunk_are_scored_once(verifier_paths, data, tmp_path, chunk_rows, scored):
    assert score(config(verifier_paths, data, tmp_path / "a.jsonl", chunk_rows=chunk_rows))["scored_rows"] == scored


def test_two_verifiers_side_by_side(verifier_paths, data, tmp_path):
    score(config(verifier_paths, data, tmp_path / "a.jsonl"))
    second = config(
        verifier_paths, str(tmp_path / "a.jsonl"), tmp_path / "b.jsonl", model=verifier_paths["orm"], name="orm"
    )
    score(second)
    assert {tuple(s.scores) for s in read_solutions(tmp_path / "b.jsonl")} == {("prm", "orm")}


def test_scores_are_not_overwritten(verifier_paths, data, tmp_path):
    with pytest.raises(UserError, match="give another one"):
        config(verifier_paths, data, data)
    score(config(verifier_paths, data, tmp_path / "a.jsonl"))
    with pytest.raises(DataError, match=r"a\.jsonl, row 1, field 'scores\.prm'"):
        score(config(verifier_paths, str(tmp_path / "a.jsonl"), tmp_path / "b.jsonl"))


@pytest.mark.parametrize("name", ["batch_tokens", "chunk_rows"])
def test_sizes_must_be_positive(verifier_paths, data, tmp_path, name):
    with pytest.raises(UserError, match=f"{name} is 0"):
        config(verifier_paths, data, tmp_path / "a.jsonl", **{name: 0})


# --- shards


def shard_texts(folder) -> list[str]:
    return [path.name for path in sorted(folder.iterdir())]


def test_a_folder_gets_parquet_shards_with_the_same_scores(verifier_paths, data, tmp_path):
    score(config(verifier_paths, data, tmp_path / "whole.jsonl"))
    metrics = score(config(verifier_paths, data, tmp_path / "scored"))
    assert shard_texts(tmp_path / "scored") == ["part-00000.parquet", "part-00001.parquet", "part-00002.parquet"]
    assert read_solutions(tmp_path / "scored") == read_solutions(tmp_path / "whole.jsonl")
    assert (metrics["rows"], metrics["processes"]) == (13, 1)
    assert json.loads((tmp_path / "scored.run.json").read_text())["metrics"] == metrics
    assert not (tmp_path / "scored.partial").exists()


def test_shards_are_read_as_data_too(verifier_paths, data, tmp_path):
    score(config(verifier_paths, data, tmp_path / "scored"))
    score(config(verifier_paths, str(tmp_path / "scored"), tmp_path / "both", name="again", chunk_rows=4))
    for solution in read_solutions(tmp_path / "both"):
        assert solution.scores["again"] == pytest.approx(solution.scores["prm"], abs=1e-5)


def test_a_killed_run_keeps_its_shards(verifier_paths, data, tmp_path, monkeypatch):
    score(config(verifier_paths, data, tmp_path / "whole"))
    calls, plain = [], RewardModel.score

    def killed(self, *args):
        if len(calls) == 2:
            raise KeyboardInterrupt
        calls.append(len(args[0]))
        return plain(self, *args)

    monkeypatch.setattr(RewardModel, "score", killed)
    with pytest.raises(KeyboardInterrupt):
        score(config(verifier_paths, data, tmp_path / "out"))
    assert not (tmp_path / "out").exists()
    calls[:] = []
    monkeypatch.setattr(RewardModel, "score", lambda self, *args: calls.append(len(args[0])) or plain(self, *args))
    score(config(verifier_paths, data, tmp_path / "out"))
    assert calls == [3]
    assert read_solutions(tmp_path / "out") == read_solutions(tmp_path / "whole")


def test_shards_of_other_settings_are_not_kept(verifier_paths, data, tmp_path, monkeypatch):
    plain = RewardModel.score

    def killed(self, *args):
        raise KeyboardInterrupt

    partial = tmp_path / "out.partial"
    partial.mkdir()
    (partial / "part-00000.parquet").write_bytes(b"of another run")
    (partial / ".fingerprint").write_text('"another"\n')
    monkeypatch.setattr(RewardModel, "score", killed)
    with pytest.raises(KeyboardInterrupt):
        score(config(verifier_paths, data, tmp_path / "out"))
    assert shard_texts(partial) == [".fingerprint"]
    monkeypatch.setattr(RewardModel, "score", plain)
    score(config(verifier_paths, data, tmp_path / "out"))
    assert len(read_solutions(tmp_path / "out")) == 13


def test_several_processes_need_a_folder(verifier_paths, data, tmp_path, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(UserError, match="several processes cannot share it: give a folder"):
        score(config(verifier_paths, data, tmp_path / "a.jsonl"))


def test_boundary_and_its_tag_reach_the_steps(verifier_paths, data, tmp_path):
    from transformers import AutoModelForTokenClassification

    # a verifier of the first format, which left its boundary unsaid, is one of lines
    with pytest.raises(UserError, match="was taught steps by"):
        score(config(verifier_paths, data, tmp_path / "a.jsonl", boundary="sentence"))
    model = AutoModelForTokenClassification.from_pretrained(verifier_paths["prm"])
    model.config.rlstep_verifier["boundary"] = {"rule": "tag", "tag": "="}
    path = tmp_path / "tagged"
    model.save_pretrained(path)
    RewardModel.from_pretrained(verifier_paths["prm"]).tokenizer.save_pretrained(path)
    score(config(verifier_paths, data, tmp_path / "b.jsonl", model=str(path), boundary="tag", boundary_tag="="))
    first = read_solutions(tmp_path / "b.jsonl")[0]  # the one without spans
    assert first.step_texts[0].endswith("=")
    with pytest.raises(UserError, match="boundary is null, so boundary_tag would do nothing"):
        config(verifier_paths, data, tmp_path / "c.jsonl", boundary_tag="=")


def test_a_folder_with_anything_else_in_it_is_not_replaced(verifier_paths, data, tmp_path):
    home = tmp_path / "home"
    home.mkdir()
    (home / "thesis.txt").write_text("years of work")
    with pytest.raises(UserError, match="holds files that are no shards"):
        score(config(verifier_paths, data, home))
    with pytest.raises(UserError, match="which holds .*solutions.jsonl and would be replaced"):
        score(config(verifier_paths, data, tmp_path))
    with pytest.raises(UserError, match="out is the file"):
        score(config(verifier_paths, data, home / "thesis.txt"))
    assert (home / "thesis.txt").read_text() == "years of work"
    # an earlier run's shards are
    for _ in range(2):
        score(config(verifier_paths, data, tmp_path / "scored"))
    assert len(read_solutions(tmp_path / "scored")) == 13


def test_values_that_are_no_numbers_are_refused(verifier_paths):
    verifier = RewardModel.from_pretrained(verifier_paths["prm"])
    verifier.model.score.weight.data.fill_(float("nan"))
    with pytest.raises(UserError, match="no numbers in torch.float32"):
        verifier.score(["Left to right, mod 20: 7 + 3\n"], ["7 + 3 = 10"])
