"""PPO with a critic on two CPU ranks: the base that policy and critic share has to hold under ZeRO."""

import json
import math
import sys
from dataclasses import asdict

import pytest
import torch
from peft import AutoPeftModelForCausalLM
from safetensors.torch import load_file
from transformers import set_seed

from rlstep.runtime.rows import write_rows
from rlstep.verifiers.spec import VerifierSpec
from rlstep.verifiers.training.start import new_verifier
from tests.distributed.conftest import also

pytestmark = [
    pytest.mark.distributed,
    pytest.mark.slow,
    pytest.mark.skipif(not sys.platform.startswith("linux"), reason="DeepSpeed is installed on Linux alone"),
]


@pytest.fixture
def options(task, tiny_lm, tokenizer, tmp_path) -> list[str]:
    """Two updates with a critic and a PRM's rewards."""
    set_seed(1)
    new_verifier(tiny_lm, VerifierSpec("prm")).save_pretrained(tmp_path / "prm")
    tokenizer.save_pretrained(tmp_path / "prm")
    write_rows(tmp_path / "problems.jsonl", [asdict(p) for p in task.problems("train", 8, seed=0)])
    values = {
        "model_name_or_path": tiny_lm, "problems": tmp_path / "problems.jsonl", "output_dir": tmp_path / "out",
        "reward": "prm", "prm": tmp_path / "prm", "advantage": "gae", "beta": 0.01,
        # What an untrained policy writes has no answer, and is to be paid for all the same.
        "guard_no_answer": "false", "guard_min_steps": 0,
        "use_peft": "true", "lora_r": 4, "lora_target_modules": "all-linear", "learning_rate": 1e-2,
        "per_device_train_batch_size": 4, "num_generations": 4, "num_iterations": 2, "max_completion_length": 8,
        "max_steps": 2, "logging_steps": 1, "save_strategy": "steps", "save_steps": 2,
        "use_cpu": "true", "bf16": "false", "gradient_checkpointing": "false", "disable_tqdm": "true",
    }  # fmt: skip
    return [word for name, value in values.items() for word in (f"--{name}", str(value))]


@pytest.mark.parametrize(("stage", "critic"), [also(2, "adapter"), (3, "adapter"), (2, "head"), also(3, "head")])
def test_critic_and_policy_share_the_base_under_zero(stage, critic, options, tmp_path, launch):
    # The head in pieces of about one row, so that each rank makes several passes, in number its own or the other's.
    words = ["--critic", critic, *(["--tokens_per_device", "40"] if critic == "head" else [])]
    launch(["ppo", *options, *words, "--deepspeed", f"ds_configs/zero{stage}.json"])
    out = tmp_path / "out"
    history = json.loads((out / "checkpoint-2" / "trainer_state.json").read_text())["log_history"]
    assert [entry["step"] for entry in history] == [1, 2]
    assert all(math.isfinite(entry[name]) for entry in history for name in ("loss", "grad_norm", "critic/value_loss"))
    assert history[0]["kl"] == pytest.approx(0, abs=1e-6)
    assert history[1]["kl"] > 0
    assert history[-1]["samples"] == 8

    adapter, own = load_file(out / "adapter_model.safetensors"), load_file(out / "critic.safetensors")
    assert not any("critic" in name for name in adapter)
    assert own["value_head.weight"].shape == (1, 32)
    assert len(own) == 2 + (len(adapter) if critic == "adapter" else 0)
    for name, tensor in [*adapter.items(), *own.items()]:
        assert tensor.numel() > 0, f"{name} is a shard's placeholder"
        # Adapters start with lora_B at 0 and so does the value head: what is not 0 has been trained.
        assert tensor.any(), f"{name} did not move"

    # DeepSpeed's own consolidation of what each rank keeps.
    from deepspeed.utils.zero_to_fp32 import get_fp32_state_dict_from_zero_checkpoint

    ranks = get_fp32_state_dict_from_zero_checkpoint(str(out / "checkpoint-2"))
    saved = {name.replace(".weight", ".default.weight"): tensor for name, tensor in adapter.items()}
    saved |= {f"critic.{name}": tensor for name, tensor in own.items()}
    assert saved.keys() <= ranks.keys()
    for name, tensor in saved.items():
        torch.testing.assert_close(ranks[name], tensor, atol=1e-6, rtol=0)

    loaded = AutoPeftModelForCausalLM.from_pretrained(out)
    logits = loaded(torch.arange(1, 9)[None]).logits
    with loaded.disable_adapter():
        assert not torch.allclose(loaded(torch.arange(1, 9)[None]).logits, logits)


@pytest.mark.parametrize("critic", ["adapter", "head"])
def test_critic_and_policy_train_under_plain_data_parallelism(critic, options, tmp_path, launch):
    launch(["ppo", *options, "--critic", critic, *(["--tokens_per_device", "40"] if critic == "head" else [])])
    own = load_file(tmp_path / "out" / "critic.safetensors")
    assert all(tensor.any() for tensor in own.values())
