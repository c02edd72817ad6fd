"""From judgements to what the loss needs: where rewards lie on tokens, and each estimator's token advantages.

The mathematics is in `rlstep.core`; here judgements become its tensors. `tokens` are, for each completion, the indices
of its steps' last tokens (none where TRL masked the whole row).
"""

from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from torch import Tensor
from torch.nn.functional import pad

from rlstep.core.advantages import group, rloo, spread_over_tokens, vine
from rlstep.core.masked import moment_sums, moments, whiten_with
from rlstep.core.rewards import pad_steps, place_step_rewards
from rlstep.policy.config import StepPPOConfig
from rlstep.policy.rewards.scored import ScoredCompletion

Sum = Callable[[Tensor], Tensor]  # a tensor's sum over the ranks
Tokens = Sequence[Sequence[int]]


def without_positive_steps(judgement: ScoredCompletion) -> ScoredCompletion:
    """What `truncated: no_process` leaves of a completion that was cut off: it gains nothing by its steps.

    Negative rewards stay: without them, to be cut off would be a way out for schemes that only take.
    """
    return replace(judgement, step_rewards=[min(reward, 0.0) for reward in judgement.step_rewards])


def charge_kl(judged: Sequence[ScoredCompletion], tokens: Tokens, cost_BT: Tensor) -> list[ScoredCompletion]:
    """Judgements whose step rewards have lost their tokens' KL.

    A token belongs to the first step that ends at or after it, those behind the last step to the last one. What belongs
    to steps that are not judged, or to none, is taken off the outcome.

    Args:
        judged, tokens: this rank's rows.
        cost_BT: beta times each token's KL, 0 where the mask is.
    """
    charged = []
    for judgement, places, cost_T in zip(judged, tokens, cost_BT.tolist(), strict=True):
        judged_steps = min(len(judgement.step_rewards), len(places))
        ends = [place + 1 for place in places[:judged_steps]]
        if ends and judged_steps == len(places):
            ends[-1] = len(cost_T)
        paid = zip(judgement.step_rewards, [0, *ends], ends, strict=False)
        rewards = [reward - sum(cost_T[a:b]) for reward, a, b in paid]
        rest = sum(cost_T[ends[-1] if ends else 0 :])
        charged.append(replace(judgement, step_rewards=rewards, outcome=judgement.outcome - rest))
    return charged


def token_rewards(judged: Sequence[ScoredCompletion], tokens: Tokens, mask_BT: Tensor) -> Tensor:
    """(B, T): step rewards on the steps' last tokens, the outcome on the completion's last one.

    A row that TRL masked (truncated, with mask_truncated_completions) is paid nothing.
    """
    lengths_B = mask_BT.sum(dim=1)
    paid = [row.step_rewards if length else [] for row, length in zip(judged, lengths_B.tolist(), strict=True)]
    return place_step_rewards(
        [torch.tensor(rewards, dtype=torch.float32) for rewards in paid],
        [list(places)[: len(rewards)] for places, rewards in zip(tokens, paid, strict=True)],
        _outcomes(judged).to(mask_BT.device) * (lengths_B > 0),
        (lengths_B - 1).clamp_min(0),
        mask_BT.shape[1],
    )


def group_advantages(
    everyone: Sequence[ScoredCompletion], local: slice, tokens: Tokens, mask_BT: Tensor, size: int, args: StepPPOConfig
) -> Tensor:
    """(B, T) of this rank's rows, against groups that may lie on several ranks.

    Args:
        everyone: the judgements of all ranks, a problem's samples together.
        local: which of them are this rank's.
        tokens, mask_BT: this rank's.
        size: samples a problem.
        args: step_discount, scale_rewards, step_baseline.
    """
    rewards_BS, steps_BS = _steps_of(everyone)
    process_BS, outcome_B = group(
        rewards_BS,
        steps_BS,
        _outcomes(everyone),
        group_size=size,
        discount=args.step_discount,
        scale=args.scale_rewards,
        baseline=args.step_baseline,
    )
    # Steps that were not judged get the outcome's advantage alone.
    process_BS = pad(process_BS, (0, max(len(row.steps) for row in everyone) - process_BS.shape[1]))
    device = mask_BT.device
    return spread_over_tokens(process_BS[local].to(device), outcome_B[local].to(device), tokens, mask_BT)


def rloo_advantages(rewards_BT: Tensor, mask_BT: Tensor, local: slice, size: int, gamma: float) -> Tensor:
    """(B, T) of this rank's rows; the tensors given are those of all ranks."""
    return rloo(rewards_BT, mask_BT, size, gamma)[local]


def vine_advantages(judged: Sequence[ScoredCompletion], values_BS: Tensor, tokens: Tokens, mask_BT: Tensor) -> Tensor:
    """(B, T) from Monte-Carlo values of the states at the steps' starts.

    Args:
        judged, tokens, mask_BT: this rank's.
        values_BS: (B, S), S the most steps of any row, at least 1; column 0 is the prompt's value.
    """
    rows = [replace(row, step_rewards=_full(row)) for row in judged]
    rewards_BS, steps_BS = _steps_of(rows)
    missing = values_BS.shape[1] - rewards_BS.shape[1]
    rewards_BS, steps_BS = pad(rewards_BS, (0, missing)), pad(steps_BS, (0, missing))
    process_BS, outcome_B = vine(rewards_BS, steps_BS, _outcomes(rows), values_BS)
    device = mask_BT.device
    return spread_over_tokens(process_BS.to(device), outcome_B.to(device), tokens, mask_BT)


def whiten(values_BT: Tensor, mask_BT: Tensor, total: Sum, shift_mean: bool) -> Tensor:
    """Variance 1 (and, with `shift_mean`, mean 0) over the completion tokens of all ranks."""
    mean, variance = moments(total(moment_sums(values_BT, mask_BT)))
    return whiten_with(values_BT, mask_BT, mean, variance, shift_mean=shift_mean)


def token_weights(mask_BT: Tensor, loss_type: str, items: Tensor, max_length: int, share: float) -> Tensor:
    """(B, T): how much each token counts in TRL's loss, so that a term of ours is averaged as TRL's own.

    Args:
        mask_BT: one on completion tokens.
        loss_type: TRL's; those of `rlstep.policy.config.TOKEN_LOSSES`.
        items: completion tokens of the generation batch, per rank (cispo, dapo).
        max_length: max_completion_length (dr_grpo).
        share: this micro-batch's share of an optimizer step: 1 over the accumulated micro-batches; of `items`'s batch
            for cispo and dapo: steps_per_generation over the accumulated micro-batches.
    """
    mask_BT = mask_BT.float()
    if loss_type in ("grpo", "sapo"):
        return mask_BT / mask_BT.sum(dim=1, keepdim=True).clamp_min(1) / len(mask_BT) * share
    if loss_type == "bnpo":
        return mask_BT / mask_BT.sum().clamp_min(1) * share
    if loss_type == "dr_grpo":
        return mask_BT / (len(mask_BT) * max_length) * share
    return mask_BT / items.clamp_min(1) * share


def _full(row: ScoredCompletion) -> list[float]:
    return row.step_rewards + [0.0] * (len(row.steps) - len(row.step_rewards))


def _steps_of(judged: Sequence[ScoredCompletion]) -> tuple[Tensor, Tensor]:
    return pad_steps([torch.tensor(row.step_rewards, dtype=torch.float32) for row in judged])


def _outcomes(judged: Sequence[ScoredCompletion]) -> Tensor:
    return torch.tensor([row.outcome for row in judged], dtype=torch.float32)
