"""Several models on one set of weights: a second module tree whose every parameter is the first one's."""

import copy

import torch
from torch import nn
from transformers import PretrainedConfig, PreTrainedModel


def twin(model: PreTrainedModel, config: PretrainedConfig | None = None) -> PreTrainedModel:
    """A copy of a module tree that shares every parameter.

    PEFT puts an adapter's layers into the tree that it is given, in place. On a twin it leaves the model's own tree as
    it was, so each of the two has its adapter and both can be in one backward pass; a model that switches adapters
    cannot, where activation checkpointing runs a forward again under another adapter. The model must not carry an
    adapter yet, or the twin would have it, too.

    The parameters are the same objects: moved, cast or frozen in one tree they are so in both. PEFT freezes all but
    its own, so the twin of a model that is itself trained stops that training: give a frozen copy of it instead.

    Buffers are copied. They are small (rotary frequencies), and some classes of transformers write theirs in every
    forward, by which one tree would change the other.

    Args:
        model: any model or backbone.
        config: takes the place of the model's configuration in the twin's modules, which read from it how attention is
            computed; it must describe the same architecture.
    """
    known: dict[int, object] = {id(parameter): parameter for parameter in model.parameters()}
    if config is not None:
        known[id(model.config)] = config
    return copy.deepcopy(model, known)


def follow(model: PreTrainedModel, own: nn.Parameter) -> None:
    """Before each pass moves what the model has alone (adapter, head, buffers) to the device of what it shares.

    Whoever moves the other tree moves the shared parameters; nothing reaches the rest.

    Args:
        model: its backbone is a twin.
        own: a parameter that it does not share; where it is, the rest is.
    """

    def move(*_) -> None:
        if own.device != model.device:
            # Scoring runs in inference mode, and a tensor made there could never be trained.
            with torch.inference_mode(False):
                model.to(model.device)

    # Not of the whole model: a prompt's cache is made by the backbone alone.
    model.base_model.register_forward_pre_hook(move)
