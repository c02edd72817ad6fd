import pytest
import torch

from rlstep.policy.estimators import (
    charge_kl,
    group_advantages,
    token_rewards,
    token_weights,
    vine_advantages,
    whiten,
    without_positive_steps,
)
from rlstep.policy.rewards.scored import ScoredCompletion


def judgement(step_rewards, outcome=0.0, steps=None) -> ScoredCompletion:
    count = len(step_rewards) if steps is None else steps
    return ScoredCompletion([(k, k + 1) for k in range(count)], list(step_rewards), outcome, outcome > 0, False)


MASK = torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0], [0, 0, 0, 0]])


def test_token_rewards_lie_on_last_tokens_and_masked_rows_get_none():
    judged = [judgement([0.5, -1.0], 1.0), judgement([0.25], 2.0), judgement([9.0], 9.0)]
    found = token_rewards(judged, [[1, 2], [1], []], MASK)
    torch.testing.assert_close(found, torch.tensor([[0.0, 0.5, -1.0, 1.0], [0.0, 2.25, 0.0, 0.0], [0.0] * 4]))


def test_kl_is_charged_to_the_step_that_a_token_belongs_to():
    """Tokens 0 and 1 are the first step's, 2 the second's, and so is the end-of-sequence token 3 behind it."""
    cost = torch.tensor([[0.1, 0.2, 0.4, 0.8], [0.1, 0.2, 0.0, 0.0], [1.0, 0.0, 0.0, 0.0]])
    judged = [judgement([0.5, 0.0]), judgement([0.25], 1.0), judgement([], 1.0)]
    found = charge_kl(judged, [[1, 2], [1], []], cost)
    assert found[0].step_rewards == pytest.approx([0.5 - 0.3, 0.0 - 1.2])
    assert found[1].step_rewards == pytest.approx([0.25 - 0.3])
    assert [row.outcome for row in found] == pytest.approx([0.0, 1.0, 0.0])


def test_the_kl_of_steps_that_are_not_judged_is_the_outcomes_and_makes_them_no_judged_ones():
    cost = torch.tensor([[0.1, 0.2, 0.4, 0.8]] * 2)
    judged = [judgement([0.5], 1.0, steps=2), judgement([], 1.0, steps=2)]
    found = charge_kl(judged, [[1, 2], [1, 2]], cost)
    assert [row.step_rewards for row in found] == [pytest.approx([0.5 - 0.3]), []]
    assert [row.outcome for row in found] == pytest.approx([1.0 - 1.2, 1.0 - 1.5])


def test_a_cut_off_completion_keeps_what_it_lost():
    assert without_positive_steps(judgement([0.5, -1.0, 0.25], 1.0)).step_rewards == [0.0, -1.0, 0.0]


def test_vine_by_hand():
    """A_k = r_k + V_{k+1} - V_k; the outcome is paid at the last step or, without steps, against the prompt's value."""
    judged = [judgement([0.5], 1.0, steps=2), judgement([], 1.0)]
    values = torch.tensor([[0.25, 0.75], [0.4, 0.0]])
    mask = torch.tensor([[1, 1, 1], [1, 1, 0]])
    found = vine_advantages(judged, values, [[0, 1], []], mask)
    first, second = 0.5 + 0.75 - 0.25, 0.0 + 1.0 - 0.75
    torch.testing.assert_close(found, torch.tensor([[first, second, second], [0.6, 0.6, 0.0]]))


def test_a_group_that_lies_on_two_ranks_is_one(arguments):
    """Each rank has one of the two samples: r = 1 and 0, outcome 1 and 0."""
    everyone = [judgement([1.0], 1.0), judgement([0.0], 0.0)]
    mask = torch.ones(1, 2, dtype=torch.long)
    for rank, expected in ((0, 1.0), (1, -1.0)):
        found = group_advantages(everyone, slice(rank, rank + 1), [[0]], mask, 2, arguments())
        torch.testing.assert_close(found, torch.full((1, 2), expected))


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
    found = token_weights(MASK[:2], loss_type, torch.tensor(12), max_length=10, share=1.0)
    torch.testing.assert_close(found, torch.tensor(expected))
    halved = token_weights(MASK[:2], loss_type, torch.tensor(12), max_length=10, share=0.5)
    torch.testing.assert_close(halved, found / 2)
