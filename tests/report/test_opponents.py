import json
from dataclasses import replace

import pytest
from matplotlib.image import imread

from rlstep.report.arms import OUTCOME, PROCESS
from rlstep.report.opponents import report_opponents
from rlstep.report.opponents_plan import PROCESS_SETS, RECIPE, SOURCES, Plan, changed
from rlstep.runtime.errors import UserError
from rlstep.runtime.rows import write_json, write_rows

FASTER = changed("learning_rate", 4e-3)
PLAN = Plan([RECIPE, FASTER], 0.5)
# clean accuracy by policy and seed, after 0, 100 and 200 samples
CLEAN = {
    RECIPE.folder(OUTCOME): [[0.1, 0.2, 0.3], [0.1, 0.2, 0.3], [0.1, 0.2, 0.3]],
    FASTER.folder(OUTCOME): [[0.1, 0.3, 0.5], [0.1, 0.3, 0.4], [0.1, 0.1, 0.1]],
    RECIPE.folder(PROCESS): [[0.1, 0.5, 0.7], [0.1, 0.4, 0.6], [0.1, 0.6, 0.8]],
    FASTER.folder(PROCESS): [[0.1, 0.2, 0.1], [0.1, 0.2, 0.1], [0.1, 0.2, 0.0]],
}
# processor seconds of an update of 100 samples; what the PRM took is 5 + 1 + 9 seconds
SECONDS = {OUTCOME.folder: 10.0, PROCESS.folder: 20.0}
# right picks of the PRM and of the majority by source and N, the same in each seed but for what is added
PICKED = {
    "generator": {"prm": [0.3, 0.5], "majority": [0.3, 0.3]},
    "outcome": {"prm": [0.5, 0.6], "majority": [0.5, 0.6]},
    "process": {"prm": [0.8, 0.7], "majority": [0.8, 0.9]},
}


@pytest.fixture
def runs(tmp_path):
    """Three seeds."""
    made = [tmp_path / f"seed-{seed}" for seed in range(3)]
    for seed, run in enumerate(made):
        for policy, of_seeds in CLEAN.items():
            folder, arm = run / policy, policy.split("/")[0]
            rows = [
                {"samples": 100 * k, "update": k, "accuracy": clean + 0.1, "clean_accuracy": clean}
                for k, clean in enumerate(of_seeds[seed])
            ]
            write_rows(folder / "eval.jsonl", rows)
            # two optimizer steps of an update
            log = [{"step": 2 * k, "samples": 100 * k, "processor_step_time": SECONDS[arm] / 2} for k in (1, 2)]
            write_rows(folder / "metrics.jsonl", log)
        for name, seconds in (("train/samples.jsonl.", 5.0), ("train/labelled.jsonl.", 1.0), ("prm/", 9.0)):
            (run / name).parent.mkdir(parents=True, exist_ok=True)
            write_json(run / f"{name}run.json", {"seconds": 100.0, "processor_seconds": seconds})
        for source in SOURCES:
            curves = {
                name: dict.fromkeys(("mean", "low", "high"), [value + 0.01 * seed for value in values])
                for name, values in PICKED[source.name].items()
            }
            steps = {"balanced_accuracy": 0.9 + 0.01 * seed} | ({} if source.name == "process" else {"auroc": 1.0})
            write_json(
                run / source.folder / "evaluate" / "best_of_n.json", {"ns": [1, 4], **curves, "prm_steps": steps}
            )
    return made


