import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rlstep.core.rewards import (
    SCHEMES,
    beginning_rewards,
    check_scheme,
    pad_steps,
    place_step_rewards,
    step_rewards,
    steps_to_first_error,
)

P = torch.tensor([0.9, 0.5, 0.8, 0.6])
PARAMETERS = {"log": {"floor": -10.0}, "clip": {"eta": 0.7}, "clip_delta": {"eta": 0.7}, "progress": {"p0": 0.3}}

bounded = settings(max_examples=60, deadline=None, derandomize=True)
solutions = st.lists(st.floats(0.01, 1), min_size=1, max_size=8).map(lambda p: torch.tensor(p, dtype=torch.float64))


def returns(rewards_S):
    """What is still to come from each step on: sums from the back."""
    return rewards_S.flip(0).cumsum(0).flip(0)


@pytest.mark.parametrize(
    ("scheme", "parameters", "expected"),
    [
        # the verifier's score as it is, which Gao et al. (2410.15115) start from
        ("sum", {}, [0.9, 0.5, 0.8, 0.6]),
        # 2 p - 1: 1.8 - 1, 1 - 1, 1.6 - 1, 1.2 - 1
        ("sum", {"centered": True}, [0.8, 0.0, 0.6, 0.2]),
        # terms of the product score, Lightman et al. (2305.20050, 2.6); log 0.5 = -0.69 is below the floor
        ("log", {"floor": -0.6}, [math.log(0.9), -0.6, math.log(0.8), math.log(0.6)]),
        # Gao et al. (2410.15115): min(p - 0.7, 0)
        ("clip", {"eta": 0.7}, [0.0, -0.2, 0.0, -0.1]),
        # Gao et al.: 0.9 - 0.5, 0.5 - 0.8, then 0.8 for the last but one and nothing for the last
        ("delta", {}, [0.4, -0.3, 0.8, 0.0]),
        # Gao et al.: delta of 0, -0.2, 0, -0.1
        ("clip_delta", {"eta": 0.7}, [0.2, -0.2, 0.0, 0.0]),
        # after PAV (2410.08146): 0.9 - 0.3, 0.5 - 0.9, 0.8 - 0.5, 0.6 - 0.8
        ("progress", {"p0": 0.3}, [0.6, -0.4, 0.3, -0.2]),
    ],
)
def test_schemes_by_hand(scheme, parameters, expected):
    torch.testing.assert_close(step_rewards(P, scheme, **parameters), torch.tensor(expected))


@pytest.mark.parametrize(
    ("scheme", "parameters", "expected"),
    [
        # what a step is paid for its own score alone
        ("sum", {"centered": True}, [0.8, 0.0, 0.6, 0.2]),
        ("log", {"floor": -0.6}, [math.log(0.9), -0.6, math.log(0.8), math.log(0.6)]),
        ("clip", {"eta": 0.7}, [0.0, -0.2, 0.0, -0.1]),
        ("progress", {"p0": 0.3}, [0.6, -0.4, 0.3, -0.2]),
        # 0.9 - 0.5, 0.5 - 0.8, 0.8 - 0.6; the fourth would be 0.6 less the fifth's score
        ("delta", {}, [0.4, -0.3, 0.2, 0.0]),
        # of 0, -0.2, 0, -0.1; the fourth would be -0.1 less what the fifth's is, 0 at most
        ("clip_delta", {"eta": 0.7}, [0.2, -0.2, 0.1, -0.1]),
        # the lowest may be among those without a score, and so may the windows that swing
        ("min_form", {"total": "exact"}, [0.0, 0.0, 0.0, 0.0]),
        ("coherence", {}, [0.0, 0.0, 0.0, 0.0]),
    ],
)
def test_the_beginning_of_a_solution_whose_later_steps_have_no_scores(scheme, parameters, expected):
    torch.testing.assert_close(beginning_rewards(P, scheme, **parameters), torch.tensor(expected))


def test_a_low_score_costs_a_beginning_what_it_costs_a_solution():
    p_S = torch.tensor([0.9, 0.1], dtype=torch.float64)
    # q = 0.8, -0.8: nearly all of it is charged to the second step
    paid_S = beginning_rewards(p_S, "min_form", total="exact")
    torch.testing.assert_close(paid_S, step_rewards(p_S, "min_form", total="exact"))
    assert paid_S.sum() == pytest.approx(-0.8)


