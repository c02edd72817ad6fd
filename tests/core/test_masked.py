import pytest
import torch

from rlstep.core.masked import kept, masked_mean, masked_whiten, moment_sums, moments, row_ends, whiten_with

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


def test_whiten_with_a_mean_and_variance_from_elsewhere_by_hand():
    # mean 1, variance 4 - 1e-8: (5 - 1) / 2
    values_T, mask_T = torch.tensor([5.0, 1.0, NAN]), torch.tensor([1, 1, 0])
    given = torch.tensor(1.0), torch.tensor(4.0)
    assert whiten_with(values_T, mask_T, *given).tolist() == [2.0, 0.0, 0.0]
    assert whiten_with(values_T, mask_T, *given, shift_mean=False).tolist() == [3.0, 1.0, 0.0]
    assert whiten_with(values_T, mask_T, *given, eps=12.0).tolist() == [1.0, 0.0, 0.0]
    assert whiten_with(values_T, torch.zeros(3), *given).tolist() == [0.0, 0.0, 0.0]
    with pytest.raises(ValueError, match="shapes differ"):
        whiten_with(values_T, torch.ones(2), *given)


def test_moments_of_several_ranks_add_up_by_hand():
    # 2 and 6 on one rank, 10 on another, none on a third: mean 6, variance 32 / 3
    ranks = [([2.0, 6.0], [1, 1]), ([10.0, NAN], [1, 0]), ([NAN, NAN], [0, 0])]
    sums = [moment_sums(torch.tensor(values), torch.tensor(mask)) for values, mask in ranks]
    assert [part.tolist() for part in sums] == [[2.0, 8.0, 40.0], [1.0, 10.0, 100.0], [0.0, 0.0, 0.0]]
    mean, variance = moments(sum(sums))
    assert mean.item() == 6.0
    assert variance.item() == pytest.approx(32 / 3)


def test_ranks_whiten_as_one_batch():
    generator = torch.Generator().manual_seed(0)
    values_BT, mask_BT = torch.randn(6, 5, generator=generator), torch.rand(6, 5, generator=generator) < 0.7
    whole_BT = masked_whiten(values_BT, mask_BT)
    halves = list(zip(values_BT.split(3), mask_BT.split(3), strict=True))
    mean, variance = moments(sum(moment_sums(*half) for half in halves))
    torch.testing.assert_close(torch.cat([whiten_with(*half, mean, variance) for half in halves]), whole_BT)
    # and against torch's own
    torch.testing.assert_close(variance.float(), values_BT[mask_BT].var(correction=0))
    assert masked_whiten(values_BT, mask_BT)[mask_BT].std(correction=0).item() == pytest.approx(1, abs=1e-5)


def test_moments_far_from_zero_keep_their_digits():
    values_T = torch.tensor([9999.0, 10001.0]).repeat(50_000)
    _, variance = moments(moment_sums(values_T, torch.ones_like(values_T)))
    assert variance.item() == pytest.approx(1.0, abs=1e-6)


def test_moments_of_nothing_are_0_and_types_stay():
    mean, variance = moments(moment_sums(torch.tensor([NAN]), torch.zeros(1)))
    assert (mean.item(), variance.item()) == (0.0, 0.0)
    for dtype in (torch.float32, torch.bfloat16):
        assert whiten_with(torch.ones(2, dtype=dtype), torch.ones(2), mean, variance).dtype == dtype


def test_kept_and_row_ends():
    mask_BL = torch.tensor([[1, 1, 0], [1, 1, 1], [0, 0, 0]])
    assert kept(torch.tensor([[1.0, 2.0, NAN]] * 3), mask_BL)[0].tolist() == [1.0, 2.0, 0.0]
    assert row_ends(mask_BL).int().tolist() == [[0, 1, 0], [0, 0, 1], [0, 0, 0]]
    assert row_ends(torch.zeros(2, 0)).shape == (2, 0)
