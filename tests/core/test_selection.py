import math
import random

import pytest

from rlstep.core.selection import (
    by_turns,
    convincing_order,
    falling_order,
    phases,
    steps_to_label,
    uncertainty,
    within_budget,
)

# Ten solutions, the most convincing first; W are wrong answers.
SCORES = [0.99, 0.95, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2]
RIGHT_FIRST = [c == "W" for c in "RRRWRWWWRW"]
NO_TIES = [0.0] * 10


def papers_choice(scores, wrong, n: int, n_wrong: int) -> set[int]:
    """The rule of the paper, written another way: n_wrong wrong ones, then the best of what remains."""
    ranked = sorted(range(len(scores)), key=lambda index: -scores[index])
    chosen = [index for index in ranked if wrong[index]][:n_wrong]
    remain = [index for index in ranked if index not in chosen]
    return set(chosen + remain[: n - len(chosen)])


def test_four_of_five_are_the_most_convincing_wrong_answers():
    order = convincing_order(SCORES, RIGHT_FIRST, 0.8, 0.0, NO_TIES)
    # The wrong ones are 3, 5, 6, 7, 9; the best of the rest is 0.
    assert set(order[:5]) == {3, 5, 6, 7, 0}


def test_every_beginning_is_the_papers_choice_of_that_size():
    rng = random.Random(0)
    for trial in range(200):
        scores = [rng.random() for _ in range(10)]
        wrong = [rng.random() < 0.5 for _ in range(10)]
        share, phase = rng.choice([0.0, 0.3, 0.5, 0.8, 1.0]), rng.choice([0.0, 0.25, 0.5, 0.99])
        order = convincing_order(scores, wrong, share, phase, NO_TIES)
        assert sorted(order) == list(range(10))
        for n in range(1, 11):
            quota = math.floor(share * n + phase + 1e-9)
            assert set(order[:n]) == papers_choice(scores, wrong, n, quota), (trial, n)


def test_a_wrong_answer_chosen_among_the_rest_fills_the_quota_later():
    # Quotas 1, 1, 2 of n = 1, 2, 3: the second is the best that remains, a wrong one, which is the quota's second.
    scores, wrong = [0.9, 0.8, 0.5, 0.7], [True, True, True, False]
    assert convincing_order(scores, wrong, 0.5, 0.5, NO_TIES[:4])[:3] == [0, 1, 3]


def test_without_wrong_answers_the_rest_is_chosen():
    assert convincing_order([0.1, 0.9], [False, False], 0.8, 0.5, [0, 0]) == [1, 0]


@pytest.mark.parametrize(("share", "first"), [(0.0, 0), (1.0, 3)])
def test_the_share_decides(share, first):
    assert convincing_order(SCORES, RIGHT_FIRST, share, 0.0, NO_TIES)[0] == first


def test_a_share_in_decimals_gives_the_quota_in_decimals():
    """0.29 * 100 is 28.999999999999996 in floating point; 29 wrong ones are due."""
    wrong = [False] * 100 + [True] * 100
    order = convincing_order([1 - index / 1000 for index in range(200)], wrong, 0.29, 0.0, [0] * 200)
    assert sum(wrong[index] for index in order[:100]) == 29


def test_phases_keep_the_share_over_problems():
    """One solution of each of ten problems: eight wrong answers and two of the rest."""
    order = [convincing_order(SCORES, RIGHT_FIRST, 0.8, phase, NO_TIES)[0] for phase in phases(10, seed=3)]
    assert sorted(order) == [0, 0, 3, 3, 3, 3, 3, 3, 3, 3]
    assert sorted(phases(4, seed=0)) == [0.125, 0.375, 0.625, 0.875]
    assert phases(50, seed=0) == phases(50, seed=0) != phases(50, seed=1)


def test_ties_are_broken_by_what_is_given():
    assert falling_order([0.5, 0.5, 0.9], ties=[0.8, 0.2, 0.5]) == [2, 1, 0]
    assert falling_order([0.5, 0.5, 0.9], ties=[0.2, 0.8, 0.5]) == [2, 0, 1]
    assert falling_order([-math.inf, 0.1], ties=[0, 0]) == [1, 0]
    assert convincing_order([0.5, 0.5], [True, True], 0.8, 0.5, [0.9, 0.1]) == [1, 0]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"scores": [math.nan, 0.1]}, "NaN"),
        ({"scores": [0.1]}, "1 scores, 2 wrong"),
        ({"wrong_share": 1.5}, "wrong_share=1.5"),
        ({"phase": 1.0}, "phase=1.0"),
    ],
)
def test_what_makes_no_order_is_refused(changes, message):
    given = {"scores": [0.2, 0.1], "wrong": [True, False], "wrong_share": 0.8, "phase": 0.5, "ties": [0, 0]}
    with pytest.raises(ValueError, match=message):
        convincing_order(**given | changes)


def test_uncertainty_of_one_verifier_is_nearness_to_one_half():
    assert uncertainty([[0.9, 0.75, 0.99]]) == pytest.approx(0.25)
    # The second step is called wrong: the third, of which nothing is known, does not count.
    assert uncertainty([[0.9, 0.1, 0.5]]) == pytest.approx(0.1)
    assert uncertainty([[]]) == 0


def test_uncertainty_of_an_ensemble_is_its_deviation():
    # Means 0.8 and 0.7; deviations of 0.9, 0.7 and of 1.0, 0.4: 0.1 and 0.3.
    assert uncertainty([[0.9, 1.0], [0.7, 0.4]]) == pytest.approx(0.3)
    # The first step's mean is 0.4: called wrong, so the second one's deviation of 0.5 does not count.
    assert uncertainty([[0.6, 1.0], [0.2, 0.0]]) == pytest.approx(0.2)


@pytest.mark.parametrize("probs", [[], [[0.5], [0.5, 0.5]], [[1.5]], [[-0.1]]])
def test_what_are_no_probabilities_is_refused(probs):
    with pytest.raises(ValueError, match=r"probabilities"):
        uncertainty(probs)


def test_problems_take_turns():
    orders = [[2, 0, 1], [5], [7, 8]]
    assert list(by_turns(orders)) == [(0, 2), (1, 5), (2, 7), (0, 0), (2, 8), (0, 1)]
    assert list(by_turns(orders, each=1)) == [(0, 2), (1, 5), (2, 7)]
    assert list(by_turns([])) == []


def test_a_label_costs_the_steps_up_to_the_first_error():
    assert steps_to_label(4) == 4
    assert steps_to_label(4, [None] * 4) == 4
    assert steps_to_label(4, [1, 1, 1, 1]) == 4
    assert steps_to_label(4, [1, 0.4, None, None]) == 2
    assert steps_to_label(4, [None, 1, 0, 1]) == 3


def test_a_budget_pays_for_whole_solutions():
    assert within_budget([3, 4, 2], 6) == 1
    assert within_budget([3, 4, 2], 7) == 2
    assert within_budget([3, 4, 2], 100) == 3
    assert within_budget([3], 2) == 0
    assert within_budget([], 2) == 0
