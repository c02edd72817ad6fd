"""Wrong answers, and right answers that rest on a wrong step (Uesato et al., 2211.14275, section 2.1)."""

import math
from collections.abc import Sequence

__all__ = ["final_answer_error", "trace_error"]


def final_answer_error(correct: Sequence[float]) -> float:
    """The share of problems whose returned answer is wrong: 1 - mean(correct).

    >>> final_answer_error([True, True, True, False])
    0.25

    Args:
        correct: (P,) for each problem whether the returned answer is right, or the probability that it is.

    Returns:
        In [0, 1]; NaN for no problems.

    Raises:
        ValueError: a value outside [0, 1].
    """
    _check(correct)
    return 1 - math.fsum(correct) / len(correct) if len(correct) else math.nan


def trace_error(correct: Sequence[float], clean: Sequence[float]) -> float:
    """Among problems whose returned answer is right, the share whose solution has a wrong step.

    1 - sum(clean) / sum(correct). With probabilities (the pick of best-of-N, over the subsets that may be drawn) it is
    a ratio of expectations: the share among all right picks, over problems and subsets alike.

    >>> trace_error(correct=[True, True, True, False], clean=[True, True, False, False])
    0.33333333333333337

    Args:
        correct: (P,) for each problem whether the returned answer is right, or the probability that it is.
        clean: (P,) whether the answer and every step are right, or the probability; never above `correct`.

    Returns:
        In [0, 1]; NaN where no answer is right.

    Raises:
        ValueError: a value outside [0, 1], not one of each per problem, or a solution more often clean than right.
    """
    _check(correct)
    _check(clean)
    if len(correct) != len(clean):
        raise ValueError(f"{len(correct)} values of correct, {len(clean)} of clean; give one of each per problem.")
    for problem, (right, all_right) in enumerate(zip(correct, clean, strict=True)):
        if all_right > right + 1e-9:
            raise ValueError(f"problem {problem} is clean with {all_right} and right with {right}; clean means both.")
    right = math.fsum(correct)
    return 1 - min(math.fsum(clean) / right, 1.0) if right else math.nan


def _check(shares: Sequence[float]) -> None:
    for problem, value in enumerate(shares):
        if not 0 <= value <= 1:
            raise ValueError(f"problem {problem} has {value}; give true or false, or a probability.")
