"""A vLLM server that two ranks ask, each by itself for the rollouts of its own states."""

import json
import math
from dataclasses import asdict

import pytest
from transformers import set_seed

from rlstep.runtime.rows import write_rows
from tests.policy.vllm_server import StubVLLM

pytestmark = [pytest.mark.distributed, pytest.mark.slow]


@pytest.fixture
def server(tiny_lm, tokenizer):
    set_seed(0)
    server = StubVLLM(tiny_lm, tokenizer.eos_token_id, max_lora_rank=8)
    yield server
    server.close()


def test_ranks_ask_for_different_numbers_of_rollouts(
    vllm_package, server, task, tiny_lm, verifier_paths, tmp_path, launch
):
    write_rows(tmp_path / "problems.jsonl", [asdict(p) for p in task.problems("train", 8, seed=0)])
    values = {
        "model_name_or_path": tiny_lm, "problems": tmp_path / "problems.jsonl", "output_dir": tmp_path / "out",
        "reward": "prm", "prm": verifier_paths["prm"], "guard_no_answer": "false", "guard_min_steps": 0,
        "use_peft": "true", "lora_r": 4, "lora_dropout": 0, "lora_target_modules": "all-linear", "learning_rate": 1e-2,
        "advantage": "vine", "vine_rollouts": 3, "use_vllm": "true", "vllm_mode": "server", "vllm_sync": "adapter",
        "vllm_server_base_url": server.url, "vllm_importance_sampling_mode": "token_truncate",
        "per_device_train_batch_size": 4, "num_generations": 4, "num_iterations": 1, "max_completion_length": 24,
        "max_steps": 3, "logging_steps": 1, "save_strategy": "steps", "save_steps": 3,
        "use_cpu": "true", "bf16": "false", "gradient_checkpointing": "false", "disable_tqdm": "true",
    }  # fmt: skip
    words = [word for name, value in values.items() for word in (f"--{name}", str(value))]
    launch(["ppo", *words], imports=vllm_package)
    history = json.loads((tmp_path / "out" / "checkpoint-3" / "trainer_state.json").read_text())["log_history"]
    assert [entry["step"] for entry in history] == [1, 2, 3]
    assert all(math.isfinite(entry["loss"]) for entry in history)
    assert max(entry["sampling/sampling_logp_difference/max"] for entry in history) < 1e-4
    # An update is one request for all samples, of both ranks' problems, and one of each rank for its own rollouts.
    asked = server.asked("v1/completions")
    assert [body["n"] for body in asked] == [4, 3, 3] * 3
    names = [body["lora_name"] for body in server.asked("v1/load_lora_adapter")]
    assert [body["model"] for body in asked] == [name for name in names for _ in range(3)]
    numbers = [[len(body["prompt"]) for body in asked[i : i + 3]] for i in range(0, 9, 3)]
    assert [samples for samples, *_ in numbers] == [2] * 3
    assert any(one != other for _, one, other in numbers)
    for samples, one, other in zip(asked[::3], asked[1::3], asked[2::3], strict=True):
        # Each prompt's own state is among those of the rank that sampled it.
        assert {tuple(p) for p in samples["prompt"]} <= {tuple(p) for p in (*one["prompt"], *other["prompt"])}
        assert not {tuple(p) for p in one["prompt"]} & {tuple(p) for p in other["prompt"]}
    # At the end of the run the server forgets the last adapter, and its files are gone.
    assert not server.adapters
    assert not (tmp_path / "out" / "_vllm_adapter").exists()
