import math

import pytest
import torch

from rlstep.core.implicit import implicit_rewards, outcome_probabilities


def test_ragged_rows_by_hand():
    # two rows with steps of 2 and 1, and of 3 tokens: log pi_phi - log pi_ref in nats
    log_ratios = torch.tensor([2.0, -6.0, 10.0, 1.0, 1.0, -4.0])
    steps = implicit_rewards(log_ratios, torch.tensor([0, 0, 1, 2, 2, 2]), 3, beta=0.05)
    assert steps.tolist() == pytest.approx([-0.2, 0.5, -0.1])
    rows = implicit_rewards(log_ratios, torch.tensor([0, 0, 0, 1, 1, 1]), 2, beta=0.05)
    assert rows.tolist() == pytest.approx([0.3, -0.1])


def test_beta_scales_and_a_step_without_tokens_gets_nothing():
    log_ratios, steps = torch.tensor([2.0, 1.0]), torch.tensor([0, 2])
    assert implicit_rewards(log_ratios, steps, 3, beta=0.5).tolist() == [1.0, 0.0, 0.5]
    assert implicit_rewards(log_ratios, steps, 3, beta=2.0).tolist() == [4.0, 0.0, 2.0]
    assert implicit_rewards(torch.zeros(0), torch.zeros(0, dtype=torch.long), 2, beta=1.0).tolist() == [0.0, 0.0]


def test_probabilities_are_of_the_sum_so_far():
    # the odds so far: 3, 3 / 9, 1 / 3 x 3
    actual = outcome_probabilities(torch.tensor([math.log(3), -math.log(9), math.log(3)]))
    assert actual.tolist() == pytest.approx([3 / 4, 1 / 4, 1 / 2])
    assert outcome_probabilities(torch.zeros(0)).tolist() == []


def test_the_gradient_of_a_token_is_beta():
    log_ratios = torch.zeros(3, requires_grad=True)
    implicit_rewards(log_ratios, torch.tensor([0, 1, 1]), 2, beta=0.05)[1].backward()
    assert log_ratios.grad.tolist() == pytest.approx([0.0, 0.05, 0.05])


@pytest.mark.parametrize("beta", [0, -0.05, float("nan")])
def test_beta_must_be_above_zero(beta):
    with pytest.raises(ValueError, match="must be above 0"):
        implicit_rewards(torch.zeros(1), torch.zeros(1, dtype=torch.long), 1, beta)


def test_shapes_must_agree():
    with pytest.raises(ValueError, match=r"log_ratios_N \(2,\), segments_N \(1,\)"):
        implicit_rewards(torch.zeros(2), torch.zeros(1, dtype=torch.long), 1, 0.05)
