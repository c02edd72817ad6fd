"""Process against outcome-only PPO, both tuned: its stages, and the whole way at the smallest sizes."""

import json
import os

import pytest
import yaml

from rlstep.runtime.errors import UserError
from rlstep.runtime.pipeline import Stage
from rlstep.runtime.recipes import load_recipe
from rlstep.stages.lab import LabConfig, lab
from rlstep.stages.opponents_lab import opponents_stages
from tests.small_lab import RECIPES, check_order, small_recipes


def planned(**options) -> dict[str, Stage]:
    wanted = opponents_stages(LabConfig(out="run", opponents=True, **options), RECIPES)
    return {stage.name: stage for stage in wanted}


def test_each_stage_comes_after_those_it_reads_from_and_writes_where_no_other_does():
    wanted = list(planned().values())
    check_order(wanted)
    assert all((RECIPES / f"{stage.recipe}.yaml").is_file() for stage in wanted)


def test_both_arms_are_tuned_on_the_same_grid_one_change_each():
    stages = planned(learning_rates=[1e-3, 8e-3], betas=[0.0], estimators=["gae"])
    changes = {
        "recipe": {},
        "learning_rate_0.001": {"learning_rate": "0.001"},
        "learning_rate_0.008": {"learning_rate": "0.008"},
        "beta_0": {"beta": "0"},
        "advantage_gae": {"advantage": "gae"},
    }
    for arm, reads_prm in (("ppo_outcome", False), ("ppo_process", True)):
        policies = {name: stage for name, stage in stages.items() if name.startswith(arm)}
        assert {name: stage.settings for name, stage in policies.items()} == {
            f"{arm}_{name}": settings for name, settings in changes.items()
        }
        assert {stage.recipe for stage in policies.values()} == {arm}
        assert all(("prm" in stage.inputs) == reads_prm for stage in policies.values())


def test_the_implicit_prm_is_one_more_variant_of_the_outcome_arm_and_changes_no_other_stage():
    before, after = planned(), planned(process_sets=True)
    (name,) = after.keys() - before.keys()
    assert {of: after[of] for of in before} == before
    assert (name, after[name].recipe) == ("ppo_outcome_process_sets", "ppo_outcome")
    assert after[name].settings == {"token_weights": "process_set"}
    assert after[name].output == ("output_dir", "ppo_outcome/process_sets")


def test_what_the_outcome_recipe_weighs_already_is_not_run_twice(tmp_path):
    recipes = small_recipes(tmp_path)
    outcome = recipes / "ppo_outcome.yaml"
    outcome.write_text(yaml.safe_dump(load_recipe(outcome) | {"token_weights": "process_set"}))
    with pytest.raises(UserError, match="has token_weights process_set, which is run in any case; leave out process_s"):
        opponents_stages(LabConfig(out="run", opponents=True, process_sets=True), recipes)


def test_best_of_n_is_of_the_generator_and_of_both_arms_as_in_their_recipes_with_one_prm():
    stages = planned(policy_samples=8)
    models = {"generator": "sft", "outcome": "ppo_outcome/recipe", "process": "ppo_process/recipe"}
    for name, model in models.items():
        sample, score = stages[f"sample_{name}"], stages[f"score_{name}"]
        assert (sample.inputs["model"], sample.settings) == (model, {"n": "8"})
        assert sample.inputs["problems"] == "prepare/problems-test.jsonl"
        assert score.inputs == {"model": "prm", "data": f"best_of_n/{name}/labelled.jsonl"}
    assert stages["prm"].inputs["data"] == "train/labelled.jsonl"
    assert stages["sample_train"].inputs["model"] == "sft"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"learning_rates": [1e-3, 1e-3]}, r"learning_rates is \[0.001, 0.001\]; name each once"),
        ({"learning_rates": [0.0]}, r"learning_rates is \[0.0\]; give numbers above 0"),
        ({"betas": [-0.1]}, r"betas is \[-0.1\]; give numbers from 0 on"),
        ({"estimators": ["vine"]}, "estimators is 'vine'; it must be one of group, rloo"),
        ({"bad_prm": True}, "bad_prm and opponents are experiments of their own"),
        ({"arms": ["process"]}, "opponents is true, so arms would do nothing"),
        ({"pretrained": "x"}, "opponents is true, so pretrained would do nothing"),
        ({"opponents": False, "process_sets": True}, "opponents is false, so process_sets would do nothing"),
        ({"opponents": False, "policy_samples": 4}, "opponents is false, so policy_samples would do nothing"),
    ],
)
def test_a_plan_that_cannot_be_is_refused(options, message):
    with pytest.raises(UserError, match=message):
        LabConfig(**{"out": "run", "opponents": True} | options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"learning_rates": [2e-3]}, "ppo_outcome.yaml has learning_rate 0.002, which is run in any case"),
        ({"betas": [0.1]}, "has beta 0.1, which is run in any case; betas are values beside it"),
        ({"estimators": ["group"]}, "has advantage group, which is run in any case; estimators are values beside it"),
    ],
)
def test_the_recipes_own_value_is_not_run_twice(options, message):
    with pytest.raises(UserError, match=message):
        planned(**options)


