"""How a model's attention is told which places of a bin each place may attend to.

What it reads depends on the `attn_implementation` that the model was loaded with:

    sdpa, eager              a mask that is added to the scores
    flex_attention           a block mask: the same forest, and blocks of places without a one are never computed
    flash_attention_2, ...   how long the rows of a bin are, and no mask: rows are then packed without sharing places

Kinds that others register with transformers (kernels of the hub, a function of the user's) come with the maker of their
masks, which says what they read.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal

import torch
from torch import Tensor
from transformers import (
    AttentionInterface,
    AttentionMaskInterface,
    PretrainedConfig,
    PreTrainedModel,
    TrainingArguments,
)
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import (
    ALL_MASK_ATTENTION_FUNCTIONS,
    eager_mask,
    flash_attention_mask,
    flex_attention_mask,
    sdpa_mask,
)

from rlstep.runtime.errors import UserError

Reads = Literal["scores", "blocks", "lengths"]

_READS: dict[Any, Reads] = {
    sdpa_mask: "scores",
    eager_mask: "scores",
    flex_attention_mask: "blocks",
    flash_attention_mask: "lengths",
}


def reads(config: PretrainedConfig) -> Reads | None:
    """What the attention of a model with this configuration reads; None where that is not known."""
    kind = config.get_text_config()._attn_implementation
    return _READS.get(ALL_MASK_ATTENTION_FUNCTIONS.get(kind))


def choose_attention(model: PreTrainedModel, kind: str | None, training: TrainingArguments | None = None) -> None:
    """Makes a model compute its attention by another implementation.

    Args:
        model: of transformers, wrapped by PEFT or not.
        kind: an `attn_implementation` of transformers; None leaves it as it is.
        training: how the model will be trained; None where it only scores.

    Raises:
        UserError: there is no such kind, or it cannot be used for this model, in its precision, on this device or with
            what is installed.
    """
    inner = model.get_base_model() if hasattr(model, "get_base_model") else model
    before = inner.config._attn_implementation
    if kind in (None, before):
        return
    mixed_precision = training is not None and (training.bf16 or training.fp16)
    if "flash" in kind and inner.dtype == torch.float32 and not mixed_precision:
        raise UserError(
            f"attn_implementation is '{kind}', which computes in bfloat16 or float16, and the weights are in float32. "
            "Take dtype: bfloat16, in training bf16: true, or attn_implementation: sdpa."
        )
    if kind == "flex_attention" and training is not None and training.device.type == "cpu":
        raise UserError("attn_implementation is 'flex_attention', which cannot be trained with on a CPU; take sdpa.")
    try:
        inner.set_attn_implementation(kind)
    except (ValueError, ImportError, OSError, RuntimeError) as error:
        raise UserError(f"attn_implementation is '{kind}': {str(error).strip().splitlines()[0]}") from error
    if inner.config._attn_implementation == before:  # transformers says so in its log alone
        raise UserError(
            f"attn_implementation is '{kind}', and {type(inner).__name__} cannot change its own, '{before}'. Leave it "
            "out."
        )


def shares_places(config: PretrainedConfig) -> bool:
    """Whether rows may share the places of a prefix, which lengths cannot tell."""
    return reads(config) != "lengths"


def kernel_length(length: int, kind: Reads | None) -> int:
    """How long bins of `length` places are best made on a GPU, at most a sixteenth longer from 128 places on.

    Attention kernels are prepared for each length that they meet, cuDNN's in a twentieth of a second for each, so
    lengths are few: 16 from one power of two to the next. FlexAttention takes fewer than 128 queries, one of its
    blocks, for the decoding of a single row, and then fails on heads that share keys.

    Args:
        length: of the bins.
        kind: what the attention reads; lengths of rows are in no need of this.
    """
    if kind == "lengths":
        return length
    unit = 128 if kind == "blocks" else max(8, 2 ** (length.bit_length() - 1) // 16)
    return -(-length // unit) * unit


def attention_inputs(model: PreTrainedModel, ends_BL: Tensor, before: int = 0) -> dict[str, Any]:
    """What the forward of a model takes beside ids and positions.

    Args:
        model: of transformers, wrapped by PEFT or not, whose attention `packing.can_pack` knows.
        ends_BL: of the bins (`packing.Packed`).
        before: places before the bins that every place attends to, those of a cached prefix.

    Raises:
        ValueError: the attention reads lengths, and there are several bins, shared places, or places before.
    """
    kind = reads(model.config)
    if kind == "lengths":
        return {"attention_mask": None, **_row_lengths(ends_BL, before)}
    if kind == "blocks":
        return {"attention_mask": block_mask(ends_BL, before)}
    mask = forest_mask(ends_BL)
    if before:
        mask = torch.nn.functional.pad(mask, (before, 0), value=True)
    # sdpa takes booleans, too, but writes them out as numbers in every layer, and keeps those for the backward pass.
    return {"attention_mask": added_mask(mask, _type_of_scores(model))}


def forest_mask(ends_BL: Tensor) -> Tensor:
    """(B, 1, L, L) booleans: whether place q (third axis) may attend to place k (last axis)."""
    place_L = torch.arange(ends_BL.shape[1], device=ends_BL.device)
    causal_LL = place_L[None, :] <= place_L[:, None]
    return (causal_LL & (place_L[None, :, None] < ends_BL[:, None, :]))[:, None]


def added_mask(mask: Tensor, dtype: torch.dtype) -> Tensor:
    """A boolean mask as one that is added to attention scores."""
    return torch.zeros(mask.shape, dtype=dtype, device=mask.device).masked_fill_(~mask, torch.finfo(dtype).min)


def _type_of_scores(model: PreTrainedModel) -> torch.dtype:
    device = model.device.type
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else model.dtype


def block_mask(ends_BL: Tensor, before: int = 0):
    """The forest as a `BlockMask` of FlexAttention, (B, 1, L, before + L).

    Args:
        ends_BL: of the bins.
        before: places before the bins that every place attends to.
    """
    from torch.nn.attention.flex_attention import create_block_mask

    bins, length = ends_BL.shape

    def sees(bin_index: Tensor, head: Tensor, q: Tensor, k: Tensor) -> Tensor:
        place = k - before
        return (place < 0) | ((place <= q) & (q < ends_BL[bin_index, place.clamp(min=0)]))

    # Compiled, it never holds all places against all; on CPU that is not worth a compiler's time.
    compiled = ends_BL.device.type != "cpu"
    return create_block_mask(sees, bins, None, length, before + length, device=ends_BL.device, _compile=compiled)


def _row_lengths(ends_BL: Tensor, before: int) -> dict[str, Any]:
    """`FlashAttentionKwargs` of transformers: where the rows of a single bin begin and end, and the longest one."""
    if before or len(ends_BL) > 1:
        raise ValueError("attention that reads lengths takes one bin and no cached prefix")
    bounds = torch.nn.functional.pad(torch.unique_consecutive(ends_BL[0]), (1, 0)).to(torch.int32)
    shortest, longest = (int(length) for length in torch.stack(bounds.diff().aminmax()).tolist())
    if shortest < 1:  # a place whose row ends before that of the place before it: a branch
        raise ValueError("attention that reads lengths takes no shared places")
    return {"cu_seq_lens_q": bounds, "cu_seq_lens_k": bounds, "max_length_q": longest, "max_length_k": longest}


# --- Trying a model on any device
#
# Flash attention runs on a GPU alone, and FlexAttention is compiled first; but whether a model can be packed has to be
# known while it may be on the CPU. That its layers are told the block mask or the lengths, and heed them, is seen with
# an attention in plain torch.


@contextmanager
def tried_as(model: PreTrainedModel, packed: bool) -> Iterator[None]:
    """Within it, a model whose attention needs its own device computes it in plain torch; others stay as they are.

    Args:
        model: of transformers.
        packed: whether it is to read what its own attention does, or a row alone.
    """
    config = model.config.get_text_config()
    kind, what = config._attn_implementation, reads(config)
    if what in ("blocks", "lengths"):
        config._attn_implementation = f"rlstep_{what}" if packed else "rlstep_alone"
    try:
        yield
    finally:
        config._attn_implementation = kind


def _plain_attention(module, query, key, value, attention_mask, cu_seq_lens_q=None, softcap=None, **options):
    """Attention under a block mask or within rows of these bounds; caps on scores are left out."""
    if cu_seq_lens_q is not None:
        place_L = torch.arange(query.shape[2], device=query.device)
        row_L = torch.bucketize(place_L, cu_seq_lens_q[1:], right=True)
        attention_mask = (row_L[:, None] == row_L) & (place_L[:, None] >= place_L)
    elif attention_mask is not None and not isinstance(attention_mask, Tensor):
        from torch.nn.attention.flex_attention import create_mask

        bins, _, queries, keys = attention_mask.shape
        attention_mask = create_mask(attention_mask.mask_mod, bins, 1, queries, keys, device=query.device)
    return sdpa_attention_forward(module, query, key, value, attention_mask, **options)


for _kind, _mask in (("blocks", flex_attention_mask), ("lengths", flash_attention_mask), ("alone", sdpa_mask)):
    AttentionInterface.register(f"rlstep_{_kind}", _plain_attention)
    AttentionMaskInterface.register(f"rlstep_{_kind}", _mask)
