from dataclasses import replace

import pytest
import torch

from rlstep.policy.estimators import (
    centre_and_select,
    charge_kl,
    group_advantages,
    return_advantages,
    token_rewards,
    token_weights,
    vine_advantages,
    whiten,
    without_positive_steps,
)
from rlstep.policy.rewards.scored import ScoredCompletion
from rlstep.runtime.errors import UserError


def judgement(step_rewards, outcome=0.0, steps=None) -> ScoredCompletion:
    count = len(step_rewards) if steps is None else steps
    return ScoredCompletion([(k, k + 1) for k in range(count)], list(step_rewards), outcome, outcome > 0, False)


MASK = torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0], [0, 0, 0, 0]])


def test_token_rewards_lie_on_last_tokens_and_masked_rows_get_none():
    judged = [judgement([0.5, -1.0], 1.0), judgement([0.25], 2.0), judgement([9.0], 9.0)]
    actual = token_rewards(judged, [[1, 2], [1], []], MASK)
    torch.testing.assert_close(actual, torch.tensor([[0.0, 0.5, -1.0, 1.0], [0.0, 2.25, 0.0, 0.0], [0.0] * 4]))


def test_kl_is_charged_to_the_step_that_a_token_belongs_to():
    """Tokens 0 and 1 are the first step's, 2 the second's, and so is the end-of-sequence token 3 behind it."""
    cost = torch.tensor([[0.1, 0.2, 0.4, 0.8], [0.1, 0.2, 0.0, 0.0], [1.0, 0.0, 0.0, 0.0]])
    judged = [judgement([0.5, 0.0]), judgement([0.25], 1.0), judgement([], 1.0)]
    actual = charge_kl(judged, [[1, 2], [1], []], cost)
    assert actual[0].step_rewards == pytest.approx([0.5 - 0.3, 0.0 - 1.2])
    assert actual[1].step_rewards == pytest.approx([0.25 - 0.3])
    assert [row.outcome for row in actual] == pytest.approx([0.0, 1.0, 0.0])


def test_the_kl_of_steps_that_are_not_judged_is_the_outcomes_and_makes_them_no_judged_ones():
    cost = torch.tensor([[0.1, 0.2, 0.4, 0.8]] * 2)
    judged = [judgement([0.5], 1.0, steps=2), judgement([], 1.0, steps=2)]
    actual = charge_kl(judged, [[1, 2], [1, 2]], cost)
    assert [row.step_rewards for row in actual] == [pytest.approx([0.5 - 0.3]), []]
    assert [row.outcome for row in actual] == pytest.approx([1.0 - 1.2, 1.0 - 1.5])


def test_a_cut_off_completion_keeps_what_it_lost():
    assert without_positive_steps(judgement([0.5, -1.0, 0.25], 1.0)).step_rewards == [0.0, -1.0, 0.0]


def test_vine_by_hand():
    """A_k = r_k + V_{k+1} - V_k; the outcome is paid at the last step or, without steps, against the prompt's value."""
    judged = [judgement([0.5], 1.0, steps=2), judgement([], 1.0)]
    values = torch.tensor([[0.25, 0.75], [0.4, 0.0]])
    mask = torch.tensor([[1, 1, 1], [1, 1, 0]])
    actual = vine_advantages(judged, values, [[0, 1], []], mask)
    first, second = 0.5 + 0.75 - 0.25, 0.0 + 1.0 - 0.75
    torch.testing.assert_close(actual, torch.tensor([[first, second, second], [0.6, 0.6, 0.0]]))


def test_a_group_that_lies_on_two_ranks_is_one(arguments):
    """Each rank has one of the two samples: r = 1 and 0, outcome 1 and 0."""
    everyone = [judgement([1.0], 1.0), judgement([0.0], 0.0)]
    mask = torch.ones(1, 2, dtype=torch.long)
    for rank, expected in ((0, 1.0), (1, -1.0)):
        actual = group_advantages(everyone, slice(rank, rank + 1), [[0]], mask, 2, arguments())
        torch.testing.assert_close(actual, torch.full((1, 2), expected))


def scored(score, correct, rewards=(0.0,)) -> ScoredCompletion:
    return replace(judgement(rewards, float(correct)), step_scores=[score] * len(rewards))


def test_a_problems_samples_are_chosen_by_their_mean_step_scores(arguments):
    """Two of four: the right one with the highest score, the wrong one with the lowest."""
    everyone = [scored(0.9, True), scored(0.4, True), scored(0.2, False), scored(0.1, False)]
    args = arguments(num_generations=4, keep_samples=2)
    worth, stays = centre_and_select(everyone, args)
    assert (worth, stays.tolist()) == (everyone, [True, False, False, True])
    _, stays = centre_and_select(everyone, arguments(num_generations=4, keep_samples=2, keep_wrong="any"))
    assert stays.tolist() == [True, False, True, False]
    assert centre_and_select(everyone, arguments(num_generations=4)) == (everyone, None)


