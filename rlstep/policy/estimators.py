"""From scored completions to what the loss needs: where rewards lie on tokens, and each estimator's token advantages.

The mathematics is in `rlstep.core`; here scored completions become its tensors. `step_ends` are, for each completion,
the indices of its steps' last tokens (`step_end_tokens`).
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from torch import Tensor
from torch.nn.functional import pad
from transformers import PreTrainedTokenizerBase

from rlstep.core.advantages import group, mean_return, rloo, vine
from rlstep.core.masked import moment_sums, moments, whiten_with
from rlstep.core.outcome_groups import centre_wrong, consistent
from rlstep.core.process_sets import process_sets, set_weights
from rlstep.core.rewards import pad_steps, place_step_rewards
from rlstep.core.step_tokens import spread_over_tokens
from rlstep.policy.config import StepPPOConfig
from rlstep.policy.rewards.scored import ScoredCompletion
from rlstep.runtime.errors import UserError
from rlstep.steps.positions import step_tokens, token_ends_from_ids

OUTCOMES_ALONE = (
    "token_weights 'process_set' takes the mean outcome of the samples that share a prefix for the prefix's reward, "
    "and {source}; pay outcomes alone, or leave token_weights at 'equal'"
)
Sum = Callable[[Tensor], Tensor]  # a tensor's sum over the ranks
StepEnds = Sequence[Sequence[int]]


def step_end_tokens(
    tokenizer: PreTrainedTokenizerBase, ids_BT: Tensor, mask_BT: Tensor, scored: Sequence[ScoredCompletion]
) -> list[list[int]]:
    """For each completion, the index of every step's last token; empty if TRL masked the whole row.

    Args:
        tokenizer: the policy's.
        ids_BT, mask_BT: the completions' tokens, padded on the right.
        scored: with the steps' character spans.
    """
    step_ends = []
    for ids, length, row in zip(ids_BT.tolist(), mask_BT.sum(dim=1).tolist(), scored, strict=True):
        step_ends.append(step_tokens(token_ends_from_ids(tokenizer, ids[:length]), row.steps) if length else [])
    return step_ends


def without_positive_steps(row: ScoredCompletion) -> ScoredCompletion:
    """A truncated completion under `truncated: no_process`: it gains nothing from its steps.

    Negative rewards stay: otherwise truncation would be an escape under schemes whose rewards are never positive.
    """
    return replace(row, step_rewards=[min(reward, 0.0) for reward in row.step_rewards])


def centre_and_select(
    everyone: Sequence[ScoredCompletion], args: StepPPOConfig
) -> tuple[Sequence[ScoredCompletion], Tensor | None]:
    """Centres the step rewards of wrong samples and selects the samples to train on, as far as the settings ask for it.

    Args:
        everyone: the completions of all ranks, a problem's samples together.
        args: num_generations, centre_wrong, keep_samples, keep_wrong.

    Returns:
        the completions, with the wrong ones' step rewards centred if that is set; and which are trained on, (B,) bool,
        None for all.

    Raises:
        UserError: samples are to be selected by their step scores, and there are none.
    """
    size, correct_B = args.num_generations, torch.tensor([row.correct for row in everyone], dtype=torch.bool)
    trained_B = None
    if args.keep_samples is not None:
        means_B = torch.tensor([_mean_score(row) for row in everyone])
        trained_B = consistent(means_B, correct_B, size, args.keep_samples, rank_wrong=args.keep_wrong == "lowest")
    if args.centre_wrong:
        rewards = centre_wrong(*_steps_of(everyone), correct_B, size).tolist()
        rows = zip(everyone, rewards, strict=True)
        everyone = [replace(row, step_rewards=of_row[: len(row.step_rewards)]) for row, of_row in rows]
    return everyone, trained_B


def _mean_score(row: ScoredCompletion) -> float:
    """NaN without steps; of a completion that was cut for the PRM, steps that it did not read count as 0."""
    if row.step_scores is None:
        raise UserError(
            "keep_samples ranks completions by a PRM's step scores, and this reward source gives none; set step_scores "
            "in its ScoredCompletion, or leave keep_samples out."
        )
    count = len(row.steps if row.cut_by else row.step_scores)
    return sum(row.step_scores) / count if count else math.nan


def charge_kl(scored: Sequence[ScoredCompletion], step_ends: StepEnds, cost_BT: Tensor) -> list[ScoredCompletion]:
    """The scored completions with their tokens' KL subtracted from their step rewards.

    A token belongs to the first step that ends at or after it, those after the last step to the last one. What belongs
    to steps that are not scored, or to none, is taken off the outcome.

    Args:
        scored, step_ends: this rank's rows.
        cost_BT: beta times each token's KL, 0 where the mask is.
    """
    charged = []
    for row, last_tokens, cost_T in zip(scored, step_ends, cost_BT.tolist(), strict=True):
        steps = min(len(row.step_rewards), len(last_tokens))
        ends = [token + 1 for token in last_tokens[:steps]]
        if ends and steps == len(last_tokens):
            ends[-1] = len(cost_T)
        spans = zip(row.step_rewards, [0, *ends], ends, strict=False)
        rewards = [reward - sum(cost_T[a:b]) for reward, a, b in spans]
        rest = sum(cost_T[ends[-1] if ends else 0 :])
        charged.append(replace(row, step_rewards=rewards, outcome=row.outcome - rest))
    return charged


def token_rewards(scored: Sequence[ScoredCompletion], step_ends: StepEnds, mask_BT: Tensor) -> Tensor:
    """(B, T): step rewards on the steps' last tokens, the outcome on the completion's last one.

    A row that TRL masked (truncated, with mask_truncated_completions) gets no reward.
    """
    outcomes_B = _outcomes(scored).to(mask_BT.device)
    lengths_B = mask_BT.sum(dim=1)
    paid = [row.step_rewards if length else [] for row, length in zip(scored, lengths_B.tolist(), strict=True)]
    return place_step_rewards(
        [torch.tensor(rewards, dtype=torch.float32) for rewards in paid],
        [list(ends)[: len(rewards)] for ends, rewards in zip(step_ends, paid, strict=True)],
        outcomes_B * (lengths_B > 0),
        (lengths_B - 1).clamp_min(0),
        mask_BT.shape[1],
    )


def group_advantages(
    everyone: Sequence[ScoredCompletion],
    local: slice,
    step_ends: StepEnds,
    mask_BT: Tensor,
    size: int,
    args: StepPPOConfig,
    trained_B: Tensor | None = None,
) -> Tensor:
    """(B, T) advantages of this rank's rows, relative to groups that may be spread over several ranks.

    Args:
        everyone: the completions of all ranks, a problem's samples together.
        local: which of them are this rank's.
        step_ends, mask_BT: this rank's.
        size: samples per problem that stay.
        args: step_discount, scale_rewards, step_baseline.
        trained_B: which of all ranks' rows are trained on, and so compared (`centre_and_select`); None for all.
    """
    if trained_B is None:
        trained_B = torch.ones(len(everyone), dtype=torch.bool)
    rewards_BS, steps_BS = _steps_of(everyone)
    process_RS, outcome_R = group(
        rewards_BS[trained_B],
        steps_BS[trained_B],
        _outcomes(everyone)[trained_B],
        group_size=size,
        discount=args.step_discount,
        scale=args.scale_rewards,
        baseline=args.step_baseline,
    )
    process_BS, outcome_B = _among_all(process_RS, trained_B), _among_all(outcome_R, trained_B)
    # Steps that were not scored get only the outcome's advantage.
    process_BS = pad(process_BS, (0, max(len(row.steps) for row in everyone) - process_BS.shape[1]))
    device = mask_BT.device
    return spread_over_tokens(process_BS[local].to(device), outcome_B[local].to(device), step_ends, mask_BT)


def return_advantages(
    rewards_BT: Tensor,
    mask_BT: Tensor,
    local: slice,
    size: int,
    args: StepPPOConfig,
    trained_B: Tensor | None = None,
) -> Tensor:
    """(B, T) of this rank's rows by `rloo` or `mean_return`.

    Args:
        rewards_BT, mask_BT: those of all ranks.
        local: which of them are this rank's.
        size: samples per problem that stay.
        args: advantage, gamma.
        trained_B: as in `group_advantages`.
    """
    estimator = {"rloo": rloo, "mean_return": mean_return}[args.advantage]
    if trained_B is None:
        return estimator(rewards_BT, mask_BT, size, args.gamma)[local]
    trained_B = trained_B.to(mask_BT.device)
    return _among_all(estimator(rewards_BT[trained_B], mask_BT[trained_B], size, args.gamma), trained_B)[local]


def vine_advantages(
    scored: Sequence[ScoredCompletion], values_BS: Tensor, step_ends: StepEnds, mask_BT: Tensor
) -> Tensor:
    """(B, T) from Monte-Carlo values of the states at the steps' starts.

    Args:
        scored, step_ends, mask_BT: this rank's.
        values_BS: (B, S), S the most steps of any row, at least 1; column 0 is the prompt's value.
    """
    outcomes_B = _outcomes(scored)
    rewards_BS, steps_BS = _steps_of([replace(row, step_rewards=_with_unscored(row)) for row in scored])
    missing = values_BS.shape[1] - rewards_BS.shape[1]
    rewards_BS, steps_BS = pad(rewards_BS, (0, missing)), pad(steps_BS, (0, missing))
    process_BS, outcome_B = vine(rewards_BS, steps_BS, outcomes_B, values_BS)
    device = mask_BT.device
    return spread_over_tokens(process_BS.to(device), outcome_B.to(device), step_ends, mask_BT)


def whiten(values_BT: Tensor, mask_BT: Tensor, total: Sum, shift_mean: bool) -> Tensor:
    """Variance 1 (and, with `shift_mean`, mean 0) over the completion tokens of all ranks."""
    mean, variance = moments(total(moment_sums(values_BT, mask_BT)))
    return whiten_with(values_BT, mask_BT, mean, variance, shift_mean=shift_mean)


def token_weights(mask_BT: Tensor, loss_type: str, items: Tensor, max_length: int, share: float) -> Tensor:
    """(B, T): each token's weight in TRL's loss, so that an added term is averaged like TRL's own.

    Args:
        mask_BT: one on completion tokens.
        loss_type: TRL's; those of `rlstep.policy.inherited.TOKEN_LOSSES`.
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


