"""Stages that are killed at random moments end as undisturbed ones; `python -m tests.kills` kills more often."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from tests.kills.compare import differences
from tests.kills.work import WORKS

ROOT = Path(__file__).parents[2]
CHEAP = ("sample", "score", "sft")


def folder(root: Path, **changes) -> Path:
    """What a run might leave."""
    values = {"rows": "a\n", "weight": 1.0, "loss": float("nan"), "metrics": {"samples": 4}, "runtime": 2.0}
    values |= {"page": "solutions"} | changes
    root.mkdir()
    (root / "rows.jsonl").write_text(values["rows"])
    save_file({"w": torch.tensor([values["weight"]])}, root / "model.safetensors")
    history = [{"loss": values["loss"], "train_runtime": values["runtime"]}]
    (root / "trainer_state.json").write_text(json.dumps({"log_history": history}))
    (root / "run.json").write_text(json.dumps({"seconds": values["runtime"], "metrics": values["metrics"]}))
    times = f"<details><summary>Time of seed 0</summary><p>{values['runtime']}</p></details>"
    (root / "report.html").write_text(f"{times}<details><summary>{values['page']}</summary></details>")
    torch.save({"step": torch.tensor([values["weight"]])}, root / "optimizer.pt")
    return root


def test_clocks_make_no_difference(tmp_path):
    assert not list(differences(folder(tmp_path / "a"), folder(tmp_path / "b", runtime=3.0)))


@pytest.mark.parametrize(
    ("changes", "where"),
    [
        ({"rows": "b\n"}, ["rows.jsonl"]),
        ({"page": "others"}, ["report.html"]),
        ({"weight": 1.0000001}, ["model.safetensors", "optimizer.pt/step"]),
        ({"loss": 0.5}, ["trainer_state.json/log_history/0/loss"]),
        ({"metrics": {"samples": 3}}, ["run.json/samples"]),
        ({"metrics": {}}, ["run.json/samples"]),
    ],
)
def test_all_else_does(tmp_path, changes, where):
    actual = list(differences(folder(tmp_path / "a"), folder(tmp_path / "b", **changes)))
    assert [difference.partition(":")[0] for difference in actual] == where


def test_a_file_too_few_or_too_many_does(tmp_path):
    first, second = folder(tmp_path / "a"), folder(tmp_path / "b")
    (first / "rows.jsonl").unlink()
    assert list(differences(first, second)) == ["rows.jsonl should not be there"]
    assert list(differences(second, first)) == ["rows.jsonl is missing"]


@pytest.mark.slow
@pytest.mark.distributed
@pytest.mark.skipif(os.name != "posix", reason="kills process groups")
@pytest.mark.parametrize(
    ("stages", "kills", "processes"),
    [
        (CHEAP, 2, 1),
        *(pytest.param((stage,), 3, 2, marks=pytest.mark.thorough) for stage in WORKS),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, tuple) else str(value),
)
def test_a_run_that_is_killed_ends_as_one_that_is_not(stages, kills, processes, tmp_path):
    words = [
        "--stage",
        *stages,
        "--kills",
        str(kills),
        "--processes",
        str(processes),
        "--folder",
        str(tmp_path / "runs"),
    ]
    # A new process: what is forked off must not have used torch before.
    done = subprocess.run(
        [sys.executable, "-m", "tests.kills", *words], cwd=ROOT, capture_output=True, text=True, timeout=900
    )
    assert done.returncode == 0, done.stdout + done.stderr[-4000:]
    for stage in stages:
        assert f"{stage}: {kills} kills on " in done.stdout
