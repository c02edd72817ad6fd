"""`rlstep evaluate --search_data`: searches beside best-of-N at equal generated tokens."""

import json

import pytest

from rlstep.cli import main
from rlstep.runtime.errors import DataError, UserError
from rlstep.runtime.rows import write_rows
from rlstep.stages.evaluate import EvaluateConfig, evaluate


def rows(problem: str, right: str, scores: list[float], tokens: int, reference: str = "1", **more) -> list[dict]:
    """Samples whose answers are right where `right` has a 1, each with as many tokens."""
    return [
        {"problem_id": problem, "sample": k, "answer": mark, "reference": reference, "scores": {"prm": [score]},
         "generated_tokens": tokens} | more
        for k, (mark, score) in enumerate(zip(right, scores, strict=True))
    ]  # fmt: skip


def samples() -> list[dict]:
    """Of four samples the PRM picks a right one of a and c, and a wrong one of b; 10 tokens each, 20 of c's."""
    return [
        *rows("a", "1000", [0.9, 0.5, 0.4, 0.3], 10),
        *rows("b", "0100", [0.9, 0.5, 0.4, 0.3], 10),
        *rows("c", "1111", [0.9, 0.5, 0.4, 0.3], 20),
    ]


def actual() -> list[dict]:
    """Two solutions each, 10 + 10, 20 + 20 and 15 + 15 tokens; the PRM picks a right one of a and b."""
    return [*rows("c", "00", [0.9, 0.5], 15), *rows("a", "10", [0.9, 0.5], 10), *rows("b", "01", [0.1, 0.8], 20)]


@pytest.fixture
def files(tmp_path):
    write_rows(tmp_path / "samples.jsonl", samples())
    write_rows(tmp_path / "beam.jsonl", actual())
    return tmp_path


def run(files, **options) -> dict:
    given = {"data": [str(files / "samples.jsonl")], "search_data": [str(files / "beam.jsonl")]} | options
    evaluate(EvaluateConfig(out=str(files / "out"), **given))
    return json.loads((files / "out" / "equal_tokens.json").read_text())


def test_the_figures_are_the_hand_worked_ones(files):
    result = run(files)
    # 10, 10 and 20 tokens a sample; 20, 40 and 30 a problem. So n = 30 / (40 / 3) = 2.25.
    assert result["tokens_per_sample"] == pytest.approx(40 / 3)
    one = result["searches"]["beam"]
    assert (one["solutions"], one["tokens"]) == (2, pytest.approx(30))
    assert one["n"] == pytest.approx(2.25)
    prm = one["accuracy"]["prm"]
    assert prm["search"]["mean"] == pytest.approx(2 / 3)
    # The best of four: a's is drawn among 2 with 1/2 and among 3 with 3/4. b's right one is the second best: picked
    # where the best is not drawn, of 2 with 1/2 x 2/3 = 1/3, of 3 with 1/4. A quarter of the way from 2 to 3:
    a, b, c = 0.75 * 1 / 2 + 0.25 * 3 / 4, 0.75 * 1 / 3 + 0.25 * 1 / 4, 1
    assert prm["best_of_n"]["mean"] == pytest.approx((a + b + c) / 3)
    differences = [1 - a, 1 - b, 0 - c]
    mean = sum(differences) / 3
    spread = (sum((d - mean) ** 2 for d in differences) / 2) ** 0.5
    assert prm["difference"]["mean"] == pytest.approx(mean)
    assert prm["difference"]["low"] == pytest.approx(max(-1, mean - 1.959964 * spread / 3**0.5))
    assert {"prm", "majority", "weighted", "pass_at_n"} == set(one["accuracy"])
    assert one["accuracy"]["pass_at_n"]["search"]["mean"] == pytest.approx(2 / 3)


def test_the_table_is_printed_and_written(files, capsys):
    command = ["evaluate", "--data", str(files / "samples.jsonl"), "--search_data", str(files / "beam.jsonl")]
    assert main([*command, "--out", str(files / "out")]) == 0
    table = (files / "out" / "equal_tokens.md").read_text()
    assert table in capsys.readouterr().out + "\n"
    assert table.splitlines()[0] == "| search | picked by | N | tokens | right | best of n | difference | n |"
    assert table.splitlines()[2].startswith("| beam | PRM | 2 | 30 | 0.667 [0.013, 1.000] | 0.625 ")
    assert table.splitlines()[2].endswith(" | 2.2 |")
    assert (files / "out" / "equal_tokens.png").read_bytes().startswith(b"\x89PNG")
    metrics = json.loads((files / "out" / "run.json").read_text())["metrics"]
    assert metrics["beam/tokens"] == 30
    assert metrics["beam/prm_search"] == pytest.approx(2 / 3)


def test_fewer_tokens_than_a_sample_buy_a_sample_as_often(files):
    write_rows(files / "beam.jsonl", [row | {"generated_tokens": 2} for row in actual()])
    one = run(files)["searches"]["beam"]
    assert one["n"] == pytest.approx(4 / (40 / 3))
    # Of one sample a is right with 1/4, b with 1/4, c with 1.
    assert one["accuracy"]["prm"]["best_of_n"]["mean"] == pytest.approx(0.3 * (1 / 4 + 1 / 4 + 1) / 3)


