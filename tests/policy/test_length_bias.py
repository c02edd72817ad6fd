"""What each baseline of `advantage: group` makes the policy believe that one more step is worth, in closed form.

A policy controls how many steps it writes. After its first step it writes a second with probability p, or ends. The
first step's reward is r1 = m +- 1 and the second's r2 = c +- 1, each sign as likely as the other, whatever is chosen.
Of a completion's tokens the second one is the choice: the first token of the second step, or the end token, which
belongs to the first step. The policy's gradient in the logit of p is the mean over samples of (X - p) A, X = 1 for
those that go on and A the choice's advantage; one of the whole return would be p (1 - p) c. So what one more step seems
to be worth is that mean over p (1 - p), and c is what it is worth. What it seems to be worth where c = 0 is a hidden
bonus.

With N' ~ Bin(G - 1, p) of the other samples going on:

- position, step_discount 0: A = r2 - mean of the r2, or r1 - mean of the r1. The means' own expectations are c and m,
  whoever goes on, so it seems to be worth 0.
- position, step_discount 1: who goes on gets r2 - mean of the r2, 0 on average. Who ends gets r1 - mean of (r1 + X r2),
  where N' of the G samples have an r2: -c E[N'] / G. So it seems to be worth c p (G - 1) / G.
- all, step_discount 0, and rewards, step_discount 1: A = r2 - b or r1 - b, with the mean b of all steps' rewards. Their
  difference is c - m but for b, which depends a little on one's own choice: with N going on b is on average
  f(N) = (G m + N c) / (G + N). So it seems to be worth c - m - E[f(N' + 1) - f(N')].
- all, step_discount 1: as before with G_1 = r1 + r2 in place of r1 where a sample goes on, which changes b alone:
  f(N) = (G m + 2 N c) / (G + N).

For large groups the bonus of the last two lines is -m, minus the mean reward of the step before.
"""

from itertools import product
from math import comb, prod

import pytest
import torch

from rlstep.policy.estimators import group_advantages
from rlstep.policy.rewards.scored import ScoredCompletion

G = 4


def seems_worth(args, m: float, c: float, p: float) -> float:
    """The exact expectation: every group there can be, weighted by its probability."""
    ends = [((m + sign,), (1 - p) / 2) for sign in (-1, 1)]
    goes_on = [((m + one, c + other), p / 4) for one, other in product((-1, 1), repeat=2)]
    groups = list(product(ends + goes_on, repeat=G))
    rewards = [steps for group in groups for steps, _ in group]
    weights = torch.tensor([prod(weight for _, weight in group) for group in groups], dtype=torch.float64)
    scored = [ScoredCompletion([(k, k + 1) for k in range(len(r))], list(r), 0.0, False, False) for r in rewards]
    went_on_B = torch.tensor([len(r) == 2 for r in rewards])
    # One token a step, and the end token.
    mask_BT = torch.arange(3) < 2 + went_on_B[:, None]
    step_ends = [list(range(len(r))) for r in rewards]
    advantages_BT = group_advantages(scored, slice(0, len(scored)), step_ends, mask_BT, G, args)
    pull_B = (went_on_B.double() - p) * advantages_BT[:, 1].double()
    return float((weights * pull_B.view(-1, G).mean(dim=1)).sum() / (p * (1 - p)))


def others(p: float):
    """(N', its probability)"""
    return [(n, comb(G - 1, n) * p**n * (1 - p) ** (G - 1 - n)) for n in range(G)]


def against_all_steps(m, c, p, later: float) -> float:
    def f(N):
        return (G * m + N * (1 + later) * c) / (G + N)

    return c - m - sum(weight * (f(n + 1) - f(n)) for n, weight in others(p))


RATES = [(1.0, 0.0, 0.5), (-0.8, 0.0, 0.3), (0.5, 2.0, 0.7), (-1.0, -1.0, 0.5)]


@pytest.mark.parametrize(("m", "c", "p"), RATES)
def test_the_default_has_no_bonus_for_one_more_step(arguments, m, c, p):
    args = arguments()
    assert (args.advantage, args.step_baseline, args.step_discount) == ("group", "position", 0)
    assert abs(seems_worth(args, m, c, p)) < 0.01 * abs(m)


@pytest.mark.parametrize(("m", "c", "p"), RATES)
@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"step_discount": 1.0}, lambda m, c, p: c * p * (G - 1) / G),
        ({"step_baseline": "all"}, lambda m, c, p: against_all_steps(m, c, p, later=0)),
        ({"step_baseline": "all", "step_discount": 1.0}, lambda m, c, p: against_all_steps(m, c, p, later=1)),
        ({"step_baseline": "rewards", "step_discount": 1.0}, lambda m, c, p: against_all_steps(m, c, p, later=0)),
    ],
    ids=["position, 1", "all, 0", "all, 1", "rewards, 1"],
)
def test_what_one_more_step_seems_to_be_worth(arguments, settings, expected, m, c, p):
    assert seems_worth(arguments(**settings), m, c, p) == pytest.approx(expected(m, c, p), abs=1e-5)


@pytest.mark.parametrize("settings", [{"step_baseline": "rewards", "step_discount": 1.0}, {"step_baseline": "all"}])
def test_a_step_that_adds_nothing_has_a_bonus_of_minus_the_mean_reward_before_it(arguments, settings):
    """At c = 0, by hand for G = 4 and p = 1/2: -m (1 - E[G / ((G + N') (G + N' + 1))]) = -0.8804 m."""
    share = 1 - (1 / 8 * 4 / 20 + 3 / 8 * 4 / 30 + 3 / 8 * 4 / 42 + 1 / 8 * 4 / 56)
    for m in (1.0, -0.8):
        assert seems_worth(arguments(**settings), m, 0.0, 0.5) == pytest.approx(-share * m, abs=1e-5)
