"""The losses of the critic and the verifiers, and how well a critic explains its returns."""

from collections.abc import Sequence

import torch
from torch import Tensor

from rlstep.core.masked import check_shapes, masked_mean

__all__ = [
    "clipped_value_error",
    "clipped_value_loss",
    "explained_variance",
    "pairwise_loss",
    "right_log_odds",
    "step_label_loss",
]


def clipped_value_error(
    values_BT: Tensor, old_values_BT: Tensor, returns_BT: Tensor, clip: float
) -> tuple[Tensor, Tensor]:
    """PPO's clipped value error per token, as in openai/baselines ppo2::

        V_clip = V_old + clamp(V - V_old, -clip, clip)
        error  = 0.5 max((V - R)^2, (V_clip - R)^2)

    Args:
        values_BT: the critic's values now.
        old_values_BT: its values when the completions were sampled.
        returns_BT: the targets.
        clip: how far values may move from the old ones, in the unit of the returns; above 0.

    Returns:
        The errors, and where the clipped one was the larger (no gradient there), both (B, T).

    Raises:
        ValueError: shapes differ, or clip is not above 0.
    """
    check_shapes(values_BT=values_BT, old_values_BT=old_values_BT, returns_BT=returns_BT)
    if not clip > 0:
        raise ValueError(f"clip={clip} must be above 0; a large value switches clipping off.")
    clipped_BT = old_values_BT + (values_BT - old_values_BT).clamp(-clip, clip)
    error_BT = (values_BT - returns_BT).square()
    clipped_error_BT = (clipped_BT - returns_BT).square()
    return 0.5 * torch.maximum(error_BT, clipped_error_BT), clipped_error_BT > error_BT


def clipped_value_loss(
    values_BT: Tensor, old_values_BT: Tensor, returns_BT: Tensor, mask_BT: Tensor, clip: float
) -> tuple[Tensor, Tensor]:
    """Mean of `clipped_value_error` over the tokens under the mask.

    Args:
        values_BT, old_values_BT, returns_BT, clip: as in `clipped_value_error`.
        mask_BT: one on completion tokens.

    Returns:
        The loss, a scalar, and the fraction of tokens where the clipped error was the larger.

    Raises:
        ValueError: shapes differ, the mask is empty, or clip is not above 0.
    """
    error_BT, clipped_BT = clipped_value_error(values_BT, old_values_BT, returns_BT, clip)
    return masked_mean(error_BT, mask_BT), masked_mean(clipped_BT.float(), mask_BT).detach()


def step_label_loss(logits_NV: Tensor, targets_N: Tensor, columns: Sequence[int] = (0, 1)) -> Tensor:
    """Cross-entropy of step labels: mean of -(y log p(right) + (1 - y) log p(wrong)), or of -log p(neutral).

    p is the softmax over all V columns. A classification head has only the columns of the classes; a language model's
    head has those of the vocabulary, from which the label tokens' are picked (Lightman et al., 2305.20050, section
    2.6).

    Args:
        logits_NV: (N, V).
        targets_N: (N,) y in [0, 1], where values in between are soft labels (the share of rollouts that reached the
            answer); 2 means neutral.
        columns: the columns of wrong, right (and neutral) among the V.

    Raises:
        ValueError: shapes do not match, N is 0, or a target is none of these (an ignore value that was not dropped, or
            neutral without a column).
    """
    if logits_NV.dim() != 2 or logits_NV.shape[1] <= max(columns) or targets_N.shape != logits_NV.shape[:1]:
        raise ValueError(
            f"logits {tuple(logits_NV.shape)} and targets {tuple(targets_N.shape)}; expected (N, V) and (N,), with V "
            f"above {max(columns)}."
        )
    if not len(targets_N):
        raise ValueError("no labelled steps in this batch; drop rows without labels before batching.")
    neutral_N = targets_N == 2
    if len(columns) < 3 and neutral_N.any():
        raise ValueError("a target is 2 (neutral), but the head has two classes; use three, or another label policy.")
    if not (neutral_N | ((targets_N >= 0) & (targets_N <= 1))).all():
        raise ValueError("targets must lie in [0, 1]; drop steps without a label instead of marking them with -100.")
    logp_NK = torch.log_softmax(logits_NV.float(), dim=1)[:, list(columns)]
    targets_N = targets_N.to(logp_NK)
    logp_N = targets_N * logp_NK[:, 1] + (1 - targets_N) * logp_NK[:, 0]
    if len(columns) == 3:
        logp_N = torch.where(neutral_N, logp_NK[:, 2], logp_N)
    return -logp_N.mean()


def pairwise_loss(margins_N: Tensor) -> Tensor:
    """Bradley-Terry loss of pairs: mean of -log sigmoid(m_right - m_wrong) (Ouyang et al., 2203.02155, equation 1).

    Args:
        margins_N: (N,) scores, a right solution's and then a wrong one's of the same problem, pair by pair.

    Raises:
        ValueError: N is odd or 0.
    """
    if margins_N.dim() != 1 or len(margins_N) == 0 or len(margins_N) % 2:
        raise ValueError(f"margins {tuple(margins_N.shape)}; expected (N,) with pairs of right and wrong in turn.")
    return -torch.nn.functional.logsigmoid(margins_N[0::2].float() - margins_N[1::2].float()).mean()


def right_log_odds(logits_NK: Tensor, neutral: str = "positive") -> Tensor:
    """(N,) log-odds of "right" from class logits; their sigmoid is the probability.

    Args:
        logits_NK: (N, 2) of wrong and right, or (N, 3) with neutral after them.
        neutral: what the third class counts as: "positive", p = p_right + p_neutral; "negative", p = p_right (both in
            Lightman et al., 2305.20050, appendix F); "ignore", p = p_right / (p_right + p_wrong).

    Raises:
        ValueError: another number of classes, or an unknown `neutral`.
    """
    if logits_NK.dim() != 2 or logits_NK.shape[1] not in (2, 3):
        raise ValueError(f"logits {tuple(logits_NK.shape)}; expected (N, 2) or (N, 3).")
    if neutral not in ("positive", "negative", "ignore"):
        raise ValueError(f"neutral is '{neutral}'; choose positive, negative or ignore.")
    wrong_N, right_N, *rest = logits_NK.float().unbind(dim=1)
    if rest and neutral == "positive":
        right_N = torch.logaddexp(right_N, rest[0])
    elif rest and neutral == "negative":
        wrong_N = torch.logaddexp(wrong_N, rest[0])
    return right_N - wrong_N


def explained_variance(values: Tensor, returns: Tensor, mask: Tensor) -> Tensor:
    """1 - Var(returns - values) / Var(returns) under the mask: 1 for a perfect critic, 0 for a constant mean.

    NaN if the returns do not vary, because there is nothing to explain.

    Raises:
        ValueError: shapes differ or the mask is empty.
    """
    check_shapes(values=values, returns=returns, mask=mask)

    def variance(x: Tensor) -> Tensor:
        return masked_mean((x - masked_mean(x, mask)).square(), mask)

    total = variance(returns)
    return torch.where(total > 0, 1 - variance(returns - values) / total, torch.full_like(total, torch.nan))
