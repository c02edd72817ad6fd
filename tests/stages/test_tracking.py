"""What experiment trackers get of a run, read back from what wandb wrote offline."""

import json
import os
import threading
from pathlib import Path

import pytest
from trl import ModelConfig

from rlstep.runtime import tracking
from rlstep.runtime.errors import UserError
from rlstep.runtime.pipeline import Pipeline
from rlstep.runtime.record import RunRecord
from rlstep.runtime.rows import write_rows
from rlstep.runtime.trackers import TRACKERS
from rlstep.runtime.tracking import TrackingOptions, check_tracking, track
from rlstep.stages.evaluate import EvaluateConfig, evaluate
from rlstep.stages.lab import LabConfig, lab
from rlstep.stages.sft import SFTArguments, SFTOptions, sft
from rlstep.steps.records import Solution
from tests.offline_runs import read_offline


@pytest.fixture(autouse=True)
def environment(monkeypatch):
    for name in ("PROJECT", "RUN_GROUP", "NAME", "TAGS", "RUN_ID", "API_KEY"):
        monkeypatch.delenv(f"WANDB_{name}", raising=False)


@pytest.fixture
def train(task, tmp_path, tiny_lm):
    """Trains on the format: two updates, each saved."""
    demonstrations = tmp_path / "demonstrations.jsonl"
    write_rows(demonstrations, (solution.to_row() for solution in task.demonstrations(16, seed=0)))

    def run(tracking=None, resume=False, **changes) -> dict:
        options = {
            "output_dir": str(tmp_path / "pipeline" / "first"),
            "per_device_train_batch_size": 8,
            "bf16": False,
            "use_cpu": True,
            "disable_tqdm": True,
            "dataloader_pin_memory": False,
            "gradient_checkpointing": False,
            "save_strategy": "steps",
            "save_steps": 1,
            "logging_steps": 1,
            "report_to": "wandb",
        }
        args = SFTArguments(**(options | changes))
        model = ModelConfig(model_name_or_path=tiny_lm, dtype="float32")
        return sft(SFTOptions(str(demonstrations), resume=resume), args, model, tracking=tracking or TrackingOptions())

    return run


def test_a_run_shows_its_whole_configuration_and_uploads_what_it_is_asked_to(train, tmp_path, wandb_folder):
    tracking = TrackingOptions(run_tags=["long"], artifacts=["data", "checkpoints", "model"])
    metrics = train(tracking)
    (run,) = read_offline(wandb_folder)
    assert (run.project, run.name, run.group, run.job_type) == ("rlstep", "first", "pipeline", "sft")
    assert (run.tags, run.exit_code) == (["sft", "long"], 0)
    record = json.loads((tmp_path / "pipeline" / "first" / "run.json").read_text())
    assert {name: run.config[name] for name in record["config"]} == record["config"]
    assert {name: run.config[name] for name in ("stage", "commit", "versions")} == {
        name: record[name] for name in ("stage", "commit", "versions")
    }
    assert run.summary["result/demonstrations"] == metrics["demonstrations"] == 16
    assert sum("train/loss" in row for row in run.history) == 2
    files = {name: (kind, files) for name, kind, files in run.artifacts}
    assert files["demonstrations"] == ("dataset", ["demonstrations.jsonl"])
    assert files["first-checkpoints"][0] == files["first-model"][0] == "model"
    assert {"model.safetensors", "optimizer.pt", "tracking.json"} <= set(files["first-checkpoints"][1])
    assert {"model.safetensors", "tokenizer.json"} <= set(files["first-model"][1])


def test_nothing_is_uploaded_unasked_and_a_resumed_run_goes_on(train, wandb_folder):
    train(max_steps=1, save_total_limit=1)
    train(max_steps=2, resume=True)
    train(max_steps=1)
    before, after, other = read_offline(wandb_folder)
    assert before.id == after.id != other.id
    assert [row["train/global_step"] for row in after.history if "train/loss" in row] == [2]
    assert before.artifacts == after.artifacts == []


