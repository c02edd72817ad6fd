import math

import pytest

from rlstep.core.trace_error import final_answer_error, trace_error


def test_errors_by_hand():
    """Five problems: three right answers, of which one has a wrong step."""
    correct, clean = [1, 1, 1, 0, 0], [1, 1, 0, 0, 0]
    assert final_answer_error(correct) == pytest.approx(2 / 5)
    assert trace_error(correct, clean) == pytest.approx(1 / 3)


def test_of_probabilities_it_is_a_ratio_of_expectations():
    # Right picks: 0.5 + 1 = 1.5, of which 0.5 + 0.25 = 0.75 are clean; not the mean of 0 and 3/4.
    assert trace_error([0.5, 1.0], [0.5, 0.25]) == pytest.approx(0.5)
    assert final_answer_error([0.5, 1.0]) == pytest.approx(0.25)


def test_without_a_right_answer_no_trace_is_measured():
    assert math.isnan(trace_error([0, 0], [0, 0]))
    assert math.isnan(final_answer_error([]))


@pytest.mark.parametrize(
    ("correct", "clean", "message"),
    [
        ([1, 2], [1, 1], "problem 1 has 2"),
        ([1], [1, 1], "1 values of correct, 2 of clean"),
        ([1, 0], [1, 1], "problem 1 is clean with 1 and right with 0"),
    ],
)
def test_what_makes_no_sense_is_refused(correct, clean, message):
    with pytest.raises(ValueError, match=message):
        trace_error(correct, clean)
