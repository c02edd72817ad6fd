"""The map of bad PRMs: its stages, and the whole way at the smallest sizes."""

import json
import os

import pytest
import yaml

from rlstep.report.bad_prm_plan import WAYS
from rlstep.runtime.errors import UserError
from rlstep.runtime.pipeline import Stage
from rlstep.runtime.recipes import load_recipe
from rlstep.stages.bad_prm_lab import bad_prm_stages
from rlstep.stages.lab import LabConfig, lab
from tests.small_lab import RECIPES, check_order, small_recipes


def planned(**options) -> list[Stage]:
    return bad_prm_stages(LabConfig(out="run", bad_prm=True, **options))


def test_each_stage_comes_after_those_it_reads_from_and_writes_where_no_other_does():
    wanted = planned()
    check_order(wanted)
    assert all((RECIPES / f"{stage.recipe}.yaml").is_file() for stage in wanted)


def test_every_way_is_run_with_every_prm_and_outcome_only_once():
    stages = {stage.name: stage for stage in planned(prm_labels=[50, 70], prm_flips=[0.25, 0.0])}
    assert {name for name in stages if name.startswith("ppo_")} == {
        "ppo_outcome", *(f"ppo_{way.name}_{level}" for way in WAYS for level in ("50_0.25", "70_0")),
    }  # fmt: skip
    assert stages["ppo_sum_50_0.25"].inputs["prm"] == "prm_50_0.25/prm"
    assert "prm" not in stages["ppo_outcome"].inputs
    assert stages["label_50_0.25"].settings == {"flip": "0.25"}
    assert stages["select_70_0"].settings == {"budget": "70"}
    assert stages["prm_70_0"].settings == {"max_steps": "100"}
    # what a PRM is measured on is labelled exactly, and is not what it was trained on
    assert stages["label_test"].settings == {}
    assert stages["score_50_0.25"].inputs["data"] == "test/labelled.jsonl"


def test_every_policy_has_as_many_steps_as_are_asked_for():
    few = {"prm_labels": [50], "prm_flips": [0.0], "ways": ["sum_outcome"]}
    stages = {stage.name: stage for stage in planned(ppo_steps=400, **few)}
    assert stages["ppo_outcome"].settings == {"max_steps": "400"}
    assert stages["ppo_sum_outcome_50_0"].settings == {"reward": ["prm", "outcome"], "max_steps": "400"}
    assert stages["prm_50_0"].settings == {"max_steps": "100"}
    assert [stage.settings for stage in planned(**few) if stage.name == "ppo_outcome"] == [{}]


def test_a_scheme_with_and_without_the_outcome_differs_in_that_alone():
    stages = {stage.name: stage for stage in planned(prm_labels=[50], prm_flips=[0.0])}
    alone, both = stages["ppo_delta_50_0"], stages["ppo_delta_outcome_50_0"]
    assert (alone.recipe, alone.inputs, alone.settings) == (both.recipe, both.inputs, {})
    assert both.settings == {"reward": ["prm", "outcome"]}
    assert load_recipe(RECIPES / f"{alone.recipe}.yaml")["reward"] == ["prm"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"prm_labels": [10]}, "prm_labels has 1 entries and prm_flips 5; each PRM has one of both"),
        ({"prm_labels": [], "prm_flips": []}, "prm_labels is empty"),
        ({"prm_labels": [10, 10], "prm_flips": [0, 0]}, "two PRMs have the same prm_labels and prm_flips"),
        ({"prm_labels": [10], "prm_flips": [1.5]}, "prm_flips shares from 0 to 1"),
        ({"ways": ["sun"]}, "ways is 'sun'; it must be one of sum, log"),
        ({"ways": ["sum", "sum"]}, "ways names one twice"),
        ({"contrast": True}, "contrast and bad_prm are experiments of their own"),
        ({"arms": ["process"]}, "bad_prm is true, so arms would do nothing"),
        ({"pretrained": "x"}, "bad_prm is true, so pretrained would do nothing"),
        ({"bad_prm": False, "ways": ["sum"]}, "bad_prm is false, so ways would do nothing"),
        ({"bad_prm": False, "ppo_steps": 9}, "bad_prm is false, so ppo_steps would do nothing"),
        ({"ppo_steps": 0}, "ppo_steps is 0"),
    ],
)
def test_a_plan_that_cannot_be_is_refused(options, message):
    with pytest.raises(UserError, match=message):
        LabConfig(**{"out": "run", "bad_prm": True} | options)


def test_by_default_it_has_three_seeds():
    config = LabConfig(out="run", bad_prm=True)
    assert (config.recipes, config.seeds, config.in_out) == ("arithmetic", 3, False)


@pytest.mark.slow
def test_all_of_it_at_the_smallest_sizes_and_nothing_twice(tmp_path, monkeypatch):
    # A forked process may not use the threads of OpenMP that its parent has started already.
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0}, raising=False)
    recipes = small_recipes(tmp_path / "recipes")
    # Enough for some right steps in samples of new problems, on which the PRM is measured.
    for name, more in (("prepare", {"demonstrations": 400}), ("sft", {"max_steps": 150})):
        path = recipes / f"{name}.yaml"
        path.write_text(yaml.safe_dump(load_recipe(path) | more))
    ways = ["min_form_outcome", "first_error", "filtered"]
    config = LabConfig(
        out=str(tmp_path / "run"), recipes=str(recipes), bad_prm=True, seeds=1, prm_labels=[60], prm_flips=[0.2],
        prm_steps=2, test_samples=8, ways=ways,
    )  # fmt: skip
    summary = lab(config)
    run, report = tmp_path / "run" / "seed-0", tmp_path / "run" / "report"
    assert json.loads((report / "summary.json").read_text()) == summary
    assert {path.name for path in report.iterdir()} == {"summary.json", "report.md", "map.png"}
    assert list(summary["ways"]) == ways
    assert 0 <= summary["prms"]["60_0.2"]["balanced_accuracy"]["mean"] <= 1
    labels = json.loads((run / "prm_60_0.2" / "selected.jsonl.run.json").read_text())["metrics"]
    assert 0 < labels["steps_to_label"] <= 60
    config_of = json.loads((run / "prm_60_0.2" / "ppo_min_form_outcome" / "run.json").read_text())["config"]
    assert config_of["reward"] == ["prm", "outcome"]
    before = {path: path.stat().st_mtime_ns for path in run.rglob("*") if path.is_file() and ".lab" not in path.parts}
    assert lab(config) == summary
    logs = run / "logs"
    changed = {path for path, time in before.items() if path.stat().st_mtime_ns != time and logs not in path.parents}
    assert not changed
