import json
import math
import re
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from matplotlib.image import imread

from rlstep.report import arms
from rlstep.report.arms import Arm, Style
from rlstep.report.examples import first_flagged, first_wrong, read_step_scores
from rlstep.report.figures import draw_step_scores
from rlstep.report.figures.drawing import spread
from rlstep.report.seeds import report_seeds
from rlstep.report.style import GREEN
from rlstep.report.summary import summarize
from rlstep.report.tables import number
from rlstep.runtime.errors import UserError
from rlstep.runtime.paths import recipe
from rlstep.runtime.rows import read_rows, write_json, write_rows
from rlstep.stages.report import ReportConfig, report
from rlstep.steps.boundaries import line_steps
from tests.report.runs import curve, make_run, scored, solution

PICTURES = ("best_of_n.png", "rl_curves.png", "step_scores.png")


def assert_picture(path: Path) -> None:
    pixels = imread(path)
    assert min(pixels.shape[:2]) > 300
    channels = (pixels[..., :3] * 255).astype(np.int64).reshape(-1, 3)
    assert len(np.unique(channels @ [1, 256, 65536])) > 20


def test_report_writes_summary_text_and_pictures(tmp_path):
    run = make_run(tmp_path / "run", seed=7)
    report(ReportConfig(str(run)))
    summary = json.loads((run / "report" / "summary.json").read_text())
    assert set(summary["best_of_n"]) >= {"ns", "prm", "orm", "majority", "weighted", "pass_at_n"}
    assert summary["best_of_n"]["prm"]["low"] == pytest.approx([0.25, 0.45, 0.65])
    assert summary["rl"]["process"]["samples"] == [0, 100, 200, 300, 400, 500]
    assert summary["rl"]["outcome"]["clean_accuracy"][-1] == 0.3
    assert summary["rl_comparison"]["accuracy"]["ratio"] == 2.5
    stages = {"prepare": 2.0, "test/scored": 3.0, "ppo_process": 10.5, "ppo_outcome": 10.5, "ppo_process_only": 10.5}
    assert summary["seconds"] == {**stages, "total": 36.5}
    assert (summary["seed"], summary["versions"], summary["commits"]) == (7, {"torch": "2.13.0"}, ["abc"])
    assert summary["missing"] == []
    for name in PICTURES:
        assert_picture(run / "report" / name)
    text = (run / "report" / "report.md").read_text()
    assert "| 4 | 0.70 [0.65, 0.75] | 0.50 [0.45, 0.55] |" in text
    assert "first reached after 500 samples; the process arm reaches it after 200, 2.5 times fewer" in text
    assert "0.30  wrong  2 + 1 = 4" in text
    assert "## Missing" not in text


def test_out_chooses_the_folder(tmp_path):
    run = make_run(tmp_path / "run", arms=())
    (run / "test" / "scored.jsonl").unlink()
    report(ReportConfig(str(run), out=str(tmp_path / "elsewhere")))
    assert (tmp_path / "elsewhere" / "summary.json").is_file()
    assert not (tmp_path / "run" / "report").exists()


def test_a_report_replaces_no_record_but_its_own(tmp_path):
    run = make_run(tmp_path / "run", arms=())
    (run / "run.json").write_text('{"stage": "lab"}')
    for out in (run, run / "prepare"):
        with pytest.raises(UserError, match=r"where another stage has its run\.json"):
            ReportConfig(str(run), out=str(out))
    given = ReportConfig(str(run), out=str(tmp_path / "elsewhere"))
    report(given)
    report(given)
    assert (run / "run.json").read_text() == '{"stage": "lab"}'


def test_seconds_leave_out_an_earlier_report(tmp_path):
    run = make_run(tmp_path / "run")
    write_json(run / "report" / "run.json", {"stage": "report", "seconds": 99.0})
    assert summarize(run)[0]["seconds"]["total"] == 36.5


def test_a_record_of_the_whole_run_is_not_added_to_its_stages(tmp_path):
    run = make_run(tmp_path / "run")
    write_json(run / "run.json", {"stage": "lab", "seed": 5, "seconds": 1000.0})
    summary, _ = summarize(run)
    assert (summary["seed"], summary["seconds"]["total"]) == (5, 36.5)


