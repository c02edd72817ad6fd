import math

import pytest

from rlstep.core.agreement import cohen_kappa


def test_kappa_by_hand():
    # 50 items: both yes 20, both no 15, a alone 5, b alone 10. p_o = 0.7; yes 25/50 and 30/50; p_e = 0.3 + 0.2.
    a = [1] * 20 + [0] * 15 + [1] * 5 + [0] * 10
    b = [1] * 20 + [0] * 15 + [0] * 5 + [1] * 10
    assert cohen_kappa(a, b) == pytest.approx(0.4)


def test_full_agreement_is_one_and_opposition_minus_one():
    assert cohen_kappa([1, 0, 1, 0], [1, 0, 1, 0]) == 1
    assert cohen_kappa([1, 0, 1, 0], [0, 1, 0, 1]) == -1


def test_without_two_labels_it_is_undefined():
    assert math.isnan(cohen_kappa([1, 1], [1, 1]))
    assert math.isnan(cohen_kappa([], []))


def test_any_label_counts_not_two_alone():
    # p_o = 2/3; shares of -1, 0, 2: 1/3 each in a; 1/3, 2/3, 0 in b: p_e = 1/9 + 2/9 = 1/3.
    assert cohen_kappa([-1, 0, 2], [-1, 0, 0]) == pytest.approx(0.5)


def test_labels_of_other_items_are_refused():
    with pytest.raises(ValueError, match="1 labels and 2"):
        cohen_kappa([1], [1, 0])