def test_by_default_it_has_three_seeds_and_as_many_variants_as_its_cost_is_told_for():
    config = LabConfig(out="run", opponents=True)
    assert (config.recipes, config.seeds, config.in_out) == ("arithmetic", 3, False)
    assert len(config.plan_of_opponents.variants) == 5
    shipped = load_recipe(RECIPES.parent / "opponents" / "lab.yaml")
    shown = LabConfig(**shipped)
    assert shown.plan_of_opponents == config.plan_of_opponents
    assert shown.policy_samples == config.policy_samples


@pytest.mark.slow
def test_all_of_it_at_the_smallest_sizes_and_nothing_twice(tmp_path, monkeypatch):
    # A forked process may not use the threads of OpenMP that its parent has started already.
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0}, raising=False)
    recipes = small_recipes(tmp_path / "recipes")
    (recipes / "ppo.yaml").write_text(yaml.safe_dump(load_recipe(recipes / "ppo.yaml") | {"logging_steps": 1}))
    config = LabConfig(
        out=str(tmp_path / "run"), recipes=str(recipes), opponents=True, seeds=1, learning_rates=[], betas=[],
        estimators=["gae"], policy_samples=4, process_sets=True,
    )  # fmt: skip
    summary = lab(config)
    run, report = tmp_path / "run" / "seed-0", tmp_path / "run" / "report"
    assert json.loads((report / "summary.json").read_text()) == summary
    assert {path.name for path in report.iterdir()} == {"summary.json", "report.md", "opponents.png", "best_of_n.png"}
    for arm, more in (("outcome", ["process_sets"]), ("process", [])):
        assert list(summary["arms"][arm]) == ["recipe", "advantage_gae", *more]
        assert all(one["seconds"]["mean"] > 0 for one in summary["arms"][arm].values())
    assert summary["prm_seconds"]["mean"] > 0
    configs = {
        arm: json.loads((run / f"ppo_{arm}" / "advantage_gae" / "run.json").read_text())["config"]
        for arm in ("outcome", "process")
    }
    assert {config["advantage"] for config in configs.values()} == {"gae"}
    assert {arm: config["reward"] for arm, config in configs.items()} == {
        "outcome": ["outcome"], "process": ["prm", "outcome"],
    }  # fmt: skip
    by_sets = run / "ppo_outcome" / "process_sets"
    assert json.loads((by_sets / "run.json").read_text())["config"]["token_weights"] == "process_set"
    for name in ("generator", "outcome", "process"):
        assert summary["best_of_n"][name]["ns"] == [1, 2, 4]
        assert len(summary["best_of_n"][name]["prm_minus_majority"]["mean"]) == 3
    before = {path: path.stat().st_mtime_ns for path in run.rglob("*") if path.is_file() and ".lab" not in path.parts}
    assert lab(config) == summary
    logs = run / "logs"
    changed = {path for path, time in before.items() if path.stat().st_mtime_ns != time and logs not in path.parents}
    assert not changed
