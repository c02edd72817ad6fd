"""Passes with gradients: how rows are laid out, and what is in memory when the backward pass begins."""

from copy import deepcopy
from dataclasses import dataclass

from rlstep.core.memory import (
    FLOAT,
    Adapter,
    Precision,
    Shape,
    kept_per_place,
    layer_bytes,
    mask_bytes,
    working_per_place,
)
from rlstep.core.token_stats import CPU_HEAD_PIECE, CPU_PIECE, HEAD_PIECE, PIECE
from rlstep.planning.models import Model
from rlstep.verifiers.packing import can_pack, pack, window_of, work_per_token

# Tiles in which TRL's fused head works: tokens, and rows of the output embedding.
TILE_TOKENS, TILE_VOCABULARY = 4096, 32768
# Tiles at once: Triton works in place. In torch, on a CPU, the backward pass of one holds scaled logits twice, their
# logarithms, probabilities, the gradient, two temporaries in float32, and a mask of booleans.
TILES, CPU_TILES = 1.0, 8.25


@dataclass(frozen=True)
class Layout:
    """The places of a pass: `bins` of `length`, and whether they are packed rows."""

    bins: int
    length: int
    packed: bool

    @property
    def places(self) -> int:
        return self.bins * self.length


def packs(model: Model, longest: int, attention: str) -> bool:
    """Whether a model's rows can be packed, as far as its configuration tells; the run tries it on a few tokens, too.

    Args:
        model: that reads them.
        longest: tokens of the longest row.
        attention: transformers' name of the implementation.
    """
    config = deepcopy(model.config)
    config.get_text_config()._attn_implementation = attention
    window = window_of(config)
    return (window is None or longest <= window) and can_pack(model.skeleton, probe=False) is None


def layout_of(
    model: Model, rows: int, prompt: int, completion: int, group: int, packing: bool, attention: str
) -> Layout:
    """Where rows of the longest kind stand in a pass.

    Args:
        model: whose sizes decide how long bins become.
        rows: in one pass.
        prompt, completion: tokens that go through the model.
        group: neighbouring rows with the same prompt.
        packing: rows without padding, shared prefixes once.
        attention: transformers' name of the implementation.
    """
    if not packing:
        return Layout(rows, prompt + completion, False)
    if "flash" in attention:
        return Layout(1, rows * (prompt + completion), True)
    # Only equality of tokens matters: a number per problem, and then one per row.
    ids = [[row // group] * prompt + [rows + row] * completion for row in range(rows)]
    bins, length = pack(ids, 0, work_per_token=work_per_token(model.config)).input_ids.shape
    return Layout(bins, length, True)


@dataclass(frozen=True)
class Trunk:
    """The layers of a model in a pass with gradients.

    Attributes:
        shape, precision: the model's.
        adapter: None where all weights are trained.
        attention: transformers' name of the implementation.
        checkpointing: whether activations are computed again.
    """

    shape: Shape
    precision: Precision
    adapter: Adapter | None
    attention: str
    checkpointing: bool

    def kept(self, layout: Layout) -> float:
        """Bytes that all layers keep for the backward pass."""
        layer = layer_bytes(self.shape, self.precision, self.adapter, self.attention, layout.length)
        mask = mask_bytes(
            self.shape, self.precision, layout.bins, layout.length, layout.packed, self.attention, self.checkpointing
        )
        return layout.places * kept_per_place(self.shape, self.precision, layer, self.checkpointing) + mask

    def working(self, layout: Layout) -> float:
        """Bytes that the backward pass of one layer needs beside them."""
        layer = layer_bytes(self.shape, self.precision, self.adapter, self.attention, layout.length)
        return layout.places * working_per_place(self.shape, self.precision, layer, self.checkpointing)


def fused_head(shape: Shape, head_tokens: int, number: int, trained: bool, tiles: float = TILES) -> float:
    """Bytes of TRL's fused head: a tile of logits, what it reads and its gradient, and the weights' gradient.

    Args:
        shape: the model's.
        head_tokens: tokens that the head sees.
        number: bytes of a logit.
        trained: whether its weights are trained; their gradient is summed up in float32.
        tiles: held at once.
    """
    tile = tiles * min(head_tokens, TILE_TOKENS) * min(shape.vocabulary, TILE_VOCABULARY) * number
    return (
        tile
        + head_tokens * shape.hidden * (FLOAT + number)
        + (FLOAT * shape.hidden * shape.vocabulary if trained else 0)
    )


def frozen_head(shape: Shape, head_tokens: int, precision: Precision, on_cpu: bool) -> float:
    """Bytes of a head that is not trained: a piece of logits, what is made of a part of it, and what tokens keep.

    Args:
        shape, precision: the model's.
        head_tokens: tokens that the head sees.
        on_cpu: pieces there are smaller.
    """
    cast = 0 if precision.compute == precision.weights else precision.compute * shape.hidden * shape.vocabulary
    piece, part = (CPU_HEAD_PIECE, CPU_PIECE) if on_cpu else (HEAD_PIECE, PIECE)
    logits = head_tokens * shape.vocabulary
    # Scaled logits, their logarithms and probabilities, in float32.
    working = precision.compute * min(logits, piece) + 3 * FLOAT * min(logits, part)
    return cast + working + 2 * FLOAT * head_tokens * shape.hidden


def kept_head(shape: Shape, head_tokens: int, number: int, trained: bool) -> float:
    """Bytes of logits that are kept: their probabilities and the gradient, each as large, and the weights' gradient."""
    weights = number * shape.hidden * shape.vocabulary if trained else 0
    return 2 * number * head_tokens * shape.vocabulary + number * head_tokens * shape.hidden + weights
