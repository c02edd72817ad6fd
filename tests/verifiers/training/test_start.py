"""What a verifier's training starts from: the generator's weights, and nothing at random but a new head."""

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForTokenClassification, GPT2LMHeadModel, Qwen2ForCausalLM

from rlstep.runtime.errors import UserError
from rlstep.steps.labels import LabelPolicy
from rlstep.verifiers.adapters import save_adapter
from rlstep.verifiers.forward import logits_at
from rlstep.verifiers.pretrained import load_config
from rlstep.verifiers.spec import VerifierSpec
from rlstep.verifiers.training.start import new_verifier

PRM, ORM = VerifierSpec("prm"), VerifierSpec("orm")


def test_new_verifier_has_the_generators_weights_and_no_dropout(tiny_lm):
    generator = Qwen2ForCausalLM.from_pretrained(tiny_lm)
    verifier = new_verifier(tiny_lm, PRM)
    for name, weight in generator.model.named_parameters():
        assert torch.equal(weight, verifier.model.get_parameter(name)), name
    assert verifier.dropout.p == 0
    assert verifier.config.id2label == {0: "wrong", 1: "right"}
    assert verifier.config.rlstep_verifier == {
        "kind": "prm", "format": 3, "head": "classification", "neutral": "positive", "after_first_error": "mask",
        "boundary": {"rule": "line", "tag": None}, "prompt_format": {"form": "auto"},
    }  # fmt: skip


def test_every_kind_of_dropout_is_off(tmp_path, configs, batch):
    GPT2LMHeadModel(configs["gpt2"]).save_pretrained(tmp_path)  # its configuration has three of 0.1
    verifier = new_verifier(str(tmp_path), PRM).train()
    assert torch.equal(logits_at(verifier, batch), logits_at(verifier, batch))


def test_checkpoint_round_trip_in_plain_transformers(tiny_lm, tmp_path):
    verifier = new_verifier(tiny_lm, ORM).eval()
    verifier.save_pretrained(tmp_path)
    assert [path.name for path in tmp_path.glob("*.bin")] == []
    loaded = AutoModelForTokenClassification.from_pretrained(tmp_path).eval()
    ids_BT = torch.tensor([[3, 4, 5, 6]])
    assert torch.equal(loaded(ids_BT).logits, verifier(ids_BT).logits)
    assert VerifierSpec.from_config(str(tmp_path), load_config(str(tmp_path))) == ORM


def test_a_verifier_trained_further_keeps_its_head(verifier_paths):
    before = AutoModelForTokenClassification.from_pretrained(verifier_paths["prm"])
    assert torch.equal(new_verifier(verifier_paths["prm"], PRM).score.weight, before.score.weight)


def test_a_neutral_class_is_a_third_label(tiny_lm):
    verifier = new_verifier(tiny_lm, VerifierSpec("prm", policy=LabelPolicy("class")))
    assert verifier.score.out_features == 3
    assert verifier.config.id2label == {0: "wrong", 1: "right", 2: "neutral"}
    # an ORM has no neutral steps
    assert new_verifier(tiny_lm, VerifierSpec("orm", policy=LabelPolicy("class"))).score.out_features == 2


def test_token_head_is_the_language_model_itself(tiny_lm):
    generator = Qwen2ForCausalLM.from_pretrained(tiny_lm)
    verifier = new_verifier(tiny_lm, VerifierSpec("prm", "token", (5, 6)))
    assert type(verifier) is Qwen2ForCausalLM
    for name, weight in generator.named_parameters():
        assert torch.equal(weight, verifier.get_parameter(name)), name


def test_an_adapter_is_not_merged_into_shards(tiny_lm, tokenizer, tmp_path, zero_3):
    lora = LoraConfig(task_type="TOKEN_CLS", r=2, target_modules="all-linear", exclude_modules=["score"])
    save_adapter(get_peft_model(new_verifier(tiny_lm, PRM), lora), tokenizer, tmp_path)
    zero_3()
    with pytest.raises(UserError, match="is a LoRA adapter, which cannot be merged into a base that ZeRO-3 shards"):
        new_verifier(str(tmp_path), PRM)
