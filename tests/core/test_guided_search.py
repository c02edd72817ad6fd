import math

import pytest

from rlstep.core.guided_search import continuations, groups


def test_of_n_beams_the_n_over_m_best_go_on_m_times_each():
    assert continuations([0.1, 0.9, 0.3, 0.8, 0.2, 0.7, 0.6, 0.4], width=4) == [0, 4, 0, 4, 0, 0, 0, 0]
    assert continuations([0.1, 0.9, 0.3, 0.8, 0.2, 0.7, 0.6, 0.4], width=2) == [0, 2, 0, 2, 0, 2, 2, 0]


def test_a_subtree_goes_on_from_its_best_beam():
    assert continuations([0.1, 0.3, 0.2], width=3) == [0, 3, 0]


def test_width_1_drops_nothing():
    assert continuations([0.1, 0.9, 0.3], width=1) == [1, 1, 1]


@pytest.mark.parametrize(
    ("scores", "width", "numbers"),
    [
        # Five places are left of eight, of width 4: ceil(5 / 4) = 2 are kept, 5 = 3 + 2, three for the better one.
        ([0.1, 0.5, 0.2, 0.9, 0.3], 4, [0, 2, 0, 3, 0]),
        # Seven of sixteen, of width 3: ceil(7 / 3) = 3 are kept, 7 = 3 + 2 + 2.
        ([0.7, 0.1, 0.2, 0.6, 0.3, 0.9, 0.4], 3, [2, 0, 0, 2, 0, 3, 0]),
        ([0.4], 4, [1]),
        ([], 4, []),
    ],
)
def test_places_of_beams_that_have_ended_are_not_filled(scores, width, numbers):
    assert continuations(scores, width) == numbers


def test_of_equal_scores_the_first_is_kept_and_the_lowest_score_is_none():
    assert continuations([0.5, 0.5, 0.5, 0.5], width=2) == [2, 2, 0, 0]
    assert continuations([-math.inf, 0.0, -math.inf, -math.inf], width=2) == [2, 2, 0, 0]


def test_dvts_divides_the_beams_into_subtrees():
    assert groups("beam", 12, 4) == [12]
    assert groups("dvts", 12, 4) == [4, 4, 4]
    assert groups("dvts", 4, 4) == groups("beam", 4, 4) == [4]


@pytest.mark.parametrize("call", [lambda: continuations([0.1, math.nan], 1), lambda: continuations([0.1], 0),
                                  lambda: groups("dvts", 6, 4), lambda: groups("beam", 0, 1)])  # fmt: skip
def test_what_makes_no_sense_is_refused(call):
    with pytest.raises(ValueError, match="NaN|at least 1|multiple"):
        call()
