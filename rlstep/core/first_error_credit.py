"""Credit by the first error alone: a wrong solution keeps credit for what it wrote before it, right ones as usual."""

import torch
from torch import Tensor

from rlstep.core.masked import check_groups, check_left_contiguous, check_one_per_row, kept

__all__ = ["first_error"]


def first_error(
    outcomes_B: Tensor,
    wrong_B: Tensor,
    good_tokens_B: Tensor,
    margins_B: Tensor,
    mask_BT: Tensor,
    group_size: int,
    weight: float = 0.5,
    floor: bool = False,
) -> Tensor:
    """VPPO's advantages (2601.18984, equations 6 to 8): a PRM only says where the first error is::

        A_{i,t} = R_i + weight    for the first n_i tokens of a wrong solution, n_i = max(good_i - margin_i, 0)
        A_{i,t} = R_i             for all other tokens
        A_{i,t} - mean_j(mean_t A_{j,t})          j over the samples of i's problem

    good_i is the number of tokens before the first error and R_i the outcome: with 1 and 0 these are the paper's
    values. The mean has each sample count once, whatever its length; there is no division by the standard deviation,
    which the paper found to harm. With `weight` 0 all tokens of a solution get R_i - mean R.

    Rewarding the whole of the good prefix pays for splitting a step in several (the paper's step inflation); the margin
    leaves its end unpaid.

    Args:
        outcomes_B: outcome rewards.
        wrong_B: bool or 0/1, whether the answer is wrong; a right solution has no prefix.
        good_tokens_B: tokens before the first error.
        margins_B: how many of them, from the end, are not paid.
        mask_BT: bool or 0/1, one on completion tokens; each row a run of ones, then zeros.
        group_size: samples per problem; rows of a problem are adjacent.
        weight: the paper's alpha, in [0, 1]; 0.3 to 0.7 did equally well there, 0.9 worse.
        floor: raise the advantage of prefix tokens to 0 at least (equation 8; the paper: for instruction-tuned models).

    Returns:
        advantages_BT, 0 where the mask is 0.

    Raises:
        ValueError: shapes differ, a mask has a gap, a prefix is longer than its completion, B is not a multiple of
            group_size, group_size below 2, or weight outside [0, 1].
    """
    check_left_contiguous(mask_BT, "mask_BT")
    B, T = mask_BT.shape
    check_groups(B, group_size)
    for name, values_B in (
        ("outcomes", outcomes_B),
        ("wrong answers", wrong_B),
        ("good tokens", good_tokens_B),
        ("margins", margins_B),
    ):
        check_one_per_row(B, name, values_B)
    if not 0 <= weight <= 1:
        raise ValueError(f"weight={weight} must be in [0, 1].")
    mask_BT = mask_BT.bool()
    lengths_B = mask_BT.sum(dim=1)
    if (good_tokens_B > lengths_B).any():
        raise ValueError("a good prefix has more tokens than its completion.")
    prefix_B = (good_tokens_B - margins_B).clamp_min(0) * wrong_B.bool()
    inside_BT = torch.arange(T, device=mask_BT.device) < prefix_B[:, None]
    values_BT = outcomes_B[:, None] + weight * inside_BT
    means_B = outcomes_B + weight * prefix_B / lengths_B.clamp_min(1)
    baseline_B = means_B.view(-1, group_size).mean(dim=1).repeat_interleave(group_size)
    advantages_BT = values_BT - baseline_B[:, None]
    if floor:
        advantages_BT = torch.where(inside_BT, advantages_BT.clamp_min(0), advantages_BT)
    return kept(advantages_BT, mask_BT)
