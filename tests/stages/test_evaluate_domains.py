"""`rlstep evaluate` of several files, or by a field: a table by domain."""

import json

import pytest

from rlstep.cli import main
from rlstep.runtime.errors import DataError, UserError
from rlstep.runtime.rows import write_rows
from rlstep.stages.evaluate import EvaluateConfig, evaluate


def problem(name: str, right: str, prm: list[float], orm: list[float], **more) -> list[dict]:
    """Three samples, of which those marked 1 in `right` are right; the wrong ones have the same answer."""
    return [
        {"problem_id": name, "answer": mark, "correct": mark == "1", "scores": {"prm": one, "orm": other}} | more
        for mark, one, other in zip(right, prm, orm, strict=True)
    ]


def calculus(**more) -> list[dict]:
    """Best of three: the PRM is right on a and c, the ORM and the majority on b and c."""
    return [
        *problem("a", "100", [0.9, 0.2, 0.5], [0.1, 0.9, 0.3], **more),
        *problem("b", "110", [0.1, 0.2, 0.8], [0.6, 0.5, 0.4], **more),
        *problem("c", "110", [0.9, 0.2, 0.1], [0.9, 0.5, 0.4], **more),
    ]


def physics(**more) -> list[dict]:
    """The PRM is right, the ORM and the majority are wrong; the problem's id is one of calculus, too."""
    return problem("a", "001", [0.1, 0.2, 0.9], [0.1, 0.9, 0.3], **more)


@pytest.fixture
def files(tmp_path) -> list[str]:
    write_rows(tmp_path / "calculus.jsonl", calculus())
    write_rows(tmp_path / "physics.jsonl", physics())
    return [str(tmp_path / "calculus.jsonl"), str(tmp_path / "physics.jsonl")]


def run(tmp_path, data: list[str], **options) -> dict:
    evaluate(EvaluateConfig(data, str(tmp_path / "out"), **{"n": 3, **options}))
    return json.loads((tmp_path / "out" / "domains.json").read_text())


def means(figures: dict, *curves: str) -> list[float]:
    return [figures["accuracy"][curve]["mean"] for curve in curves]


def test_the_figures_are_the_hand_worked_ones(tmp_path, files):
    result = run(tmp_path, files)
    assert (result["n"], list(result["domains"])) == (3, ["calculus", "physics"])
    first, second, together = *result["domains"].values(), result["all"]
    assert [(one["problems"], one["solutions"]) for one in (first, second, together)] == [(3, 9), (1, 3), (4, 12)]
    assert means(first, "prm", "orm", "majority") == pytest.approx([2 / 3, 2 / 3, 2 / 3])
    assert means(second, "prm", "orm", "majority") == [1, 0, 0]
    # Every problem counts once: 3 of 4, where the mean of the domains would be 5/6; and 2 of 4, not 1/3.
    assert means(together, "prm", "orm", "majority") == pytest.approx([3 / 4, 1 / 2, 1 / 2])


def test_intervals_are_over_problems(tmp_path, files):
    result = run(tmp_path, files)
    # Right on 2 of 3: s = sqrt(1/3), so 1.96 s / sqrt(3) = 1.96 / 3. On 3 of 4: s = 1/2, so 1.96 / 4.
    assert result["domains"]["calculus"]["accuracy"]["prm"]["low"] == pytest.approx(2 / 3 - 1.959964 / 3)
    assert result["all"]["accuracy"]["prm"]["low"] == pytest.approx(3 / 4 - 1.959964 / 4)
    assert result["all"]["accuracy"]["prm"]["high"] == 1
    # Of one problem nothing is known.
    assert result["domains"]["physics"]["accuracy"]["prm"] == {"mean": 1, "low": 0, "high": 1}


def test_the_table_is_printed_and_written(tmp_path, files, capsys):
    out = tmp_path / "out"
    assert main(["evaluate", "--data", *files, "--out", str(out), "--n", "3"]) == 0
    table = (out / "domains.md").read_text()
    assert table.splitlines() == [
        "| best of 3 | PRM | ORM | majority | problems |",
        "| --- | ---: | ---: | ---: | ---: |",
        "| calculus | 0.667 [0.013, 1.000] | 0.667 [0.013, 1.000] | 0.667 [0.013, 1.000] | 3 |",
        "| physics | 1.000 [0.000, 1.000] | 0.000 [0.000, 1.000] | 0.000 [0.000, 1.000] | 1 |",
        "| all | 0.750 [0.260, 1.000] | 0.500 [0.000, 1.000] | 0.500 [0.000, 1.000] | 4 |",
    ]
    printed = capsys.readouterr().out
    assert table in printed
    assert "calculus: 9 samples of 3 problems, 3 each; without an answer: 0.0%" in printed
    assert sorted(path.name for path in out.iterdir()) == ["domains.json", "domains.md", "run.json"]
    metrics = json.loads((out / "run.json").read_text())["metrics"]
    assert (metrics["problems"], metrics["solutions"]) == (4, 12)
    assert (metrics["prm@3"], metrics["physics/orm@3"], metrics["calculus/prm@3"]) == (3 / 4, 0, pytest.approx(2 / 3))


