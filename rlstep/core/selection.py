"""Which solutions to label: active selection, and what a label costs.

A problem's N solutions are put in the order in which to label them, and a budget is spent from the front. So selections
are nested: a larger budget buys what a smaller one does, and more, and budgets can be compared.
"""

import math
from collections.abc import Iterator, Sequence

import numpy as np

__all__ = [
    "by_turns", "convincing_order", "falling_order", "phases", "steps_to_label", "uncertainty", "within_budget",
]  # fmt: skip

HALF = 0.5


def convincing_order(
    scores: Sequence[float], wrong: Sequence[bool], wrong_share: float, phase: float, ties: Sequence[float]
) -> list[int]:
    """The most convincing wrong answers and the most convincing of the rest, in fixed shares.

    Lightman et al. (2305.20050, section 4.2): of n solutions to be labelled, 80% are the wrong-answer solutions that
    the selector scores highest, and 20% the highest-scoring of all that remain, right or wrong. Here the first n of the
    order hold the q(n) = floor(wrong_share * n + phase) highest-scoring wrong answers, and the n - q(n) highest-scoring
    of the others; where there are fewer than q(n) wrong answers, all of them.

    >>> wrong = [False, True, True, False]
    >>> convincing_order([0.9, 0.8, 0.7, 0.6], wrong, wrong_share=0.5, phase=0.5, ties=[0, 0, 0, 0])
    [1, 0, 2, 3]

    Args:
        scores: (N,) of the selector, higher is more convincing; minus infinity is allowed.
        wrong: (N,) whether the final answer is wrong.
        wrong_share: in [0, 1].
        phase: in [0, 1), how shares of a whole solution are rounded; over many problems with evenly spread phases
            (`phases`) the share of wrong answers is `wrong_share` for every n.
        ties: (N,) solutions of equal score are taken in the order of these.

    Returns:
        All N indices.

    Raises:
        ValueError: lists of different lengths, a NaN score, or a share or a phase outside its bounds.
    """
    if not (len(scores) == len(wrong) == len(ties)):
        raise ValueError(f"{len(scores)} scores, {len(wrong)} wrong, {len(ties)} ties; give one of each per solution.")
    if not 0 <= wrong_share <= 1 or not 0 <= phase < 1:
        raise ValueError(f"wrong_share={wrong_share} must be in [0, 1], and phase={phase} in [0, 1).")
    all_of_them = falling_order(scores, ties)
    wrong_ones = [index for index in all_of_them if wrong[index]]
    rest = iter(all_of_them)
    order: list[int] = []
    taken: set[int] = set()
    quota = 0
    for n in range(1, len(scores) + 1):
        # A share such as 0.7 times 10 may come out a hair below the whole number.
        before, quota = quota, min(math.floor(wrong_share * n + phase + 1e-9), len(wrong_ones))
        due = wrong_ones[quota - 1] if quota > before else None
        if due is None or due in taken:
            due = next(index for index in rest if index not in taken)
        order.append(due)
        taken.add(due)
    return order


def falling_order(values: Sequence[float], ties: Sequence[float]) -> list[int]:
    """The indices of N values, the highest first; equal ones in the order of `ties`.

    >>> falling_order([0.1, 0.5, 0.5], ties=[0.0, 0.9, 0.3])
    [2, 1, 0]

    Raises:
        ValueError: a value that is NaN, or not one tie per value.
    """
    if any(math.isnan(value) for value in values):
        raise ValueError("a value is NaN; score the solution again, or leave it out.")
    pairs = zip(values, ties, strict=True)
    return [index for _, _, index in sorted((-value, tie, index) for index, (value, tie) in enumerate(pairs))]


def phases(problems: int, seed: int) -> list[float]:
    """One phase per problem, spread evenly over [0, 1) in a random order: (k + 1/2) / P for k = 0 .. P - 1."""
    return ((np.random.default_rng(seed).permutation(problems) + HALF) / max(problems, 1)).tolist()


def uncertainty(probs_VS: Sequence[Sequence[float]]) -> float:
    """How little a verifier, or an ensemble of V verifiers, knows of a solution's steps.

    After ActPRM (2504.10559, section 3), which labels a solution where an ensemble is in doubt, and looks no further
    than the first step that it calls wrong: of one verifier the highest 1/2 - |p - 1/2| of a step, of several the
    highest standard deviation of their p (dividing by V). Both are in [0, 1/2]. Steps after the first whose mean p is
    below 1/2 do not count, for verifiers are not taught on what follows an error.

    >>> uncertainty([[0.9, 0.6, 0.2, 0.5]]), uncertainty([[0.9, 0.8], [0.9, 0.6]])
    (0.4, 0.10000000000000003)

    Args:
        probs_VS: of each verifier, its probability that each of the S steps is right.

    Returns:
        0 for a solution without steps.

    Raises:
        ValueError: no verifier, verifiers of different numbers of steps, or a value outside [0, 1].
    """
    if not len(probs_VS) or len({len(probs) for probs in probs_VS}) > 1:
        raise ValueError("give one or more verifiers' probabilities, each one value per step.")
    probs = np.asarray(probs_VS, dtype=float)
    if probs.shape[1] == 0:
        return 0.0
    if not ((probs >= 0) & (probs <= 1 + 1e-6)).all():
        raise ValueError("step scores must be probabilities in [0, 1].")
    mean_S = probs.mean(axis=0)
    wrong = np.flatnonzero(mean_S < HALF)
    stop = wrong[0] + 1 if len(wrong) else len(mean_S)
    doubt_S = probs.std(axis=0) if len(probs) > 1 else np.maximum(HALF - np.abs(mean_S - HALF), 0)
    return float(doubt_S[:stop].max())


def by_turns(orders: Sequence[Sequence[int]], each: int | None = None) -> Iterator[tuple[int, int]]:
    """Yields (problem, index): the first of every problem's order, then the second of every one, and so on.

    >>> list(by_turns([[4, 0], [1]]))
    [(0, 4), (1, 1), (0, 0)]

    Args:
        orders: one per problem, of differing lengths.
        each: how many of a problem at most; None: all.
    """
    longest = max(map(len, orders), default=0)
    for turn in range(longest if each is None else min(each, longest)):
        yield from ((problem, order[turn]) for problem, order in enumerate(orders) if turn < len(order))


def steps_to_label(steps: int, labels: Sequence[float | None] | None = None) -> int:
    """What labelling a solution costs: its steps up to and including the first wrong one, where labelling stops.

    Without labels that step is unknown and all steps count, which is an upper bound. A step is wrong if its label is
    below one half.

    >>> steps_to_label(5), steps_to_label(5, [1, 0, None, None, None])
    (5, 2)
    """
    first = next((step for step, label in enumerate(labels or ()) if label is not None and label < HALF), None)
    return steps if first is None else first + 1


def within_budget(costs: Sequence[int], budget: int) -> int:
    """How many of the first items a budget pays for: the most whose costs add up to no more than it.

    >>> within_budget([3, 4, 2], budget=8)
    2
    """
    return int(np.searchsorted(np.cumsum(costs), budget, side="right")) if len(costs) else 0
