"""PRMs on two CPU ranks: packed rows under ZeRO-2 and ZeRO-3, and the metrics of rows that lie on both ranks."""

import json
import sys

import pytest
import torch

from rlstep.runtime.rows import write_rows
from rlstep.tasks.base import checked
from rlstep.verifiers.scoring.reward_model import RewardModel
from tests.distributed.conftest import also

pytestmark = [
    pytest.mark.distributed,
    pytest.mark.slow,
    pytest.mark.skipif(not sys.platform.startswith("linux"), reason="DeepSpeed is installed on Linux alone"),
]


@pytest.fixture
def options(task, tiny_lm, tmp_path) -> list[str]:
    write_rows(tmp_path / "train.jsonl", (checked(task, s).to_row() for s in task.demonstrations(24, seed=0)))
    # an odd number of rows: the last batch is not the same on both ranks
    write_rows(tmp_path / "eval.jsonl", (checked(task, s).to_row() for s in task.demonstrations(13, seed=1)))
    values = {
        "model_name_or_path": tiny_lm, "data": tmp_path / "train.jsonl", "eval_data": tmp_path / "eval.jsonl",
        "output_dir": tmp_path / "out", "learning_rate": 1e-2, "per_device_train_batch_size": 4,
        "per_device_eval_batch_size": 3, "max_steps": 2, "save_strategy": "no", "use_cpu": "true",
        "disable_tqdm": "true", "dataloader_pin_memory": "false",
    }  # fmt: skip
    return [word for name, value in values.items() for word in (f"--{name}", str(value))]


@pytest.mark.parametrize(("stage", "head"), [also(2, "token"), (3, "classification")])
def test_a_prm_trains_under_zero_and_its_metrics_are_those_of_one_process(stage, head, options, task, tmp_path, launch):
    launch(["prm", *options, "--head", head, "--deepspeed", f"ds_configs/zero{stage}.json"], by="deepspeed")
    metrics = json.loads((tmp_path / "out" / "run.json").read_text())["metrics"]
    assert metrics["packing"] is True
    verifier = RewardModel.from_pretrained(str(tmp_path / "out"))
    solutions = [checked(task, s) for s in task.demonstrations(13, seed=1)]
    texts = ([s.prompt for s in solutions], [s.completion for s in solutions], [s.steps for s in solutions])
    values = verifier.score(*texts)
    right = known = 0
    for solution, scores in zip(solutions, values, strict=True):
        taught = solution.labels.index(0) + 1 if 0 in solution.labels else len(scores)
        right += sum((p >= 0.5) == bool(label) for p, label in list(zip(scores, solution.labels, strict=True))[:taught])
        known += taught
    assert metrics["eval_positions"] == known
    assert metrics["eval_accuracy"] == pytest.approx(right / known)
    assert all(torch.isfinite(weight).all() for weight in verifier.model.parameters())
