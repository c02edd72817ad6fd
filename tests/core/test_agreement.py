"""Cohen's kappa against numbers worked by hand."""

import math

import pytest

from rlstep.core.agreement import cohen_kappa


def test_the_textbook_table():
    # 20 both yes, 5 yes/no, 10 no/yes, 15 both no: p_o = 35/50, p_e = (25/50)(30/50) + (25/50)(20/50) = 0.5.
    a = ["yes"] * 25 + ["no"] * 25
    b = ["yes"] * 20 + ["no"] * 5 + ["yes"] * 10 + ["no"] * 15
    assert cohen_kappa(a, b) == pytest.approx((0.7 - 0.5) / 0.5)


def test_three_labels():
    # Agreement on 4 of 6; shares a: 3, 2, 1 and b: 2, 2, 2 of 6: p_e = (6 + 4 + 2) / 36 = 1/3.
    assert cohen_kappa([1, 1, 1, 0, 0, -1], [1, 1, 0, 0, -1, -1]) == pytest.approx((4 / 6 - 1 / 3) / (2 / 3))


def test_full_agreement_and_full_disagreement():
    assert cohen_kappa([3, -1, 0], [3, -1, 0]) == 1
    # p_o = 0, p_e = 1/4 + 1/4.
    assert cohen_kappa([0, 1], [1, 0]) == -1


def test_independent_labels_have_none():
    assert cohen_kappa([0, 0, 1, 1], [0, 1, 0, 1]) == 0


def test_it_does_not_depend_on_who_is_first_nor_on_the_labels_names():
    a, b = [2, 2, -1, 0, 2], [2, -1, -1, 0, 0]
    assert cohen_kappa(a, b) == cohen_kappa(b, a) == cohen_kappa(list(map(str, a)), list(map(str, b)))


def test_one_label_throughout_says_nothing():
    assert math.isnan(cohen_kappa([1, 1, 1], [1, 1, 1]))


@pytest.mark.parametrize(("a", "b", "message"), [([], [], "no items"), ([1], [1, 0], "1 and 2 labels")])
def test_what_has_no_agreement(a, b, message):
    with pytest.raises(ValueError, match=message):
        cohen_kappa(a, b)
