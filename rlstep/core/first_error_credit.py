"""Credit by the first error alone (VPPO, 2601.18984): a wrong solution keeps credit for what it wrote before it."""

import torch
from torch import Tensor

__all__ = ["first_error_rewards"]


def first_error_rewards(
    step_scores_S: Tensor, ends_S: Tensor, correct: bool, threshold: float, margin: float = 0.0
) -> Tensor:
    """One solution's step rewards by VPPO (2601.18984, equation 6), before their weight, the paper's alpha::

        wrong answer    1 on the last step of the rewarded prefix, 0 on all others
        right answer    0: the outcome alone pays it

    The PRM says one thing, where the first error is: at the first step scored below `threshold`. The steps before it
    are the good prefix. Its rewarded part ends `margin` characters earlier, at the last step that has ended by then:
    paying for the whole prefix would pay for splitting steps (the paper's step inflation).

    In sums of rewards from a step on, each step of the rewarded prefix has 1 and each later one 0, so that only what
    comes from the first error on is left to the outcome's penalty. Where no step is below the threshold, the error is
    not located, and there is no prefix to pay for.

    Args:
        step_scores_S: (S,) probability that each step is right.
        ends_S: (S,) where each step ends in the completion, in characters, rising.
        correct: whether the answer is right.
        threshold: a step is called wrong iff its score is below this, in [0, 1].
        margin: characters, 0 or more. The paper counts tokens: its prompt's length did best, a fixed 200 or a tenth of
            the completion did nearly as well.

    Returns:
        (S,) of the scores' dtype.

    Raises:
        ValueError: not one end per step.
    """
    if step_scores_S.shape != ends_S.shape or step_scores_S.dim() != 1:
        raise ValueError(
            f"step scores have shape {tuple(step_scores_S.shape)}, ends {tuple(ends_S.shape)}; give one of each for "
            "every step."
        )
    rewards_S = torch.zeros_like(step_scores_S)
    wrong = (step_scores_S < threshold).nonzero()
    if correct or not len(wrong):
        return rewards_S
    good = int(wrong[0])
    if good:
        paid = int((ends_S[:good] <= ends_S[good - 1] - margin).sum())
        if paid:
            rewards_S[paid - 1] = 1
    return rewards_S
