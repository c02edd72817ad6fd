"""The lab: its stages, and the whole way at the smallest sizes, killed in the middle and continued."""

import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from rlstep.report import arms
from rlstep.report.arms import CONTRAST, Arm, Style
from rlstep.runtime.errors import UserError
from rlstep.runtime.pipeline import Pipeline, Stage
from rlstep.stages import config_classes
from rlstep.stages.lab import LabConfig, lab, stages
from tests.small_lab import small_recipes

ROOT = Path(__file__).resolve().parents[2]
ARMS = ["process", "outcome"]


def stages_of(**options) -> list[Stage]:
    return stages(LabConfig(out="run", **options), ROOT / "recipes" / "arithmetic")


def test_a_stage_waits_for_those_it_reads_from_and_for_no_other():
    wanted = stages_of()
    needs = {stage.name: set(names) for stage, names in Pipeline(wanted, Path(), print, str).with_needs()}
    assert needs == {
        "prepare": set(),
        "sft": {"prepare"},
        "sample_train": {"sft", "prepare"},
        "label_train": {"sample_train"},
        "prm": {"sft", "label_train"},
        "orm": {"sft", "label_train"},
        "ppo_outcome": {"sft", "prepare"},
        "ppo_process": {"sft", "prepare", "prm"},
        "sample_test": {"sft", "prepare"},
        "label_test": {"sample_test"},
        "score_prm": {"prm", "label_test"},
        "score_orm": {"orm", "score_prm"},
        "evaluate": {"score_orm"},
        "export": {"ppo_process"},
    }
    before = set()
    for stage in wanted:
        assert needs[stage.name] <= before
        before.add(stage.name)


@pytest.mark.parametrize(
    ("names", "exported"), [([], []), (["outcome"], []), (["process", "outcome", "process_only"], ["ppo_process"])]
)
def test_the_arms_asked_for_are_trained_and_the_process_arm_is_exported(names, exported):
    wanted = stages_of(arms=names)
    assert [stage.name for stage in wanted if stage.command == "ppo"] == [f"ppo_{name}" for name in names]
    assert [stage.inputs["policy"] for stage in wanted if stage.command == "export"] == exported


def test_exactly_the_commands_that_can_resume_are_asked_to():
    for stage in stages_of(seeds=3):
        fields = {one.name for config in config_classes(stage.command) for one in dataclasses.fields(config)}
        assert stage.resumes == ("resume" in fields), stage.name
        # The lab's labels are the checker's, which draws nothing: `label` has a seed for those by rollouts.
        assert stage.seeded == ("seed" in fields and stage.command != "label"), stage.name


def test_a_new_arm_is_one_line(monkeypatch):
    line = Arm("orm", "ppo_orm", "ORM", Style("#009E73"), uses_prm=False)
    monkeypatch.setattr(arms, "ARMS", (*arms.ARMS, line))
    assert LabConfig(out="run", seeds=3).arms[-1] == "orm"
    stage = next(stage for stage in stages_of(arms=["orm"]) if stage.command == "ppo")
    assert (stage.name, stage.recipe, stage.output) == ("ppo_orm", "ppo_orm", ("output_dir", "ppo_orm"))
    assert "prm" not in stage.inputs


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"seeds": 0}, "seeds is 0; it must be at least 1"),
        ({"workers": 0}, "workers is 0"),
        ({"domains": ["ood_mix", "ood_mix"]}, "name each split once"),
        ({"domains": ["test"]}, "and not test"),
        ({"domains": ["ood_mix"], "contrast": True}, "contrast is true, so domains would do nothing"),
        ({"arms": ["proces"]}, "no RL arm 'proces'; there are process, outcome, process_only"),
        (
            {"contrast": True, "arms": ["process"]},
            "contrast is true, so arms would do nothing; set contrast to false, or leave it at null",
        ),
        ({"contrast_level": 0.7}, "contrast is false, so contrast_level would do nothing"),
        ({"contrast": True, "contrast_level": 1.5}, "contrast_level is 1.5; it must be above 0 and at most 1"),
    ],
)
def test_settings_that_make_no_sense_are_refused(options, message):
    with pytest.raises(UserError, match=message):
        LabConfig(out="run", **options)


def test_three_seeds_run_all_arms():
    assert LabConfig(out="run").arms == ARMS
    assert LabConfig(out="run", seeds=3).arms == ["process", "outcome", "process_only"]


def test_a_contrast_has_three_seeds_and_only_what_its_arms_need():
    assert LabConfig(out="run", contrast=True).seeds == 3
    assert LabConfig(out="run", contrast=True, seeds=2).seeds == 2
    wanted = stages_of(contrast=True)
    assert [stage.name for stage in wanted if stage.command != "ppo"] == [
        "prepare", "sft", "sample_train", "label_train", "prm",
    ]  # fmt: skip
    verifiers = {stage.name: stage.inputs.get("prm") for stage in wanted if stage.command == "ppo"}
    assert verifiers == {arm.folder: None if arm.name == "outcome" else "prm" for arm in CONTRAST}


