"""A verifier's adapter on a base that is in memory already, beside the policy's adapter and the critic's.

A 7B policy, its reference, its critic and its PRM are then one model in memory and three adapters. The files are those
of `adapters`, which `rlstep prm --use_peft true --merge_adapter false` writes.
"""

from dataclasses import dataclass

import torch
from torch import nn
from transformers import PretrainedConfig, PreTrainedModel
from transformers.integrations import is_deepspeed_zero3_enabled

from rlstep.verifiers.adapters import (
    Adapter,
    attach_adapter,
    find_adapter,
    own_parameters,
    resolve_folder,
    trained_since,
)
from rlstep.verifiers.heads import head_of, keep_own_type, label_head
from rlstep.verifiers.pretrained import auto_class_of, load_config
from rlstep.verifiers.share_weights import follow_device, share_weights
from rlstep.verifiers.spec import VerifierSpec


@dataclass(frozen=True)
class Base:
    """A model in memory whose weights a verifier may share.

    Attributes:
        model: a causal LM, before an adapter is put on it.
        path: folder or hub id that it was loaded from.
        revision: of a hub id, the revision that it was loaded at.
    """

    model: PreTrainedModel
    path: str
    revision: str | None = None


def model_on_base(path: str, base: Base, trust_remote_code: bool = False) -> tuple[PreTrainedModel | None, str | None]:
    """The model of the verifier at `path` on a base's weights, where these are what its adapter was trained on.

    That is so where

    1. `base.path` is the adapter's base: the same folder when links are resolved, or, of hub ids, the same commit's
       folder in the cache;
    2. the two backbones have the same parameters by name and shape, none of them quantised;
    3. the base's weights are still those of training, as far as the sample kept in the checkpoint tells, to the
       precision of the coarser of the two types.

    The model then shares all parameters of the base and has an adapter and a head of its own, in float32. It follows
    the base to another device by itself and computes in the type that the base has. The base gets frozen, so where a
    policy trains all of its weights, give its frozen reference.

    Args:
        path: folder or hub id of a verifier.
        base: see `share_weights.share_weights`.
        trust_remote_code: run model code from the hub.

    Returns:
        (the model, None), or (None, why it cannot share): the verifier then needs a model of its own.

    Raises:
        UserError: the adapter is damaged or no verifier.
    """
    adapter = find_adapter(path)
    if adapter is None:
        return None, f"{path} is a whole model; with merge_adapter: false it would be an adapter on its base"
    config = load_config(path, trust_remote_code)
    spec = VerifierSpec.from_config(path, config)
    if reason := _cannot_share(adapter, base):
        return None, reason
    skeleton = _skeleton(config, spec, trust_remote_code)
    backbone = base.model.base_model
    if reason := _other_shapes(skeleton.base_model, backbone) or trained_since(config, backbone):
        return None, f"the policy's base, {base.path}, {reason}"
    with torch.random.fork_rng([]):  # adapters are drawn before they are loaded
        model = _filled(skeleton, base.model, adapter, spec)
    follow_device(model, next(iter(own_parameters(model).values())))
    return model, None


def _cannot_share(adapter: Adapter, base: Base) -> str | None:
    if is_deepspeed_zero3_enabled() or any(hasattr(parameter, "ds_id") for parameter in base.model.parameters()):
        return "ZeRO-3 shards the policy's weights, and its engine alone gathers them"
    if own_parameters(base.model):
        return "the policy carries an adapter already"
    folder = resolve_folder(base.path, base.revision)
    if folder is None or folder != resolve_folder(adapter.base, adapter.lora.revision):
        at = f" at {adapter.lora.revision}" if adapter.lora.revision else ""
        return f"{adapter.path} is an adapter on {adapter.base}{at}, and the policy's base is {base.path}"
    return None


def _skeleton(config: PretrainedConfig, spec: VerifierSpec, trust_remote_code: bool) -> PreTrainedModel:
    """The verifier's model without memory for its weights."""
    with torch.device("meta"):
        return auto_class_of(spec.head).from_config(config, trust_remote_code=trust_remote_code)


def _other_shapes(wanted: nn.Module, backbone: nn.Module) -> str | None:
    shapes, others = ({name: tuple(p.shape) for name, p in module.named_parameters()} for module in (wanted, backbone))
    for name in shapes | others:
        if shapes.get(name) != others.get(name):
            return f"has {name} of the shape {others.get(name)}, and the verifier's base {shapes.get(name)}"
    dtypes = {p.dtype for p in backbone.parameters() if not p.is_floating_point()}
    return f"is quantised ({dtypes.pop()})" if dtypes else None


def _filled(skeleton: PreTrainedModel, base: PreTrainedModel, adapter: Adapter, spec: VerifierSpec) -> PreTrainedModel:
    """The skeleton on the base's weights, with the adapter and the head."""
    # The copy reads the skeleton's configuration: its attention is the verifier's, whatever the policy's is.
    backbone = _without_dropout(share_weights(base.base_model, skeleton.config))
    setattr(skeleton, skeleton.base_model_prefix, backbone)
    if spec.head == "classification":
        head_of(skeleton).to_empty(device=base.device)
        return attach_adapter(skeleton, adapter, spec.head).get_base_model()
    skeleton.set_output_embeddings(base.get_output_embeddings())
    model = label_head(attach_adapter(skeleton, adapter, spec.head).get_base_model(), spec.label_tokens)
    keep_own_type(head_of(model))
    return model.requires_grad_(False)


def _without_dropout(model: nn.Module) -> nn.Module:
    """A verifier's configuration has no dropout; the policy's may, and the modules were made by it."""
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
        for name, value in list(vars(module).items()):
            if "dropout" in name and isinstance(value, float):
                setattr(module, name, 0.0)
    return model
