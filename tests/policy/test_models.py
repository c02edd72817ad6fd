import copy
import json
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer, MambaConfig, Qwen2ForCausalLM

from rlstep.policy.end_tokens import stop_tokens, stop_tokens_of, write_generation_config
from rlstep.policy.models import (
    check_prompt_lengths,
    load_generation_config,
    load_policy,
    load_policy_config,
    load_policy_tokenizer,
)
from rlstep.runtime.errors import UserError
from rlstep.verifiers.pretrained import max_positions


def test_a_tokenizer_pads_left_and_has_something_to_pad_with(tokenizer, tmp_path):
    bare = AutoTokenizer.from_pretrained(_saved(tokenizer, tmp_path / "a"))
    bare.pad_token, bare.padding_side = None, "right"
    loaded = load_policy_tokenizer(_saved(bare, tmp_path / "b"))
    assert (loaded.padding_side, loaded.pad_token) == ("left", loaded.eos_token)
    assert load_policy_tokenizer(str(tmp_path / "a")).pad_token == "<pad>"


def _saved(tokenizer, path) -> str:
    tokenizer.save_pretrained(path)
    return str(path)


def test_a_full_model_is_loaded_as_it_is(tiny_lm):
    model = load_policy(tiny_lm)
    assert type(model) is Qwen2ForCausalLM
    saved = AutoModelForCausalLM.from_pretrained(tiny_lm).state_dict()
    assert all(torch.equal(weight, saved[name]) for name, weight in model.state_dict().items())
    assert load_policy(tiny_lm, dtype="bfloat16").dtype == torch.bfloat16


def test_an_adapter_is_merged_into_its_base(tiny_lm, tmp_path):
    base = AutoModelForCausalLM.from_pretrained(tiny_lm)
    lora = LoraConfig(r=2, lora_alpha=6, target_modules=["q_proj"], init_lora_weights=False)
    get_peft_model(base, lora).save_pretrained(tmp_path)
    merged = load_policy(str(tmp_path))
    assert type(merged) is Qwen2ForCausalLM
    weights = {
        name.split(".")[-2]: w for name, w in _tensors(tmp_path / "adapter_model.safetensors") if "layers.0" in name
    }
    before = AutoModelForCausalLM.from_pretrained(tiny_lm).model.layers[0].self_attn
    after = merged.model.layers[0].self_attn
    # W + (alpha / r) B A
    torch.testing.assert_close(after.q_proj.weight, before.q_proj.weight + 3 * weights["lora_B"] @ weights["lora_A"])
    assert torch.equal(after.k_proj.weight, before.k_proj.weight)


def test_an_adapter_that_cannot_be_read_says_why(tiny_lm, tmp_path):
    lora = LoraConfig(r=2, target_modules=["q_proj"])

    def saved(name: str) -> Path:
        get_peft_model(AutoModelForCausalLM.from_pretrained(tiny_lm), lora).save_pretrained(tmp_path / name)
        return tmp_path / name

    def refused(message: str) -> None:
        with pytest.raises(UserError, match=message):
            load_policy(str(folder))

    folder = saved("settings")
    (folder / "adapter_config.json").write_text("{")
    refused("settings/adapter_config.json is damaged")
    folder = saved("weights")
    file = folder / "adapter_model.safetensors"
    file.write_bytes(file.read_bytes()[:-10])
    refused("adapter_model.safetensors is damaged or cut off")
    file.write_text("version https://git-lfs.github.com/spec/v1\n")
    refused("adapter_model.safetensors is a Git LFS pointer")
    folder = saved("upper")
    settings = json.loads((folder / "adapter_config.json").read_text())
    changed = settings | {"base_model_name_or_path": str(saved("lower"))}
    (folder / "adapter_config.json").write_text(json.dumps(changed))
    refused("upper is an adapter on another adapter, .*lower, .*rlstep export --policy .*lower --what merged")


def test_an_adapter_without_a_tokenizer_has_its_bases(tiny_lm, tokenizer, tmp_path):
    """PEFT writes none, and neither do many who publish adapters."""
    model = get_peft_model(AutoModelForCausalLM.from_pretrained(tiny_lm), LoraConfig(r=2, target_modules=["q_proj"]))
    model.save_pretrained(tmp_path)
    assert load_policy_tokenizer(str(tmp_path)).get_vocab() == tokenizer.get_vocab()
    own = copy.deepcopy(tokenizer)
    own.add_tokens(["<own>"])
    assert "<own>" in load_policy_tokenizer(_saved(own, tmp_path)).get_vocab()


def _tensors(path):
    from safetensors.torch import load_file

    return load_file(path).items()


@pytest.mark.parametrize("ends", [None, [7], [7, 9]])
@pytest.mark.parametrize("form", ["whole", "adapter", "adapter with its own"])
def test_end_tokens_without_the_weights_are_those_with_them(tiny_lm, tokenizer, tmp_path, form, ends):
    model = AutoModelForCausalLM.from_pretrained(tiny_lm)
    if ends is None:  # nothing but the model's configuration says
        model.config.eos_token_id = model.generation_config.eos_token_id = 11
    else:
        model.generation_config.eos_token_id = ends
    path = _saved(tokenizer, tmp_path / "lm")
    model.save_pretrained(path)
    if ends is None:
        (tmp_path / "lm" / "generation_config.json").unlink()
    if form != "whole":
        lora = LoraConfig(r=2, target_modules=["q_proj"])
        path = _saved(tokenizer, tmp_path / "adapter")
        get_peft_model(AutoModelForCausalLM.from_pretrained(tmp_path / "lm"), lora).save_pretrained(path)
        if form == "adapter with its own":
            model.generation_config.eos_token_id = [13]
            write_generation_config(model, path)
    stops = stop_tokens_of(load_generation_config(path, load_policy_config(path)), tokenizer)
    assert stops == stop_tokens(load_policy(path), tokenizer)
    own = [13] if form == "adapter with its own" else ends or [11]
    assert stops == [tokenizer.eos_token_id, *own]


def test_the_models_positions(tiny_lm):
    assert max_positions(load_policy(tiny_lm).config) == 512
    assert max_positions(MambaConfig()) is None


def test_prompts_must_leave_room():
    lengths = {"short": 10, "long": 30, "middle": 20}
    check_prompt_lengths(lengths, new_tokens=10, limit=40)
    check_prompt_lengths(lengths, new_tokens=10, limit=None)
    check_prompt_lengths({}, new_tokens=10, limit=4)
    with pytest.raises(
        UserError, match="problem 'long': 30 prompt tokens and 11 new ones exceed the model's 40 positions"
    ):
        check_prompt_lengths(lengths, new_tokens=11, limit=40)
