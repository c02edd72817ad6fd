"""Advantages from step rewards: with a critic (`gae`) or against the other samples of the same problem (`group`)."""

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import pad

from rlstep.core.masked import check_left_contiguous, check_shapes

# TRL's GRPO adds the same to its standard deviation.
_STD_EPS = 1e-4


def gae(rewards_BT: Tensor, values_BT: Tensor, mask_BT: Tensor, gamma: float, lam: float) -> tuple[Tensor, Tensor]:
    """Generalised advantage estimation (Schulman et al., 1506.02438, equation 16)::

        delta_t = r_t + gamma V_{t+1} - V_t
        A_t     = delta_t + gamma lam A_{t+1}
        R_t     = A_t + V_t

    V and A past a row's last token are 0: a completion is over there, whether it was finished or cut off.

    Args:
        rewards_BT: reward of each token.
        values_BT: the critic's value before each token is chosen.
        mask_BT: bool or 0/1, one on completion tokens; each row a run of ones, then zeros.
        gamma: discount a token, in [0, 1].
        lam: 0 trusts the critic one token ahead, 1 not at all.

    Returns:
        advantages_BT and returns_BT (the critic's targets), 0 where the mask is. What stands there is never read.

    Raises:
        ValueError: shapes differ, a mask has a gap, or gamma or lam is outside [0, 1].
    """
    check_shapes(rewards_BT=rewards_BT, values_BT=values_BT, mask_BT=mask_BT)
    check_left_contiguous(mask_BT, "mask_BT")
    for name, value in (("gamma", gamma), ("lam", lam)):
        if not 0 <= value <= 1:
            raise ValueError(f"{name}={value} must be in [0, 1].")
    mask_BT = mask_BT.bool()
    rewards_BT = torch.where(mask_BT, rewards_BT, torch.zeros_like(rewards_BT))
    values_BT = torch.where(mask_BT, values_BT, torch.zeros_like(values_BT))
    delta_BT = rewards_BT + gamma * pad(values_BT[:, 1:], (0, 1)) - values_BT
    advantages_BT = _discounted_sums(delta_BT, gamma * lam)
    return advantages_BT, advantages_BT + values_BT


def _discounted_sums(x_BL: Tensor, discount: float) -> Tensor:
    """y_k = x_k + discount y_{k+1} along the last axis, y past the end 0."""
    sums_BL = torch.zeros_like(x_BL)
    later_B = x_BL.new_zeros(len(x_BL))
    for k in reversed(range(x_BL.shape[1])):
        later_B = x_BL[:, k] + discount * later_B
        sums_BL[:, k] = later_B
    return sums_BL


def group(
    step_rewards_BS: Tensor,
    step_mask_BS: Tensor,
    outcomes_B: Tensor,
    group_size: int,
    discount: float,
    scale: Literal["none", "group"] = "none",
    baseline: Literal["position", "all"] = "all",
) -> tuple[Tensor, Tensor]:
    """Advantages against the samples of the same problem, for process and outcome apart::

        G_k       = sum_{j >= k} discount^(j-k) r_j
        process_k = G_k - b_k
        outcome   = outcome - mean outcome of the group

    b_k is the mean of G over all steps of all samples of the group (baseline="all"), or over the group's k-th steps
    alone ("position"). Against the mean of all steps, a hard step is below average whoever takes it, so the policy
    learns to avoid it, by skipping it or doing an easier one; against the others' k-th steps it is compared with its
    like, and where all do equally well there is no noise.

    The sum of both is a step's advantage (`spread_over_tokens`). discount=0 gives each step its own reward; 1 gives the
    sum over the steps from it on, as DeepSeekMath (2402.03300, 4.1.3), but centred after summing, not before.

    Args:
        step_rewards_BS: (B, S) step rewards, padded on the right (`rlstep.core.rewards.pad_steps`).
        step_mask_BS: (B, S) one where a step exists; a row may have none.
        outcomes_B: (B,) outcome rewards.
        group_size: samples a problem; rows of a problem follow one another.
        discount: a step, in [0, 1].
        baseline: "position" or "all", as above.
        scale: "group" divides both parts by one number, the standard deviation (dividing by n) of the whole advantage
            over the group's steps, where a sample without steps counts once, with its outcome part. One number for both
            keeps the weights that process and outcome rewards were given.

    Returns:
        process_BS, 0 where no step is, and outcome_B.

    Raises:
        ValueError: shapes differ, a mask has a gap, B is no multiple of group_size, group_size below 2 (nothing to
            compare with), discount outside [0, 1], or an unknown scale or baseline.
    """
    check_shapes(step_rewards_BS=step_rewards_BS, step_mask_BS=step_mask_BS)
    check_left_contiguous(step_mask_BS, "step_mask_BS")
    B, S = step_rewards_BS.shape
    if outcomes_B.shape != (B,):
        raise ValueError(f"outcomes have shape {tuple(outcomes_B.shape)} for {B} rows of steps; give one a row.")
    if group_size < 2 or B % group_size:
        raise ValueError(f"{B} rows do not make groups of {group_size}; give whole groups of two samples or more.")
    if not 0 <= discount <= 1:
        raise ValueError(f"discount={discount} must be in [0, 1].")
    if scale not in ("none", "group"):
        raise ValueError(f"unknown scale '{scale}'; choose none or group.")
    if baseline not in ("position", "all"):
        raise ValueError(f"unknown baseline '{baseline}'; choose position or all.")

    mask_BS = step_mask_BS.bool()
    zeros_BS = torch.zeros_like(step_rewards_BS)
    G_BS = _discounted_sums(torch.where(mask_BS, step_rewards_BS, zeros_BS), discount)
    mean_of = _position_mean if baseline == "position" else _group_mean
    process_BS = torch.where(mask_BS, G_BS - mean_of(G_BS, mask_BS, group_size), zeros_BS)
    outcome_B = outcomes_B - outcomes_B.view(-1, group_size).mean(dim=1).repeat_interleave(group_size)
    if scale == "none":
        return process_BS, outcome_B

    # One more column stands for the samples without steps.
    counted_BS = torch.cat([mask_BS, ~mask_BS.any(dim=1, keepdim=True)], dim=1)
    total_BS = pad(process_BS, (0, 1)) + outcome_B[:, None]
    spread_BS = (total_BS - _group_mean(total_BS, counted_BS, group_size)).square()
    std_B1 = _group_mean(spread_BS, counted_BS, group_size).sqrt() + _STD_EPS
    return process_BS / std_B1, outcome_B / std_B1[:, 0]


