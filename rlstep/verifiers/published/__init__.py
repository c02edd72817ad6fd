"""Readers of published PRMs, by family, behind the one interface of `RewardModel`.

    model, tokenizer, query_format = published.load("Qwen/Qwen2.5-Math-PRM-7B")

A family's query format rebuilds the text that its authors ask their model with, to the token, from a problem, a
completion and the spans of its steps. From a chat it takes what the user said last, and it refuses a text that went
through a chat template already: the families add their own.
The model classes are built here; no code that comes with a checkpoint runs, and every weight is accounted for.
"""

from collections.abc import Callable
from dataclasses import dataclass

from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

from rlstep.runtime.errors import UserError
from rlstep.steps.boundaries import Boundary
from rlstep.verifiers.pretrained import load_config, load_tokenizer
from rlstep.verifiers.published import math_shepherd, qwen, reasonflux, rlhflow, skywork, trl, versa
from rlstep.verifiers.query_format import QueryFormat

Loaded = tuple[PreTrainedModel, QueryFormat]


@dataclass(frozen=True)
class Family:
    """Published PRMs with the same input format.

    Attributes:
        checkpoints: which ones, in words.
        recognises: whether a configuration, as a dictionary, and its path are of this family.
        load: (path, tokenizer, dtype, trust_remote_code) to the model and its query format.
        boundary: what its authors call a step, for text that comes without spans.
    """

    checkpoints: str
    recognises: Callable[[dict, str], bool]
    load: Callable[[str, PreTrainedTokenizerBase, str, bool], Loaded]
    boundary: Boundary = Boundary("line")


# The first that recognises a checkpoint is taken.
FAMILIES = {
    "reasonflux": Family("ReasonFlux-PRM-7B", reasonflux.recognises, reasonflux.load, Boundary("blank_line")),
    "qwen": Family(
        "Qwen2.5-Math-PRM-7B and -72B, Qwen2.5-Math-7B-PRM800K", qwen.recognises, qwen.load, Boundary("blank_line")
    ),
    "math_shepherd": Family("math-shepherd-mistral-7b-prm", math_shepherd.recognises, math_shepherd.load),
    "rlhflow": Family("Llama3.1-8B-PRM-Mistral-Data and -Deepseek-Data", rlhflow.recognises, rlhflow.load),
    "skywork": Family("Skywork-o1-Open-PRM-Qwen-2.5-1.5B and -7B", skywork.recognises, skywork.load),
    "versa": Family("VersaPRM, Llama-PRM800K", versa.recognises, versa.load),
    "trl": Family("token classifiers that TRL's PRMTrainer made; named by the user alone", trl.recognises, trl.load),
}


def detect(config: PretrainedConfig | dict, path: str) -> str | None:
    """The family of a checkpoint, None where neither configuration, weights nor name tell it.

    Args:
        config: its configuration.
        path: its folder or hub id. Causal LMs of the families math_shepherd, rlhflow and versa differ from generators,
            and reasonflux from qwen, by their published name alone; under another one, the user names the family.
    """
    values = config if isinstance(config, dict) else config.to_dict()
    return next((name for name, family in FAMILIES.items() if family.recognises(values, path)), None)


def load(
    path: str, family: str | None = None, dtype: str = "auto", trust_remote_code: bool = False
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase, QueryFormat]:
    """A published PRM for scoring.

    Args:
        path: folder or hub id.
        family: its name in `FAMILIES`; detected from the checkpoint by default.
        dtype: the weights' type, or "auto" for that of the checkpoint.
        trust_remote_code: run the tokenizer's code from the hub, and for causal LMs and token classifiers of other
            architectures the model's.

    Raises:
        UserError: an unknown family or checkpoint, weights that are missing or have no place, or no safetensors.
    """
    if family is None:
        config = load_config(path, trust_remote_code)
        family = detect(config, path)
        if family is None:
            raise UserError(
                f"{path} ({', '.join(config.architectures or ['no architecture'])}) is not a published PRM that rlstep "
                f"recognises. Name its family (layout): {known()}."
            )
    if family not in FAMILIES:
        raise UserError(f"layout is '{family}'; the families of published PRMs are: {known()}.")
    tokenizer = load_tokenizer(path, trust_remote_code)
    if not tokenizer.is_fast:
        raise UserError(f"{path}: its tokenizer is a slow one, without character offsets, which step positions need.")
    model, query_format = FAMILIES[family].load(path, tokenizer, dtype, trust_remote_code)
    return model.eval(), tokenizer, query_format


def known() -> str:
    """The families and their checkpoints in one line, for messages."""
    return "; ".join(f"{name} ({family.checkpoints})" for name, family in FAMILIES.items())
