"""Several models on one set of weights: a second module tree whose every parameter is the first one's."""

import copy

import torch
from torch import nn
from transformers import PretrainedConfig, PreTrainedModel


def share_weights(model: PreTrainedModel, config: PretrainedConfig | None = None) -> PreTrainedModel:
    """A copy of a module tree that shares every parameter.

    PEFT puts an adapter's layers into the tree that it is given, in place. On such a copy it leaves the model's own
    tree as it was, so each of the two has its adapter and both can be in one backward pass. (A model that switches
    adapters cannot: activation checkpointing may run a forward again under the other adapter.) The model must not carry
    an adapter yet, or the copy would have it, too.

    The parameters are the same objects: moved, cast or frozen in one tree they are so in both. PEFT freezes all but
    its own, so a tree that shares the weights of a model in training would stop that training: share those of a frozen
    copy instead.

    Buffers are copied. They are small (rotary frequencies), and some classes of transformers write theirs in every
    forward, by which one tree would change the other.

    Args:
        model: any model or backbone.
        config: takes the place of the model's configuration in the copy's modules, which read from it how attention is
            computed; it must describe the same architecture.

    Returns:
        The copy, with modules and buffers of its own.
    """
    known: dict[int, object] = {id(parameter): parameter for parameter in model.parameters()}
    if config is not None:
        known[id(model.config)] = config
    return copy.deepcopy(model, known)


def follow_device(model: PreTrainedModel, own: nn.Parameter) -> None:
    """Before each pass moves what the model has alone (adapter, head, buffers) to the device of what it shares.

    Whoever moves the other tree moves the shared parameters; nothing reaches the rest.

    Args:
        model: its backbone is of `share_weights`.
        own: a parameter that it does not share; where it is, the rest is.
    """

    def move(*_) -> None:
        if own.device != model.device:
            # Scoring runs in inference mode, and a tensor made there could never be trained.
            with torch.inference_mode(False):
                model.to(model.device)

    # Not of the whole model: a prompt's cache is made by the backbone alone.
    model.base_model.register_forward_pre_hook(move)
