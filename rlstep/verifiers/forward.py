"""Log-probabilities of given tokens, without the logits of a whole batch in memory at any time."""

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from rlstep.runtime.errors import UserError
from rlstep.verifiers.pretrained import head_of

# Logits in memory at once: 256 MiB in float32, 440 tokens of a vocabulary of 152,000.
LARGEST_LOGITS = 2**26


def token_logps(
    model: nn.Module,
    input_ids: Tensor,
    attention_mask: Tensor,
    rows: Tensor,
    columns: Tensor,
    next_ids: Tensor,
    position_ids: Tensor | None = None,
) -> Tensor:
    """log p of each token behind the one at (row, column).

    The model's own forward runs, so that the hooks of DDP and activation checkpointing stay in force, with nothing left
    for its head to do; the head then sees the chosen positions in pieces. In the backward pass a piece's logits are
    computed again.

    Args:
        model: a causal LM that passes `require_plain_head`, wrapped or not.
        input_ids: (B, T).
        attention_mask: (B, T), or (B, 1, T, T) for packed rows.
        rows, columns: (N,) indices into B and T.
        next_ids: (N,) the tokens behind these positions.
        position_ids: (B, T), for packed rows.

    Returns:
        (N,) in nats, in float32.
    """
    head, chosen, device = head_of(model), [], input_ids.device.type

    def choose(_, inputs: tuple[Tensor, ...]) -> tuple[Tensor]:
        # A mixed-precision wrapper switches autocast on inside the forward; the head is to run under the same.
        enabled, dtype = torch.is_autocast_enabled(device), torch.get_autocast_dtype(device)
        chosen.append((inputs[0][rows, columns], torch.autocast(device, dtype, enabled)))
        return (inputs[0][:, :0],)

    options = {} if position_ids is None else {"position_ids": position_ids}
    hook = head.register_forward_pre_hook(choose)
    try:
        none_B0V = model(input_ids=input_ids, attention_mask=attention_mask, use_cache=False, **options).logits
    finally:
        hook.remove()
    ((hidden_NH, autocast),) = chosen
    size = max(1, LARGEST_LOGITS // none_B0V.shape[-1])
    pieces = zip(hidden_NH.split(size), next_ids.split(size), strict=True)
    with autocast:
        if len(hidden_NH) <= size or not torch.is_grad_enabled():
            return torch.cat([_logps(head, *piece) for piece in pieces])
        return torch.cat([checkpoint(_logps, head, *piece, use_reentrant=False) for piece in pieces])


def _logps(head: nn.Module, hidden_NH: Tensor, next_ids: Tensor) -> Tensor:
    return -nn.functional.cross_entropy(head(hidden_NH).float(), next_ids, reduction="none")


@torch.no_grad()
def require_plain_head(model: nn.Module) -> None:
    """Refuses models that change what their head gives (Gemma 2's soft cap, Cohere's scale): it is called alone here.

    Raises:
        UserError: the model's logits are not its head's.
    """
    seen = []
    hook = head_of(model).register_forward_hook(lambda _, inputs, output: seen.append(output))
    ids = torch.arange(1, 5, device=next(model.parameters()).device)[None] % model.config.get_text_config().vocab_size
    try:
        logits = model(input_ids=ids, use_cache=False).logits
    finally:
        hook.remove()
    if len(seen) != 1 or not torch.allclose(seen[0].float(), logits.float()):
        raise UserError(
            f"{type(model).__name__} changes the logits that its head gives, which implicit PRMs cannot follow; take a "
            "model of the Qwen, Llama or Mistral families."
        )
