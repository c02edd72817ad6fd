"""What is refused before a policy's weights or its data are read; tests/stages/test_own_adapter.py has the adapters."""

import json
import shutil
from dataclasses import asdict, replace
from pathlib import Path

import pytest
from peft import LoraConfig, get_peft_model
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer
from trl import ModelConfig

from rlstep.policy.model_options import PolicyModel
from rlstep.policy.monitoring.alarms import AlarmOptions
from rlstep.policy.options import PPOOptions
from rlstep.policy.refresh.labels import RefreshOptions
from rlstep.policy.rewards.guards import Guards
from rlstep.policy.start import check_tied, policy_start
from rlstep.runtime.errors import UserError
from rlstep.runtime.rows import write_rows
from rlstep.stages.label import LabelConfig, label
from rlstep.stages.ppo import ppo
from rlstep.stages.prm import PRMConfig, prm
from rlstep.stages.sample import SampleConfig, sample
from rlstep.stages.sft import SFTArguments, SFTOptions, sft
from rlstep.verifiers.training.arguments import VerifierArguments

QUICK = {"max_steps": 1, "use_cpu": True, "disable_tqdm": True, "dataloader_pin_memory": False, "save_strategy": "no"}


@pytest.fixture
def own(tiny_lm, tmp_path) -> Path:
    """A model to change."""
    return Path(shutil.copytree(tiny_lm, tmp_path / "own"))


@pytest.fixture
def train(task, solutions, ppo_arguments, tmp_path):
    """Starts a stage on a model, with real data or a file that is not there."""

    def start(stage: str, model, data: bool = True, **options) -> None:
        write_rows(tmp_path / "solutions.jsonl", (s.to_row() for s in solutions))
        write_rows(tmp_path / "problems.jsonl", (asdict(p) for p in task.problems("train", 2, seed=0)))
        rows, problems = (str(tmp_path / f"{name}.jsonl") if data else "none" for name in ("solutions", "problems"))
        policy, out = ModelConfig(str(model), dtype="float32", **options), str(tmp_path / "out")
        if stage == "sft":
            sft(SFTOptions(rows), SFTArguments(out, **QUICK, gradient_checkpointing=False, bf16=False), policy)
        elif stage == "ppo":
            parts = (Guards(), AlarmOptions(), RefreshOptions())
            ppo(PPOOptions(problems, reward=["checker"]), *parts, ppo_arguments(), policy)
        elif stage == "sample":
            sample(SampleConfig(str(model), problems, str(tmp_path / "samples.jsonl"), max_new_tokens=2))
        elif stage == "label":
            by_rollouts = {"by": "monte_carlo", "policy": str(model), "max_new_tokens": 2}
            write_rows(rows, (replace(s, labels=None).to_row() for s in solutions))
            label(LabelConfig(rows, str(tmp_path / "labelled.jsonl"), "arithmetic", **by_rollouts))
        else:
            prm(PRMConfig(str(model), rows, **options), VerifierArguments(out, **QUICK))

    return start


@pytest.mark.parametrize("stage", ["sft", "ppo", "prm"])
def test_a_target_without_a_layer_is_told_before_data_is_read(stage, own, train):
    with pytest.raises(UserError, match="no module is named 'c_attn'; linear layers are q_proj") as error:
        train(stage, own, data=False, use_peft=True, lora_target_modules=["c_attn"])
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("stage", ["sft", "ppo", "sample", "prm", "label"])
def test_a_tokenizer_of_another_model_is_told_before_training(stage, own, train):
    model = AutoModelForCausalLM.from_pretrained(own)
    model.resize_token_embeddings(200)
    model.save_pretrained(own)
    with pytest.raises(UserError, match="and the model's embedding 200 rows") as error:
        train(stage, own)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("stage", ["sft", "ppo", "sample", "prm", "label"])
def test_a_token_without_a_row_is_told_before_training(stage, own, train):
    """Newlines are the tokenizer's last token."""
    model = AutoModelForCausalLM.from_pretrained(own)
    rows = len(AutoTokenizer.from_pretrained(own)) - 1
    model.resize_token_embeddings(rows)
    model.save_pretrained(own)
    with pytest.raises(
        UserError, match=rf"problem '.*' ?.*has the token '\n' \({rows}\), and the model's embedding has {rows} rows"
    ):
        train(stage, own)


@pytest.mark.parametrize("stage", ["sft", "ppo", "sample", "label"])
def test_a_tokenizer_without_an_end_is_told_before_training(stage, own, train):
    tokenizer = AutoTokenizer.from_pretrained(own)
    tokenizer.eos_token = None
    tokenizer.save_pretrained(own)
    with pytest.raises(UserError, match="the tokenizer has no (<eos>|end token), so completions would never end"):
        train(stage, own)


@pytest.mark.parametrize("stage", ["sft", "ppo", "prm"])
def test_quantised_weights_are_refused(stage, own, train):
    config = json.loads((own / "config.json").read_text())
    quantised = config | {"quantization_config": {"quant_method": "gptq", "bits": 4}}
    (own / "config.json").write_text(json.dumps(quantised))
    with pytest.raises(UserError, match=r"holds quantised weights \(gptq\), which rlstep does not train"):
        train(stage, own, data=False)


def test_vllm_does_not_sample_adapters_on_tied_embeddings(tiny_lm):
    model = PolicyModel(tiny_lm, use_peft=True, lora_target_modules=["embed_tokens"])
    with pytest.raises(UserError, match="embeddings are one matrix.*which vLLM cannot follow"):
        check_tied(policy_start(model, merge_base=False))
    check_tied(policy_start(replace(model, lora_target_modules="all-linear"), merge_base=False))


@pytest.mark.parametrize("targets", [["q_proj", "lm_head"], r".*(q_proj|lm_head)"])
def test_an_adapter_on_the_output_embedding_is_not_trained_further(targets, own):
    """TRL's losses read the head's own weights; what the adapter adds was sampled with, and would not be learned."""
    config = AutoConfig.from_pretrained(own, tie_word_embeddings=False)
    base = AutoModelForCausalLM.from_config(config)
    base.save_pretrained(own)
    get_peft_model(base, LoraConfig(r=2, target_modules=targets)).save_pretrained(own / "adapter")
    model = PolicyModel(str(own / "adapter"), use_peft=True)
    with pytest.raises(UserError, match="adapter has a layer on the output embedding.*merge_base: true"):
        policy_start(model, merge_base=False)
    assert policy_start(model, merge_base=True).to_merge is not None


def test_the_task_of_an_adapter_is_no_choice():
    with pytest.raises(UserError, match="lora_task_type does nothing here: a policy is a causal LM"):
        PolicyModel("m", use_peft=True, lora_task_type="SEQ_CLS")


def test_a_base_keeps_its_revision(tiny_lm):
    model = PolicyModel(tiny_lm, use_peft=True, lora_target_modules=["q_proj"], model_revision="v2")
    assert policy_start(model, merge_base=False).lora.revision == "v2"
    assert policy_start(replace(model, model_revision="main"), merge_base=False).lora.revision is None
