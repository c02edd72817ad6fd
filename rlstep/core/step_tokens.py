"""From the advantages of steps to those of their tokens."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import pad

from rlstep.core.masked import check_left_contiguous, kept

__all__ = ["spread_over_tokens"]


def spread_over_tokens(
    process_BS: Tensor, outcome_B: Tensor, step_tokens: Sequence[Sequence[int]], mask_BT: Tensor
) -> Tensor:
    """Token advantages: the advantage of the token's step plus that of the outcome.

    A token belongs to the first step whose last token is at or after it. Tokens after the last step (the
    end-of-sequence token) belong to the last step. In a completion without steps, all tokens get the outcome's.

    Args:
        process_BS: (B, S) step advantages.
        outcome_B: (B,) the outcome's advantage.
        step_tokens: for each completion, the index of each step's last token, in order.
        mask_BT: (B, T) one on completion tokens; each row a run of ones, then zeros.

    Returns:
        advantages_BT, 0 where the mask is 0.

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
            f"{len(mask_BT)} of mask; give one of each for every completion."
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
    # Rows without steps point to an extra column, which holds 0.
    step_BT = torch.where(counts_B1 == 0, S, step_BT)
    advantages_BT = pad(process_BS, (0, 1)).gather(1, step_BT) + outcome_B[:, None]
    return kept(advantages_BT, mask_BT)