def test_missing_parts_are_named_and_not_invented(tmp_path):
    run = make_run(tmp_path / "run", arms=("outcome",))
    (run / "test" / "scored.jsonl").unlink()
    summary = report(ReportConfig(str(run)))
    assert summary["rl"]["process"] is None
    assert summary["rl_comparison"] is None
    assert summary["step_scores"] is None
    assert summary["missing"] == [
        "RL arm 'process': no ppo_process/eval.jsonl",
        "step scores: no test/scored.jsonl",
    ]
    text = (run / "report" / "report.md").read_text()
    assert "- RL arm 'process': no ppo_process/eval.jsonl" in text
    assert "process: answer" not in text
    assert not (run / "report" / "step_scores.png").exists()
    assert_picture(run / "report" / "rl_curves.png")


def test_picture_of_an_earlier_report_goes_with_its_data(tmp_path):
    run = make_run(tmp_path / "run", arms=())
    (run / "report").mkdir()
    (run / "report" / "rl_curves.png").write_bytes(b"of an earlier report")
    assert report(ReportConfig(str(run)))["rl"] == {"process": None, "outcome": None, "process_only": None}
    assert not (run / "report" / "rl_curves.png").exists()


def test_a_folder_without_results_is_refused(tmp_path):
    with pytest.raises(UserError, match="no such run folder"):
        report(ReportConfig(str(tmp_path / "nowhere")))
    assert not (tmp_path / "nowhere").exists()
    with pytest.raises(UserError, match="nothing to report"):
        report(ReportConfig(str(tmp_path)))


def test_broken_files_are_named(tmp_path):
    run = make_run(tmp_path / "run")
    write_json(run / "evaluate" / "best_of_n.json", {"ns": [1]})
    with pytest.raises(UserError, match=r"best_of_n\.json: no curve"):
        summarize(run)
    write_json(run / "evaluate" / "best_of_n.json", {"prm": curve(0.5)})
    with pytest.raises(UserError, match=r"best_of_n\.json: no 'ns'"):
        summarize(run)
    (run / "evaluate" / "best_of_n.json").write_text("{")
    with pytest.raises(UserError, match=r"best_of_n\.json: not valid JSON"):
        summarize(run)
    (run / "evaluate" / "best_of_n.json").write_bytes('{"é'.encode()[:-1])  # cut off within a character
    with pytest.raises(UserError, match=r"best_of_n\.json: not valid JSON \(unexpected end of data\)"):
        summarize(run)
    for curves in ({"ns": [1, 2], "prm": curve(0.5)}, {"ns": [1], "prm": {"mean": [0.5], "low": [0.4]}}):
        write_json(run / "evaluate" / "best_of_n.json", curves)
        with pytest.raises(UserError, match=r"best_of_n\.json: the curve 'prm' needs one '\w+' for each N of 'ns'"):
            summarize(run)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"ns": []}, "'ns' is not rising whole numbers"),
        ({"ns": "abc"}, "'ns' is not rising whole numbers"),
        ({"ns": [1, 2, 2]}, "'ns' is not rising whole numbers"),
        ({"ns": [0, 1, 2]}, "'ns' is not rising whole numbers"),
        ({"prm": {**curve(0.1, 0.2, 0.3), "low": [0.1, math.nan, 0.2]}}, "the curve 'prm' needs one 'low'"),
        ({"orm": {**curve(0.1, 0.2, 0.3), "mean": ["a", "b", "c"]}}, "the curve 'orm' needs one 'mean'"),
        ({"problems": None}, "'problems' is not a whole number"),
        ({"aggregate": 3}, "'aggregate' is not one of product, minimum, last, mean"),
        ({"aggregate": "most"}, "'aggregate' is not one of product"),
        ({"unanswered": math.inf}, "'unanswered' is not a share"),
        ({"prm_steps": {"accuracy": None}}, "'prm_steps' is not measures by name"),
        ({"prm_steps": [1]}, "'prm_steps' is not measures by name"),
    ],
)
def test_curves_that_are_none_are_named(tmp_path, change, message):
    """In place of a failure in a table, a figure or the page, which would not say which file it is of."""
    path = make_run(tmp_path / "run") / "evaluate" / "best_of_n.json"
    write_json(path, json.loads(path.read_text()) | change)
    with pytest.raises(UserError, match=rf"best_of_n\.json: {message}.* Run `rlstep evaluate` again"):
        report(ReportConfig(str(tmp_path / "run")))