def test_each_variant_by_hand(runs, tmp_path):
    summary = report_opponents(runs, PLAN, tmp_path / "report")
    assert json.loads((tmp_path / "report" / "summary.json").read_text()) == summary
    assert (summary["seeds"], summary["samples"], summary["target"]) == (["seed-0", "seed-1", "seed-2"], 200, 0.5)
    faster = summary["arms"]["outcome"]["learning_rate_0.004"]
    assert faster["reached"] == [200, None, None]
    assert (faster["samples"]["mean"], faster["samples"]["bound"]) == (200, True)
    assert faster["clean_accuracy"]["mean"] == pytest.approx((0.5 + 0.4 + 0.1) / 3)
    assert faster["accuracy"]["mean"] == pytest.approx((0.6 + 0.5 + 0.2) / 3)
    # after the start: (0.3 + 0.5) / 2, (0.3 + 0.4) / 2, 0.1
    assert faster["mean_clean_accuracy"]["mean"] == pytest.approx((0.4 + 0.35 + 0.1) / 3)
    assert faster["lost"]["mean"] == pytest.approx(1 / 3)
    assert faster["seconds"]["mean"] == 20
    assert summary["arms"]["process"]["recipe"]["seconds"]["mean"] == 40
    assert summary["arms"]["process"]["recipe"]["curve"]["seconds"] == [0, 20, 40]
    assert summary["prm_seconds"]["mean"] == 15
    # 0.33 against 0.30
    assert summary["best"] == {"outcome": "learning_rate_0.004", "process": "recipe"}


def test_arms_are_compared_at_equal_samples_and_at_equal_compute(runs, tmp_path):
    compared = report_opponents(runs, PLAN, tmp_path / "report")["comparisons"]["recipe"]
    samples, compute, with_prm = (
        compared[name] for name in ("equal_samples", "equal_compute", "equal_compute_with_prm")
    )
    # ends: 0.7, 0.6 and 0.8 against 0.3; 4.303 * 0.1 / sqrt(3)
    clean = samples["clean_accuracy"]
    assert (clean["outcome"]["mean"], clean["process"]["mean"]) == (pytest.approx(0.3), pytest.approx(0.7))
    assert clean["difference"]["mean"] == pytest.approx(0.4)
    assert clean["difference"]["high"] == pytest.approx(0.4 + 4.3027 * 0.1 / 3**0.5, abs=1e-4)
    assert samples["accuracy"]["difference"]["mean"] == pytest.approx(0.4)
    assert samples["seconds"] is None
    # outcome-only ends after 20 seconds, at which process has had 100 samples: 0.5, 0.4 and 0.6
    assert compute["seconds"] == 20
    assert compute["clean_accuracy"]["difference"]["mean"] == pytest.approx(0.5 - 0.3)
    # ... or, where its PRM took 15 of them, 5 of 20 seconds of its first update: 0.1 + a quarter of 0.4, 0.3 and 0.5
    assert with_prm["seconds"] == 20
    assert with_prm["clean_accuracy"]["process"]["mean"] == pytest.approx(0.1 + 0.4 / 4)
    assert with_prm["clean_accuracy"]["difference"]["mean"] == pytest.approx(0.2 - 0.3)


def test_the_best_variants_are_also_chosen_without_the_seed_that_they_are_shown_on(runs, tmp_path):
    compared = report_opponents(runs, PLAN, tmp_path / "report")["comparisons"]
    assert compared["best"]["variants"] == {"outcome": [FASTER.name] * 3, "process": [RECIPE.name] * 3}
    # By the other seeds: 0.25, 0.30 and 0.45 of the faster outcome arm, against 0.30; of equal ones the recipe.
    by_others = compared["by_other_seeds"]
    assert by_others["variants"]["outcome"] == [RECIPE.name, RECIPE.name, FASTER.name]
    ends = by_others["equal_samples"]["clean_accuracy"]
    assert ends["outcome"]["mean"] == pytest.approx((0.3 + 0.3 + 0.1) / 3)
    assert ends["difference"]["mean"] == pytest.approx(((0.7 - 0.3) + (0.6 - 0.3) + (0.8 - 0.1)) / 3)


def test_best_of_n_is_compared_with_the_majority_before_and_after_rl(runs, tmp_path):
    measured = report_opponents(runs, PLAN, tmp_path / "report")["best_of_n"]
    gaps = {name: measured[name]["prm_minus_majority"]["mean"] for name in PICKED}
    assert gaps["generator"] == pytest.approx([0.0, 0.2])
    assert gaps["outcome"] == pytest.approx([0.0, 0.0])
    assert gaps["process"] == pytest.approx([0.0, -0.2])
    assert measured["process"]["prm"]["mean"] == pytest.approx([0.81, 0.71])
    assert measured["process"]["prm_steps"]["balanced_accuracy"]["mean"] == pytest.approx(0.91)
    assert measured["process"]["prm_steps"]["first_error_exact"] is None


