import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rlstep.core.advantages import gae, group, mean_return, rloo, vine
from rlstep.core.rewards import pad_steps, place_step_rewards
from rlstep.core.step_tokens import spread_over_tokens

NAN = float("nan")
bounded = settings(max_examples=60, deadline=None, derandomize=True)
numbers = st.floats(-2, 2, width=32)
fractions = st.floats(0, 1)


def ragged(lengths):
    """(B, T) mask of rows of these lengths, padded by one column more than the longest needs."""
    return torch.arange(max(lengths) + 1) < torch.tensor(lengths)[:, None]


def drawn(mask_BT, seed):
    """Normal numbers under the mask, NaN elsewhere: what stands there must never be read."""
    generator = torch.Generator().manual_seed(seed)
    numbers_BT = torch.randn(mask_BT.shape, generator=generator, dtype=torch.float64)
    return torch.where(mask_BT, numbers_BT, torch.nan)


# --- gae


def loop_gae(rewards, values, gamma, lam, bootstrap=0.0):
    """Equation 16 of 1506.02438 read literally: A_t = sum_l (gamma lam)^l delta_{t+l}."""
    ahead = [*values, bootstrap][1:]
    deltas = [r + gamma * after - v for r, after, v in zip(rewards, ahead, values, strict=True)]
    return [sum((gamma * lam) ** (k - t) * deltas[k] for k in range(t, len(deltas))) for t in range(len(deltas))]


def matrix_gae(rewards_BT, values_BT, lengths, gamma, lam, bootstrap_B):
    """The same as one product: A = delta W, W_ij = (gamma lam)^(i-j) for i >= j, and 0 for i < j."""
    B, T = rewards_BT.shape
    rewards_BT, values_BT = rewards_BT.nan_to_num(0), values_BT.nan_to_num(0)
    states_BT = torch.cat([values_BT, torch.zeros(B, 1, dtype=values_BT.dtype)], dim=1)
    for b, length in enumerate(lengths):
        if length:
            states_BT[b, length] = bootstrap_B[b]
    delta_BT = rewards_BT + gamma * states_BT[:, 1:] - values_BT
    ahead_TT = torch.arange(T)[:, None] - torch.arange(T)[None]
    weights_TT = torch.tensor(gamma * lam, dtype=torch.float64).pow(ahead_TT.clamp_min(0)) * (ahead_TT >= 0)
    return (delta_BT @ weights_TT) * ragged(lengths)


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


@bounded
@given(
    lengths=st.lists(st.integers(0, 12), min_size=1, max_size=5),
    gamma=fractions,
    lam=fractions,
    cut_off=st.booleans(),
    seed=st.integers(0, 2**32),
)
def test_gae_equals_a_matrix_product_and_a_loop(lengths, gamma, lam, cut_off, seed):
    mask_BT = ragged(lengths)
    rewards_BT, values_BT = drawn(mask_BT, seed), drawn(mask_BT, seed + 1)
    bootstrap_B = torch.linspace(-1, 1, len(lengths), dtype=torch.float64) * cut_off
    given_B = bootstrap_B if cut_off else None
    advantages_BT, returns_BT = gae(rewards_BT, values_BT, mask_BT, gamma, lam, given_B)
    expected_BT = matrix_gae(rewards_BT, values_BT, lengths, gamma, lam, bootstrap_B)
    torch.testing.assert_close(advantages_BT, expected_BT)
    torch.testing.assert_close(returns_BT, expected_BT + values_BT.nan_to_num(0))
    for b, length in enumerate(lengths):
        rewards, values = rewards_BT[b, :length].tolist(), values_BT[b, :length].tolist()
        expected = loop_gae(rewards, values, gamma, lam, bootstrap_B[b].item())
        assert advantages_BT[b, :length].tolist() == pytest.approx(expected)