@bounded
@given(p_S=solutions, rest_S=solutions)
def test_under_delta_a_beginning_is_worth_no_more_than_with_all_scores(p_S, rest_S):
    """From each step on, what that and all later steps are paid; one that is not scored is paid nothing."""
    n, whole_S = len(p_S), torch.cat([p_S, rest_S])
    for scheme in ("delta", "clip_delta"):
        more = PARAMETERS.get(scheme, {})
        whole = returns(step_rewards(whole_S, scheme, **more))[:n]
        # The last step of a solution is worth 0 under both.
        assert (returns(beginning_rewards(p_S, scheme, **more)) <= whole + 1e-9).all()


@bounded
@given(p_S=solutions)
def test_nothing_of_a_beginning_is_paid_more_than_as_a_solution_of_its_own(p_S):
    for scheme in set(SCHEMES) - {"delta", "clip_delta"}:
        paid = (make(p_S, scheme, **PARAMETERS.get(scheme, {})) for make in (beginning_rewards, step_rewards))
        beginning_S, alone_S = paid
        assert (beginning_S <= alone_S).all()


def test_a_beginning_without_steps_has_no_rewards():
    for scheme in SCHEMES:
        assert len(beginning_rewards(torch.tensor([]), scheme, **PARAMETERS.get(scheme, {}))) == 0


def test_min_form_by_hand():
    """PURE (2504.15275). q = 1 and 0, T = 1: weights e^-1 and e^0 over their sum."""
    rewards_S = step_rewards(torch.tensor([1.0, 0.5]), "min_form", temperature=1.0)
    torch.testing.assert_close(rewards_S, torch.tensor([math.exp(-1) / (math.exp(-1) + 1), 0.0]))


def test_coherence_by_hand():
    """PROGRS (2604.02341), equation 5, over windows of two and of three."""
    # 0.9, 0.5: m = 0.7, s = 0.2; 0.5, 0.5: 0.5; all three: m = 1.9 / 3, s^2 = (0.8^2 + 2 * 0.4^2) / 27
    pairs = (0.7 * math.exp(-2 / 7) + 0.5) / 2
    m, s = 1.9 / 3, math.sqrt(0.96 / 27)
    expected = (pairs + m * math.exp(-s / m)) / 2
    rewards_S = step_rewards(torch.tensor([0.9, 0.5, 0.5]), "coherence", windows=[2, 3], spread=1.0)
    torch.testing.assert_close(rewards_S, torch.full((3,), expected))
    # no spread: the mean of the windows' means
    plain_S = step_rewards(torch.tensor([0.9, 0.5, 0.5]), "coherence", windows=[2], spread=0.0)
    torch.testing.assert_close(plain_S, torch.full((3,), 0.6))
    # steady scores lose nothing, and a solution shorter than the window is one window
    torch.testing.assert_close(step_rewards(torch.tensor([0.4]), "coherence"), torch.tensor([0.4]))


def test_min_forms_own_temperature_is_pures():
    # q = 0 and 0.1, T = 0.1: weights e^0 and e^-1 over their sum
    rewards_S = step_rewards(torch.tensor([0.5, 0.55]), "min_form")
    torch.testing.assert_close(rewards_S, torch.tensor([0.0, 0.1 * math.exp(-1) / (1 + math.exp(-1))]))


@bounded
@given(p_S=solutions, temperature=st.floats(0.01, 10))
def test_min_form_returns_between_the_least_and_the_mean_centred_score(p_S, temperature):
    total = step_rewards(p_S, "min_form", temperature=temperature).sum().item()
    q_S = 2 * p_S - 1
    assert q_S.min().item() - 1e-9 <= total <= q_S.mean().item() + 1e-9


def test_min_form_returns_about_the_least_centred_score():
    assert step_rewards(torch.tensor([0.9, 0.2, 0.8]), "min_form", temperature=0.01).sum() == pytest.approx(
        -0.6, abs=1e-4
    )
    # padding with a good step gains nothing
    assert step_rewards(torch.tensor([0.9, 0.2, 0.8, 0.99]), "min_form").sum() == pytest.approx(-0.6, abs=0.01)