def test_steps_that_the_prm_did_not_read_count_as_wrong_where_samples_are_chosen(arguments):
    """The first right sample has 0.9 for one of its two steps, 0.45 in the mean: the second one stays."""
    cut = replace(scored(0.9, True), steps=[(0, 1), (1, 2)], cut_by=["prm"])
    everyone = [cut, scored(0.5, True), scored(0.2, False), scored(0.1, False)]
    _, stays = centre_and_select(everyone, arguments(num_generations=4, keep_samples=2))
    assert stays.tolist() == [False, True, False, True]


def test_samples_are_not_chosen_without_scores(arguments):
    with pytest.raises(UserError, match="this reward source gives none"):
        centre_and_select([judgement([1.0])] * 4, arguments(num_generations=4, keep_samples=2))


def test_wrong_completions_are_paid_by_what_sets_them_apart(arguments):
    everyone = [scored(0.9, True, (0.9, 0.7)), scored(0.5, False, (0.5, 0.7)), scored(0.2, False), scored(0, False, ())]
    worth, _ = centre_and_select(everyone, arguments(num_generations=4, centre_wrong=True))
    # the wrong ones' means are 0.6 and 0, so the shift is 0.3
    expected = [[0.9, 0.7], [0.2, 0.4], [-0.3], []]
    assert [row.step_rewards for row in worth] == [pytest.approx(rewards) for rewards in expected]
    assert [row.outcome for row in worth] == [1.0, 0.0, 0.0, 0.0]


def test_those_that_stay_are_compared_with_each_other_alone(arguments):
    """Of four the first and the last stay, on two ranks: outcomes 1 and 0, so 0.5 and -0.5; the others have none."""
    everyone = [judgement([0.0], 1.0), judgement([5.0], 1.0), judgement([5.0], 0.0), judgement([0.0], 0.0)]
    stays = torch.tensor([True, False, False, True])
    masks = torch.tensor([[1, 1], [0, 0], [0, 0], [1, 1]])
    expected = torch.tensor([0.5, 0.0, 0.0, -0.5])[:, None] * masks
    ends = [[0], [], [], [0]]
    args = arguments(num_generations=4, keep_samples=2)
    rewards = torch.tensor([[0.0, 1.0], [5.0, 1.0], [5.0, 0.0], [0.0, 0.0]])
    mean_return = arguments(num_generations=4, keep_samples=2, advantage="mean_return")
    for own in (slice(0, 2), slice(2, 4)):
        by_steps = group_advantages(everyone, own, ends[own], masks[own], 2, args, stays)
        torch.testing.assert_close(by_steps, expected[own])
        by_returns = return_advantages(rewards, masks, own, 2, mean_return, stays)
        torch.testing.assert_close(by_returns, expected[own])


def test_whitening_is_over_the_tokens_of_all_ranks():
    """This rank has 1 and 3, the other 5 and 7: mean 4, variance 5."""
    values, mask = torch.tensor([[1.0, 3.0, 99.0]]), torch.tensor([[1, 1, 0]])
    other = torch.tensor([2.0, 12.0, 74.0], dtype=torch.float64)
    full = whiten(values, mask, lambda sums: sums + other, shift_mean=True)
    torch.testing.assert_close(full, torch.tensor([[-3.0, -1.0, 0.0]]) / 5**0.5)
    scaled = whiten(values, mask, lambda sums: sums + other, shift_mean=False)
    torch.testing.assert_close(scaled, torch.tensor([[-3 / 5**0.5 + 4, -1 / 5**0.5 + 4, 0.0]]))


@pytest.mark.parametrize(
    ("loss_type", "expected"),
    [
        # a mean over rows of means over tokens
        ("grpo", [[1 / 8] * 4, [1 / 4, 1 / 4, 0, 0]]),
        ("sapo", [[1 / 8] * 4, [1 / 4, 1 / 4, 0, 0]]),
        # a mean over tokens
        ("bnpo", [[1 / 6] * 4, [1 / 6, 1 / 6, 0, 0]]),
        # tokens over rows and the longest completion there may be
        ("dr_grpo", [[1 / 20] * 4, [1 / 20, 1 / 20, 0, 0]]),
        # tokens over those of the generation batch
        ("dapo", [[1 / 12] * 4, [1 / 12, 1 / 12, 0, 0]]),
        ("cispo", [[1 / 12] * 4, [1 / 12, 1 / 12, 0, 0]]),
    ],
)
def test_token_weights_by_hand(loss_type, expected):
    actual = token_weights(MASK[:2], loss_type, torch.tensor(12), max_length=10, share=1.0)
    torch.testing.assert_close(actual, torch.tensor(expected))
    halved = token_weights(MASK[:2], loss_type, torch.tensor(12), max_length=10, share=0.5)
    torch.testing.assert_close(halved, actual / 2)
