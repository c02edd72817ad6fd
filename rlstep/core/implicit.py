"""Process rewards without step labels: the log-ratio of a model trained only on outcomes to the one it started from.

The log-odds of a right answer are parametrised as q = beta log(pi_phi(y) / pi_ref(y)). The contribution of the tokens
up to the end of a step estimates q there, and each step's own contribution is its reward (Yuan et al., 2412.01981,
section 3; used in online RL by PRIME, 2502.01456).
"""

import torch
from torch import Tensor

from rlstep.core.masked import check_shapes

__all__ = ["implicit_rewards", "outcome_probabilities"]


def implicit_rewards(log_ratios_N: Tensor, segments_N: Tensor, count: int, beta: float) -> Tensor:
    """r_k = beta * sum over the tokens of segment k of (log pi_phi - log pi_ref).

    Segments are steps, or whole completions: the rewards of a completion's steps add up to its own.

    Args:
        log_ratios_N: (N,) log pi_phi - log pi_ref of the tokens, in nats.
        segments_N: (N,) the segment of each token, from 0.
        count: number of segments; one without a token gets 0.
        beta: above 0; 0.05 in both papers.

    Returns:
        (count,), in nats.

    Raises:
        ValueError: shapes differ, or beta is not above 0.
    """
    check_shapes(log_ratios_N=log_ratios_N, segments_N=segments_N)
    if not beta > 0:
        raise ValueError(f"beta={beta} must be above 0, for example 0.05.")
    return beta * log_ratios_N.new_zeros(count).index_add(0, segments_N, log_ratios_N)


def outcome_probabilities(rewards_S: Tensor) -> Tensor:
    """(S,) sigmoid(q_k), q_k = r_1 + ... + r_k: the probability at the end of step k that the answer will be right."""
    return torch.sigmoid(rewards_S.cumsum(0))
