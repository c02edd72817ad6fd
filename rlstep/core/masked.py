"""Means and spreads of ragged rows: what the mask excludes never counts, whatever its value (NaN included)."""

import torch
from torch import Tensor

__all__ = [
    "check_groups",
    "check_left_contiguous",
    "check_one_per_row",
    "check_shapes",
    "kept",
    "masked_mean",
    "masked_whiten",
    "moment_sums",
    "moments",
    "row_ends",
    "whiten_with",
]


def check_shapes(**tensors: Tensor) -> None:
    """Raises a ValueError naming the tensors unless all have the same shape; broadcasting would hide a wrong axis."""
    shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    if len(set(shapes.values())) > 1:
        listed = ", ".join(f"{name} {shape}" for name, shape in shapes.items())
        raise ValueError(f"shapes differ: {listed}. Give tensors of the same shape.")


def check_one_per_row(B: int, name: str, numbers: Tensor) -> None:
    """Raises a ValueError unless there is one number for each of B rows."""
    if numbers.shape != (B,):
        raise ValueError(f"{name} have shape {tuple(numbers.shape)} for {B} rows; give one per row.")


def check_groups(B: int, group_size: int) -> None:
    """Raises a ValueError unless B rows make whole groups, of two samples at least."""
    if group_size < 2 or B % group_size:
        raise ValueError(f"{B} rows do not make groups of {group_size}; give whole groups of two samples or more.")


def check_left_contiguous(mask: Tensor, name: str) -> None:
    """Raises a ValueError unless each row of a (B, L) mask is a run of ones followed only by zeros."""
    mask = mask.bool()
    gap_B = (mask[:, 1:] & ~mask[:, :-1]).any(dim=1)
    if gap_B.any():
        row = int(gap_B.nonzero()[0])
        raise ValueError(f"{name}: row {row} has a one after a zero. Shift rows to the left and pad on the right.")


def kept(values: Tensor, mask: Tensor) -> Tensor:
    """The values where the mask is one, 0 elsewhere."""
    return torch.where(mask.bool(), values, torch.zeros_like(values))


def row_ends(mask_BL: Tensor) -> Tensor:
    """True at the last one of each row of ones and then zeros; nowhere in a row without ones."""
    mask_BL = mask_BL.bool()
    later_BL = torch.cat([mask_BL[:, 1:], torch.zeros_like(mask_BL[:, :1])], dim=1)
    return mask_BL & ~later_BL


def masked_mean(values: Tensor, mask: Tensor, dim: int | None = None) -> Tensor:
    """Mean of the values where the mask is one.

    Args:
        values: any shape.
        mask: bool or 0/1, the shape of `values`.
        dim: the axis to reduce; all axes if None.

    Returns:
        A scalar, or `values`' shape without `dim`.

    Raises:
        ValueError: shapes differ, or the mask is empty.
    """
    check_shapes(values=values, mask=mask)
    mask = mask.bool()
    count = mask.sum() if dim is None else mask.sum(dim)
    if (count == 0).any():
        where = "" if dim is None else f" along axis {dim}"
        raise ValueError(f"the mask is empty{where}: there is nothing to average.")
    values = kept(values, mask)
    return (values.sum() if dim is None else values.sum(dim)) / count


def moment_sums(values: Tensor, mask: Tensor) -> Tensor:
    """(3,) count, sum and sum of squares under the mask: what ranks add up before calling `moments`.

    In double precision: in single, the variance of values far from 0 would be lost to rounding.

    Raises:
        ValueError: shapes differ.
    """
    check_shapes(values=values, mask=mask)
    values = kept(values, mask).double()
    return torch.stack([mask.bool().sum().double(), values.sum(), values.square().sum()])


def moments(sums_3: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and variance (dividing by n) from the sum of all ranks' `moment_sums`; both 0 if the count is 0."""
    count, total, squares = sums_3.unbind()
    count = count.clamp_min(1)
    mean = total / count
    return mean, (squares / count - mean.square()).clamp_min(0)


def whiten_with(
    values: Tensor, mask: Tensor, mean: Tensor, variance: Tensor, shift_mean: bool = True, eps: float = 1e-8
) -> Tensor:
    """(x - mean) / sqrt(variance + eps) under the mask, 0 elsewhere; see `masked_whiten`.

    Args:
        values: any shape.
        mask: bool or 0/1, the shape of `values`; may be empty.
        mean: scalar, of the population to whiten against, such as the batch of all ranks.
        variance: scalar, likewise.
        shift_mean: False adds the mean back.
        eps: added to the variance.

    Returns:
        A tensor of the values' shape and dtype.

    Raises:
        ValueError: shapes differ.
    """
    check_shapes(values=values, mask=mask)
    whitened = (values - mean) * torch.rsqrt(variance + eps)
    if not shift_mean:
        whitened = whitened + mean
    return kept(whitened, mask)


def masked_whiten(values: Tensor, mask: Tensor, shift_mean: bool = True, eps: float = 1e-8) -> Tensor:
    """Scales the values under the mask to variance one: (x - mean) / sqrt(var + eps), 0 elsewhere.

    Mean and variance (dividing by n) are over all positions under the mask, as in `whiten` of
    openai/lm-human-preferences, which whitens rewards with shift_mean=False and advantages with True.

    Args:
        values: any shape.
        mask: bool or 0/1, the shape of `values`.
        shift_mean: True leaves mean zero; False adds the mean back, so that only the spread changes.
        eps: added to the variance.

    Raises:
        ValueError: shapes differ or the mask is empty.
    """
    mean = masked_mean(values, mask)
    variance = masked_mean((values - mean).square(), mask)
    return whiten_with(values, mask, mean, variance, shift_mean, eps)
