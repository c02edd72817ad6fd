"""How often the selected answer is right when N samples per problem are drawn: best-of-N, pass@N and votes.

A problem's pool is all of its samples. N of them are taken without replacement: resampling with replacement is biased
(one right sample of 8 would give pass@8 = 0.66, not 1), and the first N of the pool are only one of many subsets.
Best-of-N and pass@N are exact expectations over all subsets; votes are averaged over seeded ones. Unanswered samples
are dropped before picking, as in openai/prm800k's evaluation; a pick from nothing is wrong.
"""

from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache

import numpy as np

from rlstep.core.stats import normal_margin

__all__ = ["Curve", "best_of_n", "pass_at_n", "pooled", "vote_at_n"]


@dataclass(frozen=True)
class Curve:
    """A quantity against the number of samples.

    Attributes:
        ns: numbers of samples N, as given.
        mean: for each N the mean over problems, in [0, 1].
        low, high: 95% interval of that mean for other problems of the same kind: mean -/+ 1.96 standard errors of the
            problems' expectations (dividing by P - 1), clipped to [0, 1]. A single problem has no spread: [0, 1].
        problems_PN: (P, len(ns)) each problem's expectation, of which `mean` is the mean.
    """

    ns: list[int]
    mean: list[float]
    low: list[float]
    high: list[float]
    problems_PN: np.ndarray = field(repr=False, compare=False)


def best_of_n(
    scores: Sequence[Sequence[float]],
    correct: Sequence[Sequence[bool]],
    ns: Sequence[int],
    answered: Sequence[Sequence[bool]] | None = None,
    samples_per_problem: int | None = None,
) -> Curve:
    """Expected correctness of the highest-scored answered sample among N drawn without replacement, exactly.

    With a pool of M samples sorted by score, best first, the sample at rank i (from 0) is picked with probability
    w_i = C(M-1-i, N-1) / C(M, N). Samples of equal score share the sum of their weights: among those drawn, the
    pick is uniform.

    Args:
        scores: P sequences of N_p scores; minus infinity is allowed, NaN is not.
        correct: P sequences of N_p, whether each sample's answer is right.
        ns: numbers of samples, each at least 1.
        answered: P sequences of N_p; samples without an answer are drawn, but never picked. All answered when None.
        samples_per_problem: how many samples were drawn per problem; missing ones count as unanswered (as in
            openai/prm800k's evaluation). None: each problem has as many as are given.

    Raises:
        ValueError: no problems, rows of differing lengths, NaN scores, correctness other than 0 or 1, or an N above a
            problem's number of samples.
    """
    ns = _checked_ns(ns)
    expected_PN = []
    for problem, right, size in _pools(correct, ns, samples_per_problem, scores=scores, answered=answered):
        score_M = np.asarray(scores[problem], dtype=float)
        if np.isnan(score_M).any():
            raise ValueError(f"problem {problem} has a NaN score; score it again or mark the sample as unanswered.")
        if answered is not None:
            kept = np.asarray(answered[problem], dtype=bool)
            score_M, right = score_M[kept], right[kept]
        expected_PN.append(_pick_weights(size, tuple(ns))[:, : len(right)] @ _right_by_rank(score_M, right))
    return _curve(ns, expected_PN)


def pass_at_n(correct: Sequence[Sequence[bool]], ns: Sequence[int], samples_per_problem: int | None = None) -> Curve:
    """Probability that any of N samples drawn without replacement is right: 1 - C(M-c, N) / C(M, N), exactly.

    The unbiased estimator of Chen et al. (2107.03374, equation 1); it is best-of-N with a perfect score.

    Args:
        correct: P sequences of N_p, whether each sample's answer is right.
        ns: numbers of samples, each at least 1.
        samples_per_problem: how many samples were drawn per problem; missing ones count as wrong. None: each problem
            has as many as are given.

    Raises:
        ValueError: as `best_of_n`.
    """
    return best_of_n(correct, correct, ns, samples_per_problem=samples_per_problem)