def test_other_domains_go_the_way_of_the_test_problems():
    wanted = {stage.name: stage for stage in stages_of(domains=["ood_long", "ood_mix"])}
    for verifier in ("prm", "orm"):
        test, other = (wanted[f"score_{verifier}{suffix}"] for suffix in ("", "_ood_mix"))
        assert (other.recipe, other.inputs["model"]) == (test.recipe, test.inputs["model"])
        assert other.inputs["data"] == test.inputs["data"].replace("test/", "ood_mix/")
    assert wanted["sample_ood_long"].recipe == "sample_test"
    assert wanted["sample_ood_long"].inputs["problems"] == "prepare/problems-ood_long.jsonl"
    compared = [f"{domain}/scored.jsonl" for domain in ("test", "ood_long", "ood_mix")]
    assert wanted["evaluate_domains"].inputs == {"data": compared}


@pytest.mark.parametrize(
    ("family", "domain", "message"),
    [
        ("arithmetic", "ood_short", "the task arithmetic does not have; there are ood_long, ood_mix"),
        ("real", "ood", "prepare.yaml writes no problems of ood: set ood"),
    ],
)
def test_domains_without_problems_are_refused(family, domain, message):
    with pytest.raises(UserError, match=message):
        stages(LabConfig(out="run", domains=[domain]), ROOT / "recipes" / family)


def test_a_generator_that_is_an_adapter_is_merged_for_all_that_start_from_it():
    wanted = stages(LabConfig(out="run", arms=ARMS), ROOT / "recipes" / "real")
    assert [stage.name for stage in wanted][:4] == ["prepare", "sft", "merge", "sample_train"]
    merge = next(stage for stage in wanted if stage.name == "merge")
    assert (merge.command, merge.inputs, merge.output) == ("export", {"policy": "sft"}, ("out", "generator"))
    starts = {s.name: s.inputs.get("model_name_or_path", s.inputs.get("model")) for s in wanted if s.inputs}
    for name in ("sample_train", "sample_test", "prm", "orm", "ppo_process", "ppo_outcome"):
        assert starts[name] == "generator/merged"
    assert starts["sft"] == "prepare/model"


def test_another_model_to_start_from_is_a_setting_of_prepare_alone():
    of_model = [stage for stage in stages_of(pretrained="a/b") if "pretrained" in stage.settings]
    assert [(stage.name, stage.settings) for stage in of_model] == [("prepare", {"pretrained": "a/b"})]


def test_a_run_of_one_seed_that_is_asked_for_goes_on_as_one_of_several(monkeypatch, tmp_path, capsys):
    """`--seeds 1` and then `--seeds 3` share their first folder; without it the run lies in OUT itself."""
    ran = []
    monkeypatch.setattr(Pipeline, "run_all", lambda self, folder, seed, workers: ran.append((folder.name, seed)))
    monkeypatch.setattr("rlstep.stages.lab.report", lambda config: {"run": Path(config.run).name})
    monkeypatch.setattr("rlstep.stages.lab.report_seeds", lambda folders, out: {"runs": len(folders)})
    out = str(tmp_path / "out")
    assert lab(LabConfig(out=out)) == {"run": "out"}
    assert lab(LabConfig(out=out, seeds=1, needs="A minute.")) == {"run": "seed-0"}
    assert lab(LabConfig(out=out, seeds=2)) == {"runs": 2}
    assert ran == [("out", 0), ("seed-0", 0), ("seed-0", 0), ("seed-1", 1)]
    printed = capsys.readouterr().out.splitlines()
    assert printed.index("A minute.") == printed.index(f"seed 0: {out}/seed-0") - 1
    assert f"report: {out}/seed-0/report/report.md" in printed


def test_a_folder_of_recipes_that_is_not_there_is_named(tmp_path):
    with pytest.raises(UserError, match="nowhere/prepare: no such file"):
        lab(LabConfig(out=str(tmp_path / "run"), recipes="nowhere"))


@pytest.fixture(scope="module")
def recipes(tmp_path_factory) -> Path:
    return small_recipes(tmp_path_factory.mktemp("recipes"))


