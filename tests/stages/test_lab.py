"""The lab: which stages it runs again, and the whole way at the smallest sizes, killed in the middle and continued."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

import rlstep
from rlstep.report.contrast import CONTRAST
from rlstep.runtime.errors import UserError
from rlstep.stages import lab as module
from rlstep.stages.lab import LabConfig, Stage, code_digest, contrast_stages, lab, stages

ROOT = Path(__file__).resolve().parents[2]
ARMS = ["outcome", "process"]

# Sixteen demonstrations learnt nearly by heart: samples of their problems have right steps and wrong ones.
VERIFIER = {"num_train_epochs": 1, "per_device_train_batch_size": 16}
PPO = {
    "max_steps": 2,
    "per_device_train_batch_size": 4,
    "per_device_eval_batch_size": 8,
    "num_generations": 2,
    "num_generations_eval": 2,
    "max_completion_length": 40,
    "eval_steps": 2,
    "save_steps": 1,
}
TINY = {
    "prepare": {"train": 16, "rl": 8, "test": 4, "demonstrations": 16},
    "sft": {"max_steps": 60, "per_device_train_batch_size": 8, "save_steps": 20},
    "sample_train": {"n": 2, "max_new_tokens": 64},
    "sample_test": {"n": 2, "max_new_tokens": 64},
    "prm": VERIFIER,
    "orm": VERIFIER,
    "ppo": PPO,
    "evaluate": {"ns": [1, 2], "trials": 10},
}


class TestOneStage:
    """`_run_stage` with a command that only writes down how it was called."""

    STAGE = Stage("orm", "orm", "orm", {"data": "train/labelled.jsonl"}, ("output_dir", "orm"))

    @pytest.fixture(autouse=True)
    def folder(self, tmp_path, monkeypatch) -> Path:
        (tmp_path / "train").mkdir()
        (tmp_path / "train" / "labelled.jsonl").write_text("{}\n")
        (tmp_path / "orm.yaml").write_text("learning_rate: 1.0e-3\n")
        self.calls = []
        monkeypatch.setattr(module, "run", self.command)
        return tmp_path

    def command(self, name: str, options: list[str]) -> None:
        self.calls.append((name, dict(zip(options[::2], options[1::2], strict=True))))
        out = Path(self.calls[-1][1]["--output_dir"])
        out.mkdir(exist_ok=True)
        (out / f"call-{len(self.calls)}").touch()

    def killed(self, name: str, options: list[str]) -> None:
        self.command(name, options)
        raise KeyboardInterrupt

    def run(self, folder: Path, seed: int = 0) -> list[str]:
        """Runs the stage; returns the names of what is in its output."""
        module._run_stage(self.STAGE, folder, folder, seed)
        return sorted(path.name for path in (folder / "orm").iterdir())

    def test_the_command_gets_its_recipe_paths_and_seed(self, folder):
        self.run(folder, seed=3)
        data, out = str(folder / "train" / "labelled.jsonl"), str(folder / "orm")
        options = {"--config": str(folder / "orm.yaml"), "--data": data, "--output_dir": out, "--seed": "3"}
        assert self.calls == [("orm", options | {"--resume": "true"})]

    def test_a_finished_stage_is_not_run_again(self, folder, capsys):
        assert self.run(folder) == self.run(folder) == ["call-1"]
        assert capsys.readouterr().out == "unchanged\n"

    @pytest.mark.parametrize("change", ["recipe", "input", "seed", "code"])
    def test_what_changed_is_run_afresh(self, folder, monkeypatch, change):
        self.run(folder)
        if change == "recipe":
            (folder / "orm.yaml").write_text("learning_rate: 2.0e-3\n")
        elif change == "input":
            (folder / "train" / "labelled.jsonl").write_text("{} \n")
        elif change == "code":
            monkeypatch.setattr(module, "code_digest", lambda command: "other")
        assert self.run(folder, seed=int(change == "seed")) == ["call-2"]

    def test_a_comment_in_a_recipe_changes_nothing(self, folder):
        self.run(folder)
        (folder / "orm.yaml").write_text("# slower\nlearning_rate: 0.001\n")
        assert self.run(folder) == ["call-1"]

    def test_a_lost_output_is_written_again(self, folder):
        self.run(folder)
        (folder / "orm" / "call-1").unlink()
        (folder / "orm").rmdir()
        assert self.run(folder) == ["call-2"]

    def test_a_killed_stage_continues_on_what_it_left(self, folder, monkeypatch):
        with monkeypatch.context() as patch:
            patch.setattr(module, "run", self.killed)
            with pytest.raises(KeyboardInterrupt):
                self.run(folder)
        assert self.run(folder) == ["call-1", "call-2"]
        assert self.run(folder) == ["call-1", "call-2"]
        assert len(self.calls) == 2

    def test_a_killed_stage_starts_afresh_when_its_recipe_has_changed(self, folder, monkeypatch):
        with monkeypatch.context() as patch:
            patch.setattr(module, "run", self.killed)
            with pytest.raises(KeyboardInterrupt):
                self.run(folder)
        (folder / "orm.yaml").write_text("learning_rate: 2.0e-3\n")
        assert self.run(folder) == ["call-2"]

    def test_a_missing_input_is_named(self, folder):
        (folder / "train" / "labelled.jsonl").unlink()
        with pytest.raises(UserError, match=r"labelled\.jsonl: no such file"):
            self.run(folder)


def test_partial_rows_of_another_configuration_are_removed(tmp_path):
    for name in ("x.jsonl", "x.jsonl.partial", "x.jsonl.run.json", "y.jsonl"):
        (tmp_path / name).touch()
    module._remove(tmp_path / "x.jsonl")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["x.jsonl.run.json", "y.jsonl"]
    module._remove(tmp_path / "none")


def test_a_stage_waits_for_those_it_reads_from_and_for_no_other():
    needs = {stage.name: set(names) for stage, names in module._with_needs(stages(ARMS))}
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
    for stage in stages(ARMS):
        assert needs[stage.name] <= before
        before.add(stage.name)


@pytest.mark.parametrize(
    ("arms", "exported"), [([], []), (["outcome"], []), (["outcome", "process", "process_only"], ["ppo_process"])]
)
def test_the_arms_asked_for_are_trained_and_the_process_arm_is_exported(arms, exported):
    assert [stage.name for stage in stages(arms) if stage.command == "ppo"] == [f"ppo_{arm}" for arm in arms]
    assert [stage.inputs["policy"] for stage in stages(arms) if stage.command == "export"] == exported


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"seeds": 0}, "seeds is 0; it must be at least 1"),
        ({"workers": 0}, "workers is 0"),
        ({"arms": ["proces"]}, "arms is 'proces'; it must be one of outcome, process, process_only"),
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
    assert LabConfig(out="run", seeds=3).arms == ["outcome", "process", "process_only"]


def test_a_contrast_has_three_seeds_and_only_what_its_arms_need():
    assert LabConfig(out="run", contrast=True).seeds == 3
    assert LabConfig(out="run", contrast=True, seeds=2).seeds == 2
    found = contrast_stages()
    assert [stage.name for stage in found if stage.command != "ppo"] == [
        "prepare", "sft", "sample_train", "label_train", "prm",
    ]  # fmt: skip
    arms = {stage.name: stage.inputs.get("prm") for stage in found if stage.command == "ppo"}
    assert arms == {f"ppo_{arm}": None if arm == "outcome" else "prm" for arm in CONTRAST}


def test_a_folder_of_recipes_that_is_not_there_is_named(tmp_path):
    with pytest.raises(UserError, match="nowhere/prepare: no such file"):
        lab(LabConfig(out=str(tmp_path / "run"), recipes="nowhere"))


def test_a_commands_code_is_what_its_stage_imports(tmp_path, monkeypatch):
    code = {
        "__init__.py": "",
        "stages/__init__.py": "",
        "stages/prepare.py": "from rlstep.tasks import get\n",
        "stages/prm.py": "def prm():\n    from rlstep.verifiers.training import fit\n",
        "tasks/__init__.py": "from rlstep.core.deep.curves import mean\n",
        "verifiers/__init__.py": "",
        "verifiers/training.py": "import rlstep.core.losses\n",
        "core/deep/curves.py": "import json\n",
        "core/losses.py": "",
        "policy/trainer.py": "from rlstep.verifiers import training\n",
    }
    for name, text in code.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    monkeypatch.setattr(rlstep, "__file__", str(tmp_path / "__init__.py"))

    def changed_by(path: str) -> list[str]:
        commands = ["prepare", "prm"]
        before = [code_digest(command) for command in commands]
        (tmp_path / path).write_text(code[path] + "x = 2\n")
        return [name for name, old in zip(commands, before, strict=True) if code_digest(name) != old]

    assert changed_by("policy/trainer.py") == []
    assert changed_by("stages/prm.py") == ["prm"]
    assert changed_by("verifiers/training.py") == ["prm"]
    assert changed_by("core/losses.py") == ["prm"]
    assert changed_by("tasks/__init__.py") == ["prepare"]
    assert changed_by("core/deep/curves.py") == ["prepare"]
    assert changed_by("stages/__init__.py") == ["prepare", "prm"]


@pytest.fixture(scope="module")
def recipes(tmp_path_factory) -> Path:
    """The shipped recipes at the smallest sizes that still give the verifiers both labels."""
    folder = tmp_path_factory.mktemp("recipes")
    for path in (ROOT / "recipes" / "arithmetic").glob("*.yaml"):
        recipe = yaml.safe_load(path.read_text()) | TINY.get(path.stem, {})
        (folder / path.name).write_text(yaml.safe_dump(recipe))
    return folder


@pytest.fixture(scope="module")
def one_thread():
    """A forked process may not use the threads of OpenMP that its parent has started already."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "cpu_count", lambda: 1)
        yield


