"""Model classes for published checkpoints whose heads transformers does not have, and telling checkpoints by name."""

import re
from pathlib import Path
from typing import ClassVar

from torch import nn
from transformers import Qwen2Config, Qwen2Model
from transformers.modeling_outputs import TokenClassifierOutput
from transformers.models.qwen2.modeling_qwen2 import Qwen2PreTrainedModel

from rlstep.runtime.errors import UserError
from rlstep.verifiers.pretrained import load_config, load_every_weight


class Qwen2WithHead(Qwen2PreTrainedModel):
    """A Qwen2 backbone whose hidden states go to a head of another shape than transformers' own classes have.

    A subclass names the head as the published weights do, and makes it.
    """

    head_name: ClassVar[str]

    def __init__(self, config: Qwen2Config):
        super().__init__(config)
        self.model = Qwen2Model(config)
        setattr(self, self.head_name, self.make_head(config))
        self.post_init()

    def make_head(self, config: Qwen2Config) -> nn.Module:
        raise NotImplementedError

    def forward(
        self, input_ids=None, attention_mask=None, position_ids=None, past_key_values=None, use_cache=None
    ) -> TokenClassifierOutput:
        hidden_BTH = self.model(
            input_ids=input_ids,
            attention_mask=attention_mask,
            position_ids=position_ids,
            past_key_values=past_key_values,
            use_cache=use_cache,
        ).last_hidden_state
        return TokenClassifierOutput(logits=getattr(self, self.head_name)(hidden_BTH))


def load_qwen2(model_class: type[Qwen2WithHead], path: str, dtype: str) -> Qwen2WithHead:
    """A Qwen2 with a head, from a checkpoint whose configuration may name code of its own: it is not looked at."""
    config = load_config(path)
    if not isinstance(config, Qwen2Config):
        raise UserError(f"{path} is a {config.model_type} model; PRMs of this family are built on qwen2.")
    # Some checkpoints keep the language model's head beside their own, and nothing reads it.
    return load_every_weight(model_class, path, config, dtype, unread=("lm_head.weight",))


def published_name(path: str, pattern: str) -> bool:
    """Whether a hub id, a folder or a snapshot in the hub's cache has a published checkpoint's name, in either case.

    Args:
        path: for example "owner/name", "/models/name", or ".../models--owner--name/snapshots/0123abc".
        pattern: a regular expression for the whole name.
    """
    parts = Path(path).parts
    name = parts[-3].rpartition("--")[2] if len(parts) > 2 and parts[-2] == "snapshots" else Path(path).name
    return re.fullmatch(pattern, name, re.IGNORECASE) is not None
