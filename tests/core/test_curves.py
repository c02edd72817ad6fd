"""The oracles here enumerate subsets; nothing of the closed forms is used to test them."""

import math
from itertools import combinations
from statistics import mean, stdev

import numpy as np
import pytest

from rlstep.core.curves import best_of_n, pass_at_n, pooled, vote_at_n


def best_by_enumeration(scores, correct, answered, size, n):
    """Mean over all subsets of n of the pool's `size` samples; a tie's pick is uniform, an empty pool is wrong."""
    outcomes = []
    for subset in combinations(range(size), n):
        pool = [i for i in subset if i < len(scores) and answered[i]]
        best = [i for i in pool if scores[i] == max(scores[j] for j in pool)]
        outcomes.append(mean(correct[i] for i in best) if best else 0)
    return mean(outcomes)


def vote_by_enumeration(answers, correct, weights, n):
    outcomes = []
    for subset in combinations(range(len(answers)), n):
        votes = {}
        for i in subset:
            if answers[i] is not None:
                votes[answers[i]] = votes.get(answers[i], 0) + weights[i]
        winners = [a for a in votes if math.isclose(votes[a], max(votes.values()), abs_tol=1e-12)]
        right = {a: c for a, c in zip(answers, correct, strict=True)}
        outcomes.append(mean(right[a] for a in winners) if winners else 0)
    return mean(outcomes)


def random_problems(rng, P, ragged=True, levels=4):
    """Few score levels, so that there are ties."""
    sizes = rng.integers(4, 9, P) if ragged else [8] * P
    scores = [rng.integers(0, levels, n).tolist() for n in sizes]
    correct = [(rng.random(n) < 0.4).tolist() for n in sizes]
    answered = [(rng.random(n) < 0.7).tolist() for n in sizes]
    return scores, correct, answered


def test_best_of_n_by_hand():
    # best sample wrong, second right: drawing 2 of 3 finds the pair (best, .) twice and (second, third) once
    curve = best_of_n([[3, 2, 1]], [[False, True, False]], [1, 2, 3])
    assert curve.ns == [1, 2, 3]
    assert curve.mean == pytest.approx([1 / 3, 1 / 3, 0])


@pytest.mark.parametrize("seed", range(3))
def test_best_of_n_equals_enumeration(seed):
    scores, correct, answered = random_problems(np.random.default_rng(seed), P=12)
    ns = [1, 2, 3, 4]
    curve = best_of_n(scores, correct, ns, answered=answered)
    padded = best_of_n(scores, correct, [*ns, 9, 10], answered=answered, samples_per_problem=10)
    for column, n in enumerate(ns):
        rows = list(zip(scores, correct, answered, strict=True))
        assert curve.mean[column] == pytest.approx(mean(best_by_enumeration(*row, len(row[0]), n) for row in rows))
        assert padded.mean[column] == pytest.approx(mean(best_by_enumeration(*row, 10, n) for row in rows))


def test_ties_are_averaged_and_order_does_not_matter():
    assert best_of_n([[1, 1, 0]], [[1, 0, 0]], [3]).mean == pytest.approx([0.5])
    assert best_of_n([[1, 1, 0]], [[0, 1, 0]], [3]).mean == pytest.approx([0.5])
    # constant scores choose at random: pass@1 for every N
    assert best_of_n([[7] * 8], [[1] * 3 + [0] * 5], [1, 3, 8]).mean == pytest.approx([3 / 8] * 3)


def test_unanswered_samples_are_dropped_and_an_empty_pool_is_wrong():
    scores, correct = [[9, 1]], [[True, True]]
    assert best_of_n(scores, [[False, True]], [2], answered=[[False, True]]).mean == [1.0]
    assert best_of_n(scores, correct, [1], answered=[[False, True]]).mean == [0.5]
    assert best_of_n(scores, correct, [1, 2], answered=[[False, False]]).mean == [0.0, 0.0]
    assert best_of_n([[]], [[]], [1], samples_per_problem=3).mean == [0.0]


def test_minus_infinity_is_a_score():
    assert best_of_n([[-math.inf, -1.0]], [[False, True]], [1, 2]).mean == pytest.approx([0.5, 1.0])


