"""How well samples judge each other's steps, against numbers worked by hand."""

import json

import pytest

from rlstep.runtime.errors import DataError, UserError
from rlstep.runtime.rows import write_rows
from rlstep.stages.evaluate import EvaluateConfig, evaluate


def sample(problem: str, number: int, text: str, correct: bool, labels=None, prm=None) -> dict:
    """A row whose steps are single letters."""
    steps = [[k, k + 1] for k in range(len(text))]
    scores = {"prm": prm or [0.5] * len(text)}
    row = {"problem_id": problem, "sample": number, "completion": text, "answer": text, "correct": correct}
    return row | {"steps": steps, "labels": labels, "scores": scores}


# Of problem p: "ab" is right twice, "ac" and "add" are wrong, "x" begins as none. Problem q's samples begin alike in
# problem p alone, and are no judges of it.
ROWS = [
    sample("p", 0, "ab", True, [1, 1], [0.9, 0.8]),
    sample("p", 1, "ac", False, [1, 0], [0.2, 0.6]),
    sample("q", 0, "a", True, [1], [0.9]),
    sample("p", 2, "ab", True, [1, 1], [0.9, 0.8]),
    sample("p", 3, "add", False, [0, None, 0], [0.4, 0.1, 0.1]),
    sample("p", 4, "ad", True, None),
    sample("p", 5, "x", False, [0], [0.1]),
    sample("q", 1, "b", False, [0], [0.9]),
]


def run(tmp_path, rows, **options) -> dict:
    write_rows(tmp_path / "scored.jsonl", rows)
    config = EvaluateConfig(str(tmp_path / "scored.jsonl"), str(tmp_path / "out"), **{"process_sets": True} | options)
    evaluate(config)
    return json.loads((tmp_path / "out" / "best_of_n.json").read_text())


def test_by_hand(tmp_path, capsys):
    """The first steps of p, by the others that begin with a: 1/3 for both ab (ac, add, ad), 3/4 for ac and for add.

    The second step of add (1, by ad) has no label, and follows its first error, as its third does.
    """
    figures = run(tmp_path, ROWS)["process_sets"]
    # labelled: 2 + 2 + 1 + 2 + 1 + 1 + 1; judged: the first steps of ab, ac, ab and add
    assert (figures["steps"], figures["judged"], figures["solutions"]) == (10, 0.4, 4)
    group, prm = figures["measures"]["process_sets"], figures["measures"]["prm"]
    # right 1/3, 3/4, 1/3 against wrong 3/4: one tie of three pairs
    assert group["auroc"] == pytest.approx(0.5 / 3)
    assert group["accuracy"] == pytest.approx(1 / 4)
    assert group["brier"] == pytest.approx((2 * (2 / 3) ** 2 + (1 / 4) ** 2 + (3 / 4) ** 2) / 4)
    # the PRM on the same steps: 0.9, 0.2, 0.9 against 0.4
    assert prm["auroc"] == pytest.approx(2 / 3)
    assert prm["first_error_exact"] == pytest.approx(3 / 4)
    metrics = json.loads((tmp_path / "out" / "run.json").read_text())["metrics"]
    assert metrics["process_sets_prm_auroc"] == prm["auroc"]
    assert "40.0% of 10 labelled steps have a score of the problem's other samples" in capsys.readouterr().out
    assert "process_sets" not in run(tmp_path, ROWS, process_sets=False)


def test_where_nobody_else_begins_so_there_is_no_score(tmp_path, capsys):
    """Two equal samples know of each other's outcome no more than each of its own."""
    rows = [sample("p", 0, "ab", True, [1, 1]), sample("p", 1, "ab", True, [1, 1]), sample("p", 2, "c", False, [0])]
    figures = run(tmp_path, rows)["process_sets"]
    assert figures == {"steps": 5, "judged": 0.0, "solutions": 0, "measures": {}}
    assert "0.0% of 5 labelled steps have a score" in capsys.readouterr().out
    # without a verifier nothing is said of one
    run(tmp_path, [row | {"scores": {}} for row in rows])
    assert "a score of the problem's other samples, so there is nothing to measure" in capsys.readouterr().out


def test_a_step_that_a_verifier_did_not_read_is_compared_with_nobody(tmp_path, capsys):
    rows = [sample("p", n, text, n == 0, [1, 1, 0]) for n, text in enumerate(("abc", "abd"))]
    assert run(tmp_path, rows)["process_sets"]["judged"] == pytest.approx(4 / 6)
    rows[0]["scores"]["prm"] = [0.9, None, None]
    assert run(tmp_path, rows)["process_sets"]["judged"] == pytest.approx(3 / 6)
    assert "50.0% of 6 labelled steps have a score of the problem's other samples and every verifier;" in (
        capsys.readouterr().out
    )


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"completion": None}, DataError, "'completion': missing, and process sets are samples that begin alike"),
        ({"steps": ["a"]}, DataError, r"'steps': expected a list of \[start, end\] pairs, as process sets"),
        ({"labels": None}, UserError, "no step has a label, by which process_sets are measured"),
    ],
)
def test_what_they_need_is_named(tmp_path, change, error, message):
    rows = [sample("p", n, "a", True, [1]) | change for n in range(2)]
    with pytest.raises(error, match=message):
        run(tmp_path, rows)


def test_they_are_of_one_file(tmp_path):
    with pytest.raises(UserError, match="process_sets are measured on one file, without domain"):
        EvaluateConfig("a.jsonl", "out", domain="level", process_sets=True)
