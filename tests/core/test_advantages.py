import pytest
import torch

from rlstep.core.advantages import gae, group, spread_over_tokens
from rlstep.core.rewards import pad_steps, place_step_rewards


def loop_gae(rewards, values, gamma, lam):
    """Equation 16 of 1506.02438 read literally: A_t = sum_l (gamma lam)^l delta_{t+l}."""
    ahead = [*values, 0.0][1:]
    deltas = [r + gamma * after - v for r, after, v in zip(rewards, ahead, values, strict=True)]
    return [sum((gamma * lam) ** (k - t) * deltas[k] for k in range(t, len(deltas))) for t in range(len(deltas))]


def test_gae_by_hand():
    # gamma 0.5, lam 0.5: delta = [1 + 1 - 1, 0 + 2 - 2, 3 - 4] = [1, 0, -1]; A_2 = -1, A_1 = -1/4, A_0 = 1 - 1/16
    advantages_BT, returns_BT = gae(
        torch.tensor([[1.0, 0.0, 3.0]]), torch.tensor([[1.0, 2.0, 4.0]]), torch.ones(1, 3), 0.5, 0.5
    )
    assert advantages_BT.tolist() == [[0.9375, -0.25, -1.0]]
    assert returns_BT.tolist() == [[1.9375, 1.75, 3.0]]


@pytest.mark.parametrize(("gamma", "lam"), [(1.0, 1.0), (0.9, 0.8), (1.0, 0.0), (0.0, 0.5)])
def test_gae_equals_the_formula_on_ragged_rows(gamma, lam):
    generator = torch.Generator().manual_seed(0)
    rewards_BT, values_BT = torch.randn(2, 4, 7, generator=generator, dtype=torch.float64)
    lengths = [7, 4, 1, 0]
    mask_BT = torch.arange(7) < torch.tensor(lengths)[:, None]
    # whatever stands under the mask is never read
    rewards_BT, values_BT = (torch.where(mask_BT, x, torch.nan) for x in (rewards_BT, values_BT))
    advantages_BT, returns_BT = gae(rewards_BT, values_BT, mask_BT, gamma, lam)
    for b, length in enumerate(lengths):
        expected = loop_gae(rewards_BT[b, :length].tolist(), values_BT[b, :length].tolist(), gamma, lam)
        assert advantages_BT[b, :length].tolist() == pytest.approx(expected)
        torch.testing.assert_close(returns_BT[b, :length], advantages_BT[b, :length] + values_BT[b, :length])
        assert not advantages_BT[b, length:].any()
        assert not returns_BT[b, length:].any()


def test_an_early_step_moves_early_tokens_alone_under_gae():
    def place(first: float) -> torch.Tensor:
        return place_step_rewards([torch.tensor([first, 0.5])], [[2, 5]], torch.ones(1), torch.tensor([6]), 7)

    values_BT = torch.linspace(0, 1, 7)[None]
    before_BT, _ = gae(place(0.1), values_BT, torch.ones(1, 7), 0.9, 0.8)
    after_BT, _ = gae(place(0.7), values_BT, torch.ones(1, 7), 0.9, 0.8)
    expected = [0.6 * 0.72 ** (2 - t) for t in range(3)] + [0.0] * 4
    assert (after_BT - before_BT)[0].tolist() == pytest.approx(expected, abs=1e-6)


def test_gae_refuses_gaps_and_bad_numbers():
    x_BT = torch.zeros(2, 3)
    with pytest.raises(ValueError, match="row 1 has a one after a zero"):
        gae(x_BT, x_BT, torch.tensor([[1, 1, 0], [0, 1, 1]]), 1.0, 1.0)
    with pytest.raises(ValueError, match="lam=1.5"):
        gae(x_BT, x_BT, torch.ones(2, 3), 1.0, 1.5)
    with pytest.raises(ValueError, match="shapes differ"):
        gae(x_BT, x_BT[:, :2], torch.ones(2, 3), 1.0, 1.0)


# One problem, four samples: two steps, one step, no steps, three steps.
STEPS = [torch.tensor([1.0, 2.0]), torch.tensor([3.0]), torch.empty(0), torch.tensor([0.0, 2.0, 4.0])]
OUTCOMES = torch.tensor([1.0, 0.0, 0.0, 1.0])


