"""What a verifier's checkpoint means: the record that its configuration holds.

A checkpoint is a plain Hugging Face model. With the head `classification` it is a token classifier with the labels
wrong (0), right (1) and perhaps neutral (2), which any library that reads `AutoModelForTokenClassification` loads. With
the head `token` it is a causal LM that writes one label token after each step (Lightman et al., 2305.20050, section
2.6). `config.rlstep_verifier` holds its `VerifierSpec`::

    {"kind": "prm", "format": 3, "head": "classification", "neutral": "positive", "after_first_error": "mask",
     "boundary": {"rule": "line", "tag": null}, "prompt_format": {"form": "text"}}

An implicit PRM is a causal LM with the LM that it started from in its subfolder `reference`, and an `ImplicitSpec`::

    {"kind": "implicit", "format": 3, "beta": 0.05, "boundary": {"rule": "line", "tag": null},
     "prompt_format": {"form": "text"}}
"""

import math
from dataclasses import dataclass, field
from typing import Literal

from transformers import PretrainedConfig, PreTrainedTokenizerBase

from rlstep.runtime.errors import UserError
from rlstep.steps.boundaries import Boundary
from rlstep.steps.labels import LabelPolicy
from rlstep.steps.prompts import PromptFormat

Kind = Literal["prm", "orm"]
Head = Literal["classification", "token"]
# What the values of a verifier's `score` are: probabilities, in [0, 1], or rewards, of either sign.
Gives = Literal["probability", "reward"]

FORMAT = 3
# Up to format 2 nothing was said of prompts: they were text.
TEXT = {"form": "text"}
CLASSES = ("wrong", "right", "neutral")
IMPLICIT = "implicit"


@dataclass(frozen=True)
class VerifierSpec:
    """What a verifier's outputs mean; stored in its checkpoint.

    Attributes:
        kind: "prm", which scores single steps, or "orm", which scores whether the answer will be right.
        head: where its label comes from.
        label_tokens: head `token`: the tokens' ids for wrong, right (and neutral).
        policy: what labels it was taught.
        boundary: what a step is, where no spans are given.
        prompts: how prompts are written; `auto` until it is trained.
    """

    kind: Kind
    head: Head = "classification"
    label_tokens: tuple[int, ...] | None = None
    policy: LabelPolicy = field(default_factory=LabelPolicy)
    boundary: Boundary = field(default_factory=Boundary)
    prompts: PromptFormat = field(default_factory=PromptFormat)

    @property
    def classes(self) -> int:
        return self.policy.classes if self.kind == "prm" else 2

    def to_config(self) -> dict:
        """The entry for `config.rlstep_verifier`."""
        entry = {"kind": self.kind, "format": FORMAT, "head": self.head, **self.policy.to_dict()}
        if self.label_tokens is not None:
            entry["label_tokens"] = list(self.label_tokens)
        return entry | {"boundary": self.boundary.to_dict(), "prompt_format": self.prompts.to_dict()}

    @classmethod
    def from_config(cls, path: str, config: PretrainedConfig) -> "VerifierSpec":
        """The spec of a PRM's or an ORM's checkpoint.

        Args:
            path: where the checkpoint is, for messages.
            config: its configuration.

        Raises:
            UserError: it is not an rlstep verifier, or its format is newer than this version knows.
        """
        entry = config_entry(config)
        if entry.get("kind") not in ("prm", "orm"):
            raise UserError(
                f"{path} is no rlstep verifier (its config has no 'rlstep_verifier'). Train one with `rlstep prm` or "
                f"`rlstep orm`; {_what_else(path, config)}."
            )
        _check_format(path, entry)
        # Format 1 had two classes, lines as steps, and left the policy unsaid: what is now the default.
        tokens = entry.get("label_tokens")
        return cls(
            kind=entry["kind"],
            head=entry.get("head", "classification"),
            label_tokens=None if tokens is None else tuple(tokens),
            policy=LabelPolicy(entry.get("neutral", "positive"), entry.get("after_first_error", "mask")),
            boundary=Boundary.from_dict(entry.get("boundary", {"rule": "line"})),
            prompts=PromptFormat.from_dict(entry.get("prompt_format", TEXT)),
        )


