"""A verifier checkpoint: a plain Hugging Face model whose configuration says what its labels mean.

With the head `classification` it is a token classifier with the labels wrong (0), right (1) and perhaps neutral (2),
which any library that reads `AutoModelForTokenClassification` loads; with the head `token` a causal LM that writes one
label token behind each step (Lightman et al., 2305.20050, section 2.6). `config.rlstep_verifier` holds its
`VerifierSpec`::

    {"kind": "prm", "format": 2, "head": "classification", "neutral": "positive", "after_first_error": "mask",
     "boundary": {"rule": "line", "tag": null}}
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import torch
from torch import nn
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForTokenClassification,
    AutoTokenizer,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.utils import logging as transformers_logging

from rlstep.runtime.errors import UserError
from rlstep.steps.boundaries import Boundary
from rlstep.steps.labels import LabelPolicy

Kind = Literal["prm", "orm"]
Head = Literal["classification", "token"]
FORMAT = 2
CLASS_HEADS = ("score", "classifier", "v_head")
LM_HEADS = ("lm_head", "embed_out")
CLASSES = ("wrong", "right", "neutral")
ADAPTER_CONFIG = "adapter_config.json"


@dataclass(frozen=True)
class VerifierSpec:
    """What a verifier's outputs mean; stored in its checkpoint.

    Attributes:
        kind: "prm", asked whether each step is right, or "orm", asked whether the answer will be.
        head: where its label comes from.
        label_tokens: head `token`: the tokens' ids for wrong, right (and neutral).
        policy: what labels it was taught.
        boundary: what a step is, where no spans are given.
    """

    kind: Kind
    head: Head = "classification"
    label_tokens: tuple[int, ...] | None = None
    policy: LabelPolicy = field(default_factory=LabelPolicy)
    boundary: Boundary = field(default_factory=Boundary)

    @property
    def classes(self) -> int:
        return self.policy.classes if self.kind == "prm" else 2

    def to_config(self) -> dict:
        found = {"kind": self.kind, "format": FORMAT, "head": self.head, **self.policy.to_dict()}
        if self.label_tokens is not None:
            found["label_tokens"] = list(self.label_tokens)
        return found | {"boundary": self.boundary.to_dict()}

    @classmethod
    def from_config(cls, path: str, config: PretrainedConfig) -> "VerifierSpec":
        """The spec of a checkpoint.

        Raises:
            UserError: it is no verifier of rlstep, or its format is newer than this version knows.
        """
        found = getattr(config, "rlstep_verifier", None)
        if not isinstance(found, dict) or found.get("kind") not in ("prm", "orm"):
            raise UserError(
                f"{path} is no rlstep verifier (its config has no 'rlstep_verifier'). Train one with `rlstep prm` or "
                "`rlstep orm`; of a published PRM, name the family: layout; of another two-label token classifier, say "
                "what its label 1 means: kind='prm' or 'orm'."
            )
        if found.get("format", 0) > FORMAT:
            raise UserError(
                f"{path} has verifier format {found['format']}; this rlstep reads up to {FORMAT}. Update rlstep."
            )
        # Format 1 had two classes, lines as steps, and left the policy unsaid: what is now the default.
        tokens = found.get("label_tokens")
        return cls(
            kind=found["kind"],
            head=found.get("head", "classification"),
            label_tokens=None if tokens is None else tuple(tokens),
            policy=LabelPolicy(found.get("neutral", "positive"), found.get("after_first_error", "mask")),
            boundary=Boundary.from_dict(found.get("boundary", {"rule": "line"})),
        )


def new_verifier(
    generator: str, spec: VerifierSpec, dtype: str = "float32", trust_remote_code: bool = False
) -> PreTrainedModel:
    """A verifier with a generator's weights, without dropout (paper, appendices E and F).

    Args:
        generator: folder or hub id of a causal LM (or of a verifier with the same head, to train it further; one that
            was saved as an adapter is merged).
        spec: what its outputs will mean; a `classification` head is a fresh one.
        dtype: the weights' type; float32 is right for training, also under bf16 autocast.
        trust_remote_code: run model code from the hub.
    """
    config = load_config(generator, trust_remote_code)
    for name, value in config.to_dict().items():
        if isinstance(value, float) and ("dropout" in name or name.endswith("pdrop")):
            setattr(config, name, 0.0)
    _refuse_another_meaning(generator, config, spec)
    if spec.head == "classification":
        config.classifier_dropout = 0.0
        config.num_labels = spec.classes
        config.id2label = dict(enumerate(CLASSES[: spec.classes]))
        config.label2id = {name: index for index, name in config.id2label.items()}
    from rlstep.verifiers import adapters as adapter_files  # built on this module

    if adapter := adapter_files.find(generator):
        model = adapter_files.load(adapter, config, spec.head, dtype, trust_remote_code).merge_and_unload()
        model.to(getattr(torch, dtype)).requires_grad_(True)
    else:
        fresh = spec.head == "classification"
        model = load_weights(auto_class_of(spec.head), generator, config, dtype, trust_remote_code, fresh)
    model.config.rlstep_verifier = spec.to_config()
    return model


def _refuse_another_meaning(path: str, config: PretrainedConfig, spec: VerifierSpec) -> None:
    """A class head keeps its weights when it is trained further, so they must go on meaning the same."""
    found = getattr(config, "rlstep_verifier", None)
    if spec.head != "classification" or not isinstance(found, dict) or found.get("kind") == "implicit":
        return
    old = VerifierSpec.from_config(path, config)
    if old.head == "classification" and (old.kind, old.policy) != (spec.kind, spec.policy):
        raise UserError(
            f"{path} is a {old.kind} taught with {old.policy}, not a {spec.kind} with {spec.policy}. Train it further "
            "as what it is, or start from its generator."
        )


def label_token_ids(tokenizer: PreTrainedTokenizerBase, texts: list[str], spec: VerifierSpec) -> tuple[int, ...]:
    """The ids of a token head's label texts for wrong, right (and neutral).

    Raises:
        UserError: their number is not that of the classes, or one is not a single token of its own.
    """
    if len(texts) != spec.classes:
        names = ", ".join(CLASSES[: spec.classes])
        raise UserError(f"label_tokens are {texts}; give {spec.classes} texts, for {names} in this order.")
    found = []
    for text in texts:
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        if len(ids) != 1:
            raise UserError(f"the label {text!r} is {len(ids)} tokens in this tokenizer; choose texts of one token.")
        found.append(ids[0])
    if len(set(found)) != len(found):
        raise UserError(f"label_tokens are {texts}; each class needs its own token.")
    return tuple(found)


def load_config(path: str, trust_remote_code: bool = False) -> PretrainedConfig:
    """The configuration of a model or of a verifier, also of one that was saved as an adapter.

    Raises:
        UserError: there is none, or it is the adapter of something else, for example of a policy.
    """
    try:
        config = AutoConfig.from_pretrained(path, trust_remote_code=trust_remote_code)
    except (OSError, ValueError) as error:
        _refuse_adapter(path)
        raise UserError(f"{path}: no model can be loaded from here ({_first_line(error)})") from error
    if getattr(config, "rlstep_verifier", None) is None:
        _refuse_adapter(path)
    return config


def _refuse_adapter(path: str) -> None:
    if (Path(path) / ADAPTER_CONFIG).is_file():
        raise UserError(
            f"{path} is a LoRA adapter that rlstep did not save as a verifier; whole weights are needed. Merge it "
            "first: `rlstep export`."
        )


def load_classifier(
    path: str, config: PretrainedConfig, dtype: str, trust_remote_code: bool, fresh_head: bool = False
) -> PreTrainedModel:
    """A token classifier all of whose weights come from `path`; with `fresh_head`, all but the head's."""
    return load_weights(AutoModelForTokenClassification, path, config, dtype, trust_remote_code, fresh_head)