def test_group_with_each_steps_own_reward():
    # all steps: 1 2 3 0 2 4, mean 2
    process_BS, outcome_B = group(*pad_steps(STEPS), OUTCOMES, group_size=4, discount=0.0)
    assert process_BS.tolist() == [[-1.0, 0.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, 0.0], [-2.0, 0.0, 2.0]]
    assert outcome_B.tolist() == [0.5, -0.5, -0.5, 0.5]


def test_group_with_later_steps():
    # G: 3 2 | 3 | 6 6 4, mean 4; with discount 0.5: 2 2 | 3 | 2 4 4, mean 17/6
    process_BS, _ = group(*pad_steps(STEPS), OUTCOMES, group_size=4, discount=1.0)
    assert process_BS.tolist() == [[-1.0, -2.0, 0.0], [-1.0, 0.0, 0.0], [0.0, 0.0, 0.0], [2.0, 2.0, 0.0]]
    process_BS, _ = group(*pad_steps(STEPS), OUTCOMES, group_size=4, discount=0.5)
    expected_BS = torch.tensor([[2.0, 2.0, 0.0], [3.0, 0.0, 0.0], [0.0, 0.0, 0.0], [2.0, 4.0, 4.0]])
    mask_BS = pad_steps(STEPS)[1]
    torch.testing.assert_close(process_BS, torch.where(mask_BS, expected_BS - 17 / 6, 0.0))


def test_groups_do_not_mix():
    both_BS, both_B = group(*pad_steps(STEPS + [10 * s for s in STEPS]), OUTCOMES.repeat(2), 4, 0.0)
    one_BS, one_B = group(*pad_steps(STEPS), OUTCOMES, 4, 0.0)
    torch.testing.assert_close(both_BS, torch.cat([one_BS, 10 * one_BS]))
    torch.testing.assert_close(both_B, one_B.repeat(2))


def test_scale_divides_both_parts_by_the_spread_of_their_sum():
    plain_BS, plain_B = group(*pad_steps(STEPS), OUTCOMES, 4, 0.0)
    scaled_BS, scaled_B = group(*pad_steps(STEPS), OUTCOMES, 4, 0.0, scale="group")
    # process + outcome of each step; the sample without steps counts once
    totals = torch.tensor([-0.5, 0.5, 0.5, -0.5, -1.5, 0.5, 2.5])
    std = totals.std(correction=0) + 1e-4
    torch.testing.assert_close(scaled_BS, plain_BS / std)
    torch.testing.assert_close(scaled_B, plain_B / std)


def test_equal_rewards_give_zero_whatever_the_scale():
    process_BS, outcome_B = group(torch.ones(2, 2), torch.ones(2, 2), torch.ones(2), 2, 0.0, scale="group")
    assert not process_BS.any()
    assert not outcome_B.any()


def test_with_one_step_process_and_outcome_coincide():
    rewards_B, none_B = torch.tensor([1.0, 0.0, 0.0, 1.0]), torch.zeros(4)
    mask_BT = torch.ones(4, 3)
    by_step = group(rewards_B[:, None], torch.ones(4, 1), none_B, 2, 1.0, scale="group")
    by_outcome = group(torch.zeros(4, 1), torch.ones(4, 1), rewards_B, 2, 1.0, scale="group")
    torch.testing.assert_close(
        spread_over_tokens(*by_step, [[1]] * 4, mask_BT), spread_over_tokens(*by_outcome, [[1]] * 4, mask_BT)
    )


def test_a_group_without_any_step_has_the_outcome_alone():
    steps_BS, mask_BS = pad_steps([torch.empty(0)] * 2)
    process_BS, outcome_B = group(steps_BS, mask_BS, torch.tensor([1.0, 0.0]), 2, 0.0)
    assert process_BS.shape == (2, 0)
    advantages_BT = spread_over_tokens(process_BS, outcome_B, [[], []], torch.tensor([[1, 1], [1, 0]]))
    assert advantages_BT.tolist() == [[0.5, 0.5], [-0.5, 0.0]]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"group_size": 1}, "two samples or more"),
        ({"group_size": 3}, "4 rows do not make groups of 3"),
        ({"discount": 1.5}, "discount=1.5"),
        ({"scale": "batch"}, "unknown scale 'batch'"),
        ({"outcomes_B": torch.zeros(3)}, r"outcomes have shape \(3,\)"),
        ({"step_mask_BS": torch.tensor([[0, 1]] * 4)}, "one after a zero"),
    ],
)
def test_wrong_groups(changes, message):
    arguments = {"step_rewards_BS": torch.zeros(4, 2), "step_mask_BS": torch.ones(4, 2), "outcomes_B": torch.zeros(4)}
    with pytest.raises(ValueError, match=message):
        group(**{**arguments, "group_size": 2, "discount": 0.0, **changes})