def process_set_weights(everyone: Sequence[ScoredCompletion], ids_BT: Tensor, mask_BT: Tensor, size: int) -> Tensor:
    """(B, T): what each token's loss is multiplied by under `token_weights: process_set`.

    Args:
        everyone: the completions of all ranks, a problem's samples together.
        ids_BT, mask_BT: their tokens; rows that are not trained on have none, and are in no process set.
        size: samples per problem.

    Raises:
        UserError: some step is paid.
    """
    if any(reward for row in everyone for reward in row.step_rewards):
        raise UserError(OUTCOMES_ALONE.format(source="this reward source pays for steps, too") + ".")
    groups_B = torch.arange(len(everyone)) // size
    # One small sort per place, which gains nothing on a GPU.
    return set_weights(process_sets(ids_BT.cpu(), mask_BT.cpu(), groups_B)).to(mask_BT.device)


def share_of_loss(mask_bT: Tensor, mask_BT: Tensor, loss_type: str) -> Tensor | float:
    """What the loss of some rows of a micro-batch is multiplied by, so that all of its parts add up to its own.

    Args:
        mask_bT, mask_BT: one on the completion tokens of those rows, and of the whole micro-batch.
        loss_type: TRL's; those of `rlstep.policy.inherited.TOKEN_LOSSES`.
    """
    if loss_type in ("cispo", "dapo"):
        return 1.0  # divided by the tokens of the whole generation batch, whatever is computed at a time
    if loss_type == "bnpo":
        return mask_bT.sum() / mask_BT.sum().clamp_min(1)
    return len(mask_bT) / len(mask_BT)


def _among_all(x_R: Tensor, trained_B: Tensor) -> Tensor:
    """The values of the rows that stay among all rows, of which the others have 0."""
    x_B = x_R.new_zeros(len(trained_B), *x_R.shape[1:])
    x_B[trained_B] = x_R
    return x_B


def _with_unscored(row: ScoredCompletion) -> list[float]:
    """One reward per step, 0 for those that are not scored."""
    return row.step_rewards + [0.0] * (len(row.steps) - len(row.step_rewards))


def _steps_of(scored: Sequence[ScoredCompletion]) -> tuple[Tensor, Tensor]:
    return pad_steps([torch.tensor(row.step_rewards, dtype=torch.float32) for row in scored])


def _outcomes(scored: Sequence[ScoredCompletion]) -> Tensor:
    return torch.tensor([row.outcome for row in scored], dtype=torch.float32)
