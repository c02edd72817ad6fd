"""A merged adapter gives what base and adapter gave together, whichever layers it is on."""

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, GPT2Config, Qwen2Config, Qwen3MoeConfig, set_seed

from rlstep.policy.models import load_policy
from rlstep.runtime.errors import UserError
from rlstep.verifiers.adapters import find_adapter
from rlstep.verifiers.merging import load_with_adapter

SMALL = {"vocab_size": 40, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 48}
CONFIGS = {
    "tied": Qwen2Config(**SMALL, num_key_value_heads=1, tie_word_embeddings=True),
    "untied": Qwen2Config(**SMALL, num_key_value_heads=1, tie_word_embeddings=False),
    "conv1d": GPT2Config(vocab_size=40, n_embd=32, n_layer=2, n_head=2),
    "experts": Qwen3MoeConfig(
        **SMALL, num_key_value_heads=1, num_experts=4, num_experts_per_tok=2, moe_intermediate_size=16
    ),
}
IDS = torch.arange(12)[None]
ADAPTERS = [
    ("tied", {"target_modules": "all-linear"}),
    ("tied", {"target_modules": ["embed_tokens"]}),
    ("tied", {"target_modules": ["lm_head", "q_proj"]}),
    ("tied", {"target_modules": ["q_proj"], "modules_to_save": ["embed_tokens"]}),
    ("tied", {"target_modules": ["q_proj"], "modules_to_save": ["lm_head"]}),
    ("tied", {"target_modules": ["q_proj"], "modules_to_save": ["embed_tokens", "lm_head"]}),
    ("tied", {"target_modules": ["q_proj"], "use_dora": True}),
    ("untied", {"target_modules": ["embed_tokens", "lm_head"]}),
    ("conv1d", {"target_modules": ["c_attn"]}),
    ("conv1d", {"target_modules": ["wte"]}),
    ("experts", {"target_modules": "all-linear"}),
    ("experts", {"target_modules": ["q_proj"], "target_parameters": ["experts.gate_up_proj"]}),
]


@torch.no_grad()
def logits(model) -> torch.Tensor:
    return model.eval()(input_ids=IDS, use_cache=False).logits


def written(config, folder, **options) -> torch.Tensor:
    """Writes a base and an adapter of random weights on it; returns the logits of the two."""
    set_seed(0)
    config.initializer_range = 0.2
    AutoModelForCausalLM.from_config(config).save_pretrained(folder / "base")
    base = AutoModelForCausalLM.from_pretrained(folder / "base")
    before = logits(base)
    policy = get_peft_model(base, LoraConfig(task_type="CAUSAL_LM", r=4, init_lora_weights=False, **options))
    with torch.no_grad():
        for name, parameter in policy.named_parameters():
            if ".modules_to_save." in name:
                parameter.add_(torch.randn_like(parameter) * 0.1)
    policy.save_pretrained(folder / "policy")
    trained = logits(policy)
    assert (trained - before).abs().max() > 0.01
    return trained


@pytest.mark.filterwarnings("ignore:Model has `tie_word_embeddings=True`", "ignore:Input and output embeddings")
@pytest.mark.parametrize(("model", "options"), ADAPTERS, ids=str)
def test_merged_and_saved_is_what_was_trained(model, options, tmp_path):
    trained = written(CONFIGS[model], tmp_path, **options)
    merged = load_policy(str(tmp_path / "policy"))
    torch.testing.assert_close(logits(merged), trained, atol=2e-5, rtol=1e-5)
    merged.save_pretrained(tmp_path / "merged")
    read = AutoModelForCausalLM.from_pretrained(tmp_path / "merged")
    torch.testing.assert_close(logits(read), trained, atol=2e-5, rtol=1e-5)


def test_an_adapter_that_lacks_weights_is_refused(tmp_path):
    """PEFT warns, and goes on with weights drawn at random."""
    from safetensors.torch import load_file, save_file

    written(CONFIGS["tied"], tmp_path, target_modules=["q_proj"])
    file = tmp_path / "policy" / "adapter_model.safetensors"
    weights = load_file(file)
    weights.pop(next(iter(weights)))
    save_file(weights, file)
    with pytest.raises(UserError, match="policy is incomplete or of another model"):
        load_with_adapter(find_adapter(str(tmp_path / "policy")))
    file.rename(file.with_name("adapter_model.bin"))
    with pytest.raises(UserError, match="has no adapter_model.safetensors"):
        load_with_adapter(find_adapter(str(tmp_path / "policy")))
