"""A verifier checkpoint: a Hugging Face token classifier with the labels wrong (0) and right (1).

Any library that reads `AutoModelForTokenClassification` loads it. Its configuration says what the labels mean::

    "rlstep_verifier": {"kind": "prm", "format": 1}
"""

from pathlib import Path
from typing import Literal

import torch
from torch import nn
from transformers import (
    AutoConfig,
    AutoModelForTokenClassification,
    AutoTokenizer,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.utils import logging as transformers_logging

from rlstep.runtime.errors import UserError

Kind = Literal["prm", "orm"]
FORMAT = 1
HEADS = ("score", "classifier")


def new_verifier(
    generator: str, kind: Kind, dtype: str = "float32", trust_remote_code: bool = False
) -> PreTrainedModel:
    """A verifier with a generator's weights and a fresh head, without dropout (paper, appendices E and F).

    Args:
        generator: folder or hub id of a causal LM (or of a verifier, to train it further).
        kind: what its labels will mean.
        dtype: the weights' type; float32 is right for training, also under bf16 autocast.
        trust_remote_code: run model code from the hub.
    """
    config = load_config(generator, trust_remote_code)
    for name, value in config.to_dict().items():
        if isinstance(value, float) and ("dropout" in name or name.endswith("pdrop")):
            setattr(config, name, 0.0)
    config.classifier_dropout = 0.0
    config.num_labels = 2
    config.id2label, config.label2id = {0: "wrong", 1: "right"}, {"wrong": 0, "right": 1}
    config.rlstep_verifier = {"kind": kind, "format": FORMAT}
    return load_classifier(generator, config, dtype, trust_remote_code, fresh_head=True)


def load_config(path: str, trust_remote_code: bool = False) -> PretrainedConfig:
    if (Path(path) / "adapter_config.json").is_file():
        raise UserError(f"{path} is a LoRA adapter; a verifier needs whole weights. Merge it first: `rlstep export`.")
    try:
        return AutoConfig.from_pretrained(path, trust_remote_code=trust_remote_code)
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: no model can be loaded from here ({_first_line(error)})") from error


def load_classifier(
    path: str, config: PretrainedConfig, dtype: str, trust_remote_code: bool, fresh_head: bool = False
) -> PreTrainedModel:
    """A token classifier all of whose weights come from `path`; with `fresh_head`, all but the head's."""
    options = {"config": config, "dtype": dtype, "trust_remote_code": trust_remote_code, "output_loading_info": True}
    verbosity = transformers_logging.get_verbosity()
    transformers_logging.set_verbosity_error()  # its report of the missing head: checked below instead
    try:
        model, found = AutoModelForTokenClassification.from_pretrained(path, **options)
    except (OSError, ValueError, RuntimeError) as error:
        raise UserError(f"{path}: cannot be loaded as a token classifier ({_first_line(error)})") from error
    finally:
        transformers_logging.set_verbosity(verbosity)
    head_of(model)
    missing = sorted(name for name in found["missing_keys"] if not (fresh_head and _is_head(name.rpartition(".")[0])))
    if missing:
        raise UserError(
            f"{path} lacks {len(missing)} weights of {type(model).__name__}, {missing[0]} first: the checkpoint is "
            "incomplete or of another architecture."
        )
    return model


def load_tokenizer(path: str, trust_remote_code: bool = False) -> PreTrainedTokenizerBase:
    try:
        return AutoTokenizer.from_pretrained(path, trust_remote_code=trust_remote_code)
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: no tokenizer can be loaded from here ({_first_line(error)})") from error


def kind_of(path: str, config: PretrainedConfig) -> Kind:
    """Whether a checkpoint is a PRM or an ORM.

    Raises:
        UserError: it is neither, or its format is newer than this version knows.
    """
    found = getattr(config, "rlstep_verifier", None)
    if not isinstance(found, dict) or found.get("kind") not in ("prm", "orm"):
        raise UserError(
            f"{path} is no rlstep verifier (its config has no 'rlstep_verifier'). Train one with `rlstep prm` or "
            "`rlstep orm`; for another two-label token classifier, say what its label 1 means: kind='prm' or 'orm'."
        )
    if found.get("format", 0) > FORMAT:
        raise UserError(
            f"{path} has verifier format {found['format']}; this rlstep reads up to {FORMAT}. Update rlstep."
        )
    return found["kind"]


def head_of(model: nn.Module) -> nn.Module:
    """The classification head of a token classifier, also under the wrappers of PEFT, DDP and DeepSpeed.

    Raises:
        UserError: there is none that rlstep knows.
    """
    for name, module in model.named_modules():
        if _is_head(name):
            return module
    raise UserError(
        f"{type(model).__name__} has no head named {' or '.join(HEADS)}; verifiers need a token classifier such as "
        "those of the Qwen, Llama, Mistral, Gemma or GPT-2 families."
    )


def _is_head(module_name: str) -> bool:
    return module_name.rpartition(".")[2] in HEADS


def classify_at(
    model: nn.Module, input_ids: torch.Tensor, attention_mask: torch.Tensor, rows: torch.Tensor, columns: torch.Tensor
) -> torch.Tensor:
    """Logits of the tokens at (rows, columns) alone: the head never sees the others.

    The choice is made by a hook before the head, so that the model's own forward runs: dropout, gradient
    checkpointing and the hooks of DDP and ZeRO stay in force.

    Args:
        model: a token classifier, wrapped or not.
        input_ids, attention_mask: (B, T).
        rows, columns: (N,) indices into B and T.

    Returns:
        (N, 2) logits of wrong and right.
    """

    def choose(_, inputs: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor]:
        hidden_BTH = inputs[0]
        return (hidden_BTH[rows, columns],)

    hook = head_of(model).register_forward_pre_hook(choose)
    try:
        return model(input_ids=input_ids, attention_mask=attention_mask, use_cache=False).logits
    finally:
        hook.remove()


def max_positions(config: PretrainedConfig) -> int | None:
    """The longest sequence the model admits, None where its configuration names none."""
    return getattr(config.get_text_config(), "max_position_embeddings", None)


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