def test_curves_without_what_they_are_of_are_named(tmp_path):
    path = make_run(tmp_path / "run") / "evaluate" / "best_of_n.json"
    curves = json.loads(path.read_text())
    for name in ("problems", "samples_per_problem", "aggregate"):
        write_json(path, {key: value for key, value in curves.items() if key != name})
        with pytest.raises(UserError, match=rf"best_of_n\.json: no '{name}'"):
            report(ReportConfig(str(tmp_path / "run")))


ACCURACY = {"prm": {"mean": 0.5, "low": 0.4, "high": 0.6}}


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({}, "no 'n'"),
        ({"n": 4}, "no 'domains'"),
        ({"n": 4, "domains": {}}, "'domains' is not figures by domain"),
        ({"n": 4, "domains": {"a": {"problems": 3}}}, "'a' needs 'problems', and 'accuracy'"),
        ({"n": 4, "domains": {"a": {"accuracy": ACCURACY}}}, "'a' needs 'problems', and 'accuracy'"),
        ({"n": 4, "domains": {"a": {"problems": 3, "accuracy": {"prm": {"mean": None}}}}}, "'a' needs"),
        ({"n": 4, "domains": {"a": {"problems": 3, "accuracy": ACCURACY}}}, "'all' needs"),
    ],
)
def test_a_table_by_domain_that_is_none_is_named(tmp_path, table, message):
    run = make_run(tmp_path / "run")
    write_json(run / "domains" / "domains.json", table)
    with pytest.raises(UserError, match=rf"domains\.json: {message}"):
        report(ReportConfig(str(run)))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"seconds": "x"}, "'seconds' is not a number"),
        ({"seed": "x"}, "'seed' is not a whole number"),
        ({"commit": []}, "'commit' is not text"),
        ({"versions": ["x"]}, "'versions' is not texts by package"),
        ({"config": None}, "'config' is not settings by name"),
    ],
)
def test_a_record_that_is_none_is_named(tmp_path, change, message):
    run = make_run(tmp_path / "run")
    write_json(run / "prepare" / "run.json", {"stage": "prepare", "seconds": 1.0} | change)
    with pytest.raises(UserError, match=rf"run\.json: {message}"):
        report(ReportConfig(str(run)))


def test_settings_of_guards_that_are_none_are_named(tmp_path):
    run = make_run(tmp_path / "run")
    write_json(run / "ppo_process" / "run.json", {"stage": "ppo", "config": {"guard_max_steps": "x"}})
    with pytest.raises(UserError, match=r"run\.json: its setting guard_max_steps is 'x', no number"):
        report(ReportConfig(str(run)))


HALF = "\ud83d"  # of a surrogate pair: JSON can write it, UTF-8 cannot


@pytest.mark.parametrize("text", [f"1 {HALF}\n", "1 \x00\u202e 2\n", "$\\frac{ $x^{\n", "```\n# Title\n````\n"])
def test_odd_text_is_shown_in_every_form(tmp_path, text):
    run = make_run(tmp_path / "run")
    one, *others = scored()
    one.completion = text + "Answer: 3"
    one.steps = line_steps(one.completion)
    one.labels, one.scores = [1] * len(one.steps), {name: [0.9] * len(one.steps) for name in ("prm", "orm")}
    one.prompt = text
    write_rows(run / "test" / "scored.jsonl", [solution.to_row() for solution in (one, *others)])
    path = run / "evaluate" / "best_of_n.json"
    write_json(path, json.loads(path.read_text()) | {text.strip(): curve(0.2, 0.3, 0.4)})
    report(ReportConfig(str(run)))
    written = (run / "report" / "report.md").read_text(encoding="utf-8")
    fences = [line for line in written.splitlines() if re.fullmatch("`{3,}(text)?", line)]
    opening = [line for line in fences if line.endswith("text")]
    assert len(opening) == 3  # examples
    for line in opening:
        block = written.split(f"\n{line}\n", 1)[1]
        assert block.index(f"\n{line.removesuffix('text')}\n") > block.index("right answer 3")
    for name in ("best_of_n.png", "step_scores.png"):
        assert_picture(run / "report" / name)