@bounded
@given(p_S=solutions)
def test_delta_telescopes_to_p_k(p_S):
    """The return from a step before the last is that step's score, so that steps put behind it gain nothing."""
    returns_S = returns(step_rewards(p_S, "delta"))
    torch.testing.assert_close(returns_S[:-1], p_S[:-1])
    assert returns_S[-1] == 0
    clipped_S = returns(step_rewards(p_S, "clip_delta", eta=0.6))
    torch.testing.assert_close(clipped_S[:-1], (p_S[:-1] - 0.6).clamp_max(0))
    assert clipped_S[-1] == 0


def test_delta_of_one_and_two_steps():
    assert step_rewards(torch.tensor([0.7]), "delta").tolist() == [0.0]
    torch.testing.assert_close(step_rewards(torch.tensor([0.7, 0.2]), "delta"), torch.tensor([0.7, 0.0]))


@bounded
@given(p_S=solutions, p0=st.floats(0, 1))
def test_progress_telescopes_to_the_last_score(p_S, p0):
    assert step_rewards(p_S, "progress", p0=p0).sum().item() == pytest.approx(p_S[-1].item() - p0)


@bounded
@given(p_S=solutions)
def test_logs_sum_to_the_log_of_the_product_and_sums_do_not(p_S):
    total = step_rewards(p_S, "log", floor=-100.0).sum().item()
    assert math.exp(total) == pytest.approx(math.prod(p_S.tolist()))
    # 1 + log p <= p, equal for p = 1 alone: of scores below 1 the raw sum makes more, the more steps there are
    assert step_rewards(p_S, "sum").sum().item() >= len(p_S) + total - 1e-9


@pytest.mark.parametrize(
    ("scheme", "more"),
    [
        ("sum", 1.8),
        ("log", 2 * math.log(0.9)),
        ("clip", 0.0),
        ("delta", 0.0),
        ("clip_delta", 0.0),
        # the last score counts: 0.9 for 0.5
        ("progress", 0.4),
        # q = 0.6, 0 and two of 0.8: (0.6 e^-6 + 1.6 e^-8) / (1 + e^-6 + 2 e^-8) less 0.6 e^-6 / (1 + e^-6)
        ("min_form", 0.00053),
        # two steps of one window, m = 0.65 and s = 0.15; four also 0.7 +- 0.2 and 0.9 +- 0, and of three
        # m = 2.2 / 3, s = 0.16997 and m = 2.3 / 3, s = 0.18856
        ("coherence", 4 * (0.647361 + 0.590564) / 2 - 2 * 0.516050),
    ],
)
def test_what_two_good_steps_put_behind_add_to_a_solution(scheme, more):
    def earned(scores):
        return step_rewards(torch.tensor(scores), scheme, **PARAMETERS.get(scheme, {})).sum().item()

    assert earned([0.8, 0.5, 0.9, 0.9]) - earned([0.8, 0.5]) == pytest.approx(more, abs=1e-5)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_an_early_steps_score_moves_its_own_reward(scheme):
    def rewards_S(first):
        return step_rewards(torch.tensor([first, 0.5, 0.8, 0.6]), scheme, **PARAMETERS.get(scheme, {}))

    change_S = rewards_S(0.4) - rewards_S(0.3)
    assert change_S[0] > 0.02
    # what is paid two steps later does not see it, unless the scheme compares all steps
    assert change_S[2:].any() == (scheme in ("min_form", "coherence"))


def test_log_of_zero_is_the_floor():
    assert step_rewards(torch.tensor([0.0, 1.0]), "log", floor=-10.0).tolist() == [-10.0, 0.0]


@pytest.mark.parametrize("scheme", SCHEMES)
def test_no_steps_give_no_rewards_and_input_stays(scheme):
    parameters = PARAMETERS.get(scheme, {})
    assert step_rewards(torch.empty(0), scheme, **parameters).shape == (0,)
    before = P.clone()
    step_rewards(P, scheme, **parameters)
    assert torch.equal(P, before)


def test_labels_serve_as_scores():
    assert step_rewards(torch.tensor([1, 0]), "sum", centered=True).tolist() == [1.0, -1.0]