def test_names_that_are_given_count(train, wandb_folder, monkeypatch):
    monkeypatch.setenv("WANDB_PROJECT", "theirs")
    monkeypatch.setenv("WANDB_TAGS", "a,b")
    train(TrackingOptions(run_group="ours"), run_name="named", max_steps=1)
    (run,) = read_offline(wandb_folder)
    assert (run.project, run.name, run.group, run.tags) == ("theirs", "named", "ours", ["sft", "a", "b"])


class Reporting:
    report_to, project, run_name = ["wandb"], "rlstep", None


def failed(folder: Path) -> None:
    with RunRecord("sft", {"data": "x"}, folder / "out") as record:
        track(record, TrackingOptions(), Reporting())
        raise UserError("no such thing")


def test_a_run_that_fails_is_marked_so(tmp_path, wandb_folder):
    with pytest.raises(UserError, match="no such thing"):
        failed(tmp_path)
    (run,) = read_offline(wandb_folder)
    assert (run.exit_code, run.config["data"]) == (1, "x")


def test_a_failed_rank_waits_for_its_tracker_for_a_bounded_time(tmp_path, monkeypatch, caplog):
    """Its server does not answer, and the other ranks wait for this one to end."""

    class Unreachable:
        def start(self, info):
            pass

        def finish(self, metrics, failed):
            threading.Event().wait()

    monkeypatch.setitem(TRACKERS, "wandb", Unreachable())
    monkeypatch.setattr(tracking, "FAILED_S", 0.1)
    monkeypatch.setattr(tracking, "active_trackers", lambda args: [])
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(UserError, match="no such thing"):
        failed(tmp_path)
    assert "wandb: the end of the run was not sent within 0 s" in caplog.text


@pytest.mark.parametrize("missing", ["key", "network"])
def test_a_missing_key_or_network_only_warns(tmp_path, wandb_folder, monkeypatch, caplog, missing):
    import wandb

    monkeypatch.setenv("WANDB_MODE", "online")
    monkeypatch.setenv("HOME", str(tmp_path))  # where a key would be stored
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("WANDB_INIT_TIMEOUT", "1")
    if missing == "network":
        monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    wandb.teardown()
    with RunRecord("sft", {}, tmp_path / "out") as record:
        (tracker,) = track(record, TrackingOptions(), Reporting())
        tracker.log({"loss": 1.0})
    expected = {"key": "no API key", "network": "127.0.0.1:9"}[missing]
    assert "wandb cannot be reached: " in caplog.text
    assert expected in caplog.text
    (run,) = read_offline(wandb_folder)
    assert [row["loss"] for row in run.history] == [1.0]


def test_what_a_tracker_cannot_take_does_not_stop_a_run(tmp_path, wandb_folder, monkeypatch, caplog):
    import wandb

    def full(*_, **__):
        raise OSError("disk full")

    with RunRecord("sft", {}, tmp_path / "out") as record:
        track(record, TrackingOptions(artifacts=["model"]), Reporting())
        monkeypatch.setattr(wandb, "log_artifact", full)
    assert "wandb: the upload of out-model failed, and the run goes on without it: disk full" in caplog.text
    assert (tmp_path / "out" / "run.json").is_file()


def test_the_callers_own_run_is_used_and_left_open(tmp_path, wandb_folder):
    import wandb

    with wandb.init(project="sweep") as run:
        with RunRecord("sft", {"data": "x"}, tmp_path / "out") as record:
            track(record, TrackingOptions(), Reporting())
            record.metrics["rows"] = 3
        assert wandb.run is run
        assert run.summary["result/rows"] == 3


def test_options_that_nothing_reads_are_refused(tmp_path):
    with pytest.raises(UserError, match="report_to names neither wandb nor trackio, so run_group, artifacts would"):
        check_tracking(TrackingOptions(run_group="g", artifacts=["data"]), EvaluateConfig("a", "b", report_to="none"))
    with pytest.raises(UserError, match="artifacts has model, and this stage has none; it has data"):
        check_tracking(TrackingOptions(artifacts=["model"]), EvaluateConfig("a", "b", report_to="wandb"))
    with pytest.raises(UserError, match="artifacts is 'weights'; it must be one of data, checkpoints, model"):
        TrackingOptions(artifacts=["weights"])