def with_curves_of_one_score(run: Path) -> Path:
    """In place of the lab's curves those of a file with a score of another name, without answers."""
    curves = {"ns": [1, 2, 4], "qwen": curve(0.3, 0.4, 0.55), "pass_at_n": curve(0.3, 0.6, 0.8)}
    write_json(
        run / "evaluate" / "best_of_n.json",
        {**curves, "problems": 10, "samples_per_problem": 4, "aggregate": "product"},
    )
    return run


def test_curves_of_other_scores_are_reported_by_their_names(tmp_path):
    run = with_curves_of_one_score(make_run(tmp_path / "run"))
    report(ReportConfig(str(run)))
    text = (run / "report" / "report.md").read_text()
    assert "| N | qwen | pass@N |" in text
    assert "| 4 | 0.55 [0.50, 0.60] | 0.80 [0.75, 0.85] |" in text
    assert "at least 4 samples each; PRM solution score: product." in text
    assert_picture(run / "report" / "best_of_n.png")


def test_seeds_of_other_scores_have_no_gap_to_an_orm(tmp_path):
    runs = [with_curves_of_one_score(make_run(tmp_path / f"seed-{k}", seed=k)) for k in range(2)]
    summary = report_seeds(runs, tmp_path / "seeds")
    assert list(summary["best_of_n"]) == ["ns", "qwen", "pass_at_n"]
    text = (tmp_path / "seeds" / "report.md").read_text()
    assert "| 2 | 0.40 [0.40, 0.40] | 0.60 [0.60, 0.60] |" in text
    assert "PRM - ORM" not in text


def test_examples_and_tally_by_hand(tmp_path):
    write_rows(tmp_path / "scored.jsonl", (s.to_row() for s in scored()))
    actual = read_step_scores(tmp_path / "scored.jsonl")
    assert [(example.solution.sample, example.title) for example in actual.examples] == [
        (2, "Right answer, wrong step: caught"),
        (3, "Wrong answer: error located"),
        (0, "Every step right: passed"),
    ]
    assert actual.tally == {
        "solutions": 4,
        "right_answer": 3,
        "right_answer_wrong_step": 2,
        "with_wrong_step": 3,
        "all_right": 1,
        "threshold": 0.5,
        "first_wrong_step_found": pytest.approx(2 / 3),
        "all_right_unflagged": 1.0,
    }


def test_an_example_that_the_prm_got_wrong_says_so(tmp_path):
    write_rows(tmp_path / "scored.jsonl", [scored()[1].to_row()])
    assert first_wrong(scored()[1]) == 0
    assert first_flagged(scored()[1]) == 1
    assert [e.title for e in read_step_scores(tmp_path / "scored.jsonl").examples] == [
        "Right answer, wrong step: not caught"
    ]


def test_a_run_without_an_orm_has_step_scores_and_examples(tmp_path):
    run = make_run(tmp_path / "run")
    rows = [replace(one, scores={"prm": one.scores["prm"]}) for one in scored()]
    write_rows(run / "test" / "scored.jsonl", [one.to_row() for one in rows])
    summary = report(ReportConfig(str(run)))
    assert (summary["step_scores"]["solutions"], summary["missing"]) == (4, [])
    text = (run / "report" / "report.md").read_text()
    assert "0.30  wrong  2 + 1 = 4" in text
    assert "; right answer" not in text
    assert_picture(run / "report" / "step_scores.png")


