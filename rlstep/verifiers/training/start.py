"""What a verifier's training starts from: a model with the generator's weights."""

import torch
from transformers import PretrainedConfig, PreTrainedModel
from transformers.integrations import is_deepspeed_zero3_enabled

from rlstep.runtime.errors import UserError
from rlstep.verifiers.adapters import find_adapter, load_adapter
from rlstep.verifiers.pretrained import (
    auto_class_of,
    load_config,
    load_weights,
    refuse_quantised,
    require_token_classifier,
)
from rlstep.verifiers.spec import CLASSES, IMPLICIT, VerifierSpec, config_entry


def new_verifier(
    generator: str,
    spec: VerifierSpec,
    dtype: str = "float32",
    trust_remote_code: bool = False,
    revision: str | None = None,
) -> PreTrainedModel:
    """A verifier with a generator's weights, without dropout (paper, appendices E and F).

    Args:
        generator: folder or hub id of a causal LM (or of a verifier with the same head, to train it further; one that
            was saved as an adapter is merged).
        spec: what its outputs will mean; a `classification` head is a fresh one.
        dtype: the weights' type; float32 is right for training, also under bf16 autocast.
        trust_remote_code: run model code from the hub.
        revision: of a hub id.

    Raises:
        UserError: there is no such model, or it is a verifier whose outputs mean something else.
    """
    config = verifier_config(generator, spec, trust_remote_code)
    if adapter := find_adapter(generator):
        if is_deepspeed_zero3_enabled():
            raise UserError(
                f"{generator} is a LoRA adapter, which cannot be merged into a base that ZeRO-3 shards; merge it first "
                "(`rlstep export`, or merge_base: true)."
            )
        model = load_adapter(adapter, config, spec.head, dtype, trust_remote_code).merge_and_unload()
        model.to(getattr(torch, dtype)).requires_grad_(True)
    else:
        options = {"fresh_head": spec.head == "classification", "revision": revision}
        model = load_weights(auto_class_of(spec.head), generator, config, dtype, trust_remote_code, **options)
    model.config.rlstep_verifier = spec.to_config()
    return model


def verifier_config(path: str, spec: VerifierSpec, trust_remote_code: bool = False) -> PretrainedConfig:
    """A model's configuration as a verifier has it: with the head's labels, and without dropout.

    Args:
        path: a generator's folder or hub id, or a verifier's.
        spec: what its outputs will mean.
        trust_remote_code: run model code from the hub.

    Raises:
        UserError: there is no model, none that can be trained, or none with such a head; or a verifier whose outputs
            mean something else.
    """
    config = load_config(path, trust_remote_code)
    refuse_quantised(path, config)
    for name, value in config.to_dict().items():
        if isinstance(value, float) and ("dropout" in name or name.endswith("pdrop")):
            setattr(config, name, 0.0)
    _refuse_another_meaning(path, config, spec)
    if spec.head == "classification":
        require_token_classifier(path, config)
        config.classifier_dropout = 0.0
        config.num_labels = spec.classes
        config.id2label = dict(enumerate(CLASSES[: spec.classes]))
        config.label2id = {name: index for index, name in config.id2label.items()}
    return config


def _refuse_another_meaning(path: str, config: PretrainedConfig, spec: VerifierSpec) -> None:
    """A class head keeps its weights when it is trained further, so they must go on meaning the same."""
    entry = config_entry(config)
    if spec.head != "classification" or not entry or entry.get("kind") == IMPLICIT:
        return
    old = VerifierSpec.from_config(path, config)
    if old.head == "classification" and (old.kind, old.policy) != (spec.kind, spec.policy):
        raise UserError(
            f"{path} is a {old.kind} taught with {old.policy}, not a {spec.kind} with {spec.policy}. Train it further "
            "as what it is, or start from its generator."
        )
    if difference := old.prompts.difference(spec.prompts):
        raise UserError(f"{path} was taught {difference}. Train it further as it was, or start from its generator.")