def test_more_tokens_than_all_samples_took_are_not_compared(files):
    write_rows(files / "beam.jsonl", [row | {"generated_tokens": 50} for row in actual()])
    one = run(files)["searches"]["beam"]
    assert one["n"] is None
    assert one["accuracy"]["prm"]["best_of_n"] is one["accuracy"]["prm"]["difference"] is None
    assert (files / "out" / "equal_tokens.md").read_text().splitlines()[2].endswith("| - | - | - |")


@pytest.mark.parametrize("tokens", [(4, 50, 56, 78, 98), (4, 3, 4, 84, 70), (30, 87, 29, 98, 59)])
def test_as_many_tokens_as_all_samples_took_are_compared(files, tokens):
    """The rows of the samples themselves: n is 3, and not a little more, whatever the tokens are rounded to."""
    taken = [row for k, number in enumerate(tokens) for row in rows(str(k), "100", [0.9, 0.5, 0.4], number)]
    # Of a problem's samples one took a token more.
    taken = [row | {"generated_tokens": row["generated_tokens"] + (row["sample"] == 0)} for row in taken]
    write_rows(files / "samples.jsonl", taken)
    write_rows(files / "beam.jsonl", taken)
    one = run(files)["searches"]["beam"]
    assert one["n"] == 3
    assert one["accuracy"]["prm"]["difference"]["mean"] == 0


def test_several_searches_are_called_by_their_files(files):
    write_rows(files / "dvts.jsonl", actual())
    result = run(files, search_data=[str(files / "beam.jsonl"), str(files / "dvts.jsonl")])
    assert [*result["searches"]] == ["beam", "dvts"]


def test_the_aggregate_holds_for_both(files):
    """A solution of many good steps against one of a single fair step."""
    search = [row | {"scores": {"prm": [0.9, 0.9, 0.9, 0.9] if row["answer"] == "1" else [0.7]}} for row in actual()]
    write_rows(files / "beam.jsonl", search)
    assert run(files)["searches"]["beam"]["accuracy"]["prm"]["search"]["mean"] == 0
    assert run(files, aggregate="last")["searches"]["beam"]["accuracy"]["prm"]["search"]["mean"] == pytest.approx(2 / 3)


def test_scores_of_another_name_are_the_prms(files):
    write_rows(files / "samples.jsonl", [row | {"scores": {"qwen": row["scores"]["prm"]}} for row in samples()])
    assert run(files, prm="qwen")["searches"]["beam"]["accuracy"]["prm"]["best_of_n"]["mean"] > 0
    with pytest.raises(UserError, match="beam.jsonl has the scores prm, and .*samples.jsonl has qwen: there is none"):
        run(files)


def test_tokens_under_another_name(files):
    renamed = [{("spent" if k == "generated_tokens" else k): v for k, v in row.items()} for row in samples()]
    write_rows(files / "samples.jsonl", renamed)
    assert run(files, fields=["generated_tokens=spent"])["tokens_per_sample"] == pytest.approx(40 / 3)


def test_the_same_answer_in_another_form_is_the_same_problems(files):
    expected = run(files)
    write_rows(files / "beam.jsonl", [row | {"reference": row["reference"] + ".0"} for row in actual()])
    assert run(files) == expected


def without(name: str, given: list[dict]) -> list[dict]:
    return [{key: value for key, value in row.items() if key != name} for row in given]


@pytest.mark.parametrize(
    ("data", "search", "message"),
    [
        (without("generated_tokens", samples()), actual(), r"samples.jsonl, row 1, field 'generated_tokens': missing"),
        (samples(), without("generated_tokens", actual()), r"beam.jsonl, row 1, field 'generated_tokens': missing"),
        (samples(), [row | {"generated_tokens": "nine"} for row in actual()], r"expected a whole number, got \"nine\""),
        (samples(), [row | {"generated_tokens": -1} for row in actual()], "expected a whole number from 0, got -1"),
        ([row | {"generated_tokens": 0} for row in samples()], actual(), "no tokens were generated"),
        (samples(), actual()[:4], r"beam.jsonl has no problem 'b', which .*samples.jsonl has \(1 such\)"),
        (samples()[:8], actual(), r"samples.jsonl has no problem 'c', which .*beam.jsonl has"),
        (samples(), [row | {"reference": "7"} for row in actual()], "the answer to problem 'c' is 1 in .* and 7 in .*"),
        (samples(), actual()[:-1], "problem 'b' has 1 solution and others 2"),
    ],
)  # fmt: skip
def test_files_that_cannot_be_compared_are_refused(files, data, search, message):
    write_rows(files / "samples.jsonl", data)
    write_rows(files / "beam.jsonl", search)
    with pytest.raises((DataError, UserError), match=message):
        run(files)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"domain": "subject"}, "search_data is compared with the samples of one file, without domain"),
        ({"data": ["a.jsonl", "b.jsonl"]}, "search_data is compared with the samples of one file"),
        ({"search_data": []}, "name at least one file, and none twice"),
        ({"search_data": ["a.jsonl", "a.jsonl"]}, "name at least one file, and none twice"),
        ({"search_data": None, "fields": ["generated_tokens=n"]}, "read where searches are compared; give search_data"),
    ],
)  # fmt: skip
def test_settings_that_make_no_sense_are_refused(options, message):
    with pytest.raises(UserError, match=message):
        EvaluateConfig(**({"data": ["samples.jsonl"], "out": "out", "search_data": ["x.jsonl"]} | options))
