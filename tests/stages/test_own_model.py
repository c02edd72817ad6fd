"""Stages that train whole weights of a published model whose files are as published models have them."""

import json
import shutil
from dataclasses import asdict
from pathlib import Path

import pytest
from transformers import AutoModelForCausalLM
from trl import ModelConfig

from rlstep.policy.monitoring.alarms import AlarmOptions
from rlstep.policy.options import PPOOptions
from rlstep.policy.refresh.labels import RefreshOptions
from rlstep.policy.rewards.guards import Guards
from rlstep.runtime.errors import UserError
from rlstep.runtime.rows import write_rows
from rlstep.stages.ppo import ppo
from rlstep.stages.prm import PRMConfig, prm
from rlstep.stages.sft import SFTArguments, SFTOptions, sft
from rlstep.verifiers.training.arguments import VerifierArguments

SHORT = {"max_steps": 1, "use_cpu": True, "disable_tqdm": True, "dataloader_pin_memory": False}
# As Llama-2's: transformers reads it with a warning, and refuses to save it once an end token was added.
GENERATION = {"temperature": 0.6, "top_p": 0.9, "eos_token_id": [7]}


@pytest.fixture
def published(tiny_lm, tmp_path) -> str:
    folder = tmp_path / "published"
    shutil.copytree(tiny_lm, folder)
    (folder / "generation_config.json").write_text(json.dumps(GENERATION))
    return str(folder)


def train(stage: str, published: str, task, solutions, ppo_arguments, tmp_path: Path) -> None:
    rows, out = tmp_path / "rows.jsonl", str(tmp_path / "out")
    model = ModelConfig(published, dtype="float32")
    if stage == "sft":
        write_rows(rows, (s.to_row() for s in task.demonstrations(8, seed=0)))
        sft(SFTOptions(str(rows)), SFTArguments(out, bf16=False, gradient_checkpointing=False, **SHORT), model)
    elif stage == "ppo":
        write_rows(rows, (asdict(p) for p in task.problems("train", 4, seed=0)))
        lenient = Guards(guard_no_answer=False, guard_min_steps=0)
        options = PPOOptions(str(rows), reward=["checker"])
        ppo(options, lenient, AlarmOptions(), RefreshOptions(), ppo_arguments(output_dir=out, max_steps=1), model)
    else:
        write_rows(rows, (s.to_row() for s in solutions))
        prm(PRMConfig(published, str(rows), head="token"), VerifierArguments(out, bf16=False, **SHORT))


@pytest.mark.parametrize("stage", ["sft", "ppo", "prm"])
def test_a_generation_config_that_transformers_will_not_save_changed_costs_no_weights(
    stage, published, task, tokenizer, solutions, ppo_arguments, tmp_path
):
    train(stage, published, task, solutions, ppo_arguments, tmp_path)
    AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    saved = json.loads((tmp_path / "out" / "generation_config.json").read_text())
    assert (saved["temperature"], saved["top_p"], "do_sample" in saved) == (0.6, 0.9, False)
    assert {7, tokenizer.eos_token_id} <= set(saved["eos_token_id"])


def test_weights_that_are_cut_off_are_named(published, task, solutions, ppo_arguments, tmp_path):
    file = Path(published) / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(UserError, match=r"published/model\.safetensors is damaged or cut off"):
        train("sft", published, task, solutions, ppo_arguments, tmp_path)