def test_rows_that_cannot_be_counted_are_left_out_and_named(tmp_path):
    """The PRM did not read all of the second, nobody labelled the third, and the fourth is not graded."""
    run = make_run(tmp_path / "run")
    first, second, third, fourth = scored()
    second.scores["prm"] = [0.9, None, None]
    rows = [first, second, replace(third, labels=None), replace(fourth, correct=None)]
    write_rows(run / "test" / "scored.jsonl", [one.to_row() for one in rows])
    summary = report(ReportConfig(str(run)))
    assert (summary["step_scores"]["solutions"], summary["step_scores"]["right_answer"]) == (1, 1)
    lacks = ("scores.prm of every step", "labels", "correct")
    assert summary["missing"] == [f"step scores: 1 row of test/scored.jsonl has no {lack}" for lack in lacks]


def test_solutions_without_a_prms_scores_leave_the_rest_of_the_report(tmp_path):
    run = make_run(tmp_path / "run")
    write_rows(run / "test" / "scored.jsonl", [replace(one, scores={}).to_row() for one in scored()])
    summary = report(ReportConfig(str(run)))
    assert summary["step_scores"] is None
    assert summary["missing"] == ["step scores: 4 rows of test/scored.jsonl have no scores.prm of every step"]
    assert "## Best of N" in (run / "report" / "report.md").read_text()


def forget_clean(run: Path) -> Path:
    """As of a task that checks answers alone; where no answer is right, PPO knows that none is clean."""
    for path in run.glob("ppo_*/eval.jsonl"):
        rows = [row for _, row in read_rows(path)]
        write_rows(path, [{k: v for k, v in row.items() if k != "clean_accuracy" or v == 0} for row in rows])
    return run


def test_a_task_that_cannot_check_steps_has_one_accuracy(tmp_path):
    run = forget_clean(make_run(tmp_path / "run"))
    summary = report(ReportConfig(str(run)))
    assert set(summary["rl"]["process"]) == {"updates", "samples", "accuracy"}
    assert set(summary["rl_comparison"]) == {"accuracy"}
    assert summary["missing"] == [
        f"RL arm '{arm}', clean_accuracy: not in every row of ppo_{arm}/eval.jsonl, as of a task that cannot check "
        "every step"
        for arm in ("process", "outcome", "process_only")
    ]
    text = (run / "report" / "report.md").read_text()
    assert "| samples | process: answer | outcome: answer | process only: answer |" in text
    assert "2.5 times fewer" in text
    assert "Answer and every step right" not in text
    page = (run / "report" / "report.html").read_text()
    assert "After 500 RL samples: answer right" in page
    assert "After 500 RL samples: answer and every step right" not in page
    assert_picture(run / "report" / "rl_curves.png")


def test_seeds_of_which_one_has_no_clean_accuracy_have_one_accuracy(tmp_path):
    runs = [make_run(tmp_path / "a", 0), forget_clean(make_run(tmp_path / "b", 1))]
    summary = report_seeds(runs, tmp_path / "seeds")
    assert set(summary["rl"]["process"]) == set(summary["rl_gap"]) == {"samples", "accuracy"}
    assert set(summary["rl_comparison"]) == {"accuracy"}
    assert "process - outcome: answer |" in (tmp_path / "seeds" / "report.md").read_text()


def test_figures_of_an_earlier_report_do_not_outlive_their_data(tmp_path):
    runs = [make_run(tmp_path / f"seed-{seed}", seed) for seed in (0, 1)]
    report(ReportConfig(str(runs[0]), out=str(tmp_path / "report")))
    for run in runs:
        shutil.rmtree(run / "ppo_outcome")
        shutil.rmtree(run / "ppo_process")
        shutil.rmtree(run / "ppo_process_only")
    report(ReportConfig(str(tmp_path)))
    assert [(tmp_path / "report" / name).exists() for name in PICTURES] == [True, False, False]


