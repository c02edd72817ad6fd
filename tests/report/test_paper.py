"""The report of the paper's experiments, on evaluations and records written by hand."""

import json
from pathlib import Path

import pytest
from matplotlib.image import imread

from rlstep.report.paper import series
from rlstep.report.paper.report import report_paper
from rlstep.runtime.errors import UserError
from rlstep.runtime.rows import write_json, write_rows
from rlstep.steps.records import Solution

SEEDS = 2


@pytest.fixture
def runs(tmp_path) -> list[Path]:
    return [tmp_path / f"seed-{seed}" for seed in range(SEEDS)]


def evaluated(run: Path, one: series.Series, size: int | None, accuracy: list[float]) -> None:
    """Best-of-1 is 0 everywhere; at the largest N each problem has its value, and is clean half as often."""
    curves = {
        one.kind: [[0.0, value] for value in accuracy],
        f"{one.kind}_clean": [[0.0, value / 2] for value in accuracy],
    }
    write_json(
        run / one.folder(size) / "evaluate" / "by_problem.json",
        {"problems": [str(k) for k in range(len(accuracy))], "ns": [1, 8], "curves": curves},
    )


def test_gaps_of_supervision_are_taken_within_a_seed(runs, tmp_path):
    plan = {"synthetic": series.synthetic([1, 5])}
    # The mean over two problems, by seed and size.
    means = {
        "process": [[0.5, 0.7], [0.6, 0.9]],
        "outcome_teacher": [[0.4, 0.6], [0.4, 0.6]],
        "outcome_answer": [[0.4, 0.4], [0.2, 0.4]],
    }
    for seed, run in enumerate(runs):
        for one in plan["synthetic"]:
            for place, size in enumerate(one.sizes):
                mean = means[one.name][seed][place]
                evaluated(run, one, size, [mean - 0.1, mean + 0.1])
    summary = report_paper(runs, plan, tmp_path / "report")
    assert json.loads((tmp_path / "report" / "paper.json").read_text()) == summary
    assert (summary["seeds"], summary["best_of"], summary["problems"]) == (["seed-0", "seed-1"], 8, 2)
    actual = summary["synthetic"]
    assert actual["series"]["process"]["accuracy"]["mean"] == pytest.approx([0.55, 0.8])
    assert actual["series"]["process"]["clean"]["mean"] == pytest.approx([0.275, 0.4])
    assert actual["process_minus_outcome_teacher"]["mean"] == pytest.approx([0.15, 0.2])
    # 0.1 and 0.3: half the 95% t-interval of two values is 12.706 * 0.1414 / sqrt(2).
    assert actual["process_minus_outcome_teacher"]["low"][1] == pytest.approx(0.2 - 1.2706, abs=1e-3)
    assert actual["outcome_teacher_minus_outcome_answer"]["mean"] == pytest.approx([0.1, 0.2])
    text = (tmp_path / "report" / "report.md").read_text()
    assert "| process minus teacher's outcome | above 0 at every size | 0.20 [-1.07, 1.47] at 5 per problem" in text
    assert imread(tmp_path / "report" / "synthetic.png").std() > 0