def scored(number: int, correct: bool) -> Solution:
    return Solution(
        problem_id="a", prompt="?", completion="x", sample=number, reference="1", answer="1" if correct else "2",
        correct=correct, steps=[(0, 1)], labels=[int(correct)], scores={"prm": [0.9 if correct else 0.2]},
    )  # fmt: skip


def test_best_of_n_is_a_chart_a_table_and_lines(tmp_path, wandb_folder):
    write_rows(tmp_path / "scored.jsonl", [scored(0, True).to_row(), scored(1, False).to_row()])
    config = EvaluateConfig(str(tmp_path / "scored.jsonl"), str(tmp_path / "run" / "curves"), report_to="wandb")
    evaluate(config, TrackingOptions(artifacts=["data"]))
    (run,) = read_offline(wandb_folder)
    assert (run.name, run.group, run.job_type) == ("curves", "run", "evaluate")
    lines = [(row["n"], row["best_of_n/prm"]) for row in run.history if "n" in row]
    assert lines == [(1, 0.5), (2, 1.0)]
    logged = {name.split("/")[0] for row in run.history for name in row}
    assert {"best_of_n", "best_of_n_chart_table"} <= logged
    assert run.summary["result/prm@2"] == 1.0
    assert [name for name, _, _ in run.artifacts][0] == "scored"


def test_a_table_by_domain_is_tracked(tmp_path, wandb_folder):
    files = [str(tmp_path / f"{name}.jsonl") for name in ("calculus", "physics")]
    for path in files:
        write_rows(path, [scored(0, True).to_row(), scored(1, False).to_row()])
    evaluate(EvaluateConfig(files, str(tmp_path / "run" / "ood"), n=2, report_to="wandb"))
    (run,) = read_offline(wandb_folder)
    assert "domains" in {name.split("/")[0] for row in run.history for name in row}
    assert run.summary["result/prm@2"] == run.summary["result/physics/prm@2"] == 1.0


@pytest.mark.parametrize(("seeds", "groups"), [(None, ["demo"]), (2, ["demo/seed-0", "demo/seed-1"])])
def test_a_lab_groups_its_stages(tmp_path, monkeypatch, seeds, groups):
    seen = []
    monkeypatch.setattr(Pipeline, "run_all", lambda *_: seen.append(os.environ["WANDB_RUN_GROUP"]))
    monkeypatch.setattr("rlstep.stages.lab.report", lambda config: {})
    monkeypatch.setattr("rlstep.stages.lab.report_seeds", lambda folders, out: {})
    lab(LabConfig(str(tmp_path / "demo"), seeds=seeds))
    assert seen == groups
    assert "WANDB_RUN_GROUP" not in os.environ


def test_trackio_gets_the_same(train, tmp_path, monkeypatch):
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))  # read when it is imported
    trackio = pytest.importorskip("trackio", reason="trackio is an optional package: pip install trackio")
    train(TrackingOptions(run_tags=["long"]), report_to="trackio", max_steps=1)
    train(TrackingOptions(run_tags=["long"]), report_to="trackio", max_steps=2, resume=True)
    (run,) = trackio.Api().runs("rlstep")
    assert run.name.startswith("first-")
    assert (run.config["_Group"], run.config["stage"], run.config["tags"]) == ("pipeline", "sft", ["sft", "long"])
    assert TRACKERS["trackio"].module() is None


def test_tensorboard_shows_the_whole_configuration(train, tmp_path):
    pytest.importorskip("tensorboard", reason="tensorboard is an optional package: pip install tensorboard")
    train(report_to="tensorboard", max_steps=1)
    (events,) = (tmp_path / "pipeline" / "first").rglob("events.out.tfevents.*")
    assert b'"merge_base": false' in events.read_bytes()
    assert not list(tmp_path.rglob("tracking.json"))
