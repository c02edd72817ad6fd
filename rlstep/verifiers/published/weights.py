"""A published checkpoint's weights in a class of transformers or of ours: all of them, and from safetensors alone."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

from torch import nn
from transformers import PretrainedConfig, PreTrainedModel, Qwen2Config, Qwen2Model
from transformers.modeling_outputs import TokenClassifierOutput
from transformers.models.qwen2.modeling_qwen2 import Qwen2PreTrainedModel
from transformers.utils import logging as transformers_logging

from rlstep.runtime.errors import UserError
from rlstep.verifiers.pretrained import load_config


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
    return load_whole(model_class, path, config, dtype, unread=("lm_head.weight",))


def load_whole(
    model_class,
    path: str,
    config: PretrainedConfig,
    dtype: str,
    trust_remote_code: bool = False,
    unread: Sequence[str] = (),
) -> PreTrainedModel:
    """A model that holds every weight of its checkpoint.

    Args:
        model_class: a class of transformers, an auto class, or one of ours.
        path: folder or hub id.
        config: the checkpoint's configuration.
        dtype: the weights' type, or "auto".
        trust_remote_code: for auto classes: run the checkpoint's model code.
        unread: weights that may be in the checkpoint without a place in the model.

    Raises:
        UserError: the weights are a pickle, some are missing, or some have no place.
    """
    refuse_pickles(path)
    options = {"config": config, "dtype": dtype, "trust_remote_code": trust_remote_code, "use_safetensors": True}
    verbosity = transformers_logging.get_verbosity()
    transformers_logging.set_verbosity_error()  # its report of missing weights: they are an error below
    try:
        model, found = model_class.from_pretrained(path, output_loading_info=True, **options)
    except (OSError, ValueError, RuntimeError) as error:
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise UserError(f"{path}: cannot be loaded as a {model_class.__name__} ({reason})") from error
    finally:
        transformers_logging.set_verbosity(verbosity)
    missing, homeless = sorted(found["missing_keys"]), sorted(set(found["unexpected_keys"]) - set(unread))
    if missing:
        raise UserError(
            f"{path} lacks {len(missing)} weights of {type(model).__name__}, {missing[0]} first: the checkpoint is "
            "incomplete, or of another family than the one it is read as."
        )
    if homeless:
        raise UserError(
            f"{path} has {len(homeless)} weights that {type(model).__name__} has no place for, {homeless[0]} first: "
            "the checkpoint is of another family than the one it is read as."
        )
    return model


def refuse_pickles(path: str) -> None:
    """A clear word where a folder's weights are a pickle, which can run any code while it is read.

    Raises:
        UserError: that is so. Of a hub id, transformers says that there are no safetensors.
    """
    folder = Path(path)
    if folder.is_dir() and not list(folder.glob("*.safetensors")):
        pickles = sorted(file.name for ending in ("bin", "pt", "pth") for file in folder.glob(f"*.{ending}"))
        if pickles:
            raise UserError(
                f"{path} holds its weights as a pickle ({pickles[0]}), which rlstep does not open. If you trust it, "
                "convert it once: load it with transformers and call save_pretrained(), which writes safetensors."
            )


def published_name(path: str, pattern: str) -> bool:
    """Whether a hub id, a folder or a snapshot in the hub's cache has a published checkpoint's name, in either case.

    Args:
        path: for example "owner/name", "/models/name", or ".../models--owner--name/snapshots/0123abc".
        pattern: a regular expression for the whole name.
    """
    parts = Path(path).parts
    name = parts[-3].rpartition("--")[2] if len(parts) > 2 and parts[-2] == "snapshots" else Path(path).name
    return re.fullmatch(pattern, name, re.IGNORECASE) is not None
