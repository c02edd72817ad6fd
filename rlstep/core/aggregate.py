"""One score for a solution from the scores of its steps."""

import math
from collections.abc import Sequence
from typing import Literal

__all__ = ["Aggregate", "LOWEST", "logit_solution_score", "solution_score", "vote_weight"]

Aggregate = Literal["product", "minimum", "last", "mean"]

LOWEST = -math.inf
# A sum of class probabilities (positive + neutral) may exceed 1 by rounding.
_ROUNDING = 1e-6


def solution_score(step_probs: Sequence[float], how: Aggregate) -> float:
    """A score for ranking solutions: higher is better.

    "product" is in log space, sum of log p_k (Lightman et al., 2305.20050, 2.6 and appendix F): the product itself
    underflows to 0 in double precision from 54 steps of p = 1e-6 on, and solutions would tie. The others are
    probabilities: "minimum" (0.6 points worse than the product in that appendix), "last" (for an ORM, or a PRM trained
    on rollouts) and "mean".

    Args:
        step_probs: (S,) numbers or a tensor, each in [0, 1].
        how: product, minimum, last or mean.

    Returns:
        The score; `LOWEST` (minus infinity) for a solution without steps, below any with steps of p > 0.

    Raises:
        ValueError: unknown `how`, or a value outside [0, 1].
    """
    if how not in ("product", "minimum", "last", "mean"):
        raise ValueError(f"unknown aggregation '{how}'; choose product, minimum, last or mean.")
    probs = [float(p) for p in step_probs]
    for step, p in enumerate(probs):
        if not 0 <= p <= 1 + _ROUNDING:
            raise ValueError(f"step {step} has p={p}; step scores must be probabilities in [0, 1].")
    probs = [min(p, 1.0) for p in probs]
    if not probs:
        return LOWEST
    if how == "product":
        return math.fsum(math.log(p) for p in probs) if min(probs) > 0 else LOWEST
    if how == "minimum":
        return min(probs)
    if how == "last":
        return probs[-1]
    return math.fsum(probs) / len(probs)


def logit_solution_score(step_logits: Sequence[float], how: Aggregate) -> float:
    """A score for ranking solutions, from log-odds: higher is better.

    In log space, but for the mean: in double precision the sigmoid is 1 from a logit of 37 on, and the rewards of two
    solutions would tie.

    Args:
        step_logits: (S,) finite numbers; one for a reward of the whole solution.
        how: product, minimum, last or mean.

    Returns:
        The log of what `solution_score` computes from the probabilities, or their mean; `LOWEST` without steps.
    """
    log_probs = [_log_sigmoid(float(logit)) for logit in step_logits]
    if not log_probs:
        return LOWEST
    if how == "mean":
        return solution_score([math.exp(value) for value in log_probs], how)
    return {"product": math.fsum, "minimum": min, "last": lambda values: values[-1]}[how](log_probs)


def _log_sigmoid(logit: float) -> float:
    # exp overflows for a large number, but not for its negative.
    return -math.log1p(math.exp(-logit)) if logit >= 0 else logit - math.log1p(math.exp(logit))


def vote_weight(score: float, how: Aggregate, logits: bool = False) -> float:
    """A solution's score as a weight in [0, 1] for weighted voting: out of log space; 0 for no steps.

    Args:
        score: of `solution_score`, or with `logits` of `logit_solution_score`.
        how: how it was computed.
        logits: whether it was computed from log-odds.
    """
    return math.exp(score) if how == "product" or (logits and how != "mean") else max(score, 0.0)
