"""The heads of verifiers: finding one under any wrapper, cutting one down to the label tokens, keeping its own type."""

import torch
from torch import nn
from transformers import PreTrainedModel

from rlstep.runtime.errors import UserError

CLASS_HEADS = ("score", "classifier", "v_head")
LM_HEADS = ("lm_head", "embed_out")


def head_of(model: nn.Module) -> nn.Module:
    """The head of a verifier, also under the wrappers of PEFT, DDP and DeepSpeed.

    Raises:
        UserError: there is none that rlstep knows.
    """
    modules = dict(model.named_modules())
    for wanted in (*CLASS_HEADS, *LM_HEADS):
        for name, module in modules.items():
            if name.rpartition(".")[2] == wanted:
                return module
    raise UserError(
        f"{type(model).__name__} has no head named {', '.join((*CLASS_HEADS, *LM_HEADS))}; verifiers need a token "
        "classifier or a causal LM such as those of the Qwen, Llama, Mistral, Gemma or GPT-2 families."
    )


def is_class_head(parameter_name: str) -> bool:
    """Whether a parameter belongs to a class head, by its name in the model."""
    return parameter_name.rpartition(".")[0].rpartition(".")[2] in CLASS_HEADS


def label_head(model: PreTrainedModel, token_ids: tuple[int, ...]) -> PreTrainedModel:
    """Replaces a causal LM's head by the label tokens' rows of it, in place.

    Args:
        model: a causal LM.
        token_ids: K label tokens.

    Returns:
        The model, which gives K logits per token instead of V: the same values as before for these tokens.
    """
    whole = model.get_output_embeddings()
    rows = torch.tensor(token_ids, device=whole.weight.device)
    head = nn.Linear(whole.in_features, len(token_ids), whole.bias is not None).to(whole.weight)
    with torch.no_grad():
        head.weight.copy_(whole.weight[rows])
        if whole.bias is not None:
            head.bias.copy_(whole.bias[rows])
    # Assigned by name: set_output_embeddings would tie it to the input embeddings again in some models.
    name = next(name for name, module in model.named_modules() if module is whole)
    parent, _, last = name.rpartition(".")
    setattr(model.get_submodule(parent), last, head)
    return model


def keep_own_type(head: nn.Module) -> None:
    """Lets a head compute in its own type on a backbone of another one: its input is cast to it."""
    head.register_forward_pre_hook(_cast_input)


def _cast_input(module: nn.Module, inputs: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
    return (inputs[0].to(next(module.parameters()).dtype), *inputs[1:])


def require_plain_head(model: nn.Module) -> None:
    """Refuses models that change what their head gives (Gemma 2's soft cap, Cohere's scale).

    `forward.logps_at` calls the head alone, and would miss that change.

    Raises:
        UserError: the model's logits are not its head's.
    """
    if not is_plain_head(model, head_of(model)):
        raise UserError(
            f"{type(model).__name__} changes the logits that its head gives, which implicit PRMs cannot follow; take a "
            "model of the Qwen, Llama or Mistral families."
        )


@torch.no_grad()
def is_plain_head(model: nn.Module, head: nn.Module) -> bool:
    """Whether a model's logits are those that its head gives, neither scaled nor capped.

    Args:
        model: a causal LM, wrapped by PEFT or not.
        head: its head.
    """
    planted = []

    def plant(_, __, logits):
        # Large ones, as a cap shows only there.
        planted.append(torch.linspace(-100, 100, logits.numel()).to(logits).view_as(logits))
        return planted[-1].clone()

    hook = head.register_forward_hook(plant)
    ids = torch.arange(1, 5, device=next(model.parameters()).device)[None] % model.config.get_text_config().vocab_size
    try:
        logits = model(input_ids=ids, use_cache=False).logits
    finally:
        hook.remove()
    return len(planted) == 1 and torch.equal(planted[0].float(), logits.float())