def test_gae_with_the_value_of_what_was_cut_off_by_hand():
    # as above with gamma 0.5, lam 0.5, and V = 2 past the end: delta_2 = 3 + 1 - 4 = 0
    rewards_BT, values_BT = torch.tensor([[1.0, 0.0, 3.0, NAN]] * 2), torch.tensor([[1.0, 2.0, 4.0, NAN]] * 2)
    mask_BT = torch.tensor([[1, 1, 1, 0]] * 2)
    advantages_BT, returns_BT = gae(rewards_BT, values_BT, mask_BT, 0.5, 0.5, torch.tensor([2.0, 0.0]))
    assert advantages_BT.tolist() == [[1.0, 0.0, 0.0, 0.0], [0.9375, -0.25, -1.0, 0.0]]
    assert returns_BT.tolist() == [[2.0, 2.0, 4.0, 0.0], [1.9375, 1.75, 3.0, 0.0]]


def test_the_value_of_what_was_cut_off_stands_at_the_last_token_and_not_in_empty_rows():
    # one row fills all columns, one has no tokens
    mask_BT = torch.tensor([[1, 1], [0, 0]])
    advantages_BT, _ = gae(torch.zeros(2, 2), torch.zeros(2, 2), mask_BT, 1.0, 0.5, torch.tensor([4.0, NAN]))
    assert advantages_BT.tolist() == [[2.0, 4.0], [0.0, 0.0]]
    with pytest.raises(ValueError, match=r"bootstrap values have shape \(1,\) for 2 rows"):
        gae(torch.zeros(2, 2), torch.zeros(2, 2), mask_BT, 1.0, 0.5, torch.zeros(1))


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


# --- group


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


def test_rewards_baseline_is_deepseekmaths_process_supervision():
    """2402.03300, 4.1.3. Rewards 1 2 | 3 | none | 0 2 4: mean 2, variance 10/6; centred -1 0 | 1 | none | -2 0 2."""
    std = (10 / 6) ** 0.5 + 1e-4
    centred = {
        1.0: [[-1, 0, 0], [1, 0, 0], [0, 0, 0], [0, 2, 2]],
        0.5: [[-1, 0, 0], [1, 0, 0], [0, 0, 0], [-1.5, 1, 2]],
    }
    for discount, expected in centred.items():
        plain_BS, _ = group(*pad_steps(STEPS), torch.zeros(4), 4, discount, baseline="rewards")
        assert plain_BS.tolist() == expected
        scaled_BS, outcome_B = group(*pad_steps(STEPS), torch.zeros(4), 4, discount, scale="group", baseline="rewards")
        torch.testing.assert_close(scaled_BS, torch.tensor(expected) / std)
        assert not outcome_B.any()


def test_rewards_baseline_without_step_rewards_is_deepseekmaths_outcome_supervision():
    """2402.03300, 4.1.2. Outcomes 1 0 0 1: mean 1/2, standard deviation 1/2, whether samples have steps or not."""
    zeros = [torch.zeros_like(steps) for steps in STEPS]
    process_BS, outcome_B = group(*pad_steps(zeros), OUTCOMES, 4, 1.0, scale="group", baseline="rewards")
    assert not process_BS.any()
    torch.testing.assert_close(outcome_B, torch.tensor([0.5, -0.5, -0.5, 0.5]) / 0.5001)


def test_rewards_baseline_divides_both_parts_by_one_number():
    process_BS, outcome_B = group(*pad_steps(STEPS), OUTCOMES, 4, 1.0, scale="group", baseline="rewards")
    std = (10 / 6 + 1 / 4) ** 0.5 + 1e-4
    torch.testing.assert_close(process_BS, torch.tensor([[-1.0, 0, 0], [1, 0, 0], [0, 0, 0], [0, 2, 2]]) / std)
    torch.testing.assert_close(outcome_B, torch.tensor([0.5, -0.5, -0.5, 0.5]) / std)


def test_rewards_baseline_ignores_lengths_where_rewards_are_equal_and_grows_with_steps_above_the_mean():
    def first(steps, baseline):
        return group(*pad_steps(steps), torch.zeros(2), 2, 1.0, baseline=baseline)[0][0, 0].item()

    equal = [torch.ones(4), torch.ones(2)]
    assert first(equal, "rewards") == 0.0
    # G: 4 3 2 1 and 2 1, their mean 13/6; at the first position 3
    assert first(equal, "all") == pytest.approx(4 - 13 / 6)
    assert first(equal, "position") == 1.0
    # n steps of 1 against one of 0: the mean is n / (n + 1), and n times what remains of 1 is n / (n + 1), too
    for n in (1, 3, 5):
        assert first([torch.ones(n), torch.zeros(1)], "rewards") == pytest.approx(n / (n + 1))


