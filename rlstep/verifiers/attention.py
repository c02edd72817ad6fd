"""How a model's attention is told which places of a bin each place may attend to."""

import torch
from torch import Tensor


def forest_mask(ends_BL: Tensor) -> Tensor:
    """(B, 1, L, L) booleans: whether place q (third axis) may attend to place k (last axis)."""
    place_L = torch.arange(ends_BL.shape[1], device=ends_BL.device)
    causal_LL = place_L[None, :] <= place_L[:, None]
    return (causal_LL & (place_L[None, :, None] < ends_BL[:, None, :]))[:, None]


def added_mask(mask: Tensor, dtype: torch.dtype) -> Tensor:
    """A boolean mask as one that is added to attention scores."""
    return torch.zeros(mask.shape, dtype=dtype, device=mask.device).masked_fill_(~mask, torch.finfo(dtype).min)


def mask_dtype(model) -> torch.dtype | None:
    """The type of the mask that a model's attention adds; None where it takes booleans."""
    return model.dtype if model.config.get_text_config()._attn_implementation == "eager" else None