def test_long_steps_are_drawn_below_one_another(tmp_path):
    text = "Half of 18 eggs at $2 each, less $x_1$ and a percentage \\% of them, comes to $18 a day.\n" * 20 + "#### 18"
    steps = line_steps(text)
    long = solution(0, "1 + 1 = 2\nAnswer: 2", [1, 1], [0.9, 0.9], 0.5, True)
    long.completion, long.steps, long.labels = text, steps, [1] * len(steps)
    long.scores = {"prm": [0.9] * len(steps), "orm": [0.5] * len(steps)}
    write_rows(tmp_path / "scored.jsonl", [long.to_row()])
    draw_step_scores(read_step_scores(tmp_path / "scored.jsonl").examples, tmp_path / "long.png")
    assert_picture(tmp_path / "long.png")


def test_spread_keeps_labels_apart_and_inside():
    places = spread([0.0, 0.01, 0.5, 0.97, 0.98, 0.99], 0.05)
    assert all(b - a >= 0.05 - 1e-12 for a, b in zip(places, places[1:], strict=False))
    assert places[0] >= 0
    assert places[-1] <= 1
    assert places[2] == 0.5


def test_number_has_no_minus_zero():
    assert number(-0.001, -0.004, 0.2) == "0.00 [0.00, 0.20]"


def test_seeds_by_hand(tmp_path):
    runs = [make_run(tmp_path / f"seed-{k}", seed=k, shift=0.02 * (k - 1)) for k in range(3)]
    summary = report_seeds(runs, tmp_path / "seeds")
    assert json.loads((tmp_path / "seeds" / "summary.json").read_text()) == summary
    # At N = 2 the gaps are 0.08, 0.10, 0.12: s = 0.02, half = 4.302653 * 0.02 / sqrt(3) = 0.0496828.
    gap = summary["best_of_n"]["prm_minus_orm"]
    assert (gap["mean"][1], gap["low"][1], gap["high"][1]) == pytest.approx((0.1, 0.0503172, 0.1496828), abs=1e-6)
    assert gap["low"][2] == pytest.approx(0.2)
    assert summary["rl_gap"]["clean_accuracy"]["mean"] == pytest.approx([0, 0.075, 0.1, 0.1, 0.125, 0.1])
    # Seed 0 has 0.58 at its third evaluation and so needs the fourth.
    actual = summary["rl_comparison"]["accuracy"]
    assert actual["process_samples"] == [300, 200, 200]
    assert actual["ratio"]["mean"] == pytest.approx((5 / 3 + 2.5 + 2.5) / 3)
    text = (tmp_path / "seeds" / "report.md").read_text()
    assert "| 2 | 0.10 [0.05, 0.15] |" in text
    assert "| answer | 0 | 500 | 300 | 1.7 |" in text
    for name in PICTURES[:2]:
        assert_picture(tmp_path / "seeds" / name)


def with_domains(run: Path, prm: float, domains=("test", "ood_long")) -> Path:
    def figures(problems: int, prm: float) -> dict:
        accuracy = {"prm": prm, "majority": 0.3, "weighted": 0.4, "pass_at_n": 0.9, "prm_clean": 0.2}
        return {"problems": problems, "accuracy": {name: {"mean": mean} for name, mean in accuracy.items()}}

    table = {"n": 100, "domains": {name: figures(10, prm) for name in domains}, "all": figures(20, prm + 0.01)}
    write_json(run / "domains" / "domains.json", table)
    return run


def test_domains_over_seeds_by_hand(tmp_path):
    runs = [with_domains(make_run(tmp_path / f"seed-{k}", k), prm) for k, prm in enumerate((0.5, 0.52, 0.54))]
    summary = report_seeds(runs, tmp_path / "seeds")
    # s = 0.02, half = 4.302653 * 0.02 / sqrt(3) = 0.0496828.
    of_test = summary["domains"]["domains"]["test"]["accuracy"]
    assert of_test["prm"] == pytest.approx({"mean": 0.52, "low": 0.4703172, "high": 0.5696828}, abs=1e-6)
    assert of_test["prm_minus_majority"]["mean"] == pytest.approx(0.22)
    assert summary["domains"]["all"]["accuracy"]["prm"]["mean"] == pytest.approx(0.53)
    text = (tmp_path / "seeds" / "report.md").read_text()
    assert "| best of 100 | PRM | majority | PRM - majority | problems |" in text
    row = "| ood_long | 0.520 [0.470, 0.570] | 0.300 [0.300, 0.300] | 0.220 [0.170, 0.270] | 10 |"
    assert row in text