def test_tokens_get_the_advantage_of_their_step():
    process_BS = torch.tensor([[1.0, 2.0, 0.0], [3.0, 4.0, 5.0], [0.0, 0.0, 0.0]])
    mask_BT = torch.tensor([[1, 1, 1, 1, 1, 0], [1, 1, 1, 1, 0, 0], [1, 1, 0, 0, 0, 0]])
    advantages_BT = spread_over_tokens(process_BS, torch.tensor([10.0, 0.0, 20.0]), [[1, 3], [0, 2, 2], []], mask_BT)
    assert advantages_BT.tolist() == [
        [11.0, 11.0, 12.0, 12.0, 12.0, 0.0],  # token 4, the end of sequence, goes with the last step
        [3.0, 4.0, 4.0, 5.0, 0.0, 0.0],  # steps 1 and 2 end at token 2, which belongs to the first of them
        [20.0, 20.0, 0.0, 0.0, 0.0, 0.0],
    ]


@pytest.mark.parametrize(
    ("tokens", "message"),
    [
        ([[3, 1]], "in order"),
        ([[1, 4]], "within the completion's 4 tokens"),
        ([[0, 1, 2]], "3 step tokens for 2 steps"),
    ],
)
def test_misplaced_step_tokens(tokens, message):
    with pytest.raises(ValueError, match=message):
        spread_over_tokens(torch.zeros(1, 2), torch.zeros(1), tokens, torch.tensor([[1, 1, 1, 1, 0]]))


@pytest.mark.parametrize("discount", [0.0, 0.5])
def test_an_early_step_moves_early_tokens_and_others_by_the_mean_alone(discount):
    def advantages_BT(first: float) -> torch.Tensor:
        rewards_BS = torch.tensor([[first, 0.2], [0.3, 0.4]])
        parts = group(rewards_BS, torch.ones(2, 2), torch.tensor([1.0, 0.0]), 2, discount)
        return spread_over_tokens(*parts, [[1, 3], [0, 2]], torch.ones(2, 4))

    change_BT = advantages_BT(0.9) - advantages_BT(0.1)
    # four steps: the mean of G moves by 0.8 / 4
    expected_BT = torch.full((2, 4), -0.2)
    expected_BT[0, :2] += 0.8
    torch.testing.assert_close(change_BT, expected_BT)


def test_position_baseline_compares_a_step_with_its_like():
    """By hand: at the first step the mean is 0.5, at the second -0.5; the third exists in one sample alone."""
    rewards_BS = torch.tensor([[1.0, 0.0, 9.0], [0.0, -1.0, 5.0]])
    mask_BS = torch.tensor([[True, True, False], [True, True, True]])
    process_BS, outcome_B = group(rewards_BS, mask_BS, torch.zeros(2), 2, discount=0.0, baseline="position")
    assert process_BS.tolist() == [[0.5, 0.5, 0.0], [-0.5, -0.5, 0.0]]
    assert outcome_B.tolist() == [0.0, 0.0]


def test_position_baseline_keeps_problems_apart():
    rewards_BS = torch.tensor([[1.0], [0.0], [5.0], [3.0]])
    process_BS, _ = group(rewards_BS, torch.ones(4, 1), torch.zeros(4), 2, discount=0.0, baseline="position")
    assert process_BS.tolist() == [[0.5], [-0.5], [1.0], [-1.0]]


def test_unknown_baseline_is_refused():
    with pytest.raises(ValueError, match="baseline 'mean'"):
        group(torch.zeros(2, 1), torch.ones(2, 1), torch.zeros(2), 2, discount=0.0, baseline="mean")
