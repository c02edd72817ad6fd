"""The run's log: which rows there are, and which survive a kill."""

import json
import math
import shutil
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn
from transformers import Trainer, TrainerCallback

from rlstep.policy.monitoring.run_log import JsonLog, rows_up_to
from rlstep.runtime.errors import DataError


def lines(tmp_path):
    text = (tmp_path / "out" / "metrics.jsonl").read_text(encoding="utf-8")
    return [
        json.loads(line, parse_constant=lambda name: pytest.fail(f"{name} is no JSON")) for line in text.splitlines()
    ]


def at(step: int, main: bool = True):
    return SimpleNamespace(global_step=step, is_world_process_zero=main)


# --- metrics.jsonl.


def test_a_line_has_all_that_is_logged(arguments, tmp_path):
    args = arguments()
    log = JsonLog()
    log.on_train_begin(args, at(0), None)
    log.on_log(args, at(2), None, logs={"loss": 0.5, "kl": math.nan, "grad_norm": np.float32(math.inf), "none": None})
    log.on_log(args, at(3), None, logs={"loss": torch.tensor(0.25), "samples": 8, "note": "text"})
    # Batches of 4 samples, two optimizer steps on each.
    assert lines(tmp_path) == [
        {"step": 2, "update": 1, "samples": 4, "loss": 0.5, "kl": None, "grad_norm": None, "none": None},
        {"step": 3, "update": 2, "samples": 8, "loss": 0.25, "note": "text"},
    ]


def test_the_main_process_alone_writes(arguments, tmp_path):
    log = JsonLog()
    log.on_train_begin(arguments(), at(0, main=False), None)
    log.on_log(arguments(), at(1, main=False), None, logs={"loss": 0.5})
    assert not (tmp_path / "out").exists()


def test_a_new_run_empties_the_file_and_a_continued_one_cuts_it_back(arguments, tmp_path):
    args = arguments()
    log = JsonLog()
    log.on_train_begin(args, at(0), None)
    for step in range(6):
        log.on_log(args, at(step), None, logs={"loss": float(step)})
    path = tmp_path / "out" / "metrics.jsonl"
    with path.open("a", encoding="utf-8") as file:
        file.write('{"step": 6, "loss": "half\u00e9')

    log = JsonLog()
    log.on_train_begin(args, at(4), None)
    assert [row["step"] for row in lines(tmp_path)] == [0, 1, 2, 3, 4]
    log.on_log(args, at(5), None, logs={"loss": 50.0})
    assert [row["loss"] for row in lines(tmp_path)] == [0, 1, 2, 3, 4, 50]

    JsonLog().on_train_begin(args, at(0), None)
    assert lines(tmp_path) == []


def test_a_line_cut_inside_a_character_is_dropped(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_bytes('{"step": 1}\n{"step": 2, "é'.encode()[:-1])
    assert rows_up_to(path, 9) == [{"step": 1}]
    path.write_bytes(b"")
    assert rows_up_to(path, 9) == []


@pytest.mark.parametrize("line", ["nonsense", '{"loss": 1}', "[1]", ""])
def test_another_damaged_line_is_reported(tmp_path, line):
    path = tmp_path / "metrics.jsonl"
    path.write_text(f'{{"step": 1}}\n{line}\n{{"step": 2}}\n', encoding="utf-8")
    with pytest.raises(DataError, match="row 2, field 'step'"):
        rows_up_to(path, 9)


class Killed(Exception):
    pass


class _KillAt(TrainerCallback):
    """Kills the run after a step was logged."""

    def __init__(self, step: int):
        self.step = step

    def on_log(self, args, state, control, logs=None, **_):
        if state.global_step == self.step:
            raise Killed


class _Linear(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1))

    def forward(self, x):
        return {"loss": (self.weight * x).square().mean()}


@pytest.mark.parametrize("killed", [3, 4, 5, 8])
def test_a_killed_run_loses_and_repeats_no_line(arguments, tmp_path, killed):
    """In the Trainer's own loop: logs at every step, evaluations and checkpoints at every second, an end that logs."""

    def train(step: int | None, resume: bool):
        args = arguments(
            max_steps=8, save_strategy="steps", save_steps=2, eval_strategy="steps", eval_steps=2, report_to="none"
        )
        data = [{"x": torch.tensor([float(number)])} for number in range(64)]
        callbacks = [JsonLog(), *([_KillAt(step)] if step else [])]
        trainer = Trainer(_Linear(), args, train_dataset=data, eval_dataset=data[:4], callbacks=callbacks)
        trainer.train(resume_from_checkpoint=resume or None)

    train(None, resume=False)
    expected = [(row["step"], sorted(row)) for row in lines(tmp_path)]
    steps = [step for step, _ in expected]
    assert steps == [1, 2, 2, 3, 4, 4, 5, 6, 6, 7, 8, 8, 8]

    for checkpoint in (tmp_path / "out").glob("checkpoint-*"):
        shutil.rmtree(checkpoint)
    with pytest.raises(Killed):
        train(killed, resume=False)
    train(None, resume=True)
    assert [(row["step"], sorted(row)) for row in lines(tmp_path)] == expected


def test_what_is_logged_again_at_the_checkpoints_step_is_not_repeated(arguments, tmp_path):
    args = arguments()
    log = JsonLog()
    log.on_train_begin(args, at(0), None)
    log.on_log(args, at(2), None, logs={"loss": 1.0})
    log.on_log(args, at(2), None, logs={"eval_accuracy": 0.5, "eval_runtime": 1.0})

    log = JsonLog()
    log.on_train_begin(args, at(2), None)
    log.on_log(args, at(2), None, logs={"eval_accuracy": 0.5, "eval_runtime": 2.0})
    log.on_log(args, at(2), None, logs={"train_runtime": 3.0})
    assert [row.get("eval_runtime") for row in lines(tmp_path)] == [None, 1.0, None]
    assert lines(tmp_path)[-1]["train_runtime"] == 3.0