def test_the_page_says_what_the_intervals_say(runs, tmp_path):
    report_opponents(runs, PLAN, tmp_path / "report")
    text = (tmp_path / "report" / "report.md").read_text()
    best = "outcome only: learning_rate 0.004 and process + outcome: as in the recipe"
    assert "they were chosen among 2 variants each." in text
    assert f"Of 2 variants each, the best on these seeds by clean accuracy at the end are {best}." in text
    # 0.2, 0.2 and 0.7: 0.37 -/+ 4.303 * 0.289 / sqrt(3); with the PRM's making 0.2, 0.175 and 0.225 minus the same ends
    assert "At equal samples, the best of each arm: clean accuracy with process rewards is not separated from" in text
    assert "| both as in the recipe | equal samples |" in text
    assert "| 0.30 [0.30, 0.30] | 0.70 [0.45, 0.95] | 0.40 [0.15, 0.65] | higher |" in text
    assert "equal compute, with the PRM's making (20 s) |" in text
    assert "| lower | -0.10 [-0.16, -0.04] |" in text
    assert "best by the other seeds (outcome: as in the recipe, as in the recipe, learning_rate 0.004; " in text
    assert "Best of 4, before RL: the PRM's picks are higher than majority voting (0.20 [0.20, 0.20])." in text
    assert "Best of 4, after RL, outcome only: the PRM's picks are not separated from majority voting (0.00" in text
    assert "Best of 4, after RL, process + outcome: the PRM's picks are lower than majority voting (-0.20" in text
    assert "| outcome only | learning_rate 0.004 (best) | >= 200 [200, 200] |" in text
    for name in ("opponents.png", "best_of_n.png"):
        assert f"({name})" in text
        assert imread(tmp_path / "report" / name).std() > 0.05


def test_the_implicit_prm_of_the_outcome_arm_has_a_row_and_may_be_its_best(runs, tmp_path):
    folder = PROCESS_SETS.folder(OUTCOME)
    for run in runs:
        (run / folder).mkdir()
        for name in ("eval.jsonl", "metrics.jsonl"):
            (run / folder / name).write_bytes((run / RECIPE.folder(PROCESS) / name).read_bytes())
    summary = report_opponents(runs, replace(PLAN, outcome_alone=[PROCESS_SETS]), tmp_path / "report")
    assert list(summary["arms"]["outcome"]) == ["recipe", "learning_rate_0.004", "process_sets"]
    assert list(summary["arms"]["process"]) == ["recipe", "learning_rate_0.004"]
    assert summary["best"]["outcome"] == "process_sets"
    text = (tmp_path / "report" / "report.md").read_text()
    label = "implicit PRM weights (token_weights process_set)"
    assert f"| outcome only | {label} (best) |" in text
    assert f"Of 3 variants of outcome only, among them {label}, and 2 of the other, the best on these seeds" in text


def test_one_seed_separates_nothing(runs, tmp_path):
    summary = report_opponents(runs[:1], PLAN, tmp_path / "report")
    assert "by_other_seeds" not in summary["comparisons"]
    text = (tmp_path / "report" / "report.md").read_text()
    assert "1 seed, 200 samples" in text
    assert "is not separated from outcome-only (0.20)" in text
    assert "higher" not in text.split("##")[0]


def test_what_is_missing_is_named(runs, tmp_path):
    def report():
        report_opponents(runs, PLAN, tmp_path / "report")

    (runs[1] / "best_of_n" / "outcome" / "evaluate" / "best_of_n.json").unlink()
    with pytest.raises(UserError, match="outcome/evaluate/best_of_n.json is missing: best-of-N was not measured"):
        report()
    write_json(runs[2] / "prm" / "run.json", {"seconds": 3.0})
    with pytest.raises(UserError, match="seed-2/prm/run.json has no processor_seconds"):
        report()
    write_rows(
        runs[0] / FASTER.folder(PROCESS) / "eval.jsonl",
        [{"samples": 0, "update": 0, "accuracy": 0.1, "clean_accuracy": 0.1}],
    )
    with pytest.raises(UserError, match="ppo_process/learning_rate_0.004 was evaluated at other samples than"):
        report()