def test_rewards_baseline_keeps_problems_apart():
    both_BS, both_B = group(*pad_steps(STEPS + [10 * s for s in STEPS]), OUTCOMES.repeat(2), 4, 1.0, baseline="rewards")
    one_BS, one_B = group(*pad_steps(STEPS), OUTCOMES, 4, 1.0, baseline="rewards")
    torch.testing.assert_close(both_BS, torch.cat([one_BS, 10 * one_BS]))
    torch.testing.assert_close(both_B, one_B.repeat(2))


# --- rloo


def test_rloo_by_hand():
    """PURE, 2504.15275. Returns 3 2 2 and 4; three tokens in the longest row: baselines 4/3 and 7/3."""
    rewards_BT, mask_BT = torch.tensor([[1.0, 0.0, 2.0], [4.0, NAN, NAN]]), torch.tensor([[1, 1, 1], [1, 0, 0]])
    advantages_BT = rloo(rewards_BT, mask_BT, 2)
    torch.testing.assert_close(advantages_BT, torch.tensor([[5 / 3, 2 / 3, 2 / 3], [5 / 3, 0, 0]]))
    # gamma 0.5: returns 3/2 1 2 and 4, baselines 4/3 and 3/2
    advantages_BT = rloo(rewards_BT, mask_BT, 2, gamma=0.5)
    torch.testing.assert_close(advantages_BT, torch.tensor([[1 / 6, -1 / 3, 2 / 3], [5 / 2, 0, 0]]))


def loop_rloo(rewards, gamma):
    """The formula of one group, read literally; `rewards` are lists of the rows' own lengths."""
    returns = [[sum(gamma ** (s - t) * r[s] for s in range(t, len(r))) for t in range(len(r))] for r in rewards]
    N, K = max(map(len, rewards)), len(rewards)
    baselines = [sum(sum(returns[k]) for k in range(K) if k != i) / ((K - 1) * max(N, 1)) for i in range(K)]
    return [[G - b for G in row] for row, b in zip(returns, baselines, strict=True)]


@bounded
@given(
    groups=st.integers(2, 4).flatmap(
        lambda K: st.lists(st.lists(st.lists(numbers, max_size=6), min_size=K, max_size=K), min_size=1, max_size=3)
    ),
    gamma=fractions,
)
def test_rloo_equals_the_formula_for_each_group_alone(groups, gamma):
    rows = [torch.tensor(row, dtype=torch.float64) for rows in groups for row in rows]
    rewards_BT, mask_BT = pad_steps(rows)
    advantages_BT = rloo(torch.where(mask_BT, rewards_BT, torch.nan), mask_BT, len(groups[0]), gamma)
    expected = [row for rows in groups for row in loop_rloo(rows, gamma)]
    expected_BT, _ = pad_steps([torch.tensor(row, dtype=torch.float64) for row in expected])
    torch.testing.assert_close(advantages_BT, expected_BT)


def test_rloo_of_outcomes_alone_is_plain_rloo():
    """2402.14740: R_i - mean of the others' R, for all tokens; 3 - 3/2, 1 - 5/2, 2 - 2."""
    rewards_BT = torch.zeros(3, 4)
    rewards_BT[:, -1] = torch.tensor([3.0, 1.0, 2.0])
    assert rloo(rewards_BT, torch.ones(3, 4), 3).tolist() == [[1.5] * 4, [-1.5] * 4, [0.0] * 4]


def test_rloo_does_not_sum_dense_rewards_away():
    # rows of equal sums; two tokens each, so the baseline is half of the other row's summed returns
    rewards_BT = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    assert rloo(rewards_BT, torch.ones(2, 2), 2).tolist() == [[0.0, -1.0], [0.5, 0.5]]


