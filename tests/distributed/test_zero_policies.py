"""`sft` and `ppo` on two CPU ranks under ZeRO: the losses of one process, and the shipped recipes' settings."""

import json
import math
import sys
from dataclasses import asdict
from pathlib import Path

import pytest
from peft import AutoPeftModelForCausalLM
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, set_seed

from rlstep.runtime.rows import write_rows
from rlstep.stages import run
from rlstep.tasks.base import checked
from tests.distributed.conftest import also
from tests.policy.vllm_server import StubVLLM

pytestmark = [
    pytest.mark.distributed,
    pytest.mark.slow,
    pytest.mark.skipif(not sys.platform.startswith("linux"), reason="DeepSpeed is installed on Linux alone"),
]


@pytest.fixture
def paths(task, tiny_lm, tokenizer, tmp_path) -> dict[str, str]:
    """Data, and a PRM that is an adapter on the policy's base."""
    write_rows(tmp_path / "demonstrations.jsonl", (checked(task, s).to_row() for s in task.demonstrations(24, seed=0)))
    for name, split, number in (("problems", "train", 8), ("test", "test", 4)):
        write_rows(tmp_path / f"{name}.jsonl", [asdict(p) for p in task.problems(split, number, seed=0)])
    return {
        name: str(tmp_path / name)
        for name in ("demonstrations.jsonl", "problems.jsonl", "test.jsonl", "prm", "adapter")
    }


def words_of(values: dict) -> list[str]:
    return [word for name, value in values.items() for word in (f"--{name}", str(value))]


def history(folder) -> list[dict]:
    newest = max(folder.glob("checkpoint-*"), key=lambda path: int(path.name.split("-")[1]))
    return json.loads((newest / "trainer_state.json").read_text())["log_history"]


@pytest.mark.parametrize(("stage", "lora"), [also(2, False), also(3, False), (3, True)])
def test_sft_on_two_ranks_is_sft_in_one_process(stage, lora, paths, tiny_lm, launch, tmp_path):
    """With the recipe's settings; `lora` trains an adapter further, whose base is loaded before there is a trainer."""

    def words(out: str, rows: int, start: str = tiny_lm) -> list[str]:
        values = {
            "config": "recipes/arithmetic/sft.yaml", "model_name_or_path": start, "data": paths["demonstrations.jsonl"],
            "output_dir": tmp_path / out, "per_device_train_batch_size": rows, "max_steps": 3, "logging_steps": 1,
            "save_steps": 2, "use_cpu": "true", "disable_tqdm": "true",
        }  # fmt: skip
        if lora:
            values |= {"use_peft": "true"}
        return words_of(values)

    start = tiny_lm
    if lora:
        run("sft", [*words("adapter", 8), "--lora_dropout", "0"])
        start = paths["adapter"]
    run("sft", words("one", 8, start))
    launch(["sft", *words("two", 4, start), "--deepspeed", f"ds_configs/zero{stage}.json"])
    one, two = history(tmp_path / "one"), history(tmp_path / "two")
    for left, right in zip(one, two, strict=True):
        for name in left.keys() & {"loss", "grad_norm", "mean_token_accuracy", "num_tokens"}:
            assert right[name] == pytest.approx(left[name], rel=2e-3, abs=1e-4), name
    kind = AutoPeftModelForCausalLM if lora else AutoModelForCausalLM
    weights = [dict(kind.from_pretrained(tmp_path / name).named_parameters()) for name in ("one", "two")]
    for name, weight in weights[0].items():
        # Adam's first steps have the size of the learning rate, also where a gradient is as good as 0.
        assert weights[1][name].shape == weight.shape
        assert (weights[1][name] - weight).abs().mean() < 5e-4, name


@pytest.mark.parametrize(("stage", "precision"), [(3, "float32"), also(3, "bfloat16"), also(2, "bfloat16")])
def test_ppo_with_the_recipes_settings_and_an_adapter_prm(
    stage, precision, paths, tiny_lm, tokenizer, launch, tmp_path
):
    set_seed(1)
    values = {
        "model_name_or_path": tiny_lm, "data": paths["demonstrations.jsonl"], "output_dir": paths["prm"],
        "use_peft": "true", "merge_adapter": "false", "max_steps": 1, "save_strategy": "no", "use_cpu": "true",
        "disable_tqdm": "true",
    }  # fmt: skip
    run("prm", words_of(values))
    bf16 = precision == "bfloat16"
    values = {
        "config": "recipes/arithmetic/ppo_process.yaml", "model_name_or_path": tiny_lm, "prm": paths["prm"],
        "problems": paths["problems.jsonl"], "eval_problems": paths["test.jsonl"], "output_dir": tmp_path / "out",
        "per_device_train_batch_size": 8, "per_device_eval_batch_size": 4, "max_completion_length": 8,
        "max_steps": 2, "eval_steps": 2, "logging_steps": 1, "save_steps": 2, "lora_r": 4, "guard_no_answer": "false",
        "bf16": str(bf16).lower(), "dtype": precision, "use_cpu": "true", "disable_tqdm": "true",
    }  # fmt: skip
    words = ["ppo", *words_of(values), "--deepspeed", f"ds_configs/zero{stage}.json"]
    log = launch(words)
    entries = [entry for entry in history(tmp_path / "out") if "loss" in entry]
    assert [entry["step"] for entry in entries] == [1, 2]
    assert all(math.isfinite(entry[name]) for entry in entries for name in ("loss", "grad_norm", "kl"))
    assert all(
        tensor.numel() and tensor.isfinite().all()
        for tensor in load_file(tmp_path / "out" / "adapter_model.safetensors").values()
    )
    # What is said of the run is said once.
    assert log.count("verifiers are on bases of their own") == (1 if stage == 3 else 0)
    words[words.index("--max_steps") + 1] = "3"
    launch([*words, "--resume", "true"])
    AutoPeftModelForCausalLM.from_pretrained(tmp_path / "out")


