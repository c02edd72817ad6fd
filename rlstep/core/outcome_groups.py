"""What a problem's samples are worth within their outcome: right ones among right ones, wrong ones among wrong ones.

For PRMs that cannot be trusted between outcomes: one that prefers convincing wrong solutions to plain right ones.
"""

import torch
from torch import Tensor

from rlstep.core.masked import check_groups, check_left_contiguous, check_one_per_row, check_shapes, kept

__all__ = ["centre_wrong", "consistent"]


def centre_wrong(step_rewards_BS: Tensor, step_mask_BS: Tensor, correct_B: Tensor, group_size: int) -> Tensor:
    """Outcome-conditioned centring (PROGRS, 2604.02341)::

        r_k - mean over the problem's wrong solutions of (a solution's mean reward)    in wrong solutions
        r_k                                                                            in right ones

    So a problem's wrong solutions are paid 0 on average, however well they read, and differ only among themselves. The
    paper shifts one bonus per solution; here each of a solution's steps is shifted by the same number, which is that
    shift where all steps of a solution have one reward (credit scheme `coherence`).

    Args:
        step_rewards_BS: (B, S) step rewards, padded on the right.
        step_mask_BS: (B, S) one where a step has a reward. Rows without any do not count.
        correct_B: bool or 0/1, whether the answer is right.
        group_size: samples per problem; rows of a problem are adjacent.

    Returns:
        (B, S), 0 where the mask is 0.

    Raises:
        ValueError: shapes differ, a mask has a gap, B is not a multiple of group_size, or group_size below 2.
    """
    check_shapes(step_rewards_BS=step_rewards_BS, step_mask_BS=step_mask_BS)
    check_left_contiguous(step_mask_BS, "step_mask_BS")
    check_one_per_row(len(step_mask_BS), "correct", correct_B)
    check_groups(len(step_mask_BS), group_size)
    mask_BS = step_mask_BS.bool()
    rewards_BS, counts_B = kept(step_rewards_BS, mask_BS), mask_BS.sum(dim=1)
    wrong_B = ~correct_B.bool()
    counted_PK = (wrong_B & (counts_B > 0)).view(-1, group_size)
    means_PK = (rewards_BS.sum(dim=1) / counts_B.clamp_min(1)).view(-1, group_size)
    shift_P = (means_PK * counted_PK).sum(dim=1) / counted_PK.sum(dim=1).clamp_min(1)
    shift_B = shift_P.repeat_interleave(group_size) * wrong_B
    return kept(rewards_BS - shift_B[:, None], mask_BS)


def consistent(scores_B: Tensor, correct_B: Tensor, group_size: int, keep: int, rank_wrong: bool = True) -> Tensor:
    """The samples to train on, as PROF chooses them (2509.03403): those whose steps agree with their answer.

    `keep` samples of each problem stay: the right ones with the highest scores, and the wrong ones with the lowest (the
    paper's PROF-BOTH). Their numbers k+ + k- = keep make k+ k- largest: as near to one half each as the problem's
    samples admit, and of an odd number the wrong ones get one more. Where all samples are right, or all wrong, `keep`
    of these stay.

    Args:
        scores_B: each solution's mean step score; of equal ones the earlier stays. NaN for a solution without steps,
            which counts as 0.
        correct_B: bool or 0/1, whether the answer is right.
        group_size: samples per problem; rows of a problem are adjacent.
        keep: samples that stay of each problem, from 1 to group_size.
        rank_wrong: false keeps the first of the wrong ones, whatever their scores (PROF-POS, which takes them at
            random; the samples of a problem are in no order).

    Returns:
        (B,) bool.

    Raises:
        ValueError: numbers of rows differ, B is not a multiple of group_size, group_size below 2, or keep out of range.
    """
    B = len(scores_B)
    check_one_per_row(B, "correct", correct_B)
    check_groups(B, group_size)
    if not 1 <= keep <= group_size:
        raise ValueError(f"keep={keep} must be from 1 to group_size, {group_size}.")
    scores_PK = scores_B.nan_to_num(0).view(-1, group_size)
    right_PK = correct_B.bool().view(-1, group_size)
    right_P = right_PK.sum(dim=1)
    # As near to one half as leaves room for the rest: at least what the wrong ones cannot fill, at most all right ones.
    keep_right_P = torch.minimum((keep - (group_size - right_P)).clamp_min(keep // 2), right_P)
    wrong_PK = scores_PK if rank_wrong else torch.zeros_like(scores_PK)
    # Within an outcome, the first in this order stay; the other outcome comes after all of them.
    first_right_PK = torch.where(right_PK, -scores_PK, torch.inf).argsort(dim=1, stable=True).argsort(dim=1)
    first_wrong_PK = torch.where(right_PK, torch.inf, wrong_PK).argsort(dim=1, stable=True).argsort(dim=1)
    stays_PK = torch.where(
        right_PK, first_right_PK < keep_right_P[:, None], first_wrong_PK < (keep - keep_right_P)[:, None]
    )
    return stays_PK.flatten()
