"""Which layers get an adapter: names as they are written, and what is said of those that a model does not have."""

import pytest
from peft import LoraConfig, get_peft_model
from torch import nn
from transformers import AutoModelForCausalLM, GPT2Config, MixtralConfig, Qwen2Config, Qwen3MoeConfig
from trl import ModelConfig

from rlstep.policy.start import lora_config
from rlstep.runtime.errors import UserError
from rlstep.verifiers.adapters import Adapter
from rlstep.verifiers.lora_targets import (
    adapted_skeleton,
    as_targets,
    check_targets,
    refuse_adapted_head,
    skeleton,
    touches_tied_embeddings,
)

SMALL = {"vocab_size": 40, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 48}
EXPERTS = SMALL | {"num_key_value_heads": 1, "num_experts_per_tok": 1}
CONFIGS = {
    "qwen2": Qwen2Config(**SMALL, num_key_value_heads=1, tie_word_embeddings=True),
    "gpt2": GPT2Config(vocab_size=40, n_embd=32, n_layer=2, n_head=2),
    "mixtral": MixtralConfig(**EXPERTS, num_local_experts=2),
    "qwen3_moe": Qwen3MoeConfig(**EXPERTS, num_experts=2, moe_intermediate_size=16),
}


def adapter(**options) -> LoraConfig:
    return LoraConfig(task_type="CAUSAL_LM", **options)


@pytest.mark.parametrize(
    ("written", "wanted"),
    [
        (["q_proj"], ["q_proj"]),
        ("q_proj", ["q_proj"]),
        ("self_attn.q_proj", ["self_attn.q_proj"]),
        (["q_proj", "v_proj"], ["q_proj", "v_proj"]),
        (["all-linear"], "all-linear"),
        ("all-linear", "all-linear"),
        (r".*\.0\..*_proj", r".*\.0\..*_proj"),
        ([r".*\.(q|v)_proj"], r".*\.(q|v)_proj"),
        (None, None),
    ],
)
def test_a_name_is_a_name_and_a_pattern_a_pattern(written, wanted):
    assert as_targets(written) == wanted


@pytest.mark.parametrize(
    ("family", "target", "adapted"), [("qwen2", "q_proj", 2), ("gpt2", "c_attn", 2), ("qwen2", r".*\.0\..*_proj", 7)]
)
def test_one_target_of_a_policy_gets_its_adapters(family, target, adapted):
    """TRL makes a text of a list with one name, which PEFT reads as a regular expression that matches nothing."""
    model = AutoModelForCausalLM.from_config(CONFIGS[family])
    lora = lora_config(ModelConfig("m", use_peft=True, lora_target_modules=[target]))
    check_targets(lora, "m", model)
    wrapped = get_peft_model(model, lora)
    assert sum("lora_A" in name for name, _ in wrapped.named_parameters()) == adapted


@pytest.mark.parametrize(
    ("family", "options", "message"),
    [
        ("qwen2", {"target_modules": ["q_porj"]}, r"m: lora_target_modules: no module is named 'q_porj'; linear layers "
         r"are q_proj, k_proj, v_proj, o_proj, gate_proj, up_proj, down_proj, lm_head\.$"),
        # PEFT is content with one that matches.
        ("qwen2", {"target_modules": ["q_proj", "c_attn"]}, "no module is named 'c_attn'"),
        ("qwen2", {"target_modules": r".*\.9\..*_proj"}, "no module is named"),
        ("qwen2", {"target_modules": "(q|v_proj"}, r"'\(q\|v_proj' is no regular expression \(missing \)"),
        ("qwen2", {"target_modules": ["all-linear", "q_proj"]}, "all-linear stands alone, and here it is one of all-l"),
        ("gpt2", {"target_modules": ["q_proj"]}, "'q_proj'; linear layers are c_attn, c_proj, c_fc, lm_head"),
        ("qwen2", {"target_modules": ["mlp"]}, "'mlp' is a Qwen2MLP, which has no matrix of its own"),
        ("qwen2", {"target_modules": ["lm_head"]}, "'lm_head' is the output embedding"),
        ("mixtral", {"target_modules": ["w1"]}, "'w1'.*lora_target_parameters: experts.gate_up_proj, "),
        ("mixtral", {"target_parameters": ["experts.w1"]}, "target_parameters: no parameter is named 'experts.w1'"),
        ("qwen2", {"target_modules": ["q_proj"], "modules_to_save": ["head"]}, "no module is named 'head'"),
        ("qwen3_moe", {}, "no default layers for qwen3_moe models; set lora_target_modules, for example to all-linear"),
    ],
)  # fmt: skip
def test_a_target_that_is_not_there_is_one_line(family, options, message):
    with pytest.raises(UserError, match=message) as error:
        check_targets(adapter(**options), "m", skeleton(CONFIGS[family]))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("family", "options"),
    [
        ("qwen2", {}),
        ("qwen2", {"target_modules": "all-linear"}),
        ("qwen2", {"target_modules": ["embed_tokens", "self_attn.q_proj"]}),
        ("mixtral", {"target_parameters": ["experts.gate_up_proj"]}),
    ],
)
def test_targets_that_are_there_are_admitted(family, options):
    check_targets(adapter(**options), "m", skeleton(CONFIGS[family]))


