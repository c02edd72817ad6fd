"""Loading a policy: a full model or a LoRA adapter, from a folder or a hub id, with the same options everywhere."""

import json
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase, set_seed
from trl import GRPOConfig, ModelConfig
from trl.trainer.utils import create_model_from_path

from rlstep.runtime.errors import UserError
from rlstep.verifiers.pretrained import ADAPTER_CONFIG


def load_policy_tokenizer(path: str, trust_remote_code: bool = False) -> PreTrainedTokenizerBase:
    """The tokenizer of a policy, padding on the left as generation needs."""
    tokenizer = AutoTokenizer.from_pretrained(path, trust_remote_code=trust_remote_code, padding_side="left")
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def load_policy(path: str, dtype: str = "auto", trust_remote_code: bool = False) -> PreTrainedModel:
    """The policy at `path` for inference; an adapter is loaded on its base and merged into it.

    Args:
        path: a folder or hub id of a causal LM, or of a LoRA adapter.
        dtype: a torch dtype's name, or "auto" for that of the checkpoint.
        trust_remote_code: run model code from the hub; off unless the user turns it on.
    """
    options = {"dtype": dtype, "trust_remote_code": trust_remote_code}
    if not (Path(path) / ADAPTER_CONFIG).is_file():
        return AutoModelForCausalLM.from_pretrained(path, **options)
    from peft import AutoPeftModelForCausalLM

    try:
        return AutoPeftModelForCausalLM.from_pretrained(path, **options).merge_and_unload()
    except OSError as error:
        base = json.loads((Path(path) / ADAPTER_CONFIG).read_text(encoding="utf-8"))["base_model_name_or_path"]
        raise UserError(
            f"{path}: the adapter's base, '{base}', cannot be loaded from here: {str(error).splitlines()[0]} Correct"
            f" base_model_name_or_path in its {ADAPTER_CONFIG}; a relative path counts from the working directory."
        ) from error


def load_base(model: str | PreTrainedModel, args: GRPOConfig) -> PreTrainedModel:
    """A policy's model before an adapter is put on it, as TRL would load it; an instance is passed through."""
    if not isinstance(model, str):
        return model
    set_seed(args.seed)
    options = {"device_map": None, "trust_remote_code": args.trust_remote_code} | (args.model_init_kwargs or {})
    args.model_init_kwargs = None
    return create_model_from_path(model, **options)


def model_init_kwargs(model: ModelConfig, args) -> dict:
    """What TRL's trainers pass to from_pretrained, out of the model options (as TRL's own scripts do)."""
    return {
        "revision": model.model_revision,
        "trust_remote_code": args.trust_remote_code,
        "attn_implementation": model.attn_implementation,
        "dtype": model.dtype,
        **(args.model_init_kwargs or {}),
    }


def check_prompt_lengths(lengths: dict[str, int], new_tokens: int, limit: int | None) -> None:
    """Refuses prompts that leave too little room in the model's context.

    Args:
        lengths: prompt tokens by problem id.
        new_tokens: tokens to be generated after each.
        limit: the model's positions (`rlstep.verifiers.pretrained.max_positions`); None is no limit.
    """
    if limit is None or not lengths:
        return
    longest = max(lengths, key=lengths.__getitem__)
    if lengths[longest] + new_tokens > limit:
        raise UserError(
            f"problem '{longest}': {lengths[longest]} prompt tokens and {new_tokens} new ones exceed the model's"
            f" {limit} positions. Drop it, lower the number of new tokens, or take a model with a longer context."
        )


def device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")
