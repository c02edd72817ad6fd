"""Adapters of policies, and their merging: one model whose outputs are those that base and adapter gave together."""

import shutil
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from accelerate import PartialState
from peft import PeftModel
from torch import nn
from transformers import PretrainedConfig, PreTrainedModel
from transformers.integrations import is_deepspeed_zero3_enabled

from rlstep.runtime.errors import UserError
from rlstep.verifiers.adapters import ADAPTER_WEIGHTS, Adapter, is_verifier, load_adapter
from rlstep.verifiers.lora_targets import no_sharding
from rlstep.verifiers.model_files import ADAPTER_CONFIG
from rlstep.verifiers.pretrained import (
    load_causal_lm,
    load_config,
    load_tokenizer,
    read_generation_config,
)
from rlstep.verifiers.spec import VerifierSpec

BASE = "base"  # the folder in a run's output_dir that `merge_base` writes


def put_adapter(model: PreTrainedModel, adapter: Adapter, trainable: bool = False) -> PeftModel:
    """A policy's adapter on its base, in place.

    Args:
        model: the base.
        adapter: of `find_adapter`.
        trainable: it is trained further; what it trains is in float32, except under ZeRO-3, which takes one type.

    Raises:
        UserError: its weights are missing or a pickle, or belong to another model.
    """
    if not (adapter.folder / ADAPTER_WEIGHTS).is_file():
        raise UserError(f"{adapter.path} has no {ADAPTER_WEIGHTS}; rlstep opens weights in no other format.")
    options = {"is_trainable": trainable, "autocast_adapter_dtype": not is_deepspeed_zero3_enabled()}
    try:
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            model = PeftModel.from_pretrained(model, str(adapter.folder), **options)
    except (RuntimeError, ValueError, KeyError) as error:
        raise UserError(f"{adapter.path} does not fit its base: {str(error).strip().splitlines()[-1]}") from error
    # PEFT warns of weights that the file lacks, and goes on with random ones.
    if missing := [str(warning.message) for warning in said if "missing adapter keys" in str(warning.message)]:
        raise UserError(f"{adapter.path} is incomplete or of another model: {missing[0].splitlines()[0][:300]}")
    if own := read_generation_config(adapter.folder):
        # The base's own end tokens are those of before the adapter was trained.
        model.get_base_model().generation_config = own
    return model


def load_with_adapter(adapter: Adapter, dtype: str = "auto", trust_remote_code: bool = False) -> PeftModel:
    """A policy's adapter on a base of its own.

    Raises:
        UserError: it is a verifier's, or it or its base cannot be loaded.
    """
    refuse_verifier(adapter.path, trust_remote_code)
    with _base_of(adapter):
        model = load_causal_lm(adapter.base, dtype, trust_remote_code, adapter.lora.revision)
    return put_adapter(model, adapter)


def load_config_of(path: str, adapter: Adapter | None, trust_remote_code: bool = False) -> PretrainedConfig:
    """The configuration of the whole weights at a path, or of those that the adapter there is on.

    Raises:
        UserError: there is none.
    """
    if adapter is None:
        return load_config(path, trust_remote_code)
    with _base_of(adapter):
        return load_config(adapter.base, trust_remote_code)


@contextmanager
def _base_of(adapter: Adapter) -> Iterator[None]:
    """Says of an error in loading an adapter's base whose base it is, and where that is named."""
    try:
        yield
    except UserError as error:
        raise UserError(
            f"{adapter.path}: the adapter's base, '{adapter.base}', cannot be loaded from here. {error} If it was "
            f"moved, correct base_model_name_or_path in {ADAPTER_CONFIG}; a relative path counts from the working "
            "directory."
        ) from error


def refuse_verifier(path: str, trust_remote_code: bool = False) -> None:
    """Refuses what classifies where a policy is needed: its language head would be random.

    Raises:
        UserError: the folder or hub id holds a verifier.
    """
    if is_verifier(path, trust_remote_code):
        raise UserError(f"{path} is a verifier, not a policy; give the model that it was trained from, or a policy.")


def merge(model: PeftModel) -> PreTrainedModel:
    """The base with the adapter in its weights; what it gives does not change.

    Where the adapter is on one of two tied embeddings, the two are parted first: in one matrix a change of either would
    be one of both.
    """
    base = model.get_base_model()
    first, last = base.get_input_embeddings(), base.get_output_embeddings()
    if base.config.get_text_config().tie_word_embeddings and (_is_wrapped(first) or _is_wrapped(last)):
        last = last.base_layer if hasattr(last, "base_layer") else last
        last = last.original_module if hasattr(last, "original_module") else last
        last.weight = nn.Parameter(last.weight.detach().clone(), requires_grad=False)
        base.config.tie_word_embeddings = base.config.get_text_config().tie_word_embeddings = False
    return model.merge_and_unload()


def _is_wrapped(embedding: nn.Module | None) -> bool:
    return hasattr(embedding, "base_layer") or hasattr(embedding, "original_module")


def write_merged_base(
    adapter: Adapter, output_dir: str | Path, dtype: str = "float32", trust_remote_code: bool = False
) -> str:
    """Merges an adapter, a policy's or a verifier's, into its base, for a run that starts from the two.

    It is written because others read it again: the reference in RL, and the fresh adapter that the run leaves.

    Args:
        adapter: of `find_adapter`.
        output_dir: the run's; every process of it calls this.
        dtype: the type of the merged weights.
        trust_remote_code: run model code from the hub.

    Returns:
        The folder, `output_dir`/base.
    """
    folder, state = Path(output_dir) / BASE, PartialState()
    if state.is_main_process:
        with no_sharding():
            model = _merged(adapter, dtype, trust_remote_code)
        if dtype != "auto":
            model.to(getattr(torch, dtype))
        model.save_pretrained(folder)
        load_tokenizer(adapter.path, trust_remote_code).save_pretrained(folder)
    state.wait_for_everyone()
    return str(folder)


def _merged(adapter: Adapter, dtype: str, trust_remote_code: bool) -> PreTrainedModel:
    if not is_verifier(adapter.path, trust_remote_code):
        return merge(load_with_adapter(adapter, dtype, trust_remote_code))
    config = load_config(adapter.path, trust_remote_code)
    head = VerifierSpec.from_config(adapter.path, config).head
    model = load_adapter(adapter, config, head, dtype, trust_remote_code).merge_and_unload()
    model.config.rlstep_verifier.pop("base_weights", None)
    return model


def remove_merged_base(output_dir: str | Path) -> None:
    """Removes what `write_merged_base` wrote, for a run that leaves whole weights."""
    if PartialState().is_main_process:
        shutil.rmtree(Path(output_dir) / BASE, ignore_errors=True)
