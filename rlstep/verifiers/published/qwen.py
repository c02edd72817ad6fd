"""Qwen2.5-Math-PRM (Zhang et al., 2501.07301): a two-layer head read at a special token after each step.

The conversation, as the model card writes it::

    system     Please reason step by step, and put your final answer within \\boxed{}.
    user       the problem
    assistant  step 1<extra_0>step 2<extra_0>
"""

from dataclasses import dataclass

from torch import nn

from rlstep.verifiers.published.rows import (
    AskedAtTags,
    Marked,
    chat_parts,
    clean,
    free_character,
    join_marked,
    one_token,
    require_chat_template,
    step_texts,
)
from rlstep.verifiers.published.weights import Qwen2WithHead, load_qwen2

SYSTEM = "Please reason step by step, and put your final answer within \\boxed{}."
TAG = "<extra_0>"


class Qwen2ForProcessRewardModel(Qwen2WithHead):
    head_name = "score"

    def make_head(self, config) -> nn.Module:
        return nn.Sequential(
            nn.Linear(config.hidden_size, config.hidden_size), nn.ReLU(), nn.Linear(config.hidden_size, 2)
        )


@dataclass(frozen=True)
class QwenFormat(AskedAtTags):
    """Steps lose the white space around them, and a tag at their end.

    Attributes:
        system: the system turn; None for what the chat template writes without one.
    """

    system: str | None = SYSTEM

    def _row(self, tokenizer, problem, completion, steps) -> Marked:
        texts = [clean(text, TAG) for text in step_texts(completion, steps)]
        placeholder = free_character(problem, completion)
        messages = [
            *([] if self.system is None else [{"role": "system", "content": self.system}]),
            {"role": "user", "content": problem.strip()},
            {"role": "assistant", "content": "".join(text + placeholder for text in texts)},
        ]
        return join_marked(chat_parts(tokenizer, messages, placeholder, len(texts)), TAG)


def recognises(config: dict, path: str) -> bool:
    return has_architecture(config)


def has_architecture(config: dict) -> bool:
    """Whether a model is of this kind, by whomever it was trained."""
    return "Qwen2ForProcessRewardModel" in (config.get("architectures") or ())


def load(path: str, tokenizer, dtype: str, trust_remote_code: bool, system: str | None = SYSTEM):
    require_chat_template(tokenizer, path)
    query_format = QwenFormat(one_token(tokenizer, TAG, "qwen"), system)
    return load_qwen2(Qwen2ForProcessRewardModel, path, dtype), query_format