def vote_at_n(
    answers: Sequence[Sequence[Hashable | None]],
    correct: Sequence[Sequence[bool]],
    ns: Sequence[int],
    weights: Sequence[Sequence[float]] | None = None,
    trials: int = 400,
    seed: int = 0,
    samples_per_problem: int | None = None,
) -> Curve:
    """Correctness of the answer with the most votes among N drawn without replacement, averaged over random subsets.

    Each trial shuffles the pool once and takes its first N for every N. Answers that tie count in equal shares. An
    answer's correctness is the share of its samples marked right: 0 or 1 if the grader depends on the answer alone.

    Args:
        answers: P sequences of N_p answers; equal ones vote together; None is unanswered and has no vote.
        correct: P sequences of N_p, whether each sample's answer is right.
        ns: numbers of samples, each at least 1.
        weights: P sequences of N_p finite weights >= 0, such as a verifier's probabilities; one vote each when None.
        trials: shuffles per problem.
        seed: seeds the shuffles.
        samples_per_problem: as in `best_of_n`.

    Raises:
        ValueError: as `best_of_n`; weights that are negative or not finite; trials below 1.
    """
    ns = _checked_ns(ns)
    if trials < 1:
        raise ValueError(f"trials={trials} must be at least 1.")
    rng = np.random.default_rng(seed)
    expected_PN = []
    for problem, right, size in _pools(correct, ns, samples_per_problem, answers=answers, weights=weights):
        weight = np.ones(len(right)) if weights is None else np.asarray(weights[problem], dtype=float)
        if not (np.isfinite(weight) & (weight >= 0)).all():
            raise ValueError(f"problem {problem} has a weight that is negative or not finite; give weights >= 0.")
        expected_PN.append(_vote(answers[problem], right, weight, size, ns, trials, rng))
    return _curve(ns, expected_PN)


def pooled(curves: Sequence[Curve]) -> Curve:
    """The curve of the problems of several curves together: each problem counts once, so a curve by its problems.

    The interval is that of one set of all these problems, so it also has the spread between the curves' means.

    >>> calculus = pass_at_n([[True, False], [False, False]], ns=[1])
    >>> physics = pass_at_n([[True, True]], ns=[1])
    >>> calculus.mean, physics.mean, pooled([calculus, physics]).mean
    ([0.25], [1.0], [0.5])

    Raises:
        ValueError: no curves, or curves at different numbers of samples.
    """
    if not curves:
        raise ValueError("no curves; give at least one.")
    if len({tuple(curve.ns) for curve in curves}) > 1:
        raise ValueError(f"the curves are at ns={[curve.ns for curve in curves]}; compute all at the same.")
    return _curve(curves[0].ns, np.concatenate([curve.problems_PN for curve in curves]))


def _vote(answers, right, weight, size: int, ns: list[int], trials: int, rng) -> np.ndarray:
    """For one problem: (len(ns),) mean over trials of the winning answer's correctness."""
    ids = {answer: k for k, answer in enumerate(dict.fromkeys(a for a in answers if a is not None))}
    K = len(ids)
    # Class K collects the samples without a vote: unanswered and missing ones.
    class_M = np.full(size, K)
    class_M[: len(right)] = [K if answer is None else ids[answer] for answer in answers]
    weight_M = np.zeros(size)
    weight_M[: len(right)] = weight
    voters = class_M[: len(right)]
    share_K = np.bincount(voters, right, K + 1)[:K] / np.bincount(voters, minlength=K + 1)[:K]

    order_RM = rng.permuted(np.tile(np.arange(size), (trials, 1)), axis=1)
    bins_RM = class_M[order_RM] + (K + 1) * np.arange(trials)[:, None]
    weight_RM = weight_M[order_RM]
    votes_RK = np.zeros((trials, K))
    drawn_RK = np.zeros((trials, K), dtype=bool)
    result, start = {}, 0
    for n in sorted(set(ns)):
        bins = bins_RM[:, start:n].ravel()
        bin_count = trials * (K + 1)
        votes_RK += np.bincount(bins, weight_RM[:, start:n].ravel(), bin_count).reshape(trials, K + 1)[:, :K]
        drawn_RK |= np.bincount(bins, minlength=bin_count).reshape(trials, K + 1)[:, :K] > 0
        start = n
        if K:
            most_R1 = votes_RK.max(axis=1, keepdims=True)
            # Equal sums of weights may differ by rounding, because they were added up in different orders.
            winners_RK = drawn_RK & (votes_RK >= most_R1 * (1 - 1e-12))
            result[n] = (winners_RK @ share_K / np.maximum(winners_RK.sum(axis=1), 1)).mean()
        else:
            result[n] = 0.0
    return np.array([result[n] for n in ns])


