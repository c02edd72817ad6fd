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
    found = summary["synthetic"]
    assert found["series"]["process"]["accuracy"]["mean"] == pytest.approx([0.55, 0.8])
    assert found["series"]["process"]["clean"]["mean"] == pytest.approx([0.275, 0.4])
    assert found["process_minus_outcome_teacher"]["mean"] == pytest.approx([0.15, 0.2])
    # 0.1 and 0.3: half the 95% t-interval of two values is 12.706 * 0.1414 / sqrt(2).
    assert found["process_minus_outcome_teacher"]["low"][1] == pytest.approx(0.2 - 1.2706, abs=1e-3)
    assert found["outcome_teacher_minus_outcome_answer"]["mean"] == pytest.approx([0.1, 0.2])
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
    found = report_paper(runs, plan, tmp_path / "report")["active"]["series"]
    assert found["convincing"]["labels_of_seeds"] == [pytest.approx([90, 900])] * SEEDS
    assert list(found["convincing"]["slope_ratio"].values()) == pytest.approx([3, 3, 3])
    ratios = {name: found[name]["slope_ratio"]["mean"] for name in steps if name != "uniform"}
    assert ratios == pytest.approx({"convincing": 3, "share_0.5": 2, "worse": 1, "uncertainty": 0})
    # 0.3 is reached by the rule after 10^(1/3) times its first labels, and by uniform choice with ten times as many.
    assert found["convincing"]["label_factor"]["mean"] == pytest.approx(10 ** (2 / 3))
    assert "slope_ratio" not in found["uniform"]
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
    found = report_paper(runs, plan, tmp_path / "report")["monte_carlo"]["series"]
    assert found["binary"]["solutions_of_seeds"] == [[2], [2]]
    assert found["binary"]["rollouts_per_solution_of_seeds"] == [[6], [6]]
    assert found["hard"]["agreement_of_seeds"] == [[0.5, 0.5]] * SEEDS
    assert found["exact"]["agreement_of_seeds"] == [[1], [1]]
    text = (tmp_path / "report" / "report.md").read_text()
    assert "| hard, by halves | 4 | 0.60 [0.60, 0.60] | 0.30 [0.30, 0.30] | 2 | 90 | 6.0 | 0.50 |" in text


def test_a_missing_evaluation_is_named(runs, tmp_path):
    with pytest.raises(UserError, match=r"synthetic_process_1/evaluate/by_problem.json: no such file"):
        report_paper(runs, {"synthetic": series.synthetic([1])}, tmp_path / "report")


def test_evaluations_on_other_problems_are_refused(runs, tmp_path):
    (one, *_) = series.synthetic([1, 5])
    for run in runs:
        evaluated(run, one, 1, [0.5])
        evaluated(run, one, 5, [0.5, 0.5])
    with pytest.raises(UserError, match="synthetic_process_1 and others"):
        report_paper(runs, {"synthetic": series.synthetic([1, 5])}, tmp_path / "report")