def test_a_domain_has_the_figures_of_its_file_alone(tmp_path, files):
    """Also where votes are drawn: two of three."""
    result = run(tmp_path, files, n=2, trials=50, seed=3)
    evaluate(EvaluateConfig(files[0], str(tmp_path / "alone"), ns=[2], trials=50, seed=3))
    alone = json.loads((tmp_path / "alone" / "best_of_n.json").read_text())
    # The best two of three: in a 1 right with 2/3, in b wrong with 2/3, in c 1 - 0.
    assert alone["prm"]["mean"] == pytest.approx([(2 / 3 + 1 / 3 + 1) / 3])
    for name, figure in result["domains"]["calculus"]["accuracy"].items():
        assert figure["mean"] == alone[name]["mean"][0], name


@pytest.mark.parametrize("nested", [False, True])
def test_a_field_names_the_domain(tmp_path, files, nested):
    """Of its own or in `extra`, in any order of the rows, over one file or several."""
    parts = [
        build(**({"extra": {"subject": name}} if nested else {"subject": name}))
        for build, name in ((calculus, "calculus"), (physics, "physics"))
    ]
    mixed = [row for pair in zip(parts[0], parts[1] * 3, strict=True) for row in pair][:6] + parts[0][3:]
    write_rows(tmp_path / "one.jsonl", mixed)
    write_rows(tmp_path / "1.jsonl", mixed[:4])
    write_rows(tmp_path / "2.jsonl", mixed[4:])
    expected = run(tmp_path, files)
    for data in (["one.jsonl"], ["1.jsonl", "2.jsonl"]):
        assert run(tmp_path, [str(tmp_path / name) for name in data], domain="subject") == expected
    if nested:
        assert run(tmp_path, [str(tmp_path / "one.jsonl")], domain="extra.subject") == expected


def test_files_are_named_by_what_differs_in_their_paths(tmp_path):
    for place in ("runs/calculus/scored.jsonl", "runs/physics/scored.jsonl", "runs/physics/2/scored.jsonl", "a.jsonl"):
        (tmp_path / place).parent.mkdir(parents=True, exist_ok=True)
        write_rows(tmp_path / place, calculus())

    def names(*places: str) -> list[str]:
        return list(run(tmp_path, [str(tmp_path / place) for place in places])["domains"])

    assert names("runs/calculus/scored.jsonl", "runs/physics/scored.jsonl") == ["calculus", "physics"]
    assert names("runs/physics/scored.jsonl", "runs/physics/2/scored.jsonl") == ["scored", "2/scored"]
    assert names("a.jsonl", "runs/calculus/scored.jsonl") == ["a", "runs/calculus/scored"]
    assert names("runs/calculus/", "a.jsonl") == ["runs/calculus", "a"]


def test_n_is_a_hundred_by_default(tmp_path, files):
    rows = [row for row in calculus()[:3] for _ in range(34)]
    for path in files:
        write_rows(path, rows)
    assert run(tmp_path, files, n=None)["n"] == 100


def test_a_domain_without_answers_has_no_votes(tmp_path, files, capsys):
    write_rows(files[1], ({name: value for name, value in row.items() if name != "answer"} for row in physics()))
    result = run(tmp_path, files)
    assert "majority" not in result["domains"]["physics"]["accuracy"] | result["all"]["accuracy"]
    assert means(result["domains"]["calculus"], "majority") == pytest.approx([2 / 3])
    printed = capsys.readouterr().out
    assert "physics: 3 samples of 1 problem, 3 each; left out: votes (no answers)" in printed
    assert [line.split(" | ")[3] for line in printed.splitlines() if line.startswith("| physics")] == ["-"]


def test_scores_that_are_chosen_are_the_columns(tmp_path, files, capsys):
    run(tmp_path, files, scores_of=["orm"])
    assert "| best of 3 | ORM | majority | problems |" in capsys.readouterr().out


