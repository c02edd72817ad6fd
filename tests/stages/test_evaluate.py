import json
import sys
from dataclasses import replace

import pytest

from rlstep.runtime.errors import DataError, UserError
from rlstep.runtime.rows import write_rows
from rlstep.stages.evaluate import EvaluateConfig, evaluate
from rlstep.steps.records import Solution


def solution(problem: str, sample: int, answer: str | None, correct: bool, labels, prm, orm) -> Solution:
    """A solution of as many one-letter steps as there are labels."""
    steps = [(k, k + 1) for k in range(len(labels))]
    scores = {"prm": prm, "orm": orm}
    return Solution(problem, "p", "x" * len(labels), "1", sample, True, steps, labels, answer, correct, scores)


@pytest.fixture
def hand() -> list[Solution]:
    """Problem a: right and clean, wrong, right on a wrong step. Problem b: two alike wrong, one right, PRM fooled.

    The ORM's scores before the last would reverse the order in problem a.
    """
    return [
        solution("a", 0, "1", True, [1, 1], [0.9, 0.9], [0.9, 0.6]),
        solution("a", 1, "2", False, [1, 0], [0.9, 0.1], [0.1, 0.9]),
        solution("a", 2, "1", True, [0, 1], [0.2, 0.9], [0.5, 0.7]),
        solution("b", 0, "3", False, [0, 1], [0.9, 0.8], [0.5, 0.1]),
        solution("b", 1, "3", False, [0, 1], [0.1, 0.1], [0.5, 0.2]),
        solution("b", 2, "1", True, [1, 1], [0.8, 0.8], [0.5, 0.3]),
    ]


def write(tmp_path, solutions) -> str:
    path = tmp_path / "scored.jsonl"
    write_rows(path, (s.to_row() for s in solutions))
    return str(path)


def run(tmp_path, solutions, **options) -> dict:
    options = {"ns": [1, 3], **options}
    evaluate(EvaluateConfig(write(tmp_path, solutions), str(tmp_path / "out"), **options))
    return json.loads((tmp_path / "out" / "best_of_n.json").read_text())


def test_curves_are_the_hand_worked_ones(tmp_path, hand):
    result = run(tmp_path, hand)
    curves = ["prm", "orm", "majority", "weighted", "pass_at_n", "prm_clean", "orm_clean"]
    about = ["problems", "samples_per_problem", "unanswered", "aggregate", "errors", "prm_steps"]
    assert list(result) == ["ns", *curves, *about]
    assert result["ns"] == [1, 3]
    # One sample: a is right with 2/3, b with 1/3, whatever picks. All three: the pick is known.
    for name, at_three in {"prm": 0.5, "orm": 0.5, "majority": 0.5, "pass_at_n": 1.0}.items():
        assert result[name]["mean"][1] == pytest.approx(at_three), name
    for name in ("prm", "orm", "pass_at_n"):
        assert result[name]["mean"][0] == pytest.approx(0.5), name
    # Clean samples: one of three in either problem; the PRM picks the clean one of a, the ORM a wrong one.
    assert result["prm_clean"]["mean"] == pytest.approx([1 / 3, 0.5])
    assert result["orm_clean"]["mean"] == pytest.approx([1 / 3, 0.5])
    assert (result["problems"], result["samples_per_problem"], result["unanswered"]) == (2, 3, 0)


def test_what_each_problem_expects_is_written_by_hand(tmp_path, hand):
    """Of all three samples, the PRM's pick is right in problem a and wrong in b."""
    run(tmp_path, hand)
    actual = json.loads((tmp_path / "out" / "by_problem.json").read_text())
    assert (actual["problems"], actual["ns"]) == (["a", "b"], [1, 3])
    assert actual["curves"]["prm"] == [pytest.approx([2 / 3, 1]), pytest.approx([1 / 3, 0])]


def test_two_of_three_samples_by_hand(tmp_path, hand):
    result = run(tmp_path, hand, ns=[2])
    # PRM order in a: sample 0, 2, 1; the best of two is 0 (2/3) or 2 (1/3), both right. In b: 0, 2, 1: right is 1/3.
    assert result["prm"]["mean"] == pytest.approx([(1 + 1 / 3) / 2])
    # ORM order in a: 1, 2, 0: right with 1/3; in b: 2, 1, 0: right with 2/3.
    assert result["orm"]["mean"] == pytest.approx([0.5])
    # Clean: the PRM picks sample 0 of a with 2/3 and sample 2 of b with 1/3; the ORM those with 0 and 2/3.
    assert result["prm_clean"]["mean"] == pytest.approx([0.5])
    assert result["orm_clean"]["mean"] == pytest.approx([1 / 3])


