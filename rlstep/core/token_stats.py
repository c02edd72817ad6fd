"""Log-probabilities of tokens, and the entropy of what they were drawn from, out of logits or hidden states.

Plain autograd keeps the logits, their log-softmax and, for the entropy, two more tensors of the same size. At a
vocabulary of 150,000 that is what the memory of an update goes to. Out of logits the probabilities alone are kept, and
both gradients are formed from them. Out of hidden states, under a head whose weights are frozen, no number per token of
the vocabulary is kept.
"""

import torch
from torch import Tensor
from torch.nn.functional import linear

__all__ = ["log_probs_and_entropies", "log_probs_under_frozen_head"]

# Logits are worked through in pieces of this many, so that what is temporary stays small: 64 MiB in float32 on a GPU,
# and 4 MiB on a CPU, which then finds it in its cache.
PIECE, CPU_PIECE = 2**24, 2**20
# A head computes this many at once, which it is to take its time from multiplying, not from reading its weights.
HEAD_PIECE, CPU_HEAD_PIECE = 2**26, 2**24


def log_probs_and_entropies(logits_NV: Tensor, tokens_N: Tensor, temperature: float = 1.0) -> tuple[Tensor, Tensor]:
    """log p(token) and the entropy H of p = softmax(logits / temperature), both in nats and in float32.

    d log p(t) / d logit_v = ([v = t] - p_v) / temperature and dH / d logit_v = -p_v (log p_v + H) / temperature.

    Args:
        logits_NV: any floating type; the probabilities kept for the backward pass have the same one.
        tokens_N: the token of each row.
        temperature: above 0.

    Returns:
        (N,) log-probabilities and (N,) entropies, each with its gradient.
    """
    return _TokenStatistics.apply(logits_NV, tokens_N, temperature)


def log_probs_under_frozen_head(
    hidden_NH: Tensor, weight_VH: Tensor, bias_V: Tensor | None, tokens_N: Tensor, temperature: float = 1.0
) -> tuple[Tensor, Tensor]:
    """The same of logits = W hidden + b, with the logits of a piece of the rows at a time in memory.

    How log p(t) depends on the hidden state is known before the loss is: W^T ([v = t] - p_v) / temperature. It is
    formed while a piece's logits are there, so that H numbers per token are kept in place of V, for as many operations
    as a backward pass takes.

    Args:
        hidden_NH: any floating type; under autocast logits have autocast's.
        weight_VH, bias_V: the head's, which get no gradient.
        tokens_N: the token of each row.
        temperature: above 0.

    Returns:
        (N,) log-probabilities with their gradient, and (N,) entropies without one.
    """
    device = hidden_NH.device.type
    dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else weight_VH.dtype
    # Once, not for each piece.
    weight_VH, bias_V = weight_VH.detach().to(dtype), None if bias_V is None else bias_V.detach().to(dtype)
    with torch.autocast(device, enabled=False):
        return _UnderFrozenHead.apply(hidden_NH, weight_VH, bias_V, tokens_N, temperature)


class _TokenStatistics(torch.autograd.Function):
    @staticmethod
    def forward(ctx, logits_NV: Tensor, tokens_N: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
        keep = torch.empty_like(logits_NV) if logits_NV.requires_grad else None
        log_probs_N, entropies_N = _statistics(logits_NV, tokens_N, temperature, keep)
        ctx.temperature = temperature
        ctx.save_for_backward(keep, tokens_N, entropies_N)
        ctx.set_materialize_grads(False)
        return log_probs_N, entropies_N

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, log_prob_grad_N: Tensor | None, entropy_grad_N: Tensor | None):
        p_NV, tokens_N, entropies_N = ctx.saved_tensors
        grad_NV = torch.empty_like(p_NV)
        for piece in _pieces(*p_NV.shape, p_NV.device, PIECE, CPU_PIECE):
            p_MV, grad_MV = p_NV[piece].float(), p_NV.new_zeros(())
            if log_prob_grad_N is not None:
                weight_M1 = log_prob_grad_N[piece, None] / ctx.temperature
                grad_MV = (p_MV * -weight_M1).scatter_add_(1, tokens_N[piece, None], weight_M1)
            if entropy_grad_N is not None:
                surprise_MV = torch.where(p_MV > 0, p_MV.log() + entropies_N[piece, None], 0.0)
                grad_MV = grad_MV - p_MV * surprise_MV * (entropy_grad_N[piece, None] / ctx.temperature)
            grad_NV[piece] = grad_MV
        return grad_NV, None, None


class _UnderFrozenHead(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx, hidden_NH: Tensor, weight_VH: Tensor, bias_V: Tensor | None, tokens_N: Tensor, temperature: float
    ) -> tuple[Tensor, Tensor]:
        log_probs_N, entropies_N = hidden_NH.new_empty((2, len(hidden_NH)), dtype=torch.float32)
        slopes_NH = torch.empty_like(hidden_NH) if ctx.needs_input_grad[0] else None
        for piece in _pieces(len(hidden_NH), len(weight_VH), hidden_NH.device, HEAD_PIECE, CPU_HEAD_PIECE):
            logits_MV, tokens_M = linear(hidden_NH[piece].to(weight_VH.dtype), weight_VH, bias_V), tokens_N[piece]
            keep = None if slopes_NH is None else logits_MV
            log_probs_N[piece], entropies_N[piece] = _statistics(logits_MV, tokens_M, temperature, keep)
            if slopes_NH is not None:
                by_logit_MV = logits_MV.neg_()  # where the probabilities were put
                by_logit_MV.scatter_add_(1, tokens_M[:, None], by_logit_MV.new_ones((len(tokens_M), 1)))
                slopes_NH[piece] = (by_logit_MV @ weight_VH).div_(temperature)
        ctx.save_for_backward(slopes_NH)
        ctx.mark_non_differentiable(entropies_N)
        return log_probs_N, entropies_N

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, log_prob_grad_N: Tensor, _):
        (slopes_NH,) = ctx.saved_tensors
        return (slopes_NH * log_prob_grad_N[:, None]).to(slopes_NH.dtype), None, None, None, None


def _statistics(logits_NV: Tensor, tokens_N: Tensor, temperature: float, keep: Tensor | None) -> tuple[Tensor, Tensor]:
    """(N,) log-probabilities and entropies; `keep` gets the probabilities and may be the logits themselves."""
    log_probs_N, entropies_N = logits_NV.new_empty((2, len(logits_NV)), dtype=torch.float32)
    for piece in _pieces(*logits_NV.shape, logits_NV.device, PIECE, CPU_PIECE):
        scaled_MV = logits_NV[piece].float()
        log_p_MV = torch.log_softmax(scaled_MV if temperature == 1 else scaled_MV / temperature, dim=-1)
        log_probs_N[piece] = log_p_MV.gather(1, tokens_N[piece, None])[:, 0]
        p_MV = log_p_MV.exp()
        # A token that cannot be drawn adds 0, not 0 * -inf.
        entropies_N[piece] = -log_p_MV.clamp_min_(torch.finfo(torch.float32).min).mul_(p_MV).sum(dim=1)
        if keep is not None:
            keep[piece] = p_MV
    return log_probs_N, entropies_N


def _pieces(rows: int, width: int, device: torch.device, numbers: int, on_cpu: int) -> list[slice]:
    size = max(1, (on_cpu if device.type == "cpu" else numbers) // width)
    return [slice(start, start + size) for start in range(0, rows, size)]
