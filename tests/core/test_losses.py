import math

import pytest
import torch

from rlstep.core.losses import (
    clipped_value_loss,
    explained_variance,
    pairwise_loss,
    right_log_odds,
    step_label_loss,
)


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
        (torch.zeros(2, 1), torch.zeros(2), r"expected \(N, V\)"),
        (torch.zeros(2, 2), torch.zeros(3), r"expected \(N, V\)"),
        (torch.zeros(1, 3), torch.tensor([2.0]), "two classes"),
        (torch.zeros(0, 2), torch.zeros(0), "no labelled steps"),
        (torch.zeros(1, 2), torch.tensor([-100]), "-100"),
    ],
)
def test_step_label_loss_refuses_bad_input(logits, targets, message):
    with pytest.raises(ValueError, match=message):
        step_label_loss(logits, targets)


def test_step_label_loss_of_three_classes_by_hand():
    # p(wrong, right, neutral) = 1/6, 3/6, 2/6
    logits_N3 = torch.log(torch.tensor([[1.0, 3.0, 2.0]])).repeat(3, 1)
    loss = step_label_loss(logits_N3, torch.tensor([2.0, 1.0, 0.5]), columns=(0, 1, 2))
    expected = -(math.log(2 / 6) + math.log(3 / 6) + 0.5 * math.log(3 / 6) + 0.5 * math.log(1 / 6)) / 3
    assert loss.item() == pytest.approx(expected)


def test_label_tokens_compete_with_the_whole_vocabulary():
    # tokens 4 and 1 stand for wrong and right; p = 1/10 and 3/10, the rest is elsewhere in the vocabulary
    logits_NV = torch.log(torch.tensor([[2.0, 3.0, 2.0, 2.0, 1.0]]))
    assert step_label_loss(logits_NV, torch.tensor([1.0]), (4, 1)).item() == pytest.approx(-math.log(0.3))
    assert step_label_loss(logits_NV, torch.tensor([0.0]), (4, 1)).item() == pytest.approx(-math.log(0.1))


def test_pairwise_loss_by_hand():
    # pairs with margins of log 3 and 0: sigmoid 3/4 and 1/2
    loss = pairwise_loss(torch.tensor([math.log(3), 0.0, 2.0, 2.0]))
    assert loss.item() == pytest.approx(-(math.log(0.75) + math.log(0.5)) / 2)
    for bad in (torch.zeros(3), torch.zeros(0), torch.zeros(2, 1)):
        with pytest.raises(ValueError, match="pairs"):
            pairwise_loss(bad)


@pytest.mark.parametrize(("neutral", "p"), [("positive", 5 / 6), ("negative", 3 / 6), ("ignore", 3 / 4)])
def test_neutral_counts_as_asked(neutral, p):
    logits_N3 = torch.log(torch.tensor([[1.0, 3.0, 2.0]]))
    assert right_log_odds(logits_N3, neutral).sigmoid().item() == pytest.approx(p)


def test_two_classes_have_no_neutral_to_count():
    logits_N2 = torch.tensor([[0.0, math.log(3)], [0.0, 200.0]])
    for neutral in ("positive", "negative", "ignore"):
        assert right_log_odds(logits_N2, neutral).tolist() == pytest.approx([math.log(3), 200.0])
    with pytest.raises(ValueError, match="neutral is 'good'"):
        right_log_odds(logits_N2, "good")
    with pytest.raises(ValueError, match="expected"):
        right_log_odds(torch.zeros(2, 4))


def test_explained_variance():
    returns_T, mask_T = torch.tensor([1.0, 3.0, 50.0]), torch.tensor([1, 1, 0])
    assert explained_variance(returns_T, returns_T, mask_T).item() == 1.0
    # a constant offset is no loss of explanation; a constant explains nothing
    assert explained_variance(returns_T + 5, returns_T, mask_T).item() == 1.0
    assert explained_variance(torch.zeros(3), returns_T, mask_T).item() == 0.0
    # residuals 0 and 1: variance 1/4 of the returns' 1
    assert explained_variance(torch.tensor([1.0, 2.0, 0.0]), returns_T, mask_T).item() == pytest.approx(0.75)
    assert math.isnan(explained_variance(returns_T, torch.ones(3), mask_T).item())