def test_errors_of_answers_and_traces_by_hand(tmp_path, hand, capsys):
    """All three samples are drawn: the PRM picks a right and clean answer in a, a wrong one in b; the ORM the reverse.

    Of one sample, or one at random, the answer is right with 2/3 and 1/3, clean with 1/3 and 1/3.
    """
    errors = run(tmp_path, hand)["errors"]
    assert list(errors) == ["sample", "prm", "orm"]
    for name in errors:
        assert errors[name]["final_answer_error"][0] == pytest.approx(1 / 2)
        assert errors[name]["trace_error"][0] == pytest.approx(1 - (2 / 3) / (3 / 3))
    assert [errors[name]["final_answer_error"][1] for name in errors] == pytest.approx([0.5, 0.5, 0.5])
    assert [errors[name]["trace_error"][1] for name in errors] == pytest.approx([1 / 3, 0.0, 0.0])
    out = capsys.readouterr().out
    assert (
        "errors at N = 3: of the answer; of a step, among right answers\nsample   0.500   0.333\nprm      0.500" in out
    )
    metrics = json.loads((tmp_path / "out" / "run.json").read_text())["metrics"]
    assert (metrics["prm_trace_error@3"], metrics["prm_final_answer_error@3"]) == (0.0, 0.5)


def test_without_a_right_answer_there_is_no_trace_error(tmp_path, hand, capsys):
    errors = run(tmp_path, [replace(one, correct=False) for one in hand])["errors"]
    assert errors["prm"] == {"final_answer_error": [1.0, 1.0], "trace_error": [None, None]}
    assert "prm      1.000       -" in capsys.readouterr().out


@pytest.mark.parametrize("labels", [[1, None], [None, None], []])
def test_a_right_answer_whose_steps_are_open_has_no_trace_error(tmp_path, hand, capsys, labels):
    """It is not known whether it rests on a wrong step, and it does not count as if it did."""
    score = [0.9] * len(labels)
    hand[0] = solution("a", 0, "1", True, labels, score, [0.9] * len(labels) or 0.6)
    errors = run(tmp_path, hand)["errors"]
    assert [errors[name]["trace_error"] for name in ("sample", "prm", "orm")] == [[None, None]] * 3
    assert errors["prm"]["final_answer_error"] == [0.5, 0.5]
    said = "left out: trace error (1 right answers have a step without a label and none that is wrong, or no steps"
    assert said in capsys.readouterr().out


def test_a_wrong_step_before_steps_without_labels_is_known(tmp_path, hand):
    hand[2].labels = [0, None]
    hand[1].labels = [None, None]  # its answer is wrong
    errors = run(tmp_path, hand)["errors"]
    assert errors["sample"]["trace_error"][0] == pytest.approx(1 / 3)


def test_errors_need_labels_and_no_scores(tmp_path, hand, capsys):
    result = run(tmp_path, [replace(one, scores={}) for one in hand])
    assert list(result["errors"]) == ["sample"]
    assert "errors" not in run(tmp_path, [replace(one, labels=None) for one in hand])
    assert capsys.readouterr().out.count("errors at N") == 1


def test_weighted_vote_adds_prm_scores(tmp_path, hand):
    # In b the two wrong answers weigh 0.72 + 0.01 against 0.64; with the right one at 0.9 * 0.9 = 0.81 it wins.
    assert run(tmp_path, hand, ns=[3])["weighted"]["mean"] == [0.5]
    hand[5].scores["prm"] = [0.9, 0.9]
    assert run(tmp_path, hand, ns=[3])["weighted"]["mean"] == [1.0]
    assert run(tmp_path, hand, ns=[3])["majority"]["mean"] == [0.5]


def test_aggregate_changes_the_pick(tmp_path, hand):
    # In b, sample 0 (wrong) and sample 2 (right) tie at 0.8 by the last step and by the lowest; by the mean 0 leads.
    assert run(tmp_path, hand, ns=[3], aggregate="last")["prm"]["mean"] == pytest.approx([0.75])
    assert run(tmp_path, hand, ns=[3], aggregate="minimum")["prm"]["mean"] == pytest.approx([0.75])
    assert run(tmp_path, hand, ns=[3], aggregate="mean")["prm"]["mean"] == pytest.approx([0.5])


def test_unanswered_samples_are_drawn_but_never_picked(tmp_path):
    unanswered = [solution("a", k, None, False, [1], [0.99], [0.99]) for k in (1, 2)]
    result = run(tmp_path, [solution("a", 0, "1", True, [1], [0.1], [0.1]), *unanswered])
    for name in ("prm", "orm", "majority", "weighted", "pass_at_n"):
        assert result[name]["mean"][1] == 1.0, name
    assert result["prm"]["mean"][0] == pytest.approx(1 / 3)
    assert result["unanswered"] == pytest.approx(2 / 3)


def test_a_problem_without_any_answer_counts_as_wrong(tmp_path, hand):
    nothing = [solution("c", k, None, False, [], [], []) for k in range(3)]
    assert run(tmp_path, hand + nothing, ns=[3])["prm"]["mean"] == pytest.approx([1 / 3])


