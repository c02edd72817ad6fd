import pytest
import torch

from rlstep.core.first_error_credit import first_error_rewards

# Four steps of ten characters; the third is the first one below one half.
SCORES = torch.tensor([0.9, 0.6, 0.2, 0.9])
ENDS = torch.tensor([10, 20, 30, 40])


def paid(scores=SCORES, ends=ENDS, correct=False, threshold=0.5, margin=0):
    return first_error_rewards(scores, ends, correct, threshold, margin).tolist()


def test_a_wrong_solution_is_paid_on_the_last_step_before_its_first_error():
    """VPPO, equation 6."""
    assert paid() == [0, 1, 0, 0]
    assert paid(threshold=0.7) == [1, 0, 0, 0]


def test_from_a_step_on_every_step_of_the_prefix_has_it_and_no_later_one():
    returns_S = first_error_rewards(SCORES, ENDS, False, 0.5).flip(0).cumsum(0).flip(0)
    assert returns_S.tolist() == [1, 1, 0, 0]


def test_a_right_solution_is_left_to_its_outcome():
    assert paid(correct=True) == [0, 0, 0, 0]


def test_an_error_that_is_not_located_pays_for_nothing():
    assert paid(threshold=0.1) == [0, 0, 0, 0]


def test_an_error_in_the_first_step_leaves_no_prefix():
    assert paid(threshold=0.95) == [0, 0, 0, 0]
    assert paid(torch.empty(0), torch.empty(0)) == []


@pytest.mark.parametrize(("margin", "expected"), [(1, [1, 0, 0, 0]), (10, [1, 0, 0, 0]), (11, [0, 0, 0, 0])])
def test_the_margin_leaves_the_prefixs_end_unpaid(margin, expected):
    # the prefix ends at 20; a step is paid that ends at 20 - margin at the latest
    assert paid(margin=margin) == expected


def test_splitting_a_step_gains_nothing_within_the_margin():
    """The same text in two more steps: the rewarded prefix still ends at 10."""
    split, ends = torch.tensor([0.9, 0.9, 0.9, 0.9, 0.2, 0.9]), torch.tensor([10, 13, 16, 20, 30, 40])
    assert paid(split, ends, margin=10) == [1, 0, 0, 0, 0, 0]


def test_every_step_needs_an_end():
    with pytest.raises(ValueError, match=r"shape \(4,\), ends \(2,\)"):
        paid(ends=ENDS[:2])