def test_the_slope_ratio_of_active_learning_by_hand(runs, tmp_path):
    """A tenfold of labels brings 0.3 by the paper's rule and 0.1 by uniform choice, for every seed and problem."""
    plan = {"active": series.active([100, 1000], [0.5])}
    steps = {"convincing": 0.3, "uniform": 0.1, "share_0.5": 0.2, "worse": 0.1, "uncertainty": 0.0}
    for run in runs:
        for one in plan["active"]:
            for place, size in enumerate(one.sizes):
                evaluated(run, one, size, [0.2 + steps[one.name] * place] * 2)
                # What was selected costs a little less than the budget.
                write_json(
                    run / one.folder(size) / "selected.jsonl.run.json", {"metrics": {"steps_to_label": size * 0.9}}
                )
    actual = report_paper(runs, plan, tmp_path / "report")["active"]["series"]
    assert actual["convincing"]["labels_of_seeds"] == [pytest.approx([90, 900])] * SEEDS
    assert list(actual["convincing"]["slope_ratio"].values()) == pytest.approx([3, 3, 3])
    ratios = {name: actual[name]["slope_ratio"]["mean"] for name in steps if name != "uniform"}
    assert ratios == pytest.approx({"convincing": 3, "share_0.5": 2, "worse": 1, "uncertainty": 0})
    # 0.3 is reached by the rule after 10^(1/3) times its first labels, and by uniform choice with ten times as many.
    assert actual["convincing"]["label_factor"]["mean"] == pytest.approx(10 ** (2 / 3))
    assert "slope_ratio" not in actual["uniform"]
    text = (tmp_path / "report" / "report.md").read_text()
    assert "| active learning against uniform, slope ratio | 2.6 | 3.0 [3.0, 3.0] |" in text
    assert "| wrong share 0.5 | 0.20 [0.20, 0.20] | 0.40 [0.40, 0.40] | 2.0 [2.0, 2.0] |" in text


def test_an_infinite_ratio_is_written_as_text(runs, tmp_path):
    plan = {"active": series.active([100, 1000], [])}
    for run in runs:
        for one in plan["active"]:
            for place, size in enumerate(one.sizes):
                evaluated(run, one, size, [0.2 if one.name == "uniform" else 0.2 + 0.1 * place] * 2)
                write_json(run / one.folder(size) / "selected.jsonl.run.json", {"metrics": {"steps_to_label": size}})
    report_paper(runs, plan, tmp_path / "report")

    def refuse(name: str):
        raise AssertionError(f"{name} is no JSON")

    read = json.loads((tmp_path / "report" / "paper.json").read_text(), parse_constant=refuse)
    assert read["active"]["series"]["convincing"]["slope_ratio"]["mean"] == "inf"


def labelled(sample: int, labels: list[float | None]) -> dict:
    steps = [(k, k + 1) for k in range(len(labels))]
    return Solution("p", "p?", "x" * len(labels), "1", sample, steps=steps, labels=labels).to_row()


def test_what_rollouts_cost_and_how_often_they_agree(runs, tmp_path):
    """Of three solutions two were labelled; of those the first error of one is where the checker has it.

    A soft label above 0 is no error, however small.
    """
    plan = {"monte_carlo": series.monte_carlo([1, 4])}
    assert [(one.name, one.sizes) for one in plan["monte_carlo"]] == [
        ("exact", (None,)), ("hard", (1, 4)), ("soft", (4,)), ("binary", (4,)),
    ]  # fmt: skip
    for run in runs:
        for one in plan["monte_carlo"]:
            for size in one.sizes:
                evaluated(run, one, size, [0.5, 0.7])
                path = run / one.folder(size) / "labelled.jsonl"
                exact = size is None
                rows = [[1, 0, 1], [1, 1], [0, 1]] if exact else [[0.25, 0, None], [1, 0], [None, None]]
                write_rows(path, (labelled(sample, labels) for sample, labels in enumerate(rows)))
                metrics = {} if exact else {"rollouts": 12, "rollout_tokens": 90}
                write_json(path.with_name("labelled.jsonl.run.json"), {"metrics": metrics})
    actual = report_paper(runs, plan, tmp_path / "report")["monte_carlo"]["series"]
    assert actual["binary"]["solutions_of_seeds"] == [[2], [2]]
    assert actual["binary"]["rollouts_per_solution_of_seeds"] == [[6], [6]]
    assert actual["hard"]["agreement_of_seeds"] == [[0.5, 0.5]] * SEEDS
    assert actual["exact"]["agreement_of_seeds"] == [[1], [1]]
    assert actual["exact"]["solutions_of_seeds"] == [[3], [3]]
    text = (tmp_path / "report" / "report.md").read_text()
    row = "| hard, by halves | 4 | 0.60 [0.60, 0.60] | 0.30 [0.30, 0.30] | 2 of 3 | 90 | 6.0 | 0.50 [0.50, 0.50] |"
    assert row in text
    assert "not at equal tokens" not in text


