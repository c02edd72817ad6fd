"""What the critic and the verifiers minimise, and how well a critic explains its returns."""

import torch
from torch import Tensor

from rlstep.core.masked import check_shapes, masked_mean


def clipped_value_loss(
    values_BT: Tensor, old_values_BT: Tensor, returns_BT: Tensor, mask_BT: Tensor, clip: float
) -> tuple[Tensor, Tensor]:
    """PPO's clipped value loss, as in openai/baselines ppo2::

        V_clip = V_old + clamp(V - V_old, -clip, clip)
        loss   = mean of 0.5 max((V - R)^2, (V_clip - R)^2)

    Args:
        values_BT: the critic's values now.
        old_values_BT: its values when the completions were sampled.
        returns_BT: the targets.
        mask_BT: one on completion tokens.
        clip: how far values may move from the old ones, in the unit of the returns; above 0.

    Returns:
        The loss, a scalar, and the fraction of tokens where the clipped error was the larger (no gradient there).

    Raises:
        ValueError: shapes differ, the mask is empty, or clip is not above 0.
    """
    check_shapes(values_BT=values_BT, old_values_BT=old_values_BT, returns_BT=returns_BT, mask_BT=mask_BT)
    if not clip > 0:
        raise ValueError(f"clip={clip} must be above 0; a large value switches clipping off.")
    clipped_BT = old_values_BT + (values_BT - old_values_BT).clamp(-clip, clip)
    error_BT = (values_BT - returns_BT).square()
    clipped_error_BT = (clipped_BT - returns_BT).square()
    loss = 0.5 * masked_mean(torch.maximum(error_BT, clipped_error_BT), mask_BT)
    return loss, masked_mean((clipped_error_BT > error_BT).float(), mask_BT).detach()


def step_label_loss(logits_N2: Tensor, targets_N: Tensor) -> Tensor:
    """Binary cross-entropy over two label logits: mean of -(y log p(right) + (1 - y) log p(wrong)).

    Args:
        logits_N2: (N, 2); column 0 stands for wrong, column 1 for right.
        targets_N: (N,) y in [0, 1]; values between are soft labels (the fraction of rollouts that reached the answer).

    Raises:
        ValueError: shapes do not fit, N is 0, or a target is outside [0, 1] (an ignore value that was not dropped).
    """
    if logits_N2.dim() != 2 or logits_N2.shape[1] != 2 or targets_N.shape != logits_N2.shape[:1]:
        raise ValueError(
            f"logits {tuple(logits_N2.shape)} and targets {tuple(targets_N.shape)}; expected (N, 2) and (N,)."
        )
    if not len(targets_N):
        raise ValueError("no labelled steps in this batch; drop rows without labels before batching.")
    if not ((targets_N >= 0) & (targets_N <= 1)).all():
        raise ValueError("targets must lie in [0, 1]; drop steps without a label instead of marking them with -100.")
    logp_N2 = torch.log_softmax(logits_N2.float(), dim=1)
    targets_N = targets_N.to(logp_N2)
    return -(targets_N * logp_N2[:, 1] + (1 - targets_N) * logp_N2[:, 0]).mean()


def explained_variance(values: Tensor, returns: Tensor, mask: Tensor) -> Tensor:
    """1 - Var(returns - values) / Var(returns) under the mask: 1 a perfect critic, 0 one that knows the mean alone.

    NaN where the returns do not vary, for then there is nothing to explain.

    Raises:
        ValueError: shapes differ or the mask is empty.
    """
    check_shapes(values=values, returns=returns, mask=mask)

    def variance(x: Tensor) -> Tensor:
        return masked_mean((x - masked_mean(x, mask)).square(), mask)

    total = variance(returns)
    return torch.where(total > 0, 1 - variance(returns - values) / total, torch.full_like(total, torch.nan))