def _checked_ns(ns: Sequence[int]) -> list[int]:
    ns = [int(n) for n in ns]
    if not ns or min(ns) < 1:
        raise ValueError(f"ns={ns}: give numbers of samples, each at least 1.")
    return ns


def _pools(correct, ns: list[int], samples_per_problem: int | None, **others) -> Iterator[tuple[int, np.ndarray, int]]:
    """Yields (problem, correctness (N_p,), pool size) after checking that the lengths of all rows agree."""
    if not len(correct):
        raise ValueError("no problems; give at least one.")
    others = {name: rows for name, rows in others.items() if rows is not None}
    for name, rows in others.items():
        if len(rows) != len(correct):
            raise ValueError(f"{len(rows)} problems in {name}, {len(correct)} in correct; give the same problems.")
    for problem, row in enumerate(correct):
        right = np.asarray(row, dtype=float)
        if not ((right == 0) | (right == 1)).all():
            raise ValueError(f"problem {problem}: correct must be true or false for every sample; label it first.")
        for name, rows in others.items():
            if len(rows[problem]) != len(right):
                raise ValueError(f"problem {problem}: {len(rows[problem])} {name} for {len(right)} samples.")
        size = len(right) if samples_per_problem is None else samples_per_problem
        if len(right) > size:
            raise ValueError(f"problem {problem} has {len(right)} samples, above samples_per_problem={size}.")
        if max(ns) > size:
            raise ValueError(
                f"N={max(ns)} is above the {size} samples of problem {problem}; lower N, or give samples_per_problem "
                "to count missing samples as unanswered."
            )
        yield problem, right, size


def _right_by_rank(score_M: np.ndarray, right_M: np.ndarray) -> np.ndarray:
    """Correctness in order of falling score, where tied samples have the mean of their tie."""
    if not len(score_M):
        return right_M
    order = np.argsort(-score_M, kind="stable")
    score_M, right_M = score_M[order], right_M[order]
    starts = np.flatnonzero(np.r_[True, score_M[1:] != score_M[:-1]])
    sizes = np.diff(np.r_[starts, len(score_M)])
    return np.repeat(np.add.reduceat(right_M, starts) / sizes, sizes)


@lru_cache(maxsize=8)
def _pick_weights(size: int, ns: tuple[int, ...]) -> np.ndarray:
    """(len(ns), size): probability that the sample at a rank is the best of N drawn of `size`.

    Computed as products, because the binomials overflow: none of the i better ones is drawn with probability
    prod_{j<i} (size-N-j) / (size-j), and then the next one is drawn with probability N / (size-i).
    """
    rank = np.arange(size)
    n_N1 = np.array(ns)[:, None]
    missed = np.cumprod(np.maximum(size - n_N1 - rank, 0) / (size - rank), axis=1)
    none_better = np.concatenate([np.ones((len(ns), 1)), missed[:, :-1]], axis=1)
    return none_better * n_N1 / (size - rank)


def _curve(ns: list[int], expected_PN: Sequence[np.ndarray] | np.ndarray) -> Curve:
    # Rounding may push an expectation past 1 in the last digit.
    expected_PN = np.clip(np.array(expected_PN), 0, 1)
    mean = expected_PN.mean(axis=0)
    if len(expected_PN) == 1:
        return Curve(ns, mean.tolist(), [0.0] * len(ns), [1.0] * len(ns), expected_PN)
    margin = normal_margin(expected_PN)
    low, high = np.clip(mean - margin, 0, 1), np.clip(mean + margin, 0, 1)
    return Curve(ns, mean.tolist(), low.tolist(), high.tolist(), expected_PN)