def test_pass_at_n_by_hand():
    # one of 8 right; Chen et al. 2107.03374: 1 - C(7, n) / C(8, n) = n / 8
    curve = pass_at_n([[1] + [0] * 7], [1, 2, 8])
    assert curve.mean == pytest.approx([1 / 8, 2 / 8, 1.0])
    two = pass_at_n([[1, 1, 0, 0, 0]], [2])
    assert two.mean == pytest.approx([1 - math.comb(3, 2) / math.comb(5, 2)])
    assert pass_at_n([[1]], [1, 4], samples_per_problem=4).mean == pytest.approx([1 / 4, 1.0])


def test_pass_at_n_bounds_best_of_n_at_published_sizes():
    rng = np.random.default_rng(1)
    scores, correct = rng.random((5, 1860)), rng.random((5, 1860)) < 0.01
    ns = [1, 10, 100, 1000, 1860]
    best, passed = best_of_n(scores, correct, ns), pass_at_n(correct, ns)
    assert all(b <= p + 1e-12 for b, p in zip(best.mean, passed.mean, strict=True))
    expected = [mean(1 - math.comb(1860 - c, n) / math.comb(1860, n) for c in correct.sum(1).tolist()) for n in ns]
    assert passed.mean == pytest.approx(expected)
    assert best.mean[0] == pytest.approx(correct.mean())
    # all 1860 drawn: the best sample of each problem, for certain
    assert best.mean[-1] == pytest.approx(correct[range(5), scores.argmax(axis=1)].mean())


def test_interval_is_over_problems():
    # expectations at N=1: 1, 0.5, 0, 0.5
    curve = best_of_n([[2, 1]] * 4, [[1, 1], [1, 0], [0, 0], [0, 1]], [1])
    margin = 1.959964 * stdev([1, 0.5, 0, 0.5]) / 2
    assert curve.low == pytest.approx([0.5 - margin])
    assert curve.high == pytest.approx([0.5 + margin])
    many = best_of_n([[1]] * 3, [[1], [1], [0]], [1])
    assert many.high == [1.0]  # clipped
    assert 0 <= many.low[0] < 2 / 3
    alone = best_of_n([[1]], [[1]], [1])
    assert (alone.low, alone.mean, alone.high) == ([0.0], [1.0], [1.0])


def test_majority_by_hand():
    answers, correct = [["7", "7", "3", "3", "3"]], [[0, 0, 1, 1, 1]]
    assert vote_at_n(answers, correct, [5]).mean == [1.0]
    # two against two once one 3 has no vote: half
    assert vote_at_n([["7", "7", "3", "3", None]], [[0, 0, 1, 1, 0]], [5]).mean == [0.5]
    assert vote_at_n([[None, None]], [[0, 0]], [1, 2]).mean == [0.0, 0.0]
    assert vote_at_n([["3"]], [[1]], [2], samples_per_problem=2).mean == [1.0]


def test_weights_decide_votes():
    answers, correct = [["7", "7", "3"]], [[0, 0, 1]]
    assert vote_at_n(answers, correct, [3]).mean == [0.0]
    assert vote_at_n(answers, correct, [3], weights=[[0.2, 0.2, 0.5]]).mean == [1.0]
    # 0.1 + 0.2 against 0.3 is a tie, whatever the rounding
    assert vote_at_n(answers, correct, [3], weights=[[0.1, 0.2, 0.3]]).mean == [0.5]
    # no weight at all: the answers that were drawn tie
    assert vote_at_n(answers, correct, [3], weights=[[0, 0, 0]]).mean == [0.5]


@pytest.mark.parametrize("weighted", [False, True])
def test_votes_agree_with_enumeration(weighted):
    rng = np.random.default_rng(5)
    right_answer, answers = "b", [rng.choice(["a", "b", "c", ""], 7).tolist() for _ in range(6)]
    answers = [[a or None for a in row] for row in answers]
    correct = [[a == right_answer for a in row] for row in answers]
    weights = [rng.random(7).tolist() if weighted else [1.0] * 7 for _ in range(6)]
    ns = [1, 3, 4, 7]
    curve = vote_at_n(answers, correct, ns, weights=weights if weighted else None, trials=4000, seed=1)
    rows = list(zip(answers, correct, weights, strict=True))
    expected = [mean(vote_by_enumeration(*row, n) for row in rows) for n in ns]
    # six problems x 4000 trials: a standard error is at most 0.0033
    assert curve.mean == pytest.approx(expected, abs=0.013)
    assert curve.mean[-1] == pytest.approx(expected[-1])  # all drawn: no randomness


