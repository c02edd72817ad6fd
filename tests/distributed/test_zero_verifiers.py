"""Verifiers of every kind on two CPU ranks under ZeRO, in float32 as one process trains them, and in bfloat16."""

import json
import math
import sys
from dataclasses import replace

import pytest
import torch
from transformers import AutoModelForCausalLM

from rlstep.runtime.rows import write_rows
from rlstep.stages import run
from rlstep.tasks.base import checked
from rlstep.verifiers.load import load_verifier
from tests.distributed.conftest import also

pytestmark = [
    pytest.mark.distributed,
    pytest.mark.slow,
    pytest.mark.skipif(not sys.platform.startswith("linux"), reason="DeepSpeed is installed on Linux alone"),
]

LORA = ["--use_peft", "true", "--lora_r", "4"]
STEPS = 3


@pytest.fixture
def options(task, tiny_lm, tmp_path):
    """Makes the words of a run with `rows` per process."""
    # Eight problems, each with two right and two wrong solutions: whole batches of rows and of pairs, because two ranks
    # fill up the last batch of an epoch with a row that is there already.
    drawn = [checked(task, s) for s in task.demonstrations(200, seed=0)]
    chosen = [[s for s in drawn if s.correct is correct][:16] for correct in (True, False)]
    solutions = [replace(s, problem_id=f"p{place % 8}") for part in chosen for place, s in enumerate(part)]
    # Soft labels, which bfloat16 does not hold exactly.
    soft = [replace(s, labels=[0.9 * label + 0.07 for label in s.labels]) for s in solutions]
    write_rows(tmp_path / "soft.jsonl", (s.to_row() for s in soft))
    write_rows(tmp_path / "train.jsonl", (s.to_row() for s in solutions))
    # an odd number of rows: the last batch is not the same on both ranks
    write_rows(tmp_path / "eval.jsonl", (checked(task, s).to_row() for s in task.demonstrations(13, seed=1)))

    def words(command: str, out: str, rows: int, *more: str) -> list[str]:
        values = {
            "model_name_or_path": tiny_lm, "data": tmp_path / ("soft.jsonl" if command == "prm" else "train.jsonl"),
            "eval_data": tmp_path / "eval.jsonl", "output_dir": tmp_path / out, "learning_rate": 1e-2,
            "per_device_train_batch_size": rows, "per_device_eval_batch_size": 3, "max_steps": STEPS,
            "logging_steps": 1, "eval_strategy": "steps", "eval_steps": 2, "save_strategy": "steps", "save_steps": 2,
            "use_cpu": "true", "disable_tqdm": "true", "dataloader_pin_memory": "false",
        }  # fmt: skip
        return [*(word for name, value in values.items() for word in (f"--{name}", str(value))), *more]

    return words


def history(folder) -> list[dict]:
    newest = max(folder.glob("checkpoint-*"), key=lambda path: int(path.name.split("-")[1]))
    return json.loads((newest / "trainer_state.json").read_text())["log_history"]


KINDS = {
    "prm": ("prm",),
    "prm_lora": ("prm", *LORA),
    "prm_adapter": ("prm", "--head", "token", *LORA, "--merge_adapter", "false"),
    "prm_class_adapter": ("prm", *LORA, "--merge_adapter", "false"),
    "orm": ("orm",),
    "orm_pairwise": ("orm", "--loss", "pairwise", *LORA),
    "implicit": ("orm", "--loss", "implicit", "--beta", "1.0"),
    "implicit_lora": ("orm", "--loss", "implicit", "--beta", "1.0", *LORA),
}


@pytest.mark.parametrize(
    ("stage", "kind"),
    [
        also(3, "prm_lora"), (3, "prm_class_adapter"), also(3, "prm_adapter"), (2, "orm"), also(3, "orm_pairwise"),
        also(3, "implicit"), (3, "implicit_lora"), also(2, "prm_class_adapter"),
    ],
)  # fmt: skip
def test_two_ranks_train_what_one_process_does(stage, kind, options, launch, tmp_path, task):
    command, *words = KINDS[kind]
    run(command, options(command, "one", 8, *words))
    launch([command, *options(command, "two", 4, *words), "--deepspeed", f"ds_configs/zero{stage}.json"])
    one, two = history(tmp_path / "one"), history(tmp_path / "two")
    assert [entry["step"] for entry in one] == [entry["step"] for entry in two]
    for left, right in zip(one, two, strict=True):
        for name in left.keys() & {"loss", "grad_norm", "eval_loss", "eval_auroc", "eval_accuracy", "eval_positions"}:
            assert right[name] == pytest.approx(left[name], rel=2e-3, abs=1e-4), (name, left, right)
    # What is written is whole, and loads in one process.
    texts = [checked(task, s) for s in task.demonstrations(13, seed=1)]
    texts = ([s.prompt for s in texts], [s.completion for s in texts])
    scores = [load_verifier(str(tmp_path / name), device="cpu").score(*texts) for name in ("one", "two")]
    for left, right in zip(*scores, strict=True):
        assert right == pytest.approx(left, abs=2e-3)


@pytest.mark.parametrize(
    ("stage", "kind"),
    [
        also(2, "prm"), also(3, "prm"), also(3, "orm"), also(3, "prm_class_adapter"), also(2, "implicit"),
        (3, "implicit"),
    ],
)  # fmt: skip
def test_verifiers_train_and_evaluate_in_bfloat16(stage, kind, options, launch, tmp_path):
    command, *words = KINDS[kind]
    if kind == "implicit":
        words += [
            "--packing",
            "false",
        ]  # as the reference: bfloat16 rounds packed rows otherwise
    words = [command, *options(command, "out", 4, *words, "--bf16", "true")]
    launch([*words, "--deepspeed", f"ds_configs/zero{stage}.json"])
    entries = history(tmp_path / "out")
    losses = [entry["loss"] for entry in entries if "loss" in entry]
    assert all(math.isfinite(loss) for loss in losses)
    metrics = json.loads((tmp_path / "out" / "run.json").read_text())["metrics"]
    assert metrics["eval_rows"] == 13
    assert 0 <= metrics["eval_accuracy"] <= 1
    if kind == "implicit":
        # Model and reference are one at the start, but for what bfloat16 rounds otherwise in rows that lie otherwise.
        assert losses[0] == pytest.approx(math.log(2), abs=1e-3)
        reference = AutoModelForCausalLM.from_pretrained(tmp_path / "out" / "reference")
        assert all(weight.numel() and torch.isfinite(weight).all() for weight in reference.parameters())
    # It goes on from the checkpoint of two ranks.
    words[words.index("--max_steps") + 1] = str(STEPS + 1)
    launch([*words, "--resume", "true", "--deepspeed", f"ds_configs/zero{stage}.json"])
    assert [entry["step"] for entry in history(tmp_path / "out") if "loss" in entry] == [1, 2, 3, 4]
    load_verifier(str(tmp_path / "out"), device="cpu")