def load_lm(path: str, config: PretrainedConfig, dtype: str, trust_remote_code: bool) -> PreTrainedModel:
    """A causal LM all of whose weights come from `path`."""
    return load_weights(AutoModelForCausalLM, path, config, dtype, trust_remote_code)


def auto_class_of(head: Head) -> type:
    """The class of transformers that loads a model with this head."""
    return AutoModelForCausalLM if head == "token" else AutoModelForTokenClassification


def load_weights(
    auto_class: type,
    path: str,
    config: PretrainedConfig,
    dtype: str,
    trust_remote_code: bool,
    fresh_head: bool = False,
    revision: str | None = None,
) -> PreTrainedModel:
    """A model all of whose weights come from `path`; with `fresh_head`, all but a class head's.

    Raises:
        UserError: nothing loadable is there, or weights are missing.
    """
    options = {"config": config, "dtype": dtype, "trust_remote_code": trust_remote_code, "output_loading_info": True}
    if revision is not None:
        options["revision"] = revision
    verbosity = transformers_logging.get_verbosity()
    transformers_logging.set_verbosity_error()  # its report of the missing head: checked below instead
    try:
        model, found = auto_class.from_pretrained(path, **options)
    except (OSError, ValueError, RuntimeError) as error:
        what = "causal LM" if auto_class is AutoModelForCausalLM else "token classifier"
        raise UserError(f"{path}: cannot be loaded as a {what} ({_first_line(error)})") from error
    finally:
        transformers_logging.set_verbosity(verbosity)
    head_of(model)
    missing = sorted(name for name in found["missing_keys"] if not (fresh_head and _is_class_head(name)))
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


