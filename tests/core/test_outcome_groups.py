from itertools import product

import pytest
import torch

from rlstep.core.outcome_groups import centre_wrong, consistent
from rlstep.core.rewards import pad_steps, step_rewards

NAN = float("nan")


def test_wrong_solutions_are_paid_nothing_on_average():
    """PROGRS: solution means 0.8 (right), 0.6 and 0.2 (wrong), none (wrong); the wrong ones' mean is 0.4."""
    rewards_BS, mask_BS = pad_steps([torch.tensor(r) for r in ([0.9, 0.7], [0.5, 0.7], [0.2], [])])
    centred_BS = centre_wrong(rewards_BS, mask_BS, torch.tensor([1, 0, 0, 0]), 4)
    torch.testing.assert_close(centred_BS, torch.tensor([[0.9, 0.7], [0.1, 0.3], [-0.2, 0.0], [0.0, 0.0]]))


def test_what_is_centred_does_not_depend_on_other_problems_or_on_padding():
    rewards_BS = torch.tensor([[0.5, NAN], [0.3, 0.1], [9.0, 9.0], [9.0, 9.0]])
    mask_BS = torch.tensor([[1, 0], [1, 1], [1, 1], [1, 1]])
    centred_BS = centre_wrong(rewards_BS, mask_BS, torch.tensor([0, 0, 1, 1]), 2)
    # means 0.5 and 0.2, shift 0.35; of the second problem all are right
    torch.testing.assert_close(centred_BS, torch.tensor([[0.15, 0.0], [-0.05, -0.25], [9.0, 9.0], [9.0, 9.0]]))


def test_a_solutions_own_bonus_is_shifted_as_in_the_paper():
    """With one number per solution the shift is that of the numbers, whatever the lengths."""
    bonuses = [step_rewards(torch.tensor(p), "coherence") for p in ([0.9, 0.9, 0.9], [0.4, 0.4], [0.8, 0.8])]
    rewards_BS, mask_BS = pad_steps(bonuses[1:])
    centred_BS = centre_wrong(rewards_BS, mask_BS, torch.tensor([0, 0]), 2)
    torch.testing.assert_close(centred_BS, torch.tensor([[-0.2, -0.2], [0.2, 0.2]]))
    torch.testing.assert_close(bonuses[0], torch.full((3,), 0.9))


@pytest.mark.parametrize(
    ("scores", "correct", "keep", "stays"),
    [
        # two of three right ones, the highest; two of three wrong ones, the lowest
        ([0.9, 0.2, 0.5, 0.8, 0.1, 0.3], [1, 1, 1, 0, 0, 0], 4, [1, 0, 1, 0, 1, 1]),
        # one right: it stays, with the three lowest wrong ones
        ([0.1, 0.2, 0.5, 0.8, 0.1, 0.3], [1, 0, 0, 0, 0, 0], 4, [1, 1, 0, 0, 1, 1]),
        # one wrong: it stays, with the three highest right ones
        ([0.1, 0.2, 0.5, 0.8, 0.9, 0.3], [1, 1, 1, 1, 0, 1], 4, [0, 0, 1, 1, 1, 1]),
        # none right: the four lowest
        ([0.1, 0.2, 0.5, 0.8, 0.1, 0.3], [0] * 6, 4, [1, 1, 0, 0, 1, 1]),
        # odd: one right, two wrong; without steps counts as 0, and of equal ones the earlier stays
        ([0.5, 0.5, NAN, 0.3, 0.3, 0.4], [1, 1, 1, 0, 0, 0], 3, [1, 0, 0, 1, 1, 0]),
    ],
)
def test_who_stays_by_hand(scores, correct, keep, stays):
    assert consistent(torch.tensor(scores), torch.tensor(correct), 6, keep).tolist() == [bool(s) for s in stays]


def test_wrong_solutions_may_stay_whatever_their_scores():
    scores, correct = torch.tensor([0.9, 0.2, 0.8, 0.1]), torch.tensor([1, 1, 0, 0])
    assert consistent(scores, correct, 4, 2, rank_wrong=False).tolist() == [True, False, True, False]
    assert consistent(scores, correct, 4, 2).tolist() == [True, False, False, True]


def test_right_and_wrong_balance_as_far_as_there_are_some():
    """k+ k- is the largest of all k+ + k- = keep that the group admits: tried one by one."""
    for right, keep in product(range(7), range(1, 7)):
        correct = torch.tensor([1] * right + [0] * (6 - right))
        stays = consistent(torch.rand(6), correct, 6, keep)
        a, b = int(stays[:right].sum()), int(stays[right:].sum())
        best = max(k * (keep - k) for k in range(keep + 1) if k <= right and keep - k <= 6 - right)
        assert (a + b, a * b) == (keep, best)


def test_more_than_there_are_cannot_stay():
    with pytest.raises(ValueError, match="keep=5 must be from 1 to group_size, 4"):
        consistent(torch.zeros(4), torch.zeros(4), 4, 5)
