"""How much memory training and sampling take, from a model's sizes alone.

What autograd keeps of a decoder layer is counted tensor by tensor, for layers as in Llama and Qwen2 (root-mean-square
norms, rotary positions, a gated MLP) under `scaled_dot_product_attention`. The idea is that of Korthikanti et al.
(2205.05198, section 4), whose layer has other tensors; the states of mixed-precision Adam are those of ZeRO
(1910.02054, section 3). All sizes are in bytes, all counts of tokens are places, padding included.
"""

from dataclasses import dataclass

__all__ = [
    "GIB", "Adapter", "Precision", "Shape", "States", "Zero", "cast_weights", "kept_per_place", "key_value_cache",
    "layer_bytes", "mask_bytes", "states_of", "working_per_place",
]  # fmt: skip

GIB = 2**30
FLOAT = 4  # bytes of a float32


@dataclass(frozen=True)
class Shape:
    """A decoder's sizes.

    Attributes:
        layers: number of layers.
        hidden: size of the residual stream, H.
        inner: size inside an MLP, I; of all experts together that a token goes through.
        heads, kv_heads, head_size: attention heads, heads of keys and values, and the size of one head.
        vocabulary: rows of the output embedding, V.
        gated: whether an MLP has a gate (three matrices) or none (two).
        qk_norm: whether queries and keys are normalised.
    """

    layers: int
    hidden: int
    inner: int
    heads: int
    kv_heads: int
    head_size: int
    vocabulary: int
    gated: bool = True
    qk_norm: bool = False

    @property
    def queries(self) -> int:
        return self.heads * self.head_size

    @property
    def keys(self) -> int:
        return self.kv_heads * self.head_size

    @property
    def layer_matrices(self) -> int:
        """Parameters of a layer's matrices that a token is multiplied with."""
        return self.hidden * (2 * self.queries + 2 * self.keys + (3 if self.gated else 2) * self.inner)


@dataclass(frozen=True)
class Precision:
    """Bytes of a number: in the weights (and so in the residual stream), and where matrices are multiplied."""

    weights: int
    compute: int


@dataclass(frozen=True)
class Adapter:
    """LoRA on a frozen model.

    Attributes:
        rank: the rank r of its matrices.
        inputs: (M,) the input sizes of the M adapted matrices of one layer.
        distinct: the summed sizes of those inputs that are tensors of their own: counted once, kept by nothing else.
        weights: bytes of one of its numbers.
        dropout: whether inputs go through dropout.
    """

    rank: int
    inputs: tuple[int, ...]
    distinct: int
    weights: int = FLOAT
    dropout: bool = False


@dataclass(frozen=True)
class Zero:
    """What DeepSpeed shards and moves away.

    Attributes:
        stage: 0 (nothing), 1 (optimizer), 2 (gradients, too), 3 (weights, too).
        optimizer_away, weights_away: kept in the host's memory.
        engine: whether DeepSpeed runs at all; it keeps its own weights in float32 beside those in 16 bits.
    """

    stage: int = 0
    optimizer_away: bool = False
    weights_away: bool = False
    engine: bool = False


@dataclass(frozen=True)
class States:
    """Bytes on one GPU that stay from one update to the next, and the gradients."""

    weights: float
    gradients: float
    optimizer: float


def states_of(
    frozen: int, trained: int, frozen_bytes: int, trained_bytes: int, states: float, zero: Zero, gpus: int
) -> States:
    """Weights, gradients and optimizer states of a model on one GPU.

    Without DeepSpeed every trained number of b bytes has a gradient of b bytes and `states` numbers of b bytes in the
    optimizer (2 for AdamW: first and second moment). With DeepSpeed in 16 bits the optimizer keeps a float32 copy of
    the weights and its states in float32: 4 + 4 x states bytes, 12 for AdamW. Without it, several GPUs have gradients
    twice: DistributedDataParallel copies them into the buckets that it reduces. ZeRO divides by the number of GPUs the
    optimizer from stage 1 on, gradients from stage 2 on, and all weights, the frozen ones included, in stage 3.

    Args:
        frozen, trained: numbers of parameters.
        frozen_bytes, trained_bytes: of one of them.
        states: the optimizer's numbers for each trained one.
        zero: DeepSpeed's settings.
        gpus: number of ranks.
    """
    optimizer = trained * trained_bytes * states
    if zero.engine and trained_bytes == 2:
        optimizer = trained * FLOAT * (1 + states)
    weights, gradients = frozen * frozen_bytes + trained * trained_bytes, trained * trained_bytes
    if gpus > 1 and not zero.engine:
        gradients *= 2
    shards = [gpus if zero.stage >= stage else 1 for stage in (3, 2, 1)]
    return States(
        weights=0.0 if zero.weights_away else weights / shards[0],
        gradients=gradients / shards[1],
        optimizer=0.0 if zero.optimizer_away else optimizer / shards[2],
    )