@pytest.fixture(scope="module")
def one_thread():
    """A forked process may not use the threads of OpenMP that its parent has started already."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "sched_getaffinity", lambda _: {0}, raising=False)
        yield


def newest_writes(folder: Path) -> dict[str, int]:
    """When each stage that has ended last wrote."""
    actual = {}
    for stage in stages_of():
        if json.loads((folder / ".lab" / f"{stage.name}.json").read_text())["finished"]:
            output = folder / stage.output[1]
            files = [output] if output.is_file() else [path for path in output.rglob("*") if path.is_file()]
            actual[stage.name] = max(path.stat().st_mtime_ns for path in files)
    return actual


@pytest.fixture(scope="module")
def killed(recipes, tmp_path_factory) -> tuple[Path, set[str]]:
    """A run whose processes were all killed when the training data was there, and the stages it had finished."""
    folder = tmp_path_factory.mktemp("lab") / "run"
    command = [sys.executable, "-m", "rlstep", "lab", "--out", str(folder), "--recipes", str(recipes)]
    with (folder.parent / "killed.log").open("w") as log:
        process = subprocess.Popen(command, cwd=ROOT, stdout=log, stderr=log, start_new_session=True)
        try:
            while not (folder / "train" / "labelled.jsonl").exists():
                assert process.poll() is None, (folder.parent / "killed.log").read_text()
                time.sleep(0.02)
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    markers = {path.stem: json.loads(path.read_text()) for path in (folder / ".lab").iterdir()}
    return folder, {name for name, marker in markers.items() if marker["finished"]}


@pytest.fixture(scope="module")
def finished(killed, recipes, one_thread) -> tuple[Path, dict]:
    """The killed run, continued to its end in this process, and the summary that it returned."""
    folder, _ = killed
    return folder, lab(LabConfig(out=str(folder), recipes=str(recipes)))


def test_a_killed_run_repeats_no_finished_stage(killed, finished):
    folder, before = killed
    assert before >= {"prepare", "sft", "sample_train"}
    assert "evaluate" not in before
    skipped = {
        stage.name for stage in stages_of() if (folder / "logs" / f"{stage.name}.log").read_text() == "unchanged\n"
    }
    assert skipped == before
    assert set(newest_writes(folder)) == {stage.name for stage in stages_of()}


def test_the_summary_holds_what_the_report_shows(finished):
    folder, summary = finished
    assert json.loads((folder / "report" / "summary.json").read_text()) == summary
    curves = summary["best_of_n"]
    assert curves["ns"] == [1, 2]
    for name in ("prm", "orm", "majority", "weighted", "pass_at_n"):
        assert {"mean", "low", "high"} <= set(curves[name])
        assert len(curves[name]["mean"]) == 2
    for arm in ARMS:
        curve = summary["rl"][arm]
        assert len(curve["samples"]) == len(curve["accuracy"]) == len(curve["clean_accuracy"]) == 2
        assert curve["samples"][0] == 0 < curve["samples"][1]
    assert set(summary["seconds"]) > {"total"}
    assert not any("best-of-N" in what or "'process'" in what or "'outcome'" in what for what in summary["missing"])
    written = {path.name for path in (folder / "report").iterdir()}
    assert {"report.md", "report.html", "best_of_n.png", "rl_curves.png"} <= written
    assert (folder / "export" / "merged" / "model.safetensors").is_file()


def test_a_second_run_writes_nothing_but_the_report(finished, recipes):
    folder, summary = finished
    before = newest_writes(folder)
    again = lab(LabConfig(out=str(folder), recipes=str(recipes)))
    assert newest_writes(folder) == before
    assert again == summary


def test_another_domain_is_added_to_a_finished_run(finished, recipes):
    folder, _ = finished
    before = newest_writes(folder)
    summary = lab(LabConfig(out=str(folder), recipes=str(recipes), domains=["ood_long"]))
    assert newest_writes(folder) == before
    assert list(summary["domains"]["domains"]) == ["test", "ood_long"]
    # Best of 2 of 2 samples: the table's own figure of the test problems is the last of their curve.
    table = summary["domains"]["domains"]["test"]
    assert (table["problems"], table["accuracy"]["prm"]["mean"]) == (4, summary["best_of_n"]["prm"]["mean"][-1])
    text = (folder / "report" / "report.md").read_text()
    assert "| best of 2 | PRM | ORM | majority | problems |" in text


def test_a_changed_recipe_runs_its_stage_and_those_after_it(finished, recipes):
    folder, _ = finished
    before = newest_writes(folder)
    recipe = yaml.safe_load((recipes / "orm.yaml").read_text())
    (recipes / "orm.yaml").write_text(yaml.safe_dump(recipe | {"learning_rate": 1e-3}))
    lab(LabConfig(out=str(folder), recipes=str(recipes)))
    after = newest_writes(folder)
    assert {name for name in after if after[name] != before[name]} == {"orm", "score_orm", "evaluate"}


@pytest.mark.slow
def test_a_contrast_ends_in_a_table(recipes, one_thread, tmp_path):
    summary = lab(LabConfig(out=str(tmp_path / "run"), recipes=str(recipes), contrast=True, seeds=1))
    assert list(summary["arms"]) == [arm.name for arm in CONTRAST]
    assert all(len(actual["samples"]) == 2 for actual in summary["arms"].values())
    assert (tmp_path / "run" / "seed-0" / "ppo_process_min_form" / "metrics.jsonl").is_file()
    assert "PRM only, min_form" in (tmp_path / "run" / "report" / "report.md").read_text()