def test_an_early_reward_moves_early_tokens_and_the_other_rows_under_rloo():
    rewards_BT, mask_BT = drawn(ragged([4, 2, 3]), seed=0), ragged([4, 2, 3])
    changed_BT = rewards_BT.clone()
    changed_BT[0, 1] += 1
    change_BT = rloo(changed_BT, mask_BT, 3) - rloo(rewards_BT, mask_BT, 3)
    # two of row 0's returns grow by 1, so the others' baselines by 2 / (2 * 4)
    expected_BT = torch.tensor([[1, 1, 0, 0, 0], [-0.25, -0.25, 0, 0, 0], [-0.25, -0.25, -0.25, 0, 0]]).double()
    torch.testing.assert_close(change_BT, expected_BT)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"group_size": 1}, "two samples or more"),
        ({"group_size": 3}, "4 rows do not make groups of 3"),
        ({"gamma": -0.1}, "gamma=-0.1"),
        ({"rewards_BT": torch.zeros(4, 3)}, "shapes differ"),
        ({"mask_BT": torch.tensor([[0, 1]] * 4)}, "one after a zero"),
    ],
)
def test_rloo_refuses_wrong_input(changes, message):
    arguments = {"rewards_BT": torch.zeros(4, 2), "mask_BT": torch.ones(4, 2), "group_size": 2}
    with pytest.raises(ValueError, match=message):
        rloo(**{**arguments, **changes})


# --- mean_return


def test_mean_return_is_vppos_advantage():
    """2601.18984, equations 6 and 7, alpha 0.5, four samples of a problem.

    Right; wrong after three good tokens of four; wrong from its only token; masked. Their mean returns are 1, 3/4 of
    0.5, 0 and 0, and the mean of these is 1.375 / 4 = 0.34375.
    """
    rewards_BT = torch.tensor([[0, 1, NAN, NAN], [0, 0, 0.5, 0], [0, NAN, NAN, NAN], [NAN] * 4])
    b = 0.34375
    expected = [[1 - b, 1 - b, 0, 0], [0.5 - b] * 3 + [-b], [-b, 0, 0, 0], [0, 0, 0, 0]]
    torch.testing.assert_close(mean_return(rewards_BT, ragged([2, 4, 1, 0])[:, :4], 4), torch.tensor(expected))


def test_mean_return_of_outcomes_alone_is_grpos_without_its_scale():
    rewards_BT = torch.tensor([[0.0, 0.0, 1.0], [0.0, 0.0, 0.0], [3.0, 0.0, 0.0], [0.0, 1.0, 0.0]])
    mask_BT = torch.tensor([[1, 1, 1], [1, 0, 0], [1, 0, 0], [1, 1, 0]])
    expected = torch.tensor([0.5, -0.5, 1.0, -1.0])[:, None] * mask_BT
    torch.testing.assert_close(mean_return(rewards_BT, mask_BT, 2), expected)


def test_mean_return_discounts():
    # returns 0.25, 0.5 and 1, of mean 7 / 12; the other sample has none, so the baseline is 7 / 24
    advantages_BT = mean_return(torch.tensor([[0.0, 0.0, 1.0], [0.0, 0.0, 0.0]]), torch.ones(2, 3), 2, gamma=0.5)
    torch.testing.assert_close(advantages_BT[0], torch.tensor([0.25, 0.5, 1.0]) - 7 / 24)


def test_mean_return_needs_whole_groups():
    with pytest.raises(ValueError, match="3 rows do not make groups of 2"):
        mean_return(torch.zeros(3, 2), torch.ones(3, 2), 2)


# --- vine


def test_vine_by_hand():
    """2410.01679: three steps, one step, none. 0.5 + 0.75 - 0.5, 0 + 0.25 - 0.75, -0.25 + 1 - 0.25; 1 + 0 - 0.5."""
    steps = [torch.tensor([0.5, 0.0, -0.25]), torch.tensor([1.0]), torch.empty(0)]
    values_BS = torch.tensor([[0.5, 0.75, 0.25], [0.5, NAN, NAN], [0.25, NAN, NAN]])
    process_BS, outcome_B = vine(*pad_steps(steps), torch.tensor([1.0, 0.0, 1.0]), values_BS)
    assert process_BS.tolist() == [[0.75, -0.5, 0.5], [0.5, 0.0, 0.0], [0.0, 0.0, 0.0]]
    assert outcome_B.tolist() == [0.0, 0.0, 0.75]
    tokens_BT = spread_over_tokens(process_BS, outcome_B, [[0, 1, 2], [1], []], torch.tensor([[1, 1, 1, 1]] * 3))
    assert tokens_BT.tolist() == [[0.75, -0.5, 0.5, 0.5], [0.5] * 4, [0.75] * 4]


