"""The process reward model in GRPO: what the samples of a problem that share a beginning say of it.

Sullivan and Koller (2509.21154) call the samples of a group that agree up to and including a token its process set
lambda(i, t), and prove that GRPO with outcome rewards r_i (one pass over a batch, so no clipping) has the gradient of
an objective with a reward for every such prefix::

    R_{i,t} = mean of r_j over the samples j in lambda(i, t)

as if a Monte-Carlo PRM had scored it: the tokens of a set are the same tokens after the same tokens, so that what its
samples' advantages add up to there is |lambda(i, t)| times the advantage of their mean. That factor is what their
lambda-GRPO takes out again: the loss of a token is divided by |lambda(i, t)|.

The same holds for steps, or any other unit: a place is a token where the ids are those of tokens, and a step where each
id stands for a step.
"""

import torch
from torch import Tensor

from rlstep.core.masked import check_left_contiguous, check_one_per_row, check_shapes, kept

__all__ = ["process_sets", "set_rewards", "set_sizes", "set_weights"]

NO_SET = -1


def process_sets(ids_BL: Tensor, mask_BL: Tensor, groups_B: Tensor) -> Tensor:
    """Which places belong to one process set: those of one group at one position, with equal ids up to them.

    Args:
        ids_BL: integers, equal where tokens (or steps) are.
        mask_BL: bool or 0/1, one on tokens; each row a run of ones, then zeros. A row without any is in no set.
        groups_B: integers, equal for samples of one problem; groups may have different sizes.

    Returns:
        (B, L) int64, a number below B * L for each set, -1 where the mask is 0.

    Raises:
        ValueError: shapes differ, or a mask has a gap.
    """
    check_shapes(ids_BL=ids_BL, mask_BL=mask_BL)
    check_left_contiguous(mask_BL, "mask_BL")
    B, L = ids_BL.shape
    check_one_per_row(B, "groups", groups_B)
    mask_BL = mask_BL.bool()
    # A set has the number of its first member's place. Unless rows share it, each place is a set of its own.
    sets_BL = torch.arange(B * L, device=ids_BL.device).view(B, L)
    # A row that shares its prefix with no other never will again, so only the others are looked at.
    rows_R, prefix_R = torch.arange(B, device=ids_BL.device), torch.unique(groups_B, return_inverse=True)[1]
    for place in range(L):
        goes_on_R = mask_BL[rows_R, place]
        rows_R, prefix_R = rows_R[goes_on_R], prefix_R[goes_on_R]
        # Both numbers are below B, so that a pair of them fits into one.
        token_R = torch.unique(ids_BL[rows_R, place], return_inverse=True)[1]
        _, prefix_R, sizes = torch.unique(prefix_R * B + token_R, return_inverse=True, return_counts=True)
        shared_R = sizes[prefix_R] > 1
        rows_R, prefix_R = rows_R[shared_R], prefix_R[shared_R]
        if not len(rows_R):
            break
        first = torch.full_like(sizes, B).scatter_reduce(0, prefix_R, rows_R, "amin")
        sets_BL[rows_R, place] = first[prefix_R] * L + place
    return torch.where(mask_BL, sets_BL, NO_SET)


def set_sizes(sets_BL: Tensor) -> Tensor:
    """(B, L) int64: the members of each place's set, the row itself included; 0 where there is none.

    Args:
        sets_BL: of `process_sets`.
    """
    return _sums(sets_BL, torch.ones_like(sets_BL))


def set_weights(sets_BL: Tensor) -> Tensor:
    """(B, L) 1 / |lambda(i, t)|, by which lambda-GRPO multiplies a token's loss; 0 where there is no set.

    So the weights of a set's members add up to 1: a shared token counts as much as one that is not.

    Args:
        sets_BL: of `process_sets`.
    """
    return kept(1 / set_sizes(sets_BL).clamp_min(1), sets_BL != NO_SET)


def set_rewards(sets_BL: Tensor, outcomes_B: Tensor, alike_B: Tensor | None = None) -> Tensor:
    """(B, L) what the group says of a row up to each place: the mean outcome of the samples that share it::

        mean of r_j over j in lambda(i, t)                          the paper's
        mean of r_j over j in lambda(i, t) not alike to i           with alike_B

    In the first a row's own outcome counts, and a row that shares nothing has no other. The second is for a fair
    comparison with verifiers, which do not see the outcome of what they judge.

    Args:
        sets_BL: of `process_sets`.
        outcomes_B: outcome rewards.
        alike_B: integers, equal for rows that do not judge one another: all different to leave each row itself out; the
            same for equal completions, whose outcomes are one.

    Returns:
        float32, 0 where there is no set, NaN where no other row is left to judge.

    Raises:
        ValueError: not one outcome, or one number, per row.
    """
    check_one_per_row(len(sets_BL), "outcomes", outcomes_B)
    paid_BL = kept(outcomes_B.float()[:, None].expand(sets_BL.shape), sets_BL != NO_SET)
    sums_BL, sizes_BL = _sums(sets_BL, paid_BL), set_sizes(sets_BL)
    if alike_B is None:
        return sums_BL / sizes_BL.clamp_min(1)
    check_one_per_row(len(sets_BL), "alike", alike_B)
    kinds_B = torch.unique(alike_B, return_inverse=True)[1]
    own_BL = torch.unique(sets_BL * len(kinds_B) + kinds_B[:, None], return_inverse=True)[1]
    own_BL = torch.where(sets_BL == NO_SET, NO_SET, own_BL)
    others_BL = sizes_BL - set_sizes(own_BL)
    means_BL = (sums_BL - _sums(own_BL, paid_BL)) / others_BL.clamp_min(1)
    return torch.where((others_BL == 0) & (sets_BL != NO_SET), torch.nan, means_BL)


def _sums(sets_BL: Tensor, values_BL: Tensor) -> Tensor:
    """(B, L) the sum of the values over each place's set; 0 where there is none."""
    # Where there is no set, all go into one that is numbered after the others.
    places_BL = torch.where(sets_BL == NO_SET, sets_BL.numel(), sets_BL)
    sums = values_BL.new_zeros(sets_BL.numel() + 1).index_add(0, places_BL.flatten(), values_BL.flatten())
    return torch.where(sets_BL == NO_SET, 0, sums[places_BL])
