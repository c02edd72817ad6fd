"""Which layers of a model get an adapter: names as a user writes them, checked before weights or data are read."""

import copy
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from peft import LoraConfig, PeftConfig, PeftModel, get_peft_model
from peft.utils import TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING
from torch import nn
from transformers import AutoModelForCausalLM, PretrainedConfig, PreTrainedModel
from transformers.integrations import HfDeepSpeedConfig
from transformers.integrations import deepspeed as deepspeed_integration
from transformers.integrations.deepspeed import set_hf_deepspeed_config, unset_hf_deepspeed_config
from transformers.pytorch_utils import Conv1D

from rlstep.runtime.errors import UserError
from rlstep.verifiers.adapters import Adapter

ALL_LINEAR = "all-linear"
# PEFT has adapters for these and for convolutions, which no language model here has outside of Conv1D.
ADAPTED = (nn.Linear, Conv1D, nn.Embedding)
# Our names of settings that PEFT has without "lora_".
RENAMED = ("lora_r", "lora_target_modules", "lora_modules_to_save", "lora_target_parameters")
NAME = re.compile(r"[\w.-]+")


def as_targets(names: str | list[str] | None) -> str | list[str] | None:
    """What PEFT takes: a list of names, one text that is a regular expression, or "all-linear".

    TRL turns a list of one name into a string, which PEFT reads as a regular expression for a module's whole name, and
    `q_proj` never is one. In a list, on the other hand, PEFT would take "all-linear" for a module's name.
    """
    if isinstance(names, list | tuple) and len(names) == 1:
        (names,) = names
    if isinstance(names, str) and names != ALL_LINEAR and NAME.fullmatch(names):
        return [names]
    return names


def skeleton(config: PretrainedConfig, auto_class=AutoModelForCausalLM, trust_remote_code=False) -> PreTrainedModel:
    """A model of this configuration without memory for its weights."""
    # Under ZeRO-3 transformers would shard it over ranks whose process group may not exist yet.
    with torch.device("meta"), no_sharding():
        return auto_class.from_config(config, trust_remote_code=trust_remote_code)


@contextmanager
def no_sharding() -> Iterator[None]:
    """Loads models as they are, whatever DeepSpeed configuration transformers has been told of."""
    config = hf_deepspeed_config()
    unset_hf_deepspeed_config()
    try:
        yield
    finally:
        if config is not None:
            set_hf_deepspeed_config(config)


def hf_deepspeed_config() -> HfDeepSpeedConfig | None:
    """The DeepSpeed configuration that transformers loads models by, None without one."""
    reference = deepspeed_integration._hf_deepspeed_config_weak_ref
    return None if reference is None else reference()


def check_targets(lora: LoraConfig, path: str, model: PreTrainedModel) -> None:
    """Refuses an adapter that `adapted_skeleton` cannot put on the model.

    Raises:
        UserError: everything that is wrong.
    """
    adapted_skeleton(lora, path, model)