def test_votes_are_seeded_and_follow_the_order_of_ns():
    rng = np.random.default_rng(0)
    answers = rng.integers(0, 3, (4, 9)).tolist()
    correct = [[a == 1 for a in row] for row in answers]
    curve = vote_at_n(answers, correct, [1, 3, 9], trials=50, seed=3)
    assert vote_at_n(answers, correct, [1, 3, 9], trials=50, seed=3) == curve
    assert vote_at_n(answers, correct, [9, 1, 3], trials=50, seed=3).mean == [curve.mean[i] for i in (2, 0, 1)]
    assert vote_at_n(answers, correct, [1, 3, 9], trials=50, seed=4) != curve


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: best_of_n([[1, 2]], [[1, 0]], [3]), r"N=3 is above the 2 samples of problem 0"),
        (lambda: best_of_n([[1, 2], [1]], [[1, 0], [1]], [2]), "above the 1 samples of problem 1"),
        (lambda: best_of_n([[1, 2]], [[1, 0]], [4], samples_per_problem=3), "N=4 is above the 3"),
        (lambda: best_of_n([[1, 2]], [[1, 0]], [1], samples_per_problem=1), "above samples_per_problem=1"),
        (lambda: best_of_n([[1, 2]], [[1, 0]], []), "at least 1"),
        (lambda: best_of_n([[1, 2]], [[1, 0]], [0, 1]), "at least 1"),
        (lambda: best_of_n([], [], [1]), "no problems"),
        (lambda: best_of_n([[1]], [[1], [0]], [1]), "1 problems in scores, 2 in correct"),
        (lambda: best_of_n([[1]], [[1, 0]], [1]), "problem 0: 1 scores for 2 samples"),
        (lambda: best_of_n([[1, math.nan]], [[1, 0]], [1]), "problem 0 has a NaN score"),
        (lambda: best_of_n([[1]], [[None]], [1]), "label it first"),
        (lambda: best_of_n([[1]], [[1]], [1], answered=[[1, 1]]), "2 answered for 1 samples"),
        (lambda: pass_at_n([[0.5]], [1]), "true or false"),
        (lambda: vote_at_n([["a"]], [[1]], [1], weights=[[-1]]), "weights >= 0"),
        (lambda: vote_at_n([["a"]], [[1]], [1], trials=0), "trials=0"),
        (lambda: vote_at_n([["a"]], [[1]], [2]), "N=2 is above"),
    ],
)
def test_bad_input(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_curves_are_pooled_by_their_problems():
    """Table 1 of Lightman et al.: 234 problems, of which each counts once. Every problem here has its set's mean."""
    problems = (45, 60, 45, 84)
    for permilles, together in (((867, 800, 867, 532), 0.729), ((800, 717, 822, 328), 0.613)):
        sets = [
            pass_at_n([[True] * right + [False] * (1000 - right)] * count, [1])
            for right, count in zip(permilles, problems, strict=True)
        ]
        assert pooled(sets).mean == pytest.approx([together], abs=1e-3)


def test_a_pooled_interval_is_that_of_all_problems():
    first = best_of_n([[2, 1], [1, 2]], [[True, False]] * 2, [1, 2])
    second = best_of_n([[2, 1]], [[True, False]], [1, 2])
    together = pooled([first, second])
    assert together.ns == [1, 2]
    assert together.mean == pytest.approx([1 / 2, 2 / 3])
    # At N = 1 every problem is right by half; at N = 2 two of three are right: s = sqrt(1/3).
    assert together.low == pytest.approx([1 / 2, 2 / 3 - 1.959964 / 3])
    assert together.high == pytest.approx([1 / 2, 1])


def test_pooling_takes_curves_at_the_same_ns():
    with pytest.raises(ValueError, match="no curves"):
        pooled([])
    with pytest.raises(ValueError, match="compute all at the same"):
        pooled([pass_at_n([[True]], [1]), pass_at_n([[True, True]], [2])])