@dataclass(frozen=True)
class ImplicitSpec(VerifierSpec):
    """What an implicit PRM's checkpoint means.

    Attributes:
        beta: of `rlstep.core.implicit`.

    Raises:
        UserError: beta is not above 0.
    """

    kind: str = IMPLICIT
    head: Head = "token"
    beta: float = 0.05

    def __post_init__(self):
        if not (isinstance(self.beta, (int, float)) and 0 < self.beta < math.inf):
            raise UserError(f"beta is {self.beta!r}; it must be a number above 0, for example 0.05.")

    def to_config(self) -> dict:
        """The entry for `config.rlstep_verifier`."""
        entry = {"kind": IMPLICIT, "format": FORMAT, "beta": self.beta, "boundary": self.boundary.to_dict()}
        return entry | {"prompt_format": self.prompts.to_dict()}

    @classmethod
    def from_config(cls, path: str, config: PretrainedConfig) -> "ImplicitSpec":
        """The spec of an implicit PRM's checkpoint; arguments as in `VerifierSpec.from_config`.

        Raises:
            UserError: it is not an implicit PRM, or its format is newer than this version knows.
        """
        entry = config_entry(config)
        if entry.get("kind") != IMPLICIT:
            raise UserError(f"{path} is no implicit PRM (its config has no 'rlstep_verifier' of this kind).")
        _check_format(path, entry)
        return cls(
            beta=entry.get("beta"),
            boundary=Boundary.from_dict(entry.get("boundary", {})),
            prompts=PromptFormat.from_dict(entry.get("prompt_format", TEXT)),
        )


def _what_else(path: str, config: PretrainedConfig) -> str:
    """What a checkpoint that is no verifier of rlstep may be for, by its architecture."""
    layout = (
        "of a published PRM whose name was changed, give the family: layout of `rlstep score`, or of `rlstep serve`, "
        "whose address every command takes; or name the folder as it was published"
    )
    architecture = (config.architectures or [""])[0]
    if architecture.endswith("ForCausalLM"):
        return (
            f"{layout}. A language model that judges in words, as GenPRM and ThinkPRM do, has no scores to read: "
            f"`rlstep label --by judge --judge {path}` asks it for the first wrong step"
        )
    if architecture.endswith("ForSequenceClassification"):
        return (
            "a reward model of whole texts has no score of a step. Score with it elsewhere, and compare: "
            "`rlstep evaluate --scores logits`"
        )
    return f"{layout}; of another two-label token classifier, say what its label 1 means: kind='prm' or 'orm'"


def config_entry(config: PretrainedConfig) -> dict:
    """What a configuration says about a verifier of rlstep; an empty dictionary where it says nothing."""
    entry = getattr(config, "rlstep_verifier", None)
    return entry if isinstance(entry, dict) else {}


def _check_format(path: str, entry: dict) -> None:
    if entry.get("format", 0) > FORMAT:
        raise UserError(
            f"{path} has verifier format {entry['format']}; this rlstep reads up to {FORMAT}. Update rlstep."
        )


def label_token_ids(tokenizer: PreTrainedTokenizerBase, texts: list[str], spec: VerifierSpec) -> tuple[int, ...]:
    """The ids of a token head's label texts for wrong, right (and neutral).

    Raises:
        UserError: their number is not that of the classes, or one is not a single token of its own.
    """
    if len(texts) != spec.classes:
        names = ", ".join(CLASSES[: spec.classes])
        raise UserError(f"label_tokens are {texts}; give {spec.classes} texts, for {names} in this order.")
    token_ids = []
    for text in texts:
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        if len(ids) != 1:
            raise UserError(f"the label {text!r} is {len(ids)} tokens in this tokenizer; choose texts of one token.")
        token_ids.append(ids[0])
    if len(set(token_ids)) != len(token_ids):
        raise UserError(f"label_tokens are {texts}; each class needs its own token.")
    return tuple(token_ids)