def adapted_skeleton(lora: LoraConfig, path: str, model: PreTrainedModel) -> PeftModel:
    """A copy of a skeleton with the adapter that a run would put on the model.

    Args:
        lora: the adapter's shape, its targets as `as_targets` gives them.
        path: where the model is from, for the message.
        model: a `skeleton`, which stays as it is.

    Raises:
        UserError: the model does not have these layers, or they cannot have this adapter; everything that is wrong.
    """
    if faults := list(_faults(lora, model)):
        raise UserError(f"{path}: {'; '.join(faults)}.")
    with torch.device("meta"), no_sharding(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what is said of the adapter is said by the run that trains it
        return put_fresh(copy.deepcopy(model), lora, path, low_cpu_mem_usage=True)


def put_fresh(model: PreTrainedModel, lora: LoraConfig, path: str, **options) -> PeftModel:
    """The model with a fresh adapter on it, in place.

    Args:
        model: with its weights, or a `skeleton`.
        lora: the adapter's shape, which stays as it is.
        path: where the model is from, for the message.
        options: of PEFT's `get_peft_model`.

    Raises:
        UserError: PEFT refuses the adapter's settings for this model.
    """
    shape = copy.deepcopy(lora)
    try:
        return get_peft_model(model, shape, **options)
    except (ValueError, TypeError, NotImplementedError) as error:
        # By now PEFT has turned targets into parameters, where the model's experts are some.
        faults = list(_faults_of_parameters(shape)) or [_in_short(error)]
        if lora.target_modules is None and not lora.target_parameters:
            faults = [_no_default(model)]
        raise UserError(f"{path}: {'; '.join(faults)}.") from error


def touches_tied_embeddings(lora: LoraConfig, model: PreTrainedModel) -> bool:
    """Whether an adapter changes the input or output embeddings of a model in which the two are one matrix."""
    if not model.config.get_text_config().tie_word_embeddings:
        return False
    ends = {id(end) for end in (model.get_input_embeddings(), model.get_output_embeddings()) if end is not None}
    names = [name for name, module in model.named_modules() if id(module) in ends]
    trained_whole = lora.modules_to_save or []
    return any(_matches(lora.target_modules, name) or _matches(list(trained_whole), name) for name in names)


def refuse_another_shape(adapter: Adapter, given: dict[str, Any]) -> None:
    """Refuses settings of a fresh adapter that an adapter which is trained further does not have.

    Args:
        adapter: the adapter that is trained further.
        given: the settings that the user gave, by their names in our options (`lora_r`, `use_dora`).

    Raises:
        UserError: those that ask for something else than there is.
    """
    faults = []
    for name, value in given.items():
        has = getattr(adapter.lora, name.removeprefix("lora_") if name in RENAMED else name)
        value = as_targets(value) if name == "lora_target_modules" else value
        value, has = (sorted(items) if isinstance(items, list | set) else items for items in (value, has))
        if value != has:
            faults.append(f"{name} is {value}, and its own is {has}")
    if faults:
        raise UserError(
            f"{adapter.path} is a LoRA adapter, which is trained further as it is: {'; '.join(faults)}. Leave these "
            "out, or set merge_base: true, which merges it into its base and puts a fresh adapter on."
        )


def refuse_adapted_head(adapter: Adapter, model: PreTrainedModel) -> None:
    """Refuses to train further an adapter with a layer on the output embedding.

    Args:
        adapter: the adapter that is trained further.
        model: its base, with its weights, or a `skeleton`.

    Raises:
        UserError: it has one, which the losses would leave out.
    """
    if _adapts_head(adapter.lora, model):
        raise UserError(
            f"{adapter.path} has a layer on the output embedding, whose weights the losses here read without an "
            "adapter. Set merge_base: true, which merges it into its base first."
        )


def refuse_trained_biases(shape: PeftConfig | None, reader: str) -> None:
    """Refuses an adapter that trains biases of the base itself, where something else reads that base as it was.

    Args:
        shape: the adapter's; None is no adapter.
        reader: what reads it.

    Raises:
        UserError: it trains them.
    """
    bias = getattr(shape, "bias", "none")
    if bias != "none":
        raise UserError(
            f"the adapter has bias '{bias}', which trains biases of the base itself, and {reader} reads the same ones: "
            "it would change with them. Set bias: none."
        )


def _adapts_head(lora: LoraConfig, model: PreTrainedModel) -> bool:
    """Whether PEFT puts a layer on the output embedding; asked of the input embedding, where the two are tied."""
    names = {id(module): name for name, module in model.named_modules()}
    output, given = (names.get(id(of())) for of in (model.get_output_embeddings, model.get_input_embeddings))
    if output is not None and _matches(lora.target_modules, output):
        return True
    if not model.config.get_text_config().tie_word_embeddings or given is None:
        return False
    return lora.trainable_token_indices is not None or (
        lora.ensure_weight_tying and _matches(lora.target_modules, given)
    )


def _faults(lora: LoraConfig, model: PreTrainedModel) -> Iterator[str]:
    modules = {name: module for name, module in model.named_modules() if name}
    targets = lora.target_modules
    if targets is None and not lora.target_parameters:
        kind = model.config.get_text_config().model_type
        if kind not in TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING:
            yield _no_default(model)
    single = [targets] if isinstance(targets, str) else sorted(targets or [])
    for target in single:
        if target == ALL_LINEAR:
            if target != targets:
                yield f"lora_target_modules: {ALL_LINEAR} stands alone, and here it is one of {', '.join(single)}"
            continue
        if isinstance(targets, str) and (fault := _pattern_fault(target)):
            yield f"lora_target_modules: '{target}' is no regular expression ({fault})"
            continue
        matched = [name for name in modules if _matches(target if isinstance(targets, str) else [target], name)]
        if not matched:
            yield f"lora_target_modules: no module is named '{target}'; {_what_there_is(model)}"
            continue
        odd = [modules[name] for name in matched if not isinstance(modules[name], ADAPTED)]
        if odd:
            yield (
                f"lora_target_modules: '{target}' is a {type(odd[0]).__name__}, which has no matrix of its own to put "
                f"an adapter on; {_what_there_is(model)}"
            )
        elif any(modules[name] is model.get_output_embeddings() for name in matched):
            yield (
                f"lora_target_modules: '{target}' is the output embedding, whose weights the losses here read without "
                "an adapter; leave it out"
            )
    parameters = [name for name, _ in model.named_parameters()]
    for target in lora.target_parameters or []:
        if not any(_matches([target], name) for name in parameters):
            yield f"lora_target_parameters: no parameter is named '{target}'; {_what_there_is(model)}"
    for target in lora.modules_to_save or []:
        if not any(_matches([target], name) for name in modules):
            yield f"lora_modules_to_save: no module is named '{target}'; modules are {_listed(modules)}"


def _faults_of_parameters(shape: LoraConfig) -> Iterator[str]:
    """The settings that PEFT has for layers, and not for parameters, as a mixture's experts are."""
    if not shape.target_parameters:
        return
    where = f"for adapters on parameters, here {_listed(sorted(shape.target_parameters), parts=2)}"
    if shape.lora_dropout:
        yield f"lora_dropout is {shape.lora_dropout}, and PEFT has no dropout {where}; set lora_dropout: 0"
    for name in ("use_dora", "lora_bias"):
        if getattr(shape, name):
            yield f"{name} is true, which PEFT does not have {where}; leave it out"


def _no_default(model: PreTrainedModel) -> str:
    kind = model.config.get_text_config().model_type
    return f"PEFT has no default layers for {kind} models; set lora_target_modules, for example to {ALL_LINEAR}"


def _in_short(error: Exception) -> str:
    return f"PEFT refuses this adapter: {' '.join(str(error).split()).rstrip('.')}"


def _matches(targets: str | list[str] | set[str] | None, name: str) -> bool:
    """Whether PEFT takes a module or parameter of this name to be meant."""
    if targets is None or targets == ALL_LINEAR:
        return False
    if isinstance(targets, str):
        return re.fullmatch(targets, name) is not None
    return any(name == target or name.endswith(f".{target}") for target in targets)


def _pattern_fault(pattern: str) -> str | None:
    try:
        re.compile(pattern)
    except re.error as error:
        return str(error)
    return None


def _what_there_is(model: PreTrainedModel) -> str:
    linear = [name for name, module in model.named_modules() if isinstance(module, ADAPTED[:2])]
    text = f"linear layers are {_listed(linear)}"
    # Experts are three-dimensional parameters, which all experts of a layer share.
    if stacked := [name for name, parameter in model.named_parameters() if parameter.dim() > 2]:
        text += f"; experts are set by lora_target_parameters: {_listed(stacked, parts=2)}"
    return text


def _listed(names, parts: int = 1) -> str:
    """The last parts of dotted names, each once."""
    return ", ".join(dict.fromkeys(".".join(name.split(".")[-parts:]) for name in names))
