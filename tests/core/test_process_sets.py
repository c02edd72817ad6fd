"""Process sets against numbers worked by hand, and the paper's theorem on a small policy."""

import pytest
import torch

from rlstep.core.process_sets import process_sets, set_rewards, set_sizes, set_weights

NAN = float("nan")
# The first problem has four samples, two of them equal; the second one two, of which one is a beginning of the first
# problem's.
IDS_BL = torch.tensor(
    [
        [5, 6, 7, 8],
        [5, 6, 9, 0],
        [5, 6, 7, 8],
        [4, 6, 7, 8],
        [5, 6, 0, 0],
        [5, 7, 7, 7],
    ]
)
MASK_BL = torch.tensor([[1, 1, 1, 1], [1, 1, 1, 0], [1, 1, 1, 1], [1, 1, 1, 1], [1, 1, 0, 0], [1, 1, 1, 1]])
GROUPS_B = torch.tensor([0, 0, 0, 0, 1, 1])
OUTCOMES_B = torch.tensor([1.0, 0.0, 0.0, 1.0, 1.0, 0.0])
SETS_BL = process_sets(IDS_BL, MASK_BL, GROUPS_B)


def test_the_members_of_a_set_agree_up_to_its_place():
    assert set_sizes(SETS_BL).tolist() == [
        [3, 3, 2, 2],
        [3, 3, 1, 0],
        [3, 3, 2, 2],
        [1, 1, 1, 1],  # from its first token on it goes another way, however alike what follows is
        [2, 1, 0, 0],
        [2, 1, 1, 1],
    ]
    assert (SETS_BL[0] == SETS_BL[2]).all()
    assert SETS_BL[0, 0] != SETS_BL[4, 0]  # of another problem
    assert (SETS_BL[MASK_BL == 0] == -1).all()


def test_the_weights_of_a_set_add_up_to_one():
    weights_BL = set_weights(SETS_BL)
    third = 1 / 3
    torch.testing.assert_close(weights_BL[1], torch.tensor([third, third, 1.0, 0.0]))
    sets, members = torch.unique(SETS_BL[SETS_BL >= 0], return_inverse=True)
    sums = torch.zeros(len(sets)).index_add(0, members, weights_BL[SETS_BL >= 0])
    torch.testing.assert_close(sums, torch.ones(len(sets)))


def test_a_prefix_is_worth_the_mean_outcome_of_those_that_share_it():
    third = 1 / 3
    expected = [
        [third, third, 0.5, 0.5],
        [third, third, 0.0, 0.0],
        [third, third, 0.5, 0.5],
        [1.0, 1.0, 1.0, 1.0],
        [0.5, 1.0, 0.0, 0.0],
        [0.5, 0.0, 0.0, 0.0],
    ]
    torch.testing.assert_close(set_rewards(SETS_BL, OUTCOMES_B), torch.tensor(expected))


def test_left_out_a_row_is_judged_by_the_others_or_not_at_all():
    expected = [
        [0.0, 0.0, 0.0, 0.0],
        [0.5, 0.5, NAN, 0.0],
        [0.5, 0.5, 1.0, 1.0],
        [NAN, NAN, NAN, NAN],
        [0.0, NAN, 0.0, 0.0],
        [1.0, NAN, NAN, NAN],
    ]
    actual = set_rewards(SETS_BL, OUTCOMES_B, alike_B=torch.arange(6))
    torch.testing.assert_close(actual, torch.tensor(expected), equal_nan=True)


def test_equal_rows_need_not_judge_each_other():
    """The first and the third are one completion: of its beginning the second says that it came to nothing."""
    actual = set_rewards(SETS_BL, OUTCOMES_B, alike_B=torch.tensor([7, 1, 7, 2, 3, 4]))
    for row in (0, 2):
        torch.testing.assert_close(actual[row], torch.tensor([0.0, 0.0, NAN, NAN]), equal_nan=True)
    torch.testing.assert_close(actual[1], torch.tensor([0.5, 0.5, NAN, 0.0]), equal_nan=True)