def newest_writes(folder: Path) -> dict[str, int]:
    """When each stage that has ended last wrote."""
    found = {}
    for stage in stages(ARMS):
        if json.loads((folder / ".lab" / f"{stage.name}.json").read_text())["finished"]:
            output = folder / stage.output[1]
            files = [output] if output.is_file() else [path for path in output.rglob("*") if path.is_file()]
            found[stage.name] = max(path.stat().st_mtime_ns for path in files)
    return found


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
        stage.name for stage in stages(ARMS) if (folder / "logs" / f"{stage.name}.log").read_text() == "unchanged\n"
    }
    assert skipped == before
    assert set(newest_writes(folder)) == {stage.name for stage in stages(ARMS)}


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
    assert {"report.md", "best_of_n.png", "rl_curves.png"} <= {path.name for path in (folder / "report").iterdir()}
    assert (folder / "export" / "merged" / "model.safetensors").is_file()


def test_a_second_run_writes_nothing_but_the_report(finished, recipes):
    folder, summary = finished
    before = newest_writes(folder)
    again = lab(LabConfig(out=str(folder), recipes=str(recipes)))
    assert newest_writes(folder) == before
    assert again == summary


def test_a_changed_recipe_runs_its_stage_and_those_behind_it(finished, recipes):
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
    assert list(summary["arms"]) == list(CONTRAST)
    assert all(len(found["samples"]) == 2 for found in summary["arms"].values())
    assert (tmp_path / "run" / "seed-0" / "ppo_process_min_form" / "metrics.jsonl").is_file()
    assert "PRM only, min_form" in (tmp_path / "run" / "report" / "report.md").read_text()