def head_of(model: nn.Module) -> nn.Module:
    """The head of a verifier, also under the wrappers of PEFT, DDP and DeepSpeed.

    Raises:
        UserError: there is none that rlstep knows.
    """
    modules = dict(model.named_modules())
    for wanted in (*CLASS_HEADS, *LM_HEADS):
        for name, module in modules.items():
            if name.rpartition(".")[2] == wanted:
                return module
    raise UserError(
        f"{type(model).__name__} has no head named {', '.join((*CLASS_HEADS, *LM_HEADS))}; verifiers need a token "
        "classifier or a causal LM such as those of the Qwen, Llama, Mistral, Gemma or GPT-2 families."
    )


def _is_class_head(parameter_name: str) -> bool:
    return parameter_name.rpartition(".")[0].rpartition(".")[2] in CLASS_HEADS


def label_head(model: PreTrainedModel, token_ids: tuple[int, ...]) -> PreTrainedModel:
    """Puts the label tokens' rows in the place of the LM head: K logits at a position instead of V, the same ones."""
    whole = model.get_output_embeddings()
    rows = torch.tensor(token_ids, device=whole.weight.device)
    head = nn.Linear(whole.in_features, len(token_ids), whole.bias is not None).to(whole.weight)
    with torch.no_grad():
        head.weight.copy_(whole.weight[rows])
        if whole.bias is not None:
            head.bias.copy_(whole.bias[rows])
    # Assigned by name: set_output_embeddings would tie it to the input embeddings again in some models.
    name = next(name for name, module in model.named_modules() if module is whole)
    parent, _, last = name.rpartition(".")
    setattr(model.get_submodule(parent), last, head)
    return model


def classify_at(
    model: nn.Module,
    input_ids: torch.Tensor,
    attention_mask: torch.Tensor,
    rows: torch.Tensor,
    columns: torch.Tensor,
    position_ids: torch.Tensor | None = None,
    past_key_values=None,
) -> torch.Tensor:
    """Logits of the tokens at (rows, columns) alone: the head never sees the others.

    The choice is made by a hook before the head, so that the model's own forward runs: dropout, activation
    checkpointing and the hooks of DDP and ZeRO stay in force.

    Args:
        model: a token classifier or a causal LM, wrapped or not.
        input_ids: (B, T).
        attention_mask: (B, T), or (B, 1, T, T) for packed rows.
        rows, columns: (N,) indices into B and T.
        position_ids: (B, T), for packed rows.
        past_key_values: the cache of what stands before these tokens; it is added to.

    Returns:
        (N, K) logits: of the classes, or of the vocabulary.
    """

    def choose(_, inputs: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor]:
        hidden_BTH = inputs[0]
        return (hidden_BTH[rows, columns],)

    options = {} if position_ids is None else {"position_ids": position_ids}
    if past_key_values is not None:
        options["past_key_values"] = past_key_values
    hook = head_of(model).register_forward_pre_hook(choose)
    try:
        return model(input_ids=input_ids, attention_mask=attention_mask, use_cache=False, **options).logits
    finally:
        hook.remove()


def max_positions(config: PretrainedConfig) -> int | None:
    """The longest sequence the model admits, None where its configuration names none."""
    return getattr(config.get_text_config(), "max_position_embeddings", None)


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
