"""Loading a policy: a full model or a LoRA adapter, from a folder or a hub id, with the same options everywhere."""

from collections.abc import Sequence

import torch
from transformers import GenerationConfig, PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase, set_seed
from trl import GRPOConfig, ModelConfig
from trl.trainer.utils import create_model_from_path

from rlstep.runtime.errors import UserError
from rlstep.steps.prompts import PromptFormat
from rlstep.steps.records import Problem
from rlstep.verifiers.adapters import find_adapter
from rlstep.verifiers.merging import load_config_of, load_with_adapter, merge, refuse_verifier
from rlstep.verifiers.pretrained import load_causal_lm, load_tokenizer, read_generation_config
from rlstep.verifiers.vocabulary import check_tokens


def load_policy_tokenizer(path: str, trust_remote_code: bool = False) -> PreTrainedTokenizerBase:
    """The tokenizer of a policy, padding on the left as generation needs."""
    tokenizer = load_tokenizer(path, trust_remote_code)
    tokenizer.padding_side = "left"
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def load_policy(path: str, dtype: str = "auto", trust_remote_code: bool = False) -> PreTrainedModel:
    """The policy at `path` for inference; an adapter is loaded on its base and merged into it.

    Args:
        path: a folder or hub id of a causal LM, or of a LoRA adapter.
        dtype: a torch dtype's name, or "auto" for that of the checkpoint.
        trust_remote_code: run model code from the hub; off unless the user turns it on.

    Raises:
        UserError: there is none, or a verifier.
    """
    adapter = find_adapter(path)
    if adapter is not None:
        return merge(load_with_adapter(adapter, dtype, trust_remote_code))
    refuse_verifier(path, trust_remote_code)
    return load_causal_lm(path, dtype, trust_remote_code)


def load_policy_config(path: str, trust_remote_code: bool = False) -> PretrainedConfig:
    """The configuration of the policy at `path`, that of its base where it is an adapter."""
    return load_config_of(path, find_adapter(path), trust_remote_code)


def load_generation_config(path: str, config: PretrainedConfig) -> GenerationConfig:
    """The generation configuration that `load_policy` gives the policy at `path`, without its weights.

    Args:
        path: as in `load_policy`.
        config: of `load_policy_config`.
    """
    adapter, revision = find_adapter(path), None
    if adapter is not None:
        if own := read_generation_config(adapter.folder):
            return own
        path, revision = adapter.base, adapter.lora.revision
    try:
        return GenerationConfig.from_pretrained(path, revision=revision or "main")
    except OSError:  # there is none: transformers makes one of the model's configuration
        return GenerationConfig.from_model_config(config)


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


def prompt_lengths(
    problems: Sequence[Problem],
    tokenizer: PreTrainedTokenizerBase,
    prompt_format: PromptFormat,
    config: PretrainedConfig,
) -> dict[str, int]:
    """Prompt tokens by problem id.

    Raises:
        UserError: a prompt has a token without a row in the model's embedding.
    """
    ids = prompt_format.encode(tokenizer, [problem.prompt for problem in problems])
    check_tokens(ids, tokenizer, config, [f"problem '{problem.id}'" for problem in problems])
    return {problem.id: len(prompt_ids) for problem, prompt_ids in zip(problems, ids, strict=True)}


def long_prompts(lengths: dict[str, int], new_tokens: int, limit: int | None) -> list[str]:
    """The ids of the problems whose prompts leave too little room in the model's context.

    Args:
        lengths: of `prompt_lengths`.
        new_tokens: tokens to be generated after each.
        limit: the model's positions (`rlstep.verifiers.pretrained.max_positions`); None is no limit.
    """
    return [] if limit is None else [name for name, length in lengths.items() if length + new_tokens > limit]


def check_prompt_lengths(lengths: dict[str, int], new_tokens: int, limit: int | None) -> None:
    """Refuses prompts that are too long; arguments as `long_prompts`.

    Raises:
        UserError: some are too long; the message names the longest.
    """
    if long := long_prompts(lengths, new_tokens, limit):
        longest = max(long, key=lengths.__getitem__)
        raise UserError(
            f"problem '{longest}': {lengths[longest]} prompt tokens and {new_tokens} new ones exceed the model's"
            f" {limit} positions. Drop it, lower the number of new tokens, or take a model with a longer context."
        )


def device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")