def test_domains_that_differ_between_seeds_are_refused(tmp_path):
    runs = [with_domains(make_run(tmp_path / "a", 0), 0.5), with_domains(make_run(tmp_path / "b", 1), 0.5, ("test",))]
    with pytest.raises(UserError, match="b: best of 100 in the domains test, .*a best of 100 in test, ood_long"):
        report_seeds(runs, tmp_path / "seeds")


def test_seeds_without_an_arm_name_the_run(tmp_path):
    runs = [make_run(tmp_path / "a", 0), make_run(tmp_path / "b", 1, arms=("outcome",))]
    summary = report_seeds(runs, tmp_path / "seeds")
    assert summary["rl"]["process"] is None
    assert summary["rl_gap"] is None
    assert summary["rl_comparison"] is None
    arms_of_b = [what for what in summary["missing"] if "RL arm" in what]
    assert arms_of_b == [
        f"{runs[1]}: RL arm 'process': no ppo_process/eval.jsonl",
        f"{runs[1]}: RL arm 'process_only': not run",
    ]


def test_an_arm_that_no_seed_was_asked_for_is_not_missing(tmp_path):
    runs = [make_run(tmp_path / name, seed, arms=("process", "outcome")) for seed, name in enumerate("ab")]
    assert report_seeds(runs, tmp_path / "seeds")["missing"] == []
    best_of_n_alone = [make_run(tmp_path / name, seed, arms=()) for seed, name in enumerate("cd")]
    assert report_seeds(best_of_n_alone, tmp_path / "seeds")["missing"] == []
    (runs[0] / "ppo_process_only").mkdir()
    assert report_seeds(runs, tmp_path / "seeds")["missing"] == [
        f"{runs[0]}: RL arm 'process_only': no ppo_process_only/eval.jsonl"
    ]


def test_seeds_must_be_several_and_differ(tmp_path):
    run, twin = make_run(tmp_path / "a"), make_run(tmp_path / "b")
    with pytest.raises(UserError, match="at least two"):
        report_seeds([run], tmp_path / "seeds")
    with pytest.raises(UserError, match="each must have its own"):
        report_seeds([run, twin], tmp_path / "seeds")


def test_a_new_arm_is_one_line(tmp_path, monkeypatch):
    monkeypatch.setattr(arms, "ARMS", (*arms.ARMS, Arm("other_way", "ppo_other", "other", Style(GREEN))))
    runs = [make_run(tmp_path / f"seed-{seed}", seed) for seed in range(2)]
    for run in runs:
        (run / "ppo_process_only").rename(run / "ppo_other_way")
    summary = report(ReportConfig(str(runs[0])))
    assert summary["rl"]["other_way"]["accuracy"] == [0.3, 0.2, 0.1, 0.0, 0.0, 0.0]
    assert summary["missing"] == []
    head = "| samples | process: answer | process: clean | outcome: answer | outcome: clean | other way: answer |"
    assert head in (runs[0] / "report" / "report.md").read_text()
    assert report_seeds(runs, tmp_path / "seeds")["rl"]["other_way"]["clean_accuracy"]["mean"][1] == 0.1
    assert head in (tmp_path / "seeds" / "report.md").read_text()
    # The new arm's line is drawn, in its own colour.
    picture = imread(runs[0] / "report" / "rl_curves.png")[..., :3]
    green = np.array([int(GREEN[k : k + 2], 16) for k in (1, 3, 5)]) / 255
    assert (np.abs(picture - green).max(axis=-1) < 0.01).sum() > 100


def test_an_arm_has_a_name_a_folder_and_a_recipe_of_its_own():
    for table in (arms.ARMS, arms.CONTRAST):
        for value in ("name", "folder", "label", "style"):
            assert len({getattr(arm, value) for arm in table}) == len(table)
        for arm in table:
            assert recipe(f"arithmetic/{arm.recipe}").is_file()
