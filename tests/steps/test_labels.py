"""What each label policy teaches, against targets written by hand."""

import pytest

from rlstep.runtime.errors import UserError
from rlstep.steps.labels import NEUTRAL, UNKNOWN, LabelPolicy
from rlstep.steps.records import Solution


def rated(labels, neutral=None) -> Solution:
    steps = [(index, index + 1) for index in range(len(labels))]
    return Solution("p", "", "x" * len(labels), "", steps=steps, labels=labels, neutral=neutral)


RATED = rated([1, None, None, 1, 0, 1], neutral=[1])  # right, neutral, unknown, right, wrong, right


@pytest.mark.parametrize(
    ("neutral", "after", "targets"),
    [
        ("positive", "mask", [1, 1, UNKNOWN, 1, 0, UNKNOWN]),
        ("positive", "keep", [1, 1, UNKNOWN, 1, 0, 1]),
        ("negative", "mask", [1, 0, UNKNOWN, UNKNOWN, UNKNOWN, UNKNOWN]),
        ("negative", "keep", [1, 0, UNKNOWN, 1, 0, 1]),
        ("ignore", "mask", [1, UNKNOWN, UNKNOWN, 1, 0, UNKNOWN]),
        ("class", "mask", [1, NEUTRAL, UNKNOWN, 1, 0, UNKNOWN]),
        ("class", "keep", [1, NEUTRAL, UNKNOWN, 1, 0, 1]),
    ],
)
def test_policies(neutral, after, targets):
    assert LabelPolicy(neutral, after).targets(RATED) == targets


def test_soft_labels_keep_their_value_and_end_nothing():
    assert LabelPolicy().targets(rated([0.75, 0.125, 0.001, 1])) == [0.75, 0.125, 0.001, 1.0]
    assert LabelPolicy().targets(rated([0.75, 0.0, 0.5])) == [0.75, 0.0, UNKNOWN]


def test_marks_are_no_probabilities():
    assert not 0 <= NEUTRAL <= 1
    assert not 0 <= UNKNOWN <= 1


def test_classes():
    assert [LabelPolicy(name).classes for name in ("positive", "negative", "ignore", "class")] == [2, 2, 2, 3]


def test_unknown_policies_are_refused():
    with pytest.raises(UserError, match="neutral is 'good'; choose one of positive, negative, ignore, class"):
        LabelPolicy("good")
    with pytest.raises(UserError, match="after_first_error is 'drop'; choose one of mask, keep"):
        LabelPolicy(after_first_error="drop")