GATE_UP = {"target_parameters": ["experts.gate_up_proj"]}
ON_ALL = "down_proj, gate.weight, gate_up_proj"


@pytest.mark.parametrize(
    ("family", "options", "message"),
    [
        ("mixtral", {"target_modules": "all-linear", "lora_dropout": 0.05},
         f"^m: lora_dropout is 0.05, and PEFT has no dropout for adapters on parameters, here {ON_ALL}; set lora_"),
        ("qwen3_moe", {"target_modules": "all-linear", "lora_dropout": 0.1}, "lora_dropout is 0.1, and PEFT has no"),
        ("qwen3_moe", GATE_UP | {"lora_dropout": 0.1}, r"here experts.gate_up_proj; set lora_dropout: 0\.$"),
        ("mixtral", GATE_UP | {"use_dora": True}, "^m: use_dora is true, which PEFT does not have for adapters on"),
        ("qwen3_moe", {"target_modules": "all-linear", "lora_bias": True}, "lora_bias is true, which PEFT does not"),
        ("mixtral", GATE_UP | {"use_dora": True, "lora_dropout": 0.1}, "set lora_dropout: 0; use_dora is true"),
        ("mixtral", {}, "^m: PEFT has no default layers for mixtral models; set lora_target_modules, for example to"),
        ("qwen2", {"target_modules": ["q_proj"], "target_parameters": ["q_proj.weight"]}, "PEFT refuses this adapter"),
        ("qwen2", {"target_parameters": ["input_layernorm.weight"]}, r"but only 2d and 3d are supported\.$"),
        ("gpt2", {"target_parameters": ["c_fc.weight"]}, r"does not work with fan_in_fan_out\.$"),
        ("qwen2", {"target_modules": ["q_proj"], "modules_to_save": ["q_proj"]}, "No modules were targeted"),
    ],
)  # fmt: skip
def test_what_peft_refuses_is_one_line_before_weights_are_read(family, options, message):
    with pytest.raises(ValueError):  # noqa: PT011 its own
        get_peft_model(AutoModelForCausalLM.from_config(CONFIGS[family]), adapter(**options))
    given, model = adapter(**options), skeleton(CONFIGS[family])
    with pytest.raises(UserError, match=message) as error:
        check_targets(given, "m", model)
    assert "\n" not in str(error.value)
    assert given.to_dict() == adapter(**options).to_dict()


def test_a_skeleton_is_not_changed_by_the_adapter_that_is_tried_on_it():
    model = skeleton(CONFIGS["mixtral"])
    wrapped = adapted_skeleton(adapter(target_modules="all-linear"), "m", model)
    assert not any("lora" in name for name, _ in model.named_parameters())
    assert {p.device.type for p in wrapped.parameters()} == {"meta"}


def test_adapters_on_tied_embeddings_are_known():
    def touched(family: str, **options) -> bool:
        return touches_tied_embeddings(adapter(**options), skeleton(CONFIGS[family]))

    assert touched("qwen2", target_modules=["embed_tokens"])
    assert touched("gpt2", target_modules="all-linear", modules_to_save=["wte"])
    assert touched("qwen2", target_modules=["q_proj"], modules_to_save=["lm_head"])
    assert not touched("qwen2", target_modules="all-linear")
    assert not touched("mixtral", target_modules=["embed_tokens"])


@pytest.mark.parametrize(
    ("family", "options", "on_head"),
    [
        ("mixtral", {"target_modules": ["q_proj", "lm_head"]}, True),
        ("qwen2", {"target_modules": ["embed_tokens"], "ensure_weight_tying": True}, True),
        ("qwen2", {"target_modules": ["q_proj"], "trainable_token_indices": [1]}, True),
        ("qwen2", {"target_modules": ["embed_tokens"]}, False),
        ("mixtral", {"target_modules": ["embed_tokens"], "ensure_weight_tying": True}, False),
        ("mixtral", {"target_modules": ["q_proj"], "trainable_token_indices": [1]}, False),
    ],
)
@pytest.mark.filterwarnings("ignore:.*ensure_weight_tying", "ignore:.*tie_word_embeddings", "ignore:Model has")
def test_an_adapter_on_the_output_embedding_is_refused_however_it_came_there(family, options, on_head):
    """What PEFT itself puts there says so."""
    config, lora = CONFIGS[family], adapter(**options)
    there = get_peft_model(AutoModelForCausalLM.from_config(config), lora).get_base_model().get_output_embeddings()
    assert (type(there) is not nn.Linear) == on_head
    given = Adapter("folder", "base", lora)
    if not on_head:
        return refuse_adapted_head(given, skeleton(config))
    with pytest.raises(UserError, match="folder has a layer on the output embedding"):
        refuse_adapted_head(given, skeleton(config))