def test_missing_score_names_file_row_and_what_is_there(tmp_path, hand):
    del hand[1].scores["orm"]
    with pytest.raises(DataError, match=r"scored\.jsonl, row 2, field 'scores\.orm': missing \(scores present: prm\)"):
        run(tmp_path, hand)
    with pytest.raises(DataError, match=r"row 1, field 'scores\.other': missing \(scores present: orm, prm\)"):
        run(tmp_path, hand, prm="other")


def test_scores_that_are_no_probabilities_are_refused(tmp_path, hand):
    hand[2].scores["prm"] = [0.5, 1.5]
    with pytest.raises(DataError, match=r"row 3, field 'scores\.prm'.*1\.5"):
        run(tmp_path, hand)


def test_too_large_n_names_the_problem(tmp_path, hand):
    with pytest.raises(UserError, match="best-of-4, but problem 'a' has 3 samples"):
        run(tmp_path, hand, ns=[1, 4])


def test_repeated_rows_are_refused(tmp_path, hand):
    hand[4].sample = 0
    with pytest.raises(DataError, match="row 5, field 'sample': sample 0 of 'b' is already in row 4"):
        run(tmp_path, hand)


@pytest.mark.parametrize("ns", [[], [0, 1], [4, 2], [2, 2]])
def test_bad_ns_are_refused(ns):
    with pytest.raises(UserError, match="ns is"):
        EvaluateConfig("data", "out", ns=ns)


def test_seed_and_trials_reach_the_votes(tmp_path, hand):
    means = {run(tmp_path, hand, ns=[2], trials=3, seed=seed)["weighted"]["mean"][0] for seed in range(6)}
    assert len(means) > 1
    # One trial a problem: each is right or wrong, so the mean of two problems is a half of a whole number.
    assert run(tmp_path, hand, ns=[2], trials=1)["weighted"]["mean"][0] in (0, 0.5, 1)
    many = [run(tmp_path, hand, ns=[2], trials=4000, seed=seed)["weighted"]["mean"][0] for seed in range(2)]
    # Exactly: a always right (0.81 or 0.18 beats 0.09); b right when the right one is drawn with sample 1 (1/3).
    assert many == pytest.approx([2 / 3, 2 / 3], abs=0.02)


def test_metrics_and_record(tmp_path, hand):
    metrics = evaluate(EvaluateConfig(write(tmp_path, hand), str(tmp_path / "out"), ns=[1, 2]))
    assert metrics["prm@2"] == pytest.approx(2 / 3)
    record = json.loads((tmp_path / "out" / "run.json").read_text())
    assert record["stage"] == "evaluate"
    assert record["metrics"] == metrics


def test_prm_is_measured_on_single_steps_up_to_the_first_wrong_one(tmp_path):
    # Labelled 1 1 | 1 0 1 | 0 0, scored as below: of the five steps that count, 0.4 and 0.6 are misjudged.
    rows = [
        solution("a", 0, "1", True, [1, 1], [0.9, 0.4], [0.5] * 2),
        solution("b", 0, "1", True, [1, 0, 1], [0.8, 0.6, 0.1], [0.5] * 3),
        solution("c", 0, "2", False, [0, 0], [0.2, 0.9], [0.5] * 2),
    ]
    actual = run(tmp_path, rows, ns=[1])["prm_steps"]
    assert actual["accuracy"] == pytest.approx(3 / 5)
    assert actual["balanced_accuracy"] == pytest.approx((2 / 3 + 1 / 2) / 2)
    # first error said / labelled: 1 / none, 2 / 1, 0 / 0
    assert actual["first_error_exact"] == pytest.approx(1 / 3)
    assert (tmp_path / "out" / "reliability.png").stat().st_size > 10_000


def test_wandb_gets_an_offline_run_when_asked(tmp_path, hand, wandb_folder):
    run(tmp_path, hand, report_to="wandb", run_name="curves")
    assert list(wandb_folder.glob("offline-run-*/*.wandb"))


def test_wandb_is_not_touched_otherwise(tmp_path, hand, monkeypatch):
    monkeypatch.setenv("WANDB_DIR", str(tmp_path))
    monkeypatch.setitem(sys.modules, "wandb", None)  # an import of it would raise
    run(tmp_path, hand)
    assert not (tmp_path / "wandb").exists()


def test_steps_that_branches_share_are_measured_once_and_their_solutions_whole(tmp_path):
    """As PRM800K's alternatives are: the second solution differs from the first in its last step alone."""
    first = solution("a", 0, "1", True, [1, 1, 1], [0.9, 0.9, 0.9], [0.5, 0.5, 0.5])
    second = solution("a", 1, "2", False, [1, 1, 0], [0.9, 0.9, 0.8], [0.5, 0.5, 0.5])
    first.tree = second.tree = "t"
    second.completion = "xxy"
    steps = run(tmp_path, [first, second], ns=[1])["prm_steps"]
    assert steps["accuracy"] == pytest.approx(3 / 4)
    assert steps["brier"] == pytest.approx((3 * 0.1**2 + 0.8**2) / 4)
    assert steps["first_error_exact"] == pytest.approx(1 / 2)