def rolled_out(
    run: Path, one: series.Series, size: int | None, firsts: list[int], rollouts: int, tokens: int, left: int = 0
) -> None:
    """Ten-step solutions with the first error at these places, labelled with so many rollouts and tokens."""
    evaluated(run, one, size, [0.5, 0.7])
    path = run / one.folder(size) / "labelled.jsonl"
    write_rows(path, (labelled(sample, [1.0] * first + [0.0]) for sample, first in enumerate(firsts)))
    metrics = {} if size is None else {"rollouts": rollouts, "rollout_tokens": tokens, "left_by_budget": left}
    write_json(path.with_name("labelled.jsonl.run.json"), {"metrics": metrics})


def test_the_search_by_halves_is_compared_where_both_agree_as_often(runs, tmp_path):
    """Step by step agrees on 1 of 4 with 10 rollouts a solution, on 3 of 4 with 40.

    By halves agrees on 2 of 4 with 5: half way up, step by step takes 20, the geometric mean, 4 times as many. With 50
    it agrees on all 4, and step by step never does: its 40 are a lower bound, 0.8 times as many.
    """
    plan = {"monte_carlo": series.monte_carlo([1, 2, 4])}
    right, wrong = [3, 3, 3, 3], [5, 5, 5, 5]
    of_hard = {1: (1, 10), 2: (1, 10), 4: (3, 40)}
    of_halves = {2: (2, 5), 4: (4, 50)}
    for run in runs:
        for one in plan["monte_carlo"]:
            for size in one.sizes:
                agreed, each = {"hard": of_hard, "binary": of_halves}.get(one.name, {}).get(size, (4, 1))
                rolled_out(run, one, size, right[:agreed] + wrong[agreed:], 4 * each, tokens=100)
    actual = report_paper(runs, plan, tmp_path / "report")["monte_carlo"]["series"]["binary"]
    assert actual["agreement"]["mean"] == [0.5, 1]
    assert actual["fewer_rollouts"]["mean"] == pytest.approx([4, 0.8])
    text = (tmp_path / "report" / "report.md").read_text()
    assert "4.00 [4.00, 4.00] at K = 2, 0.80 [0.80, 0.80] at K = 4 |" in text


def test_rollouts_that_ran_out_of_solutions_are_named(runs, tmp_path):
    plan = {"monte_carlo": series.monte_carlo([1, 4])}
    for run in runs:
        for one in plan["monte_carlo"]:
            for size in one.sizes:
                # Of these three, one is within 5% of the most, and one would have spent more but for its last batch.
                tokens, left = {"hard": (940, 0), "soft": (970, 0), "binary": (900, 3)}.get(one.name, (1000, 0))
                if run.name == "seed-0" or (one.name, size) == ("hard", 4):
                    tokens = 1000
                rolled_out(run, one, size, [1, 2], 4, tokens, left)
    summary = report_paper(runs, plan, tmp_path / "report")
    expected = {"seed": "seed-1", "series": "hard", "size": 1, "tokens": 940, "of": 1000}
    assert summary["monte_carlo"]["unequal_tokens"] == [expected]
    text = (tmp_path / "report" / "report.md").read_text()
    assert "- hard, step by step, K = 1, seed-1: 940 tokens, not 1,000, as all solutions were labelled by then" in text


def leave_out(run: Path, one: series.Series, size: int | None) -> None:
    marker = run / ".lab" / f"evaluate_{one.folder(size)}.json"
    write_json(marker, {"left_out": f"prm_{one.folder(size)}: every label of the training data is 1."})


