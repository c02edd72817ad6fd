import json
from dataclasses import replace
from pathlib import Path

import pytest

from rlstep.runtime.errors import DataError, UserError
from rlstep.runtime.rows import write_rows
from rlstep.stages.score import ScoreConfig, score
from rlstep.steps.records import read_solutions
from rlstep.verifiers.scoring.reward_model import RewardModel
from rlstep.verifiers.spec import ImplicitSpec


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


@pytest.mark.parametrize("name", ["out.jsonl", "out"])
def test_a_killed_run_continues_to_the_same_rows(verifier_paths, data, tmp_path, monkeypatch, name):
    whole, out = tmp_path / f"whole_{name}", tmp_path / name
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
    assert calls == [3, 3]
    calls[:] = []
    monkeypatch.setattr(RewardModel, "score", lambda self, *args: calls.append(len(args[0])) or plain(self, *args))
    score(config(verifier_paths, data, out))
    assert read_solutions(out) == read_solutions(whole)
    assert calls == [3, 3, 1]
    assert not (tmp_path / f"{name}.partial").exists()


@pytest.mark.parametrize(("chunk_rows", "scored"), [(26, 12), (5, 13)])
def test_equal_rows_of_a_chunk_are_scored_once(verifier_paths, data, tmp_path, chunk_rows, scored):
    assert score(config(verifier_paths, data, tmp_path / "a.jsonl", chunk_rows=chunk_rows))["different_rows"] == scored


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


def file_names(folder) -> list[str]:
    return [path.name for path in sorted(folder.iterdir())]


def test_a_folder_gets_parquet_shards_with_the_same_scores(verifier_paths, data, tmp_path):
    score(config(verifier_paths, data, tmp_path / "whole.jsonl"))
    metrics = score(config(verifier_paths, data, tmp_path / "scored"))
    parts = [f"part-{number:05d}.parquet" for number in range(5)]
    assert file_names(tmp_path / "scored") == ["_manifest.json", *parts]
    assert read_solutions(tmp_path / "scored") == read_solutions(tmp_path / "whole.jsonl")
    assert (metrics["rows"], metrics["processes"]) == (13, 1)
    assert json.loads((tmp_path / "scored.run.json").read_text())["metrics"] == metrics
    assert not (tmp_path / "scored.partial").exists()


def test_shards_are_read_as_data_too(verifier_paths, data, tmp_path):
    score(config(verifier_paths, data, tmp_path / "scored"))
    score(config(verifier_paths, str(tmp_path / "scored"), tmp_path / "both", name="again", chunk_rows=4))
    for solution in read_solutions(tmp_path / "both"):
        assert solution.scores["again"] == pytest.approx(solution.scores["prm"], abs=1e-5)


@pytest.fixture
def scored_rows(monkeypatch) -> list[int]:
    """The number of rows of each call of a verifier."""
    calls, plain = [], RewardModel.score
    monkeypatch.setattr(RewardModel, "score", lambda self, *args: calls.append(len(args[0])) or plain(self, *args))
    return calls


@pytest.mark.parametrize("change", [{"batch_tokens": 64}, {"name": "other"}, {"model": "orm"}])
def test_shards_of_other_settings_are_not_kept(verifier_paths, data, tmp_path, scored_rows, change):
    change = {name: verifier_paths.get(value, value) for name, value in change.items()}
    score(config(verifier_paths, data, tmp_path / "out"))
    score(config(verifier_paths, data, tmp_path / "out", **change))
    score(config(verifier_paths, data, tmp_path / "fresh", **change))
    assert scored_rows == [3, 3, 3, 3, 1] * 3
    assert read_solutions(tmp_path / "out") == read_solutions(tmp_path / "fresh")


def test_a_row_that_is_mended_or_dropped_leaves_other_chunks_scores(
    verifier_paths, data, tmp_path, scored_rows, solutions
):
    """Of 120 rows in chunks of 13 to 26."""
    many = [replace(solution, problem_id=f"{k}-{solution.problem_id}") for k in range(10) for solution in solutions]
    write_rows(data, (solution.to_row() for solution in many))
    asked = config(verifier_paths, data, tmp_path / "out", chunk_rows=26)
    score(asked)
    assert sum(scored_rows) == 120
    mended = replace(many[17], completion=many[18].completion, steps=None, labels=None)
    for rows in ([*many[:17], mended, *many[18:]], many[:5] + many[6:], [many[3], *many]):
        scored_rows.clear()
        write_rows(data, (solution.to_row() for solution in rows))
        score(asked)
        assert 0 < sum(scored_rows) <= 3 * 26
        score(replace(asked, out=str(tmp_path / "fresh.jsonl")))
        for left, right in zip(read_solutions(asked.out), read_solutions(tmp_path / "fresh.jsonl"), strict=True):
            assert left.scores.pop("prm") == pytest.approx(right.scores.pop("prm"), abs=1e-5)
            assert left == right


# --- rows that are longer than the verifier, which has 512 positions


@pytest.fixture
def long_data(data, solutions) -> str:
    """Row 7 has 20 steps of some 30 tokens, row 10 a prompt that fills the verifier alone."""
    step = "7 + 3 = 10" + " + 0" * 12 + "\n"
    rows = list(solutions)
    rows[6] = replace(rows[6], completion=step * 20, steps=None, labels=None)
    rows[9] = replace(rows[9], prompt="Left to right, mod 20: 1" + " + 1" * 600 + "\n")
    write_rows(data, (solution.to_row() for solution in rows))
    return data