def test_a_name_cannot_break_the_table(tmp_path, capsys):
    write_rows(tmp_path / "one.jsonl", [*calculus(subject="a|b\nc\ud83d"), *physics(subject=7)])
    assert list(run(tmp_path, [str(tmp_path / "one.jsonl")], domain="subject")["domains"]) == ["a|b\nc\ud83d", "7"]
    assert r"| a\|b c\ud83d | 0.667" in capsys.readouterr().out


def test_too_few_samples_name_the_domain_and_the_problem(tmp_path, files):
    write_rows(files[1], physics()[:2])
    with pytest.raises(UserError, match="n is 3, but problem 'a' of the domain 'physics' has 2 samples.*n up to 2"):
        run(tmp_path, files)
    # What is proposed is enough for the domains that come later.
    with pytest.raises(UserError, match="n is 100, but problem 'a' of the domain 'calculus' has 3 samples.*up to 2"):
        run(tmp_path, files, n=None)


def test_domains_with_other_scores_are_refused(tmp_path, files):
    rows = [row | {"scores": {"prm": row["scores"]["prm"], "qwen": 0.5}} for row in physics()]
    write_rows(files[1], rows)
    with pytest.raises(
        UserError, match="'calculus' has the scores orm, prm, the domain 'physics' the scores prm, qwen"
    ):
        run(tmp_path, files)
    assert means(run(tmp_path, files, scores_of=["prm"])["all"], "prm") == [3 / 4]
    with pytest.raises(DataError, match=r"physics.jsonl, row 1, field 'scores.orm': missing"):
        run(tmp_path, files, scores_of=["orm"])
    write_rows(files[1], ({name: value for name, value in row.items() if name != "scores"} for row in rows))
    with pytest.raises(UserError, match="the domain 'physics' no scores"):
        run(tmp_path, files)


def test_a_row_without_a_domain_is_named(tmp_path):
    path = tmp_path / "one.jsonl"
    for value, problem in {
        None: "expected the domain, text or a whole number, got null",
        " ": "blank",
        0.5: "expected the domain, text or a whole number, got 0.5",
    }.items():
        write_rows(path, [*physics(subject="a"), *physics(subject=value)])
        with pytest.raises(DataError, match=rf"one.jsonl, row 4, field 'subject': {problem}"):
            run(tmp_path, [str(path)], domain="subject")
    write_rows(path, [*physics(extra={"subject": "a"}), *physics(extra={"level": 1})])
    with pytest.raises(DataError, match="row 4, field 'subject': missing.*row has answer, .*; its extra has level"):
        run(tmp_path, [str(path)], domain="subject")


def test_a_repeated_sample_is_named_by_its_row_in_the_file(tmp_path):
    rows = [
        row | {"sample": sample % 3, "subject": name}
        for build, name in ((calculus, "calculus"), (physics, "physics"))
        for sample, row in enumerate(build())
    ]
    write_rows(tmp_path / "one.jsonl", rows)
    run(tmp_path, [str(tmp_path / "one.jsonl")], domain="subject")
    write_rows(tmp_path / "one.jsonl", [*rows, rows[10]])
    with pytest.raises(DataError, match="row 13, field 'sample': sample 1 of 'a' is already in row 11"):
        run(tmp_path, [str(tmp_path / "one.jsonl")], domain="subject")


def test_names_that_clash_are_refused(tmp_path):
    write_rows(tmp_path / "one.jsonl", physics(subject="all"))
    with pytest.raises(UserError, match="a domain is called 'all'"):
        run(tmp_path, [str(tmp_path / "one.jsonl")], domain="subject")
    for same in (["x/a.jsonl", "x/a.jsonl"], ["x/a.jsonl", "y.jsonl", "x/a.parquet"]):
        with pytest.raises(UserError, match=rf"data has {same[0]} and {same[-1]}, two domains of the same name"):
            EvaluateConfig(same, "out")


def test_settings_that_nothing_would_read_are_refused():
    with pytest.raises(UserError, match="n is 8, which a table by domain reads"):
        EvaluateConfig("a.jsonl", "out", n=8)
    for many in ({"data": ["a", "b"]}, {"data": "a", "domain": "subject"}):
        with pytest.raises(UserError, match="a table by domain has one N; give n"):
            EvaluateConfig(out="out", ns=[1, 2], **many)
    with pytest.raises(UserError, match="n is 0; it must be at least 1"):
        EvaluateConfig(["a", "b"], "out", n=0)
    with pytest.raises(UserError, match="data is empty"):
        EvaluateConfig([], "out")