@bounded
@given(
    rows=st.lists(
        st.tuples(st.lists(st.tuples(numbers, numbers), max_size=5), numbers, numbers), min_size=1, max_size=4
    )
)
def test_vine_telescopes_to_the_return_less_the_prompts_value(rows):
    """Values between the prompt's and the end cancel: a row's advantages sum to its return less V_0."""
    rewards_BS, mask_BS = pad_steps([torch.tensor([r for r, _ in steps]).double() for steps, _, _ in rows])
    values = [[v for _, v in steps] or [prompt] for steps, _, prompt in rows]
    width = max(rewards_BS.shape[1], 1)
    values_BS = torch.tensor([[*row, *[NAN] * (width - len(row))] for row in values]).double()
    outcomes_B = torch.tensor([outcome for _, outcome, _ in rows]).double()
    process_BS, outcome_B = vine(rewards_BS, mask_BS, outcomes_B, values_BS)
    expected_B = rewards_BS.sum(dim=1) + outcomes_B - values_BS[:, 0]
    torch.testing.assert_close(process_BS.sum(dim=1) + outcome_B, expected_B)
    assert not process_BS[~mask_BS].any()


def test_vine_where_no_row_has_steps():
    steps_BS, mask_BS = pad_steps([torch.empty(0)] * 2)
    process_BS, outcome_B = vine(steps_BS, mask_BS, torch.tensor([1.0, 0.0]), torch.tensor([[0.25], [0.25]]))
    assert process_BS.shape == (2, 0)
    assert outcome_B.tolist() == [0.75, -0.25]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"values_BS": torch.zeros(2, 3)}, r"values have shape \(2, 3\) for 2 rows of 2 steps"),
        ({"outcomes_B": torch.zeros(2, 1)}, r"outcomes have shape \(2, 1\)"),
        ({"step_mask_BS": torch.tensor([[0, 1]] * 2)}, "one after a zero"),
        ({"step_mask_BS": torch.ones(2, 1)}, "shapes differ"),
    ],
)
def test_vine_refuses_wrong_input(changes, message):
    arguments = {"step_rewards_BS": torch.zeros(2, 2), "step_mask_BS": torch.ones(2, 2)}
    with pytest.raises(ValueError, match=message):
        vine(**{**arguments, "outcomes_B": torch.zeros(2), "values_BS": torch.zeros(2, 2), **changes})


# --- What holds of every estimator.


def of_steps(estimator, **settings):
    """An estimator of steps as a function of what is paid and where the steps end, to token advantages."""

    def advantages_BT(steps, outcomes_B, step_tokens, mask_BT):
        parts = estimator(*pad_steps(steps), outcomes_B, **settings)
        return spread_over_tokens(*parts, step_tokens, mask_BT)

    return advantages_BT


def of_tokens(estimator, *settings):
    def advantages_BT(steps, outcomes_B, step_tokens, mask_BT):
        last_B = (mask_BT.sum(dim=1) - 1).clamp_min(0)
        rewards_BT = place_step_rewards(steps, step_tokens, outcomes_B, last_B, mask_BT.shape[1])
        return estimator(rewards_BT, mask_BT, *settings)

    return advantages_BT


def gae_with_values(rewards_BT, mask_BT, gamma, lam):
    values_BT = torch.linspace(0, 1, rewards_BT.numel()).view(rewards_BT.shape)
    return gae(rewards_BT, values_BT, mask_BT, gamma, lam)[0]


def vine_with_values(step_rewards_BS, step_mask_BS, outcomes_B):
    B, S = step_rewards_BS.shape
    return vine(step_rewards_BS, step_mask_BS, outcomes_B, torch.linspace(0, 1, B * max(S, 1)).view(B, -1))