def layer_bytes(
    shape: Shape, precision: Precision, adapter: Adapter | None, attention: str = "sdpa", length: int = 0
) -> float:
    """Bytes that one layer keeps for its backward pass, per place.

    With w bytes of a weight, c bytes where matrices are multiplied, H hidden, I inner, Q and K the sizes of queries and
    keys:

    - two norms: their input in float32 and its scale, 2 x (4 H + 4); where their gains are trained, the normalised
      input, 2 w H; the same of queries and keys where these are normalised, per head;
    - attention: queries, keys, values and output, c (2 Q + 2 K'), where K' is Q if keys are written out for every query
      head (sdpa under a mask) and K if not (flash attention), and a float32 per head, the normaliser; eager attention
      keeps its L probabilities per head and place as well, in float32 and where c is 2 also in 16 bits;
    - a gated MLP: gate, its activation and the other factor, 3 c I; without a gate what is activated, c I;
    - inputs of matrices. All weights trained: of query, key and value c H, of the MLP c H, of its last matrix c I; the
      output's input is the attention's. If w and c differ, every matrix has a cast copy of its own: 3 c H and 2 c H.
      With LoRA the inputs of adapted matrices alone, c for each number; each matrix has a copy of its own if types
      differ or under dropout, whose mask takes a byte more (on a CPU as many as the input). And c x rank per adapted
      matrix, between its two factors.

    Args:
        shape: the model's sizes.
        precision: bytes of its numbers.
        adapter: None where all weights are trained.
        attention: transformers' name of the implementation.
        length: places that a place may attend to; read by eager attention.
    """
    H, inner, Q, c = shape.hidden, shape.inner, shape.queries, precision.compute
    written_out = attention in ("sdpa", "eager")
    K = Q if written_out else shape.keys
    total = 2 * FLOAT * (H + 1) + c * (2 * Q + 2 * K) + FLOAT * shape.heads + (3 if shape.gated else 1) * c * inner
    if shape.qk_norm:
        total += FLOAT * (Q + shape.keys + shape.heads + shape.kv_heads)
    if attention == "eager":
        total += shape.heads * length * (FLOAT + (c if c != FLOAT else 0))
    if adapter is None:
        cast = precision.weights != c
        total += 2 * precision.weights * H + c * H * (3 if cast else 1) + c * inner
        total += c * H * (2 if cast and shape.gated else 1)
        return total + (c * (Q + shape.keys) if shape.qk_norm else 0)
    own_copies = adapter.dropout or adapter.weights != precision.weights or precision.weights != c
    total += c * (sum(adapter.inputs) if own_copies else adapter.distinct) + c * adapter.rank * len(adapter.inputs)
    return total + (sum(adapter.inputs) if adapter.dropout else 0)


def kept_per_place(shape: Shape, precision: Precision, layer: float, checkpointing: bool) -> float:
    """Bytes per place that all layers keep: whole, or under activation checkpointing the input of each alone.

    The last norm is added: its input in float32, and its output.

    Args:
        shape, precision: the model's.
        layer: bytes per place that one layer keeps (`layer_bytes`).
        checkpointing: whether activations are computed again in the backward pass.
    """
    each = precision.weights * shape.hidden if checkpointing else layer
    return shape.layers * each + (FLOAT + precision.weights) * shape.hidden


def working_per_place(shape: Shape, precision: Precision, layer: float, checkpointing: bool) -> float:
    """Bytes per place that the backward pass of one layer needs beside what is kept.

    Gradients of the MLP's three inner tensors, 3 c I, or of the attention's four, 4 c Q, whichever is more, and of the
    residual stream, w H; under checkpointing the layer's own activations, which are computed again, come on top.

    Args:
        shape, precision: the model's.
        layer: bytes per place that one layer keeps (`layer_bytes`).
        checkpointing: whether activations are computed again in the backward pass.
    """
    gradients = precision.compute * max(3 * shape.inner, 4 * shape.queries) + precision.weights * shape.hidden
    return gradients + (layer if checkpointing else 0)


def cast_weights(matrices: int, adapter: int, precision: Precision, adapter_bytes: int = FLOAT) -> int:
    """Bytes of the weights' copies that automatic mixed precision makes and keeps for the backward pass.

    Args:
        matrices: parameters of the matrices that are multiplied with.
        adapter: parameters of a LoRA adapter.
        precision: the model's; nothing is copied where its numbers need no cast.
        adapter_bytes: of one number of the adapter.
    """
    cast = matrices if precision.weights != precision.compute else 0
    return precision.compute * (cast + (adapter if adapter_bytes != precision.compute else 0))


def mask_bytes(
    shape: Shape, precision: Precision, bins: int, length: int, packed: bool, attention: str, checkpointing: bool
) -> float:
    """Bytes of the attention's masks, which are added to its scores; flash attention has none.

    Packed rows have one mask (bins, L, L), which every layer shares. Padded rows come with one of booleans, which every
    layer writes out as numbers and keeps; under checkpointing one layer at a time.

    Args:
        shape, precision: the model's.
        bins: rows of the mask: bins where rows are packed, rows where they are padded.
        length: L, places in one of them.
        packed, checkpointing: whether rows are packed, and activations computed again.
        attention: transformers' name of the implementation.
    """
    if attention not in ("sdpa", "eager"):
        return 0
    copies = 1 if packed or checkpointing else shape.layers
    return copies * bins * length**2 * precision.compute


def key_value_cache(shape: Shape, rows: int, length: int, number: int) -> int:
    """Bytes of the keys and values of rows that are being sampled: 2 x layers x rows x L x K numbers.

    Args:
        shape: the model's.
        rows: at a time on one GPU.
        length: prompt and completion, in tokens.
        number: bytes of one number.
    """
    return 2 * shape.layers * rows * length * shape.keys * number