@pytest.mark.parametrize("out", ["scored.jsonl", "scored"])
def test_too_long_rows_are_named_by_their_row_before_anything_is_scored(
    verifier_paths, long_data, tmp_path, solutions, scored_rows, out
):
    first = rf"solutions.jsonl, row 7 \(problem '{solutions[6].problem_id}', sample {solutions[6].sample}\): \d+ tokens"
    with pytest.raises(UserError, match=first + " exceed the verifier's 512") as caught:
        score(config(verifier_paths, long_data, tmp_path / out))
    assert "Rows that are too long: 2; " in str(caught.value)
    assert "solutions.jsonl, row 10 (problem" in str(caught.value)
    assert "With on_long_row: skip" in str(caught.value)
    assert scored_rows == []
    assert not (tmp_path / out).exists()


def test_too_long_rows_of_shards_are_named_by_their_file(verifier_paths, long_data, tmp_path):
    folder = tmp_path / "many"
    folder.mkdir()
    lines = Path(long_data).read_text().splitlines(keepends=True)
    for number in range(3):
        (folder / f"part{number}.jsonl").write_text("".join(lines[4 * number : 4 * number + 4]))
    with pytest.raises(UserError, match=r"part1.jsonl, row 3 \(.*part2.jsonl, row 2 \("):
        score(config(verifier_paths, str(folder), tmp_path / "out"))


@pytest.mark.parametrize("out", ["scored.jsonl", "scored"])
def test_too_long_rows_are_left_out_and_counted(verifier_paths, long_data, tmp_path, caplog, out):
    metrics = score(config(verifier_paths, long_data, tmp_path / out, on_long_row="skip"))
    rows = read_solutions(long_data)
    kept = [(row.problem_id, row.sample) for number, row in enumerate(rows) if number not in (6, 9)]
    assert [(row.problem_id, row.sample) for row in read_solutions(tmp_path / out)] == kept
    assert (metrics["rows"], metrics["skipped_rows"]) == (10, 2)
    assert "cut_rows" not in metrics
    assert caplog.text.count("2 rows are longer than the verifier") == 1


def test_too_long_rows_are_cut_to_the_steps_that_fit(verifier_paths, long_data, tmp_path, caplog):
    metrics = score(config(verifier_paths, long_data, tmp_path / "a.jsonl", on_long_row="cut"))
    assert (metrics["rows"], metrics["cut_rows"]) == (12, 2)
    assert caplog.text.count("2 rows are longer than the verifier") == 1
    rows = read_solutions(tmp_path / "a.jsonl")
    scores = rows[6].scores["prm"]
    fitting = sum(value is not None for value in scores)
    assert 0 < fitting < 20 == len(rows[6].steps) == len(scores)
    assert scores[fitting:] == [None] * (20 - fitting)
    # What fits has the scores of a solution that ends there, and one step more would not fit.
    verifier = RewardModel.from_pretrained(verifier_paths["prm"])
    end = rows[6].steps[fitting - 1][1]
    (alone,) = verifier.score([rows[6].prompt], [rows[6].completion[:end]])
    assert scores[:fitting] == pytest.approx(alone, abs=1e-5)
    with pytest.raises(UserError, match="exceed the verifier's 512"):
        verifier.score([rows[6].prompt], [rows[6].completion[: rows[6].steps[fitting][1]]])
    assert rows[9].scores["prm"] == [None] * len(rows[9].steps)
    assert all(None not in row.scores["prm"] for number, row in enumerate(rows) if number not in (6, 9))
    # The file and its shards are data like others, and another verifier scores them beside.
    score(config(verifier_paths, str(tmp_path / "a.jsonl"), tmp_path / "b", name="again", on_long_row="cut"))
    assert read_solutions(tmp_path / "b")[6].scores["again"][fitting:] == [None] * (20 - fitting)


def test_an_implicit_prm_is_cut_as_well(tiny_lm, tokenizer, long_data, tmp_path):
    """It reads every token of a completion, and not only up to the last step that it is asked about."""
    from transformers import AutoModelForCausalLM

    path = tmp_path / "implicit"
    model = AutoModelForCausalLM.from_pretrained(tiny_lm)
    model.save_pretrained(path)
    told = json.loads((path / "config.json").read_text()) | {"rlstep_verifier": ImplicitSpec(beta=0.1).to_config()}
    (path / "config.json").write_text(json.dumps(told))
    model.save_pretrained(path / "reference")
    tokenizer.save_pretrained(path)
    score(config({"prm": str(path)}, long_data, tmp_path / "a.jsonl", on_long_row="cut"))
    scores = read_solutions(tmp_path / "a.jsonl")[6].scores["prm"]
    assert None not in scores[:3]
    assert scores[-1] is None


def test_chunks_without_long_rows_outlive_a_change_of_mind(verifier_paths, long_data, tmp_path, scored_rows):
    """From skip to cut, only the chunks with long rows are scored again; back to an error, none is taken for whole."""
    score(config(verifier_paths, long_data, tmp_path / "out", on_long_row="skip"))
    assert scored_rows == [3, 3, 2, 2]
    scored_rows.clear()
    score(config(verifier_paths, long_data, tmp_path / "out", on_long_row="cut"))
    assert scored_rows == [3, 3]
    with pytest.raises(UserError, match="Rows that are too long: 2"):
        score(config(verifier_paths, long_data, tmp_path / "out"))
    assert len(read_solutions(tmp_path / "out")) == 12


def test_a_data_set_of_long_rows_alone_leaves_nothing(verifier_paths, long_data, tmp_path):
    lines = Path(long_data).read_text().splitlines(keepends=True)
    Path(long_data).write_text(lines[6] + lines[9])
    with pytest.raises(UserError, match="nothing is left to write"):
        score(config(verifier_paths, long_data, tmp_path / "out", on_long_row="skip"))


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
    with pytest.raises(UserError, match="thesis.txt; give NAME.jsonl"):
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