ESTIMATORS = {
    "gae": of_tokens(gae_with_values, 1.0, 1.0),
    "gae-discounted": of_tokens(gae_with_values, 0.9, 0.8),
    "rloo": of_tokens(rloo, 2),
    "rloo-discounted": of_tokens(rloo, 2, 0.9),
    "mean_return": of_tokens(mean_return, 2),
    "vine": of_steps(vine_with_values),
} | {
    f"group-{baseline}-{scale}": of_steps(group, group_size=2, discount=1.0, scale=scale, baseline=baseline)
    for baseline in ("position", "all", "rewards")
    for scale in ("none", "group")
}
every_estimator = pytest.mark.parametrize("estimator", ESTIMATORS.values(), ids=ESTIMATORS.keys())


@every_estimator
def test_one_steps_reward_and_the_outcome_are_paid_alike(estimator):
    # steps that end with the completion, in rows of 3, 3, 1 and 2 tokens
    paid_B, none_B = torch.tensor([1.0, 0.0, 0.25, -1.0]), torch.zeros(4)
    where = [[2], [2], [0], [1]], ragged([3, 3, 1, 2])
    by_step_BT = estimator(list(paid_B[:, None]), none_B, *where)
    by_outcome_BT = estimator(list(none_B[:, None]), paid_B, *where)
    torch.testing.assert_close(by_step_BT, by_outcome_BT)
    assert by_step_BT[0, 0] > estimator(list(none_B[:, None]), none_B, *where)[0, 0]


def test_under_gae_with_lam_1_the_tokens_of_one_step_do_not_see_where_behind_them_it_is_paid():
    # the end-of-sequence token behind the step is paid the outcome, not the step's reward
    paid_B, none_B = torch.tensor([1.0, 0.5]), torch.zeros(2)
    where = [[2], [1]], ragged([4, 3])
    by_step_BT = ESTIMATORS["gae"](list(paid_B[:, None]), none_B, *where)
    by_outcome_BT = ESTIMATORS["gae"](list(none_B[:, None]), paid_B, *where)
    torch.testing.assert_close(by_step_BT[:, :2], by_outcome_BT[:, :2])
    torch.testing.assert_close((by_outcome_BT - by_step_BT)[[0, 1], [3, 2]], paid_B)


@every_estimator
def test_an_early_steps_reward_raises_early_tokens_above_later_ones(estimator):
    def advantages_BT(first: float) -> torch.Tensor:
        steps = [torch.tensor([first, 0.2, 0.4]), torch.tensor([0.3, 0.4])]
        return estimator(steps, torch.tensor([1.0, 0.0]), [[1, 3, 5], [0, 2]], ragged([6, 4]))

    change_BT = advantages_BT(0.9) - advantages_BT(0.1)
    assert (change_BT[0, :2] > 0.05).all()
    assert (change_BT[0, 2:6] < change_BT[0, 1] - 0.05).all()


@every_estimator
def test_rows_without_steps_or_tokens_are_finite_and_padding_stays_0(estimator):
    mask_BT = ragged([3, 2, 0, 0])
    steps = [torch.tensor([0.5, 1.0]), torch.empty(0), torch.empty(0), torch.empty(0)]
    advantages_BT = estimator(steps, torch.tensor([1.0, 0.5, 0.0, 0.0]), [[0, 2], [], [], []], mask_BT)
    assert advantages_BT.isfinite().all()
    assert not advantages_BT[~mask_BT].any()
    assert advantages_BT[:2].any()


@pytest.mark.parametrize("name", [name for name in ESTIMATORS if name.startswith(("rloo", "group", "mean_return"))])
def test_samples_that_tie_give_each_other_no_advantage(name):
    # one step a sample, of one token: whatever the baseline is, it is what the others got
    steps, outcomes_B = [torch.tensor([0.1])] * 4, torch.full((4,), 0.7)
    advantages_BT = ESTIMATORS[name](steps, outcomes_B, [[0]] * 4, ragged([1] * 4))
    torch.testing.assert_close(advantages_BT, torch.zeros(4, 2), atol=2e-4, rtol=0)


# --- spread_over_tokens


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
