"""Processes that go on from a checkpoint go on from the same one."""

import os
from pathlib import Path

import pytest

from rlstep.runtime.rows import write_rows
from rlstep.tasks.base import checked
from tests import warm as process

pytestmark = [pytest.mark.distributed, pytest.mark.slow]


def from_its_own_folder(folder: str, *words: str) -> int:
    """`rlstep WORDS` in a folder of each rank, as on machines that share no file system."""
    os.chdir(Path(folder) / os.environ["RANK"])
    return process.command(*words)


def test_a_machine_that_sees_no_checkpoint_does_not_begin_anew_beside_the_others(task, tiny_lm, tmp_path, warm):
    write_rows(tmp_path / "train.jsonl", (checked(task, s).to_row() for s in task.demonstrations(24, seed=0)))
    (tmp_path / "1").mkdir()
    checkpoint = tmp_path / "0" / "out" / "checkpoint-1"
    checkpoint.mkdir(parents=True)
    for name in ("trainer_state.json", "state_0.json", "state_1.json"):
        (checkpoint / name).touch()
    values = {
        "model_name_or_path": tiny_lm, "data": tmp_path / "train.jsonl", "output_dir": "out", "max_steps": 2,
        "per_device_train_batch_size": 4, "use_cpu": "true", "bf16": "false", "resume": "true",
        "disable_tqdm": "true", "dataloader_pin_memory": "false",
    }  # fmt: skip
    words = [word for name, value in values.items() for word in (f"--{name}", str(value))]
    log = tmp_path / "log.txt"
    run = warm().start("tests.distributed.test_resume:from_its_own_folder", tmp_path, "prm", *words, log=log, ranks=2)
    assert run.wait() == 1
    assert log.read_text().count("see different checkpoints to continue (rank 0 checkpoint-1, rank 1 none)") == 1