def test_samples_need_not_stand_side_by_side_and_what_is_masked_does_not_matter():
    order = torch.tensor([4, 0, 3, 5, 2, 1])
    ids_BL = torch.where(MASK_BL.bool(), IDS_BL, torch.tensor(99))
    shuffled = process_sets(ids_BL[order], MASK_BL[order], 7 - GROUPS_B[order])
    assert set_sizes(shuffled).tolist() == set_sizes(SETS_BL)[order].tolist()


def test_rows_of_different_lengths_do_not_meet_again():
    """A row that ended early keeps the number of its last prefix; a longer one must not come by it."""
    ids_BL = torch.tensor([[1, 0, 0], [2, 1, 3], [2, 1, 3], [1, 1, 3]])
    mask_BL = torch.tensor([[1, 0, 0], [1, 1, 1], [1, 1, 1], [1, 1, 1]])
    sizes = set_sizes(process_sets(ids_BL, mask_BL, torch.zeros(4, dtype=torch.long)))
    assert sizes.tolist() == [[2, 0, 0], [2, 2, 2], [2, 2, 2], [2, 1, 1]]


def test_no_tokens_at_all():
    sets_BL = process_sets(torch.zeros(2, 0, dtype=torch.long), torch.zeros(2, 0), torch.zeros(2))
    assert set_sizes(sets_BL).shape == set_weights(sets_BL).shape == (2, 0)
    empty = process_sets(torch.ones(2, 3, dtype=torch.long), torch.zeros(2, 3), torch.zeros(2))
    assert set_weights(empty).tolist() == [[0.0] * 3] * 2


def gradient(advantages_BL, weights_BL):
    """The policy gradient's of a policy with a free parameter for every token after every beginning."""
    torch.manual_seed(0)
    logits = {}
    loss = torch.zeros((), dtype=torch.float64)
    for group, row, mask, advantages, weights in zip(
        GROUPS_B.tolist(), IDS_BL.tolist(), MASK_BL.tolist(), advantages_BL, weights_BL, strict=True
    ):
        for place in range(sum(mask)):
            prefix = (group, *row[:place])
            if prefix not in logits:
                logits[prefix] = torch.randn(10, dtype=torch.float64, requires_grad=True)
            loss = loss - weights[place] * advantages[place] * logits[prefix].log_softmax(0)[row[place]]
    loss.backward()
    return torch.cat([one.grad for one in logits.values()])


def test_grpo_has_the_gradient_of_the_rewards_of_its_prefixes():
    """Their theorem: outcome advantages, or those of the prefixes' mean outcomes, give one gradient."""
    baseline_B1 = torch.tensor([0.5, 0.5, 0.5, 0.5, 0.5, 0.5])[:, None]
    outcome_BL = (OUTCOMES_B[:, None] - baseline_B1).expand(IDS_BL.shape)
    process_BL = set_rewards(SETS_BL, OUTCOMES_B) - baseline_B1
    equal, divided = torch.ones(IDS_BL.shape), set_weights(SETS_BL)
    torch.testing.assert_close(gradient(outcome_BL, equal), gradient(process_BL, equal))
    # ... and under lambda-GRPO as well, whose gradient is another one
    torch.testing.assert_close(gradient(outcome_BL, divided), gradient(process_BL, divided))
    assert not torch.allclose(gradient(outcome_BL, equal), gradient(outcome_BL, divided))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((IDS_BL, MASK_BL[:, :3], GROUPS_B), "shapes differ"),
        ((IDS_BL, MASK_BL.flip(1), GROUPS_B), "row 1 has a one after a zero"),
        ((IDS_BL, MASK_BL, GROUPS_B[:2]), "groups have shape"),
    ],
)
def test_wrong_input_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        process_sets(*arguments)
    with pytest.raises(ValueError, match="outcomes have shape"):
        set_rewards(SETS_BL, OUTCOMES_B[:2])
    with pytest.raises(ValueError, match="alike have shape"):
        set_rewards(SETS_BL, OUTCOMES_B, alike_B=torch.arange(2))
