"""A verifier's adapter on a base that is in memory already, beside the policy's adapter and the critic's.

A 7B policy, its reference, its critic and its PRM are then one model in memory and three adapters. The files are those
of `adapter_files`, which `rlstep prm --use_peft true --merge_adapter false` writes.
"""

import torch
from torch import nn
from transformers import PretrainedConfig, PreTrainedModel
from transformers.integrations import is_deepspeed_zero3_enabled

from rlstep.verifiers.adapters import Adapter, attach, find, home, in_own_type, trained_since
from rlstep.verifiers.pretrained import VerifierSpec, auto_class_of, head_of, label_head, load_config
from rlstep.verifiers.scoring.reward_model import RewardModel
from rlstep.verifiers.share_weights import follow, twin


def on_base(
    path: str,
    base: PreTrainedModel,
    base_path: str,
    base_revision: str | None = None,
    trust_remote_code: bool = False,
    **options,
) -> tuple[RewardModel | None, str | None]:
    """The verifier at `path` on the weights of a model in memory, where these are what its adapter was trained on.

    That is so where

    1. `base_path` is the adapter's base: the same folder when links are resolved, or, of hub ids, the same commit's
       folder in the cache;
    2. the two backbones have the same parameters by name and shape, none of them quantised;
    3. the base's weights are still those of training, as far as the sample kept in the checkpoint tells, to the
       precision of the coarser of the two types.

    The verifier then shares all parameters of the base and has an adapter and a head of its own, in float32. It follows
    the base to another device by itself and computes in the type that the base has. The base gets frozen, so where a
    policy trains all of its weights, give its frozen reference.

    Args:
        path: folder or hub id of a verifier.
        base: a causal LM, before an adapter is put on it (see `shared.twin`).
        base_path: folder or hub id that it was loaded from.
        base_revision: of a hub id, the revision that it was loaded at.
        trust_remote_code: run model code from the hub.
        **options: batch_tokens, neutral, boundary and packing, as in `RewardModel.from_pretrained`.

    Returns:
        (the verifier, None), or (None, why it cannot share): then `RewardModel.from_pretrained` makes it a model of its
        own.

    Raises:
        UserError: the adapter is damaged or no verifier, or an option is not for it.
    """
    adapter = find(path)
    if adapter is None:
        return None, f"{path} is a whole model; with merge_adapter: false it would be an adapter on its base"
    config = load_config(path, trust_remote_code)
    spec = VerifierSpec.from_config(path, config)
    if reason := _cannot_share(adapter, base, base_path, base_revision):
        return None, reason
    model = _skeleton(config, spec, trust_remote_code)
    if reason := _other_shapes(model.base_model, base.base_model) or trained_since(config, base.base_model):
        return None, f"the policy's base, {base_path}, {reason}"
    with torch.random.fork_rng([]):  # adapters are drawn before they are loaded
        model = _filled(model, base, adapter, spec)
    follow(model, next(iter(own_parameters(model).values())))
    return RewardModel.from_pretrained(path, model=model, trust_remote_code=trust_remote_code, **options), None


def own_parameters(model: nn.Module) -> dict[str, nn.Parameter]:
    """The parameters that a verifier does not share with its base: the adapter's and a class head's."""
    return {name: p for name, p in model.named_parameters() if "lora_" in name or ".modules_to_save." in name}


def unfreeze(model: nn.Module) -> dict[str, nn.Parameter]:
    """Lets `own_parameters` be trained, and returns them; the base stays frozen."""
    own = own_parameters(model)
    for parameter in own.values():
        parameter.requires_grad_(True)
    return own


def _cannot_share(adapter: Adapter, base: PreTrainedModel, base_path: str, base_revision: str | None) -> str | None:
    if is_deepspeed_zero3_enabled():
        return "ZeRO-3 shards the policy's weights, and its engine alone gathers them"
    if own_parameters(base):
        return "the policy carries an adapter already"
    found = home(base_path, base_revision)
    if found is None or found != home(adapter.base, adapter.lora.revision):
        at = f" at {adapter.lora.revision}" if adapter.lora.revision else ""
        return f"{adapter.path} is an adapter on {adapter.base}{at}, and the policy's base is {base_path}"
    return None


def _skeleton(config: PretrainedConfig, spec: VerifierSpec, trust_remote_code: bool) -> PreTrainedModel:
    """The verifier's model without memory for its weights."""
    with torch.device("meta"):
        return auto_class_of(spec.head).from_config(config, trust_remote_code=trust_remote_code)


def _other_shapes(expected: nn.Module, found: nn.Module) -> str | None:
    shapes, others = ({name: tuple(p.shape) for name, p in module.named_parameters()} for module in (expected, found))
    for name in shapes | others:
        if shapes.get(name) != others.get(name):
            return f"has {name} of the shape {others.get(name)}, and the verifier's base {shapes.get(name)}"
    kinds = {p.dtype for p in found.parameters() if not p.is_floating_point()}
    return f"is quantised ({kinds.pop()})" if kinds else None


def _filled(skeleton: PreTrainedModel, base: PreTrainedModel, adapter: Adapter, spec: VerifierSpec) -> PreTrainedModel:
    """The skeleton on the base's weights, with the adapter and the head."""
    # The twin reads the skeleton's configuration: its attention is the verifier's, whatever the policy's is.
    backbone = _without_dropout(twin(base.base_model, skeleton.config))
    setattr(skeleton, skeleton.base_model_prefix, backbone)
    if spec.head == "classification":
        head_of(skeleton).to_empty(device=base.device)
        return attach(skeleton, adapter, spec.head).get_base_model()
    skeleton.set_output_embeddings(base.get_output_embeddings())
    model = label_head(attach(skeleton, adapter, spec.head).get_base_model(), spec.label_tokens)
    in_own_type(head_of(model))
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
