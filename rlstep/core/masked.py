"""Reductions over ragged rows: what the mask leaves out never counts, whatever it holds (NaN included)."""

import torch
from torch import Tensor


def check_shapes(**tensors: Tensor) -> None:
    """Raises a ValueError naming the tensors unless all have one shape; broadcasting would hide a wrong axis."""
    shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    if len(set(shapes.values())) > 1:
        listed = ", ".join(f"{name} {shape}" for name, shape in shapes.items())
        raise ValueError(f"shapes differ: {listed}. Give tensors of one shape.")


def check_left_contiguous(mask: Tensor, name: str) -> None:
    """Raises a ValueError unless each row of a (B, L) mask is a run of ones followed by zeros alone."""
    mask = mask.bool()
    gap_B = (mask[:, 1:] & ~mask[:, :-1]).any(dim=1)
    if gap_B.any():
        row = int(gap_B.nonzero()[0])
        raise ValueError(f"{name}: row {row} has a one after a zero. Shift rows to the left and pad on the right.")


def masked_mean(values: Tensor, mask: Tensor, dim: int | None = None) -> Tensor:
    """Mean of the values where the mask is one.

    Args:
        values: any shape.
        mask: bool or 0/1, the shape of `values`.
        dim: the axis to reduce; all of them when None.

    Returns:
        A scalar, or `values`' shape without `dim`.

    Raises:
        ValueError: shapes differ, or a mean would be over nothing.
    """
    check_shapes(values=values, mask=mask)
    mask = mask.bool()
    count = mask.sum() if dim is None else mask.sum(dim)
    if (count == 0).any():
        where = "" if dim is None else f" along axis {dim}"
        raise ValueError(f"the mask is empty{where}: there is nothing to average.")
    kept = torch.where(mask, values, torch.zeros_like(values))
    return (kept.sum() if dim is None else kept.sum(dim)) / count


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
    whitened = (values - mean) * torch.rsqrt(variance + eps)
    if not shift_mean:
        whitened = whitened + mean
    return torch.where(mask.bool(), whitened, torch.zeros_like(whitened))