def _group_mean(x_BS: Tensor, mask_BS: Tensor, group_size: int) -> Tensor:
    """(B, 1): for each row the mean over its group's entries under the mask; 0 where a group has none."""
    kept_BS = torch.where(mask_BS, x_BS, torch.zeros_like(x_BS))
    total_P = kept_BS.sum(dim=1).view(-1, group_size).sum(dim=1)
    count_P = mask_BS.sum(dim=1).view(-1, group_size).sum(dim=1)
    return (total_P / count_P.clamp_min(1)).repeat_interleave(group_size)[:, None]


def _position_mean(x_BS: Tensor, mask_BS: Tensor, group_size: int) -> Tensor:
    """(B, S): for each row and column the mean over its group's entries of that column under the mask; 0 for none."""
    total_PS = torch.where(mask_BS, x_BS, torch.zeros_like(x_BS)).unflatten(0, (-1, group_size)).sum(dim=1)
    count_PS = mask_BS.unflatten(0, (-1, group_size)).sum(dim=1)
    return (total_PS / count_PS.clamp_min(1)).repeat_interleave(group_size, dim=0)


def spread_over_tokens(
    process_BS: Tensor, outcome_B: Tensor, step_tokens: Sequence[Sequence[int]], mask_BT: Tensor
) -> Tensor:
    """Token advantages: that of the step a token belongs to, plus the outcome's.

    A token belongs to the first step whose last token is at or after it. Tokens behind the last step (the
    end-of-sequence token) belong to the last step. A completion without steps has the outcome's part alone.

    Args:
        process_BS: (B, S) step advantages.
        outcome_B: (B,) the outcome's advantage.
        step_tokens: for each completion, the index of each step's last token, in order.
        mask_BT: (B, T) one on completion tokens; each row a run of ones, then zeros.

    Returns:
        advantages_BT, 0 where the mask is.

    Raises:
        ValueError: numbers of rows differ, a mask has a gap, more step tokens than steps, or step tokens out of order
            or outside the completion.
    """
    check_left_contiguous(mask_BT, "mask_BT")
    B, S = process_BS.shape
    T = mask_BT.shape[1]
    if not len(outcome_B) == len(step_tokens) == len(mask_BT) == B:
        raise ValueError(
            f"{B} rows of step advantages, {len(outcome_B)} outcomes, {len(step_tokens)} of step tokens and "
            f"{len(mask_BT)} of mask; give one of each a completion."
        )
    for row, (tokens, length) in enumerate(zip(step_tokens, mask_BT.bool().sum(dim=1).tolist(), strict=True)):
        if len(tokens) > S:
            raise ValueError(f"row {row}: {len(tokens)} step tokens for {S} steps.")
        if tokens and (list(tokens) != sorted(tokens) or tokens[0] < 0 or tokens[-1] >= length):
            raise ValueError(
                f"row {row}: step tokens {list(tokens)} must be in order and within the completion's {length} tokens; "
                "count from the completion's first token."
            )
    device = process_BS.device
    ends_BS = torch.tensor([[*tokens, *[T] * (S - len(tokens))] for tokens in step_tokens], device=device).view(B, S)
    counts_B1 = torch.tensor([[len(tokens)] for tokens in step_tokens], device=device)
    tokens_BT = torch.arange(T, device=device).repeat(B, 1)
    step_BT = torch.minimum(torch.searchsorted(ends_BS.long(), tokens_BT), counts_B1 - 1)
    # Rows without steps point at one more column, which holds 0.
    step_BT = torch.where(counts_B1 == 0, S, step_BT)
    advantages_BT = pad(process_BS, (0, 1)).gather(1, step_BT) + outcome_B[:, None]
    return torch.where(mask_BT.bool(), advantages_BT, torch.zeros_like(advantages_BT))