@pytest.fixture
def server(tiny_lm, tokenizer):
    """Gives each prompt the same samples on any number of ranks."""
    server = StubVLLM(tiny_lm, tokenizer.eos_token_id, max_lora_rank=8, repeats=True)
    yield server
    server.close()


@pytest.mark.parametrize(
    ("stage", "advantage"),
    [also(3, "group"), also(2, "gae"), (3, "gae"), also(2, "rloo"), also(2, "vine"), also(3, "vine")],
)
def test_ppo_on_two_ranks_has_the_losses_of_one(
    stage, advantage, paths, verifier_paths, tiny_lm, server, vllm_package, launch, tmp_path
):
    def words(out: str, rows: int) -> list[str]:
        values = {
            "model_name_or_path": tiny_lm, "problems": paths["problems.jsonl"], "output_dir": tmp_path / out,
            "reward": "prm", "prm": verifier_paths["prm"], "guard_no_answer": "false", "guard_min_steps": 0,
            "use_peft": "true", "lora_r": 4, "lora_dropout": 0, "lora_target_modules": "all-linear", "beta": 0.01,
            "use_vllm": "true", "vllm_mode": "server", "vllm_sync": "adapter", "vllm_server_base_url": server.url,
            "vllm_importance_sampling_mode": "token_truncate", "advantage": advantage, "learning_rate": 1e-3,
            "per_device_train_batch_size": rows, "num_generations": 4, "num_iterations": 2,
            "max_completion_length": 12, "max_steps": 3, "logging_steps": 1, "save_strategy": "steps", "save_steps": 3,
            "use_cpu": "true", "bf16": "false", "gradient_checkpointing": "false", "disable_tqdm": "true",
        }  # fmt: skip
        if advantage == "vine":
            values["vine_rollouts"] = 2
        return ["ppo", *words_of(values)]

    launch(words("one", 8), ranks=1, imports=vllm_package)
    launch([*words("two", 4), "--deepspeed", f"ds_configs/zero{stage}.json"], imports=vllm_package)
    one, two = ([e for e in history(tmp_path / name) if "loss" in e] for name in ("one", "two"))
    assert [entry["step"] for entry in one] == [entry["step"] for entry in two] == [1, 2, 3]
    for left, right in zip(one, two, strict=True):
        names = {"loss", "grad_norm", "kl", "reward", "reward_std", "entropy", "completions/mean_length"}
        names |= {"critic/value_loss", "critic/explained_variance", "num_tokens"}
        for name in left.keys() & names:
            assert right[name] == pytest.approx(left[name], rel=5e-3, abs=2e-5), (name, left, right)


REWARD = "def length(prompts, completions, references, **_):\n    return [len(text) % 5 / 4 for text in completions]\n"


def test_process_sets_have_members_on_both_ranks(paths, tiny_lm, server, vllm_package, launch, tmp_path):
    """The samples of one problem lie on two ranks, and are of different lengths there."""
    (Path(vllm_package) / "paid.py").write_text(REWARD)

    def words(out: str, rows: int, token_weights: str) -> list[str]:
        values = {
            "model_name_or_path": tiny_lm, "problems": paths["problems.jsonl"], "output_dir": tmp_path / out,
            "reward": "paid:length", "token_weights": token_weights, "loss_type": "grpo", "temperature": 0.3,
            "use_peft": "true", "lora_r": 4, "lora_dropout": 0, "lora_target_modules": "all-linear", "beta": 0.01,
            "use_vllm": "true", "vllm_mode": "server", "vllm_sync": "adapter", "vllm_server_base_url": server.url,
            "vllm_importance_sampling_mode": "token_truncate", "learning_rate": 1e-3,
            "per_device_train_batch_size": rows, "num_generations": 8, "num_iterations": 1,
            "max_completion_length": 12, "max_steps": 2, "logging_steps": 1, "save_strategy": "steps", "save_steps": 2,
            "use_cpu": "true", "bf16": "false", "gradient_checkpointing": "false", "disable_tqdm": "true",
        }  # fmt: skip
        return ["ppo", *words_of(values)]

    launch(words("equal", 8, "equal"), ranks=1, imports=vllm_package)
    launch(words("one", 8, "process_set"), ranks=1, imports=vllm_package)
    launch(words("two", 4, "process_set"), imports=vllm_package)
    equal, one, two = ([e for e in history(tmp_path / name) if "loss" in e] for name in ("equal", "one", "two"))
    assert abs(equal[0]["loss"] - one[0]["loss"]) > 1e-3, "no samples begin alike"
    assert len(one) == len(two) == 2
    for left, right in zip(one, two, strict=True):
        for name in ("loss", "grad_norm", "reward", "advantage/mean_abs"):
            assert right[name] == pytest.approx(left[name], rel=1e-3, abs=1e-5), (name, left, right)


def test_an_error_of_all_ranks_is_reported_once(tiny_lm, launch, tmp_path):
    (tmp_path / "empty.jsonl").write_text("{}\n")
    words = words_of(
        {
            "model_name_or_path": tiny_lm,
            "data": tmp_path / "empty.jsonl",
            "output_dir": tmp_path / "out",
            "use_cpu": "true",
        }
    )
    log = launch(["sft", *words], by="torchrun", code=1)
    assert log.count("rlstep sft: error:") == 1
