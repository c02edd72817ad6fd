"""Log-probabilities of tokens, and the entropy of what they were drawn from, out of logits.

Plain autograd keeps the logits, their log-softmax and, for the entropy, two more tensors of the same size. At a
vocabulary of 150,000 that is what the memory of an update goes to. Here the probabilities alone are kept, and both
gradients are formed from them.
"""

import torch
from torch import Tensor

__all__ = ["log_probs_and_entropies"]

# Logits are worked through in pieces of this many, so that what is temporary stays small: 64 MiB in float32 on a GPU,
# and 4 MiB on a CPU, which then finds it in its cache.
PIECE, CPU_PIECE = 2**24, 2**20


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


class _TokenStatistics(torch.autograd.Function):
    @staticmethod
    def forward(ctx, logits_NV: Tensor, tokens_N: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
        log_probs_N, entropies_N = logits_NV.new_empty((2, len(logits_NV)), dtype=torch.float32)
        keep = torch.empty_like(logits_NV) if logits_NV.requires_grad else None
        for piece in _pieces(logits_NV):
            scaled_MV = logits_NV[piece].float()
            log_p_MV = torch.log_softmax(scaled_MV if temperature == 1 else scaled_MV / temperature, dim=-1)
            log_probs_N[piece] = log_p_MV.gather(1, tokens_N[piece, None])[:, 0]
            p_MV = log_p_MV.exp()
            # A token that cannot be drawn adds 0, not 0 * -inf.
            entropies_N[piece] = -log_p_MV.clamp_min_(torch.finfo(torch.float32).min).mul_(p_MV).sum(dim=1)
            if keep is not None:
                keep[piece] = p_MV
        ctx.temperature = temperature
        ctx.save_for_backward(keep, tokens_N, entropies_N)
        ctx.set_materialize_grads(False)
        return log_probs_N, entropies_N

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, log_prob_grad_N: Tensor | None, entropy_grad_N: Tensor | None):
        p_NV, tokens_N, entropies_N = ctx.saved_tensors
        grad_NV = torch.empty_like(p_NV)
        for piece in _pieces(p_NV):
            p_MV, grad_MV = p_NV[piece].float(), p_NV.new_zeros(())
            if log_prob_grad_N is not None:
                weight_M1 = log_prob_grad_N[piece, None] / ctx.temperature
                grad_MV = (p_MV * -weight_M1).scatter_add_(1, tokens_N[piece, None], weight_M1)
            if entropy_grad_N is not None:
                surprise_MV = torch.where(p_MV > 0, p_MV.log() + entropies_N[piece, None], 0.0)
                grad_MV = grad_MV - p_MV * surprise_MV * (entropy_grad_N[piece, None] / ctx.temperature)
            grad_NV[piece] = grad_MV
        return grad_NV, None, None


def _pieces(x_NV: Tensor) -> list[slice]:
    piece = CPU_PIECE if x_NV.device.type == "cpu" else PIECE
    rows = max(1, piece // x_NV.shape[1])
    return [slice(start, start + rows) for start in range(0, len(x_NV), rows)]
