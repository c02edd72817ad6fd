"""One score for a solution from the scores of its steps."""

import math
from collections.abc import Sequence
from typing import Literal

__all__ = ["Aggregate", "LOWEST", "solution_score", "vote_weight"]

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


def vote_weight(score: float, how: Aggregate) -> float:
    """A `solution_score` as a weight in [0, 1] for weighted voting: out of log space; 0 for no steps."""
    return math.exp(score) if how == "product" else max(score, 0.0)