def test_a_verifier_that_was_left_out_is_said_not_to_be_measured(runs, tmp_path):
    plan = {"active": series.active([100, 1000, 10000], [0.0])}
    for run in runs:
        for one in plan["active"]:
            for place, size in enumerate(one.sizes):
                write_json(run / one.folder(size) / "selected.jsonl.run.json", {"metrics": {"steps_to_label": size}})
                # Two of the three budgets of share_0, and one of the worse selector, are not measured in one seed.
                absent = run.name == "seed-1" and place < {"share_0": 2, "worse": 1}.get(one.name, 0)
                if absent:
                    leave_out(run, one, size)
                else:
                    evaluated(run, one, size, [0.2 + 0.1 * place] * 2)
    summary = report_paper(runs, plan, tmp_path / "report")
    json.dumps(summary, allow_nan=False)
    actual = summary["active"]["series"]
    assert actual["share_0"]["accuracy"]["mean"] == [None, None, pytest.approx(0.4)]
    assert actual["share_0"]["accuracy_of_seeds"] == [pytest.approx([0.2, 0.3, 0.4]), [None, None, pytest.approx(0.4)]]
    (first, _) = actual["share_0"]["not_measured"]
    assert (first["seed"], first["size"]) == ("seed-1", 100)
    assert "every label" in first["reason"]
    assert (actual["share_0"]["slope_ratio"], actual["share_0"]["fitted_sizes"]) == (None, [10000])
    assert (actual["worse"]["slope_ratio"]["mean"], actual["worse"]["fitted_sizes"]) == (
        pytest.approx(1),
        [1000, 10000],
    )
    text = (tmp_path / "report" / "report.md").read_text()
    assert "| wrong share 0 | not measured | not measured | 0.40 [0.40, 0.40] | not measured | not measured |" in text
    assert "- not measured: wrong share 0, 100 labelled steps, seed-1: prm_active_share_0_100: every label" in text
    assert "- worse selector, slope ratio and label factor: of the budgets 1,000, 10,000." in text
    assert imread(tmp_path / "report" / "active.png").std() > 0


def test_a_gap_has_no_value_where_one_of_the_two_was_left_out(runs, tmp_path):
    plan = {"synthetic": series.synthetic([1, 5])}
    for run in runs:
        for one in plan["synthetic"]:
            for size in one.sizes:
                if (one.name, size) == ("outcome_teacher", 1):
                    leave_out(run, one, size)
                else:
                    evaluated(run, one, size, [0.5 if one.kind == "orm" else 0.6])
    actual = report_paper(runs, plan, tmp_path / "report")["synthetic"]
    assert actual["process_minus_outcome_teacher"]["mean"] == [None, pytest.approx(0.1)]
    assert actual["process_minus_outcome_answer"]["mean"] == pytest.approx([0.1, 0.1])
    text = (tmp_path / "report" / "report.md").read_text()
    assert "0.10 [0.10, 0.10] at 5 per problem; above 0 at 1 of 1 sizes" in text


def test_a_run_in_which_nothing_was_trained_says_why(runs, tmp_path):
    plan = {"synthetic": series.synthetic([1])}
    for run in runs:
        for one in plan["synthetic"]:
            leave_out(run, one, 1)
    with pytest.raises(UserError, match=r"no verifier was trained: prm_synthetic_process_1: every label"):
        report_paper(runs, plan, tmp_path / "report")


def test_a_missing_evaluation_is_named(runs, tmp_path):
    with pytest.raises(UserError, match=r"synthetic_process_1/evaluate/by_problem.json: no such file"):
        report_paper(runs, {"synthetic": series.synthetic([1])}, tmp_path / "report")


def test_evaluations_on_other_problems_are_refused(runs, tmp_path):
    plan = {"synthetic": series.synthetic([1])}
    for run in runs:
        for one in plan["synthetic"]:
            evaluated(run, one, 1, [0.5] * (2 if one.kind == "prm" else 3))
    with pytest.raises(UserError, match=r"synthetic_process_1 on 2 .*, synthetic_outcome_answer_1 on 3 "):
        report_paper(runs, plan, tmp_path / "report")
