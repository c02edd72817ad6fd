"""The parts of a causal LM that an update reaches into: its backbone, its head, and the positions of its rows."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from torch import Tensor, nn
from transformers import PreTrainedModel

from rlstep.verifiers.attention import tried_as
from rlstep.verifiers.forward import unwrapped
from rlstep.verifiers.heads import is_plain_head


@contextmanager
def hidden_states(model: nn.Module, choose: Callable[[Tensor], Tensor] | None = None) -> Iterator[list[Tensor]]:
    """Within it, a list of what the backbone gives to the model's head in each pass.

    Args:
        model: a causal LM, wrapped or not.
        choose: from the hidden states (B, L, H), what the head is to see of them; by default all.
    """
    seen = []

    def hook(_, __, output):
        if choose is not None:
            output.last_hidden_state = choose(output.last_hidden_state)
        seen.append(output.last_hidden_state)
        return output

    handle = backbone_of(model).register_forward_hook(hook)
    try:
        yield seen
    finally:
        handle.remove()


def causal_lm(model: nn.Module) -> PreTrainedModel:
    """The model of transformers in what PEFT, DDP or DeepSpeed wraps around it."""
    inner = unwrapped(model)
    return inner.get_base_model() if hasattr(inner, "get_base_model") else inner


def backbone_of(model: nn.Module) -> nn.Module:
    """A causal LM without its head, with whatever adapter is in it; the model may be wrapped."""
    return causal_lm(model).base_model


def head_of(model: nn.Module) -> nn.Module:
    return causal_lm(model).get_output_embeddings()


def has_plain_head(model: PreTrainedModel) -> bool:
    with tried_as(causal_lm(model), packed=False):
        return is_plain_head(model, head_of(model))


def positions_of(attention_mask_BS: Tensor) -> Tensor:
    """(B, S) each token's index in its own row, whatever padding stands before it; 0 at padding on the left."""
    return (attention_mask_BS.cumsum(dim=1) - 1).clamp(min=0)


@contextmanager
def own_positions(model: nn.Module) -> Iterator[None]:
    """Within it, padded rows are read at their own positions, as when they were sampled.

    TRL gives the model a mask alone, and one with absolute positions then counts the padding before a prompt, too.

    Args:
        model: a causal LM that takes `position_ids`, wrapped or not.
    """

    def add(_, args, kwargs):
        return args, kwargs | {"position_ids": positions_of(kwargs["attention_mask"])}

    handle = unwrapped(model).register_forward_pre_hook(add, with_kwargs=True)
    try:
        yield
    finally:
        handle.remove()
