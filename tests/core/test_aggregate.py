import math

import pytest
import torch

from rlstep.core.aggregate import LOWEST, logit_solution_score, solution_score, vote_weight


@pytest.mark.parametrize(
    ("how", "expected"), [("product", math.log(0.9 * 0.5 * 0.8)), ("minimum", 0.5), ("last", 0.8), ("mean", 2.2 / 3)]
)
def test_scores_by_hand(how, expected):
    assert solution_score([0.9, 0.5, 0.8], how) == pytest.approx(expected)
    assert solution_score(torch.tensor([0.9, 0.5, 0.8]), how) == pytest.approx(expected)


def test_the_product_still_orders_200_improbable_steps():
    worse, better = [1e-6] * 200, [1e-6] * 199 + [2e-6]
    assert math.prod(better) == 0.0
    assert LOWEST < solution_score(worse, "product") < solution_score(better, "product") < 0


@pytest.mark.parametrize("how", ["product", "minimum", "last", "mean"])
def test_no_steps_score_lowest(how):
    assert solution_score([], how) == LOWEST < solution_score([0.01], how)
    assert vote_weight(LOWEST, how) == 0.0


def test_an_impossible_step():
    assert solution_score([0.5, 0.0], "product") == LOWEST
    assert solution_score([0.5, 0.0], "minimum") == 0.0


def test_vote_weights_are_probabilities():
    assert vote_weight(solution_score([0.9, 0.5], "product"), "product") == pytest.approx(0.45)
    assert vote_weight(solution_score([0.9, 0.5], "mean"), "mean") == pytest.approx(0.7)


def test_bad_input():
    with pytest.raises(ValueError, match="unknown aggregation 'min'"):
        solution_score([0.5], "min")
    with pytest.raises(ValueError, match="step 1 has p=1.5"):
        solution_score([0.5, 1.5], "product")
    with pytest.raises(ValueError, match="step 0 has p=nan"):
        solution_score([math.nan], "mean")


@pytest.mark.parametrize("how", ["product", "minimum", "last", "mean"])
def test_log_odds_give_the_logs_of_what_probabilities_give(how):
    """Sigmoids of log 3, 0 and -log 4: 3/4, 1/2 and 1/5."""
    logits, expected = [math.log(3), 0.0, -math.log(4)], solution_score([0.75, 0.5, 0.2], how)
    score = logit_solution_score(logits, how)
    in_logs = math.log(expected) if how in ("minimum", "last") else expected
    assert score == pytest.approx(in_logs)
    assert vote_weight(score, how, logits=True) == pytest.approx(vote_weight(expected, how))
    assert logit_solution_score([], how) == LOWEST
    assert vote_weight(LOWEST, how, logits=True) == 0.0


def test_log_odds_of_any_size_have_an_order():
    for how in ("product", "minimum", "last"):
        scores = [logit_solution_score([reward], how) for reward in (-1e6, -800.0, -40.0, 0.0, 40.0, 45.0, 700.0)]
        assert scores == sorted(set(scores))
        assert scores[0] > LOWEST
