import pytest
import torch

from rlstep.core.masked import masked_mean, masked_whiten

NAN = float("nan")


def test_mean_over_ragged_rows_ignores_what_is_masked():
    values_BT = torch.tensor([[1.0, 3.0, NAN], [5.0, NAN, NAN]])
    mask_BT = torch.tensor([[1, 1, 0], [1, 0, 0]])
    assert masked_mean(values_BT, mask_BT).item() == 3.0
    assert masked_mean(values_BT, mask_BT, dim=1).tolist() == [2.0, 5.0]


def test_mean_gives_masked_positions_no_gradient():
    values_T = torch.tensor([2.0, NAN], requires_grad=True)
    masked_mean(values_T.square(), torch.tensor([1, 0])).backward()
    assert values_T.grad[0].item() == 4.0


def test_mean_over_nothing_is_an_error():
    mask_BT = torch.tensor([[1, 0], [0, 0]])
    with pytest.raises(ValueError, match="empty"):
        masked_mean(torch.ones(2, 2), torch.zeros(2, 2))
    with pytest.raises(ValueError, match="empty along axis 1"):
        masked_mean(torch.ones(2, 2), mask_BT, dim=1)


def test_shapes_must_agree():
    with pytest.raises(ValueError, match=r"values \(2, 2\), mask \(2,\)"):
        masked_mean(torch.ones(2, 2), torch.ones(2))


def test_whiten_by_hand():
    # 2 and 6: mean 4, variance 4, standard deviation 2
    values_T, mask_T = torch.tensor([2.0, 6.0, 100.0]), torch.tensor([1, 1, 0])
    torch.testing.assert_close(masked_whiten(values_T, mask_T), torch.tensor([-1.0, 1.0, 0.0]))
    torch.testing.assert_close(masked_whiten(values_T, mask_T, shift_mean=False), torch.tensor([3.0, 5.0, 0.0]))


def test_whiten_of_equal_values_is_finite():
    assert masked_whiten(torch.full((3,), 7.0), torch.ones(3)).tolist() == [0.0, 0.0, 0.0]
