import math

import pytest
import torch

from rlstep.core.losses import clipped_value_loss, explained_variance, step_label_loss


def test_clipped_value_loss_by_hand():
    # token 0 moved 0.5 towards its target, clipped at 0.2: errors 0.5^2 and 0.8^2; token 1 moved away: 1.5^2 and 1.2^2
    values_BT = torch.tensor([[0.5, -0.5, 9.0]], requires_grad=True)
    old_BT, returns_BT = torch.zeros(1, 3), torch.ones(1, 3)
    loss, fraction = clipped_value_loss(values_BT, old_BT, returns_BT, torch.tensor([[1, 1, 0]]), clip=0.2)
    assert loss.item() == pytest.approx(0.5 * (0.64 + 2.25) / 2)
    assert fraction.item() == 0.5
    loss.backward()
    # no gradient where the clip binds, none under the mask
    assert values_BT.grad[0].tolist() == pytest.approx([0.0, -0.75, 0.0])


def test_a_wide_clip_is_half_the_squared_error():
    values_BT, returns_BT = torch.tensor([[1.0, 3.0]]), torch.zeros(1, 2)
    loss, fraction = clipped_value_loss(values_BT, torch.zeros(1, 2), returns_BT, torch.ones(1, 2), clip=100.0)
    assert loss.item() == pytest.approx(2.5)
    assert fraction.item() == 0.0


def test_value_loss_refuses_bad_input():
    x_BT = torch.zeros(1, 2)
    with pytest.raises(ValueError, match="clip=0"):
        clipped_value_loss(x_BT, x_BT, x_BT, torch.ones(1, 2), clip=0)
    with pytest.raises(ValueError, match="empty"):
        clipped_value_loss(x_BT, x_BT, x_BT, torch.zeros(1, 2), clip=0.2)


def test_step_label_loss_by_hand():
    # p(right) = 3/4, 1/2 and 1/5
    logits_N2 = torch.tensor([[0.0, math.log(3)], [1.0, 1.0], [math.log(4), 0.0]])
    loss = step_label_loss(logits_N2, torch.tensor([1.0, 0.25, 0.0]))
    assert loss.item() == pytest.approx(-(math.log(0.75) + math.log(0.5) + math.log(0.8)) / 3)


def test_a_soft_label_is_best_met_by_its_own_probability():
    logits_N2 = torch.tensor([[0.0, math.log(0.3 / 0.7)]], requires_grad=True)
    step_label_loss(logits_N2, torch.tensor([0.3])).backward()
    assert logits_N2.grad.abs().max().item() < 1e-6


@pytest.mark.parametrize(
    ("logits", "targets", "message"),
    [
        (torch.zeros(2, 3), torch.zeros(2), r"expected \(N, 2\)"),
        (torch.zeros(2, 2), torch.zeros(3), r"expected \(N, 2\)"),
        (torch.zeros(0, 2), torch.zeros(0), "no labelled steps"),
        (torch.zeros(1, 2), torch.tensor([-100]), "-100"),
    ],
)
def test_step_label_loss_refuses_bad_input(logits, targets, message):
    with pytest.raises(ValueError, match=message):
        step_label_loss(logits, targets)


def test_explained_variance():
    returns_T, mask_T = torch.tensor([1.0, 3.0, 50.0]), torch.tensor([1, 1, 0])
    assert explained_variance(returns_T, returns_T, mask_T).item() == 1.0
    # a constant offset is no loss of explanation; a constant explains nothing
    assert explained_variance(returns_T + 5, returns_T, mask_T).item() == 1.0
    assert explained_variance(torch.zeros(3), returns_T, mask_T).item() == 0.0
    # residuals 0 and 1: variance 1/4 of the returns' 1
    assert explained_variance(torch.tensor([1.0, 2.0, 0.0]), returns_T, mask_T).item() == pytest.approx(0.75)
    assert math.isnan(explained_variance(returns_T, torch.ones(3), mask_T).item())