@pytest.mark.parametrize(
    ("scheme", "parameters", "message"),
    [
        ("product", {}, "unknown reward scheme 'product'; choose one of sum, log"),
        ("clip", {}, "'clip' needs 'eta'"),
        ("clip", {"eta": 0.7, "etta": 1}, "no parameter 'etta'; it takes eta"),
        ("delta", {"eta": 0.7}, "it takes no parameters"),
        ("log", {"floor": 1e-6}, "below 0"),
        ("min_form", {"temperature": 0.0}, "above 0"),
        ("coherence", {"windows": [1]}, "widths of 2 steps or more"),
        ("coherence", {"windows": []}, "widths of 2 steps or more"),
        ("coherence", {"spread": -1.0}, "0 or more"),
    ],
)
def test_wrong_schemes_and_parameters(scheme, parameters, message):
    with pytest.raises(ValueError, match=message):
        step_rewards(P, scheme, **parameters)


def test_parameters_can_be_checked_before_there_are_scores():
    check_scheme("sum", {"centered": True})
    with pytest.raises(ValueError, match="needs 'p0'"):
        check_scheme("progress", {})


@pytest.mark.parametrize("scores", [[1.5], [-0.5], [float("nan")]])
def test_scores_must_be_probabilities(scores):
    with pytest.raises(ValueError, match="probabilities"):
        step_rewards(torch.tensor(scores), "sum")
    with pytest.raises(ValueError, match=r"shape \(1, 1\)"):
        step_rewards(torch.tensor([scores]), "sum")


@pytest.mark.parametrize(("threshold", "steps"), [(0.5, 2), (0.4, 4), (0.95, 1), (0.05, 4)])
def test_steps_up_to_and_including_the_first_error(threshold, steps):
    # a score at the threshold is not below it
    assert steps_to_first_error(torch.tensor([0.9, 0.4, 0.9, 0.1]), threshold) == steps
    assert steps_to_first_error(torch.empty(0), threshold) == 0


def test_steps_and_outcome_land_on_their_tokens():
    step = [torch.tensor([0.5, -0.25]), torch.empty(0), torch.tensor([1.0, 2.0, 4.0])]
    rewards_BT = place_step_rewards(
        step, [[1, 3], [], [0, 2, 2]], torch.tensor([1.0, -1.0, 10.0]), torch.tensor([4, 2, 2]), 5
    )
    assert rewards_BT.tolist() == [
        [0.0, 0.5, 0.0, -0.25, 1.0],
        [0.0, 0.0, -1.0, 0.0, 0.0],
        # two steps end at token 2, which is the last as well
        [1.0, 0.0, 16.0, 0.0, 0.0],
    ]


def test_no_steps_anywhere():
    rewards_BT = place_step_rewards([torch.empty(0)], [[]], torch.tensor([1.0]), torch.tensor([1]), 3)
    assert rewards_BT.tolist() == [[0.0, 1.0, 0.0]]


@pytest.mark.parametrize(
    ("step", "tokens", "last", "message"),
    [
        ([torch.ones(2)], [[1]], [3], "row 0: 2 step rewards for 1 step tokens"),
        ([torch.ones(1)], [[3]], [2], r"row 0: step tokens \[3\] and last token 2"),
        ([torch.ones(1)], [[3]], [4], r"0\.\.3"),
        ([torch.ones(1)], [[-1]], [2], "row 0"),
        ([torch.ones(1)] * 2, [[1]], [3], "2 rows of step rewards"),
    ],
)
def test_misplaced_steps_are_errors(step, tokens, last, message):
    with pytest.raises(ValueError, match=message):
        place_step_rewards(step, tokens, torch.zeros(1), torch.tensor(last), 4)


def test_pad_steps():
    values_BS, mask_BS = pad_steps([torch.tensor([1.0, 2.0]), torch.empty(0), torch.tensor([3.0])])
    assert values_BS.tolist() == [[1.0, 2.0], [0.0, 0.0], [3.0, 0.0]]
    assert mask_BS.tolist() == [[True, True], [False, False], [True, False]]
    assert pad_steps([torch.empty(0)])[0].shape == (1, 0)
