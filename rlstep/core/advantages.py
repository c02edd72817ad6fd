"""Advantages from step rewards, by the source of their baseline.

`gae` uses a critic and `vine` Monte-Carlo values; `group`, `rloo` and `mean_return` compare the samples of one problem.
`gae`, `rloo` and `mean_return` work on tokens; `group` and `vine` on steps, whose advantages
`rlstep.core.step_tokens.spread_over_tokens` gives to their tokens.
"""

from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import pad

from rlstep.core.masked import check_groups, check_left_contiguous, check_one_per_row, check_shapes, kept, row_ends

__all__ = ["gae", "group", "mean_return", "rloo", "vine"]

# TRL's GRPO adds the same to its standard deviation.
_STD_EPS = 1e-4


def gae(
    rewards_BT: Tensor, values_BT: Tensor, mask_BT: Tensor, gamma: float, lam: float, bootstrap_B: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Generalised advantage estimation (Schulman et al., 1506.02438, equation 16)::

        delta_t = r_t + gamma V_{t+1} - V_t
        A_t     = delta_t + gamma lam A_{t+1}
        R_t     = A_t + V_t

    A is 0 after a row's last token. So is V, whether the row is finished or truncated, unless `bootstrap_B` is given.

    Args:
        rewards_BT: reward of each token.
        values_BT: the critic's value before each token is chosen.
        mask_BT: bool or 0/1, one on completion tokens; each row a run of ones, then zeros.
        gamma: discount per token, in [0, 1].
        lam: at 0 the critic's value of the next token is trusted fully, at 1 not at all.
        bootstrap_B: (B,) the critic's value after each row's last token: what a truncated row would still have earned;
            0 for a finished one. It is ignored for rows without tokens.

    Returns:
        advantages_BT and returns_BT (the critic's targets), 0 where the mask is 0. Inputs there are never read.

    Raises:
        ValueError: shapes differ, a mask has a gap, or gamma or lam is outside [0, 1].
    """
    check_shapes(rewards_BT=rewards_BT, values_BT=values_BT, mask_BT=mask_BT)
    check_left_contiguous(mask_BT, "mask_BT")
    _check_fractions(gamma=gamma, lam=lam)
    mask_BT = mask_BT.bool()
    rewards_BT, values_BT = kept(rewards_BT, mask_BT), kept(values_BT, mask_BT)
    following_BT = _following(values_BT)
    if bootstrap_B is not None:
        check_one_per_row(len(mask_BT), "bootstrap values", bootstrap_B)
        following_BT = torch.where(row_ends(mask_BT), bootstrap_B[:, None].to(values_BT), following_BT)
    delta_BT = rewards_BT + gamma * following_BT - values_BT
    advantages_BT = _discounted_sums(delta_BT, gamma * lam)
    return advantages_BT, advantages_BT + values_BT


def rloo(rewards_BT: Tensor, mask_BT: Tensor, group_size: int, gamma: float = 1.0) -> Tensor:
    """Leave-one-out advantages with dense rewards, as in PURE (2504.15275) for process rewards::

        G_{i,t} = sum_{s >= t} gamma^(s-t) r_{i,s}
        b_i     = sum_{k != i} sum_t G_{k,t} / ((K - 1) N)
        A_{i,t} = G_{i,t} - b_i

    K is `group_size`, and k runs over the samples of i's problem. N is the number of tokens of the group's longest row,
    so neither padding nor other groups matter. The longest row may be row i itself: b_i then depends on that row's
    length, but never on its rewards. Positions after a row's end count among the N with return 0, so if rows differ in
    length, the baseline is nearer 0 than the others' mean return. With one reward per row, on its last token, gamma 1
    and rows of equal length, these are RLOO's advantages (2402.14740).

    A reward changes its own row's advantages up to its token, and all those of the other rows by the same amount. PURE
    whitens the advantages; here that is left to the caller.

    Args:
        rewards_BT: reward of each token.
        mask_BT: bool or 0/1, one on completion tokens; each row a run of ones, then zeros. A row without any still
            counts among the K, with returns 0.
        group_size: samples per problem; rows of a problem are adjacent.
        gamma: discount per token, in [0, 1].

    Returns:
        advantages_BT, 0 where the mask is 0. Inputs there are never read.

    Raises:
        ValueError: shapes differ, a mask has a gap, B is not a multiple of group_size, group_size below 2, or gamma
            outside [0, 1].
    """
    G_BT, mask_BT = _group_returns(rewards_BT, mask_BT, group_size, gamma)
    total_PK = G_BT.sum(dim=1).view(-1, group_size)
    longest_P1 = mask_BT.sum(dim=1).view(-1, group_size).amax(dim=1, keepdim=True)
    others_PK = total_PK.sum(dim=1, keepdim=True) - total_PK
    baseline_PK = others_PK / ((group_size - 1) * longest_P1.clamp_min(1))
    return kept(G_BT - baseline_PK.view(-1, 1), mask_BT)


def mean_return(rewards_BT: Tensor, mask_BT: Tensor, group_size: int, gamma: float = 1.0) -> Tensor:
    """Each token's return against the samples' mean returns, as in VPPO (2601.18984, equation 7)::

        G_{i,t} = sum_{s >= t} gamma^(s-t) r_{i,s}
        A_{i,t} = G_{i,t} - mean_i mean_t G_{i,t}

    The inner mean is over the row's own tokens, so that each of a problem's samples counts once, whatever its length;
    the outer one is over all of them, row i included. There is no division by a standard deviation: with returns that
    differ from token to token it may be tiny, and the paper found it to harm. With one reward per row, on its last
    token, and gamma 1 these are GRPO's advantages without that division.

    Args:
        rewards_BT: reward of each token.
        mask_BT: bool or 0/1, one on completion tokens; each row a run of ones, then zeros. A row without any still
            counts among the samples, with mean 0.
        group_size: samples per problem; rows of a problem are adjacent.
        gamma: discount per token, in [0, 1].

    Returns:
        advantages_BT, 0 where the mask is 0. Inputs there are never read.

    Raises:
        ValueError: as `rloo`.
    """
    G_BT, mask_BT = _group_returns(rewards_BT, mask_BT, group_size, gamma)
    means_B = kept(G_BT, mask_BT).sum(dim=1) / mask_BT.sum(dim=1).clamp_min(1)
    baseline_B = means_B.view(-1, group_size).mean(dim=1).repeat_interleave(group_size)
    return kept(G_BT - baseline_B[:, None], mask_BT)


def vine(step_rewards_BS: Tensor, step_mask_BS: Tensor, outcomes_B: Tensor, values_BS: Tensor) -> tuple[Tensor, Tensor]:
    """VinePPO's advantages (2410.01679): how much a step changes the Monte-Carlo value, undiscounted::

        A_k = r_k + V_{k+1} - V_k     for k < K
        A_K = r_K + outcome - V_K

    V_k is the mean return of rollouts from the start of step k: the sum of their later step rewards and their outcome
    reward, under the same credit scheme. V after the last step is 0.

    Args:
        step_rewards_BS: (B, S) step rewards, padded on the right; 0 for a step without a reward.
        step_mask_BS: (B, S) one where a step exists, rewarded or not; a row may have none.
        outcomes_B: (B,) outcome rewards.
        values_BS: (B, max(S, 1)) V_k. Column 0 is the prompt's value, which rows without steps also have.

    Returns:
        process_BS, 0 where there is no step, and outcome_B: the outcome is part of the last step's advantage, so
        outcome_B is 0; a row without steps has outcome - V_0 instead.

    Raises:
        ValueError: shapes differ or a mask has a gap.
    """
    check_shapes(step_rewards_BS=step_rewards_BS, step_mask_BS=step_mask_BS)
    check_left_contiguous(step_mask_BS, "step_mask_BS")
    B, S = step_rewards_BS.shape
    check_one_per_row(B, "outcomes", outcomes_B)
    if values_BS.shape != (B, max(S, 1)):
        raise ValueError(
            f"values have shape {tuple(values_BS.shape)} for {B} rows of {S} steps; give one for the start of each "
            "step, and column 0 also for rows without steps."
        )
    mask_BS = step_mask_BS.bool()
    known_BS = kept(values_BS[:, :S], mask_BS)
    paid_BS = step_rewards_BS + kept(outcomes_B[:, None].expand(B, S), row_ends(mask_BS))
    process_BS = kept(paid_BS + _following(known_BS) - known_BS, mask_BS)
    return process_BS, kept(outcomes_B - values_BS[:, 0], ~mask_BS.any(dim=1))


def group(
    step_rewards_BS: Tensor,
    step_mask_BS: Tensor,
    outcomes_B: Tensor,
    group_size: int,
    discount: float,
    scale: Literal["none", "group"] = "none",
    baseline: Literal["position", "all", "rewards"] = "all",
) -> tuple[Tensor, Tensor]:
    """Advantages relative to the samples of the same problem, separately for process and outcome::

        G_k       = sum_{j >= k} discount^(j-k) r_j
        process_k = G_k - b_k                                     position, all
        process_k = sum_{j >= k} discount^(j-k) (r_j - mean r)    rewards
        outcome   = outcome - mean outcome of the group

    b_k is the mean of G over all steps of all samples of the group (baseline="all"), or over the group's k-th steps
    only ("position"). Against the mean of all steps, a hard step is below average in every sample, so the policy learns
    to avoid it, by skipping it or doing an easier one. Against the other samples' k-th steps, it is compared with steps
    of its kind, and if all samples do equally well there is no noise.

    "rewards" is DeepSeekMath's process supervision (2402.03300, 4.1.3; discount 1, scale "group"): centred on the mean
    reward of all steps of the group, then summed. Equal rewards give 0 whatever the lengths, but the advantage
    grows with the number of remaining steps: each one above the mean adds to it, padding included, each one below
    subtracts.

    A policy also chooses how many steps to write. Against "all" and "rewards" one more step, with reward c after steps
    of mean reward m, seems to be worth c - m: they hide a bonus of -m for it (verl issue 7244), and are safe where the
    samples of a problem have equally many steps. Against "position" at discount 0 it seems to be worth nothing,
    whatever c is: the number of steps is neither rewarded nor penalised. At discount 1 it seems to be worth p c, p the
    share of the samples that write it.

    The sum of process and outcome is a step's advantage. discount=0 gives each step its own reward, 1 the sum over the
    steps from it on.

    Args:
        step_rewards_BS: (B, S) step rewards, padded on the right (`rlstep.core.rewards.pad_steps`).
        step_mask_BS: (B, S) one where a step exists; a row may have none.
        outcomes_B: (B,) outcome rewards.
        group_size: samples per problem; rows of a problem are adjacent.
        discount: per step, in [0, 1].
        baseline: "position", "all" or "rewards", as above.
        scale: "group" divides both parts by one number, which preserves the relative weights of process and outcome
            rewards: the standard deviation (dividing by n) of the whole advantage over the group's steps, where a
            sample without steps counts once, with its outcome part. For "rewards" it is sqrt(var r + var outcome), over
            the group's steps and its samples: where all outcomes are equal, DeepSeekMath's std of the step rewards
            (4.1.3); where all step rewards are, its std of the outcomes (4.1.2).

    Returns:
        process_BS, 0 where there is no step, and outcome_B.

    Raises:
        ValueError: shapes differ, a mask has a gap, B is not a multiple of group_size, group_size below 2 (nothing to
            compare with), discount outside [0, 1], or an unknown scale or baseline.
    """
    check_shapes(step_rewards_BS=step_rewards_BS, step_mask_BS=step_mask_BS)
    check_left_contiguous(step_mask_BS, "step_mask_BS")
    check_one_per_row(len(step_mask_BS), "outcomes", outcomes_B)
    check_groups(len(step_mask_BS), group_size)
    _check_fractions(discount=discount)
    if scale not in ("none", "group"):
        raise ValueError(f"unknown scale '{scale}'; choose none or group.")
    if baseline not in ("position", "all", "rewards"):
        raise ValueError(f"unknown baseline '{baseline}'; choose position, all or rewards.")

    mask_BS = step_mask_BS.bool()
    rewards_BS = kept(step_rewards_BS, mask_BS)
    if baseline == "rewards":
        centred_BS = kept(rewards_BS - _group_mean(rewards_BS, mask_BS, group_size), mask_BS)
        process_BS = _discounted_sums(centred_BS, discount)
    else:
        G_BS = _discounted_sums(rewards_BS, discount)
        baseline_BS = _group_mean(G_BS, mask_BS, group_size, by_position=baseline == "position")
        process_BS = kept(G_BS - baseline_BS, mask_BS)
    outcomes_PK = outcomes_B.view(-1, group_size)
    outcome_B = outcomes_B - outcomes_PK.mean(dim=1).repeat_interleave(group_size)
    if scale == "none":
        return process_BS, outcome_B
    if baseline == "rewards":
        outcome_variance_B = outcomes_PK.var(dim=1, correction=0).repeat_interleave(group_size)
        variance_B1 = _group_variance(rewards_BS, mask_BS, group_size) + outcome_variance_B[:, None]
    else:
        variance_B1 = _whole_variance(process_BS, outcome_B, mask_BS, group_size)
    std_B1 = variance_B1.sqrt() + _STD_EPS
    return process_BS / std_B1, outcome_B / std_B1[:, 0]


def _whole_variance(process_BS: Tensor, outcome_B: Tensor, mask_BS: Tensor, group_size: int) -> Tensor:
    """(B, 1) each group's variance of process + outcome over its steps; a sample without steps counts once."""
    # One extra column represents the samples without steps.
    counted_BS = torch.cat([mask_BS, ~mask_BS.any(dim=1, keepdim=True)], dim=1)
    return _group_variance(pad(process_BS, (0, 1)) + outcome_B[:, None], counted_BS, group_size)


def _group_returns(rewards_BT: Tensor, mask_BT: Tensor, group_size: int, gamma: float) -> tuple[Tensor, Tensor]:
    """(each token's return, the mask as bool), of arguments that it has checked."""
    check_shapes(rewards_BT=rewards_BT, mask_BT=mask_BT)
    check_left_contiguous(mask_BT, "mask_BT")
    check_groups(len(mask_BT), group_size)
    _check_fractions(gamma=gamma)
    mask_BT = mask_BT.bool()
    return _discounted_sums(kept(rewards_BT, mask_BT), gamma), mask_BT


def _check_fractions(**numbers: float) -> None:
    for name, value in numbers.items():
        if not 0 <= value <= 1:
            raise ValueError(f"{name}={value} must be in [0, 1].")


def _following(x_BL: Tensor) -> Tensor:
    """Each entry's successor along the last axis, 0 after the end."""
    return torch.cat([x_BL[:, 1:], torch.zeros_like(x_BL[:, :1])], dim=1)


def _discounted_sums(x_BL: Tensor, discount: float) -> Tensor:
    """y_k = x_k + discount y_{k+1} along the last axis, with y = 0 after the end."""
    sums_BL = torch.zeros_like(x_BL)
    later_B = x_BL.new_zeros(len(x_BL))
    for k in reversed(range(x_BL.shape[1])):
        later_B = x_BL[:, k] + discount * later_B
        sums_BL[:, k] = later_B
    return sums_BL


def _group_mean(x_BS: Tensor, mask_BS: Tensor, group_size: int, by_position: bool = False) -> Tensor:
    """For each row its group's mean under the mask, (B, 1), or per column, (B, S); 0 where the mask is empty."""
    dims = (1,) if by_position else (1, 2)
    total = kept(x_BS, mask_BS).unflatten(0, (-1, group_size)).sum(dims, keepdim=True)
    count = mask_BS.unflatten(0, (-1, group_size)).sum(dims, keepdim=True)
    return (total / count.clamp_min(1)).expand(-1, group_size, -1).flatten(0, 1)


def _group_variance(x_BS: Tensor, mask_BS: Tensor, group_size: int) -> Tensor:
    """(B, 1): for each row the variance (dividing by n) of its group under the mask; 0 where the mask is empty."""
    return _group_mean((x_BS - _group_mean(x_BS, mask_BS, group_size)).square(), mask_BS, group_size)
