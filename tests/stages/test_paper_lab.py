"""The paper's experiments: their stages, and the whole way at the smallest sizes."""

import json
import os

import pytest

from rlstep.runtime.errors import UserError
from rlstep.runtime.pipeline import Stage
from rlstep.stages.lab import LabConfig, lab
from rlstep.stages.paper_lab import paper_stages
from tests.small_lab import check_order
from tests.small_paper import small_recipes


def planned(**options) -> list[Stage]:
    return paper_stages(LabConfig(out="run", paper=True, **options).plan)


def test_each_stage_comes_after_those_it_reads_from_and_writes_where_no_other_does():
    wanted = planned()
    check_order(wanted)


def test_series_of_one_size_train_on_the_same_solutions():
    stages = {stage.name: stage for stage in planned(samples_per_problem=[5])}
    assert stages["prm_synthetic_process_5"].inputs["data"] == "synthetic_5/selected.jsonl"
    assert stages["orm_synthetic_outcome_answer_5"].inputs["data"] == "synthetic_5/selected.jsonl"
    by_teacher = stages["orm_synthetic_outcome_teacher_5"].inputs["data"]
    assert (stages["label_synthetic_5"].inputs["data"], by_teacher) == (
        "synthetic_5/selected.jsonl", "synthetic_5/outcome_teacher.jsonl",
    )  # fmt: skip


def test_what_is_asked_for_reaches_the_stages():
    stages = {stage.name: stage for stage in planned(label_budgets=[50, 70], wrong_shares=[0.25], rollouts=[2, 3])}
    settings = {name: stage.settings for name, stage in stages.items()}
    assert settings["select_active_uniform_70"] == {"budget": "70", "strategy": "uniform"}
    assert settings["select_active_share_0.25_50"] == {"budget": "50", "wrong_share": "0.25"}
    assert settings["select_active_worse_50"] == {"budget": "50", "score": "worse"}
    assert settings["label_monte_carlo_soft_2"] == {"rollouts": "2", "labels": "soft"}
    assert settings["label_monte_carlo_binary_3"] == {"rollouts": "3", "search": "binary"}
    # One rollout is the same label hard and soft, and too little for a search by halves.
    of_one = {stage.name for stage in planned(rollouts=[1, 2]) if stage.name.endswith("_1")}
    assert {"label_monte_carlo_hard_1", "evaluate_monte_carlo_hard_1"} <= of_one
    assert not any("soft" in name or "binary" in name for name in of_one)
    pools = {"uniform": "labelled", "convincing": "scored_selector", "worse": "scored_worse"}
    for name, pool in pools.items():
        assert stages[f"select_active_{name}_50"].inputs == {"data": f"active/pool/{pool}.jsonl"}
    alone = {stage.name for stage in planned(experiments=["active"])}
    assert not any("synthetic" in name or "monte_carlo" in name or "teacher" in name for name in alone)
    shared = {stage.name for stage in planned(experiments=["synthetic"])}
    assert not any("active" in name or "selector" in name for name in shared)


def test_active_learning_has_a_generator_and_test_solutions_of_its_own():
    stages = {stage.name: stage for stage in planned()}
    for name, ground in (("active_uniform_300", "active/"), ("synthetic_process_5", "")):
        assert stages[f"prm_{name}"].inputs["model_name_or_path"] == f"{ground}sft"
        assert stages[f"score_{name}"].inputs["data"] == f"{ground}test/labelled.jsonl"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"label_budgets": [100]}, "label_budgets is .* at least 2"),
        ({"rollouts": [4, 1]}, "rollouts is .* rising"),
        ({"wrong_shares": [1.5]}, "wrong_shares is"),
        ({"experiments": ["active", "active"]}, "name each of"),
        ({"experiments": ["passive"]}, "passive"),
        ({"experiments": ["synthetic"], "rollouts": [2]}, "so rollouts would do nothing; add monte_carlo"),
        (
            {"experiments": ["synthetic"], "label_budgets": [2, 3], "wrong_shares": []},
            "budgets would.*wrong_shares would",
        ),
        ({"experiments": ["active"], "samples_per_problem": [2]}, "so samples_per_problem would do nothing; add synth"),
        ({"contrast": True}, "contrast and paper are experiments of their own"),
        ({"arms": ["process"]}, "arms"),
        ({"paper": False, "rollouts": [2]}, "rollouts"),
    ],
)
def test_a_plan_that_cannot_be_is_refused(options, message):
    with pytest.raises(UserError, match=message):
        LabConfig(**{"out": "run", "paper": True} | options)


def test_by_default_it_runs_its_own_recipes_over_three_seeds():
    config = LabConfig(out="run", paper=True)
    assert (config.recipes, config.seeds, config.in_out) == ("paper", 3, False)


def test_verifiers_and_what_reads_from_them_may_be_left_out_and_what_experiments_share_may_not():
    optional = {stage.name for stage in planned() if stage.optional}
    assert {"prm_selector", "score_worse", "select_active_worse_300", "evaluate_active_worse_300"} <= optional
    assert not optional & {"sft", "prm_teacher", "score_teacher", "label_pool", "label_test", "sample_pool"}


@pytest.mark.slow
def test_all_of_it_at_the_smallest_sizes_and_nothing_twice(tmp_path, monkeypatch):
    # A forked process may not use the threads of OpenMP that its parent has started already.
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0}, raising=False)
    sizes = {"samples_per_problem": [6], "label_budgets": [60, 120], "wrong_shares": [0.5], "rollouts": [2]}
    recipes = str(small_recipes(tmp_path / "recipes"))
    config = LabConfig(out=str(tmp_path / "run"), recipes=recipes, paper=True, seeds=1, **sizes)
    summary = lab(config)
    report = tmp_path / "run" / "report"
    assert json.loads((report / "paper.json").read_text()) == summary
    written = {path.name for path in report.iterdir()}
    assert written == {"paper.json", "report.md", "synthetic.png", "active.png", "monte_carlo.png"}
    assert all(labels <= 60 for labels, _ in summary["active"]["series"]["convincing"]["labels_of_seeds"])
    assert lab(config) == summary
    logs = tmp_path / "run" / "seed-0" / "logs"
    assert {path.read_text() for path in logs.glob("*.log")} == {"unchanged\n"}
