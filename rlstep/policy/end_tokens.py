"""Where a policy's completions end: what is taught, what is saved and what is stopped at are one set of tokens.

A demonstration ends with one token (`taught_end`). Sampling, PPO's rollouts and every server that reads the checkpoint
stop at that one and at those that the model's generation configuration names (`stop_tokens`), and an adapter's folder
has a generation configuration of its own, since its base may end otherwise.
"""

from pathlib import Path

from transformers import GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils import GENERATION_CONFIG_NAME

from rlstep.runtime.errors import UserError
from rlstep.steps.prompts import PromptFormat
from rlstep.verifiers.generation import keep_generation_config


def set_end_token(tokenizer: PreTrainedTokenizerBase, text: str) -> None:
    """Makes a token of the vocabulary the tokenizer's end token.

    Raises:
        UserError: there is no such token.
    """
    if text not in tokenizer.get_vocab():
        name = tokenizer.name_or_path or type(tokenizer).__name__
        raise UserError(f"eos_token is '{text}', which is no token of {name}; give one of its vocabulary.")
    tokenizer.eos_token = text


def taught_end(tokenizer: PreTrainedTokenizerBase, prompt_format: PromptFormat, eos_token: str | None = None) -> int:
    """The token that demonstrations end with: `eos_token`, else what the chat template ends a turn with, else <eos>.

    Raises:
        UserError: there is none.
    """
    if eos_token is not None:
        set_end_token(tokenizer, eos_token)
        return tokenizer.eos_token_id
    turn_end = prompt_format.turn_end(tokenizer)
    end = tokenizer.eos_token_id if turn_end is None else turn_end
    if end is None:
        name = tokenizer.name_or_path or type(tokenizer).__name__
        raise UserError(f"{name}: the tokenizer has no end token, so completions would never end. Set eos_token.")
    return end


def stop_tokens(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """The tokens that end a completion, as TRL has them: the tokenizer's, and those of the generation configuration."""
    return stop_tokens_of(model.generation_config, tokenizer)


def stop_tokens_of(configured: GenerationConfig, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """`stop_tokens` of a generation configuration."""
    configured = configured.eos_token_id
    configured = configured if isinstance(configured, list) else [configured]
    return list(dict.fromkeys(token for token in (tokenizer.eos_token_id, *configured) if token is not None))


def keep_end(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, end: int) -> None:
    """Puts the taught end among the model's stop tokens, which are saved with it."""
    keep_generation_config(model)
    model.generation_config.eos_token_id = list(dict.fromkeys([end, *stop_tokens(model, tokenizer)]))


def write_generation_config(model: PreTrainedModel, folder: str | Path) -> None:
    """Writes the generation configuration beside an adapter, as `save_pretrained` does beside whole weights."""
    # Not save_pretrained, which refuses a base's configuration that sets a temperature without do_sample.
    model.generation_config.to_json_file(Path(folder) / GENERATION_CONFIG_NAME)
