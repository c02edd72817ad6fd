"""Rows of different lengths without padding, and each shared prefix computed once.

Rows are laid out in *bins*. Within a bin they form a forest: rows that begin with the same tokens share these tokens'
places, and a token attends to those on its own way back to its row's first token, itself included. Three rows::

    place      0  1  2  3  4  5  6         rows: a b c d / a b e / f g
    token      a  b  c  d  e  f  g
    position   0  1  2  3  2  0  1         the token's index in its row
    end        5  5  4  4  5  7  7         one past the last place below it

Places are in preorder, so place k is on the way of place q exactly when k <= q < end[k]: one integer per token holds
the whole mask, the block-diagonal one of packing and the tree of shared prefixes alike. A causal model gives every
token the value that it has in its row alone.
"""

import inspect
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import accumulate, repeat, takewhile
from operator import mul

import torch
from torch import Tensor

from rlstep.verifiers.attention import attention_inputs, reads, shares_places, tried_as

# Sharing fewer tokens than this is not worth keeping two rows in one bin.
WORTH_SHARING = 8
# Bins grow to this many tokens at most, unless a row is longer, to hold more rows of one prefix.
LARGEST_BIN = 4096


@dataclass
class _Bin:
    ids: list[int] = field(default_factory=list)
    positions: list[int] = field(default_factory=list)
    ends: list[int] = field(default_factory=list)
    # The places of the row that was added last.
    path: list[int] = field(default_factory=list)

    def add(self, ids: list[int], shared: int) -> list[int]:
        """Adds a row whose first `shared` tokens are those of the row before; returns its places."""
        self._close(shared)
        start = len(self.ids)
        self.ids += ids[shared:]
        self.positions += range(shared, len(ids))
        self.ends += [0] * (len(ids) - shared)
        self.path = self.path[:shared] + list(range(start, len(self.ids)))
        return self.path

    def _close(self, shared: int) -> None:
        """Nothing more will come below the places of the last row from depth `shared` on."""
        for place in self.path[shared:]:
            self.ends[place] = len(self.ids)

    def tensors(self) -> tuple[Tensor, Tensor, Tensor]:
        self._close(0)
        return tuple(torch.tensor(values, dtype=torch.long) for values in (self.ids, self.positions, self.ends))


@dataclass(frozen=True)
class Packed:
    """Rows in bins.

    Attributes:
        input_ids, position_ids, ends: (B, L); B bins of L places, filled on the right with places that see themselves.
        bins: (R,) the bin of each row.
        places: for each row, (T,) the place of each of its tokens in that bin.
        tokens: the places in use.
    """

    input_ids: Tensor
    position_ids: Tensor
    ends: Tensor
    bins: list[int]
    places: list[Tensor]
    tokens: int


def pack(rows: Sequence[list[int]], pad_id: int, share: bool = True, work_per_token: float | None = None) -> Packed:
    """Lays rows out in bins.

    Args:
        rows: R token sequences, none empty.
        pad_id: fills the bins' ends.
        share: compute a common prefix once; False keeps rows apart (packing alone).
        work_per_token: how many places a token must see until attention costs as much as everything else
            (`work_per_token(config)`); lets bins grow where shared prefixes repay the longer attention. None: bins are
            as long as the longest row.
    """
    runs = shared_runs(rows) if share else [[(index, 0)] for index in range(len(rows))]
    capacity = _capacity(rows, runs, work_per_token)
    laid_out = _first_fit(_pieces(rows, runs, capacity), capacity)
    bins = [_Bin() for _ in laid_out]
    bin_of, places = [0] * len(rows), [torch.empty(0)] * len(rows)
    for bin_index, pieces in enumerate(laid_out):
        for index, shared in (member for _, members in pieces for member in members):
            bin_of[index] = bin_index
            places[index] = torch.tensor(bins[bin_index].add(rows[index], shared), dtype=torch.long)
    return _stack(bins, bin_of, places, pad_id)


def concatenate(rows: Sequence[list[int]]) -> Packed:
    """Rows one after the other in a single bin, which shares nothing and fills nothing.

    Args:
        rows: R token sequences, none empty.
    """
    only = _Bin()
    places = [torch.tensor(only.add(row, 0), dtype=torch.long) for row in rows]
    return _stack([only], [0] * len(rows), places, pad_id=0)


def shared_runs(rows: Sequence[list[int]]) -> list[list[tuple[int, int]]]:
    """Rows in runs whose neighbours share a prefix worth sharing: (row, tokens shared with the one before) each."""
    order = sorted(range(len(rows)), key=rows.__getitem__)
    runs: list[list[tuple[int, int]]] = []
    for before, index in zip([None, *order], order, strict=False):
        shared = 0 if before is None else _common(rows[before], rows[index])
        if shared >= WORTH_SHARING:
            runs[-1].append((index, shared))
        else:
            runs.append([(index, 0)])
    return runs


def _common(left: list[int], right: list[int]) -> int:
    """How many tokens two rows begin with in common."""
    low, high = 0, min(len(left), len(right))
    while low < high:  # slices compare in C, so halving beats walking
        middle = (low + high + 1) // 2
        if left[low:middle] == right[low:middle]:
            low = middle
        else:
            high = middle - 1
    return low


def _pieces(rows, runs, capacity: int) -> list[tuple[int, list[tuple[int, int]]]]:
    """Runs cut to at most `capacity` new places: (places, members) each; a piece's first member shares nothing."""
    pieces = []
    for run in runs:
        size, members = 0, []
        for index, shared in run:
            if members and size + len(rows[index]) - shared > capacity:
                pieces.append((size, members))
                size, members = 0, []
            kept = shared if members else 0
            size += len(rows[index]) - kept
            members.append((index, kept))
        pieces.append((size, members))
    return pieces


def _capacity(rows, runs, work_per_token: float | None) -> int:
    """The bins' length for which the work, places x (1 + length / work_per_token), is least."""
    longest = max(map(len, rows))
    if work_per_token is None or all(len(run) == 1 for run in runs):
        return longest
    whole_runs = {size for size, _ in _pieces(rows, runs, LARGEST_BIN)}
    # Each a quarter longer than the one before: the bins' own length is that of what they are filled with.
    steps = takewhile(lambda size: size < LARGEST_BIN, accumulate(repeat(1.25), mul, initial=longest))
    wanted = {int(size) for size in steps} | whole_runs | {sum(whole_runs), LARGEST_BIN}
    sizes = {longest} | {size for size in wanted if longest < size <= LARGEST_BIN}

    def work(capacity: int) -> float:
        used = [sum(size for size, _ in pieces) for pieces in _first_fit(_pieces(rows, runs, capacity), capacity)]
        return len(used) * max(used) * (1 + max(used) / work_per_token)

    return min(sorted(sizes), key=work)


def _first_fit(pieces, capacity: int) -> list[list[tuple[int, list[tuple[int, int]]]]]:
    """Pieces by bin: the largest first, each into the first bin with room for it."""
    bins, room = [], []
    for piece in sorted(pieces, key=lambda piece: -piece[0]):
        size = piece[0]
        chosen = next((index for index, free in enumerate(room) if free >= size), None)
        if chosen is None:
            chosen = len(bins)
            bins.append([])
            room.append(max(capacity, size))
        bins[chosen].append(piece)
        room[chosen] -= size
    return bins


def _stack(bins: list[_Bin], bin_of: list[int], places: list[Tensor], pad_id: int) -> Packed:
    filled = [one.tensors() for one in bins]
    length = max(len(ids) for ids, _, _ in filled)
    input_ids_BL = torch.full((len(bins), length), pad_id)
    position_ids_BL = torch.zeros((len(bins), length), dtype=torch.long)
    # A filling place sees itself and is seen by no other: a row of the mask without a one would give NaN.
    ends_BL = torch.arange(1, length + 1).repeat(len(bins), 1)
    for index, (ids, positions, ends) in enumerate(filled):
        input_ids_BL[index, : len(ids)] = ids
        position_ids_BL[index, : len(ids)] = positions
        ends_BL[index, : len(ids)] = ends
    return Packed(input_ids_BL, position_ids_BL, ends_BL, bin_of, places, sum(len(ids) for ids, _, _ in filled))


def work_per_token(config) -> float:
    """How many places a token must see until attention costs as much as the linear layers, from the model's sizes.

    A layer spends about 2 (4 H^2 + 3 H I) operations per token on its linear maps and 4 H per place that it sees.
    """
    text = config.get_text_config()
    hidden = text.hidden_size
    inner = getattr(text, "intermediate_size", None) or 4 * hidden
    if isinstance(inner, list):  # Gemma 3n: one per layer
        inner = sum(inner) / len(inner)
    return (4 * hidden + 3 * inner) / 2


def window_of(config) -> int | None:
    """The longest row that is safe beside others, None where there is no limit.

    Masks of ours replace attention windows, while attention that reads lengths keeps them within each row; and one row
    may rescale the positions of all (`rescaled_beyond`).
    """
    text = config.get_text_config()
    window = getattr(text, "sliding_window", None) if getattr(text, "use_sliding_window", True) else None
    if reads(config) == "lengths":
        window = None
    return min((limit for limit in (window, rescaled_beyond(config)) if limit is not None), default=None)


def rescaled_beyond(config) -> int | None:
    """The row length beyond which one row changes the positions of a whole batch, None where there is none.

    RoPE of the kinds "longrope" and "dynamic" is computed for the longest row.
    """
    text = config.get_text_config()
    rope = getattr(text, "rope_parameters", None) or {}
    # One for all layers, or one for each kind of layers.
    kinds = [rope] if "rope_type" in rope else [kind for kind in rope.values() if isinstance(kind, dict)]
    lengths = []
    for kind in kinds:
        original = kind.get("original_max_position_embeddings")
        if kind.get("rope_type") == "longrope":
            lengths.append(original or getattr(text, "original_max_position_embeddings", None))
        elif kind.get("rope_type") == "dynamic":
            lengths.append(original or getattr(text, "max_position_embeddings", None))
    return min((length for length in lengths if length is not None), default=None)


def can_pack(model: torch.nn.Module, probe: bool = True) -> str | None:
    """Why a model's rows cannot be packed; None where they can.

    Needed are an attention that can be told which places it may attend to (`attention`), positions from outside, and
    layers that all attend to the whole row (up to `window_of`).

    Args:
        model: a transformers model, wrapped by PEFT or not.
        probe: try it on a few tokens; not possible while the weights are sharded.
    """
    config = model.config.get_text_config()
    inner = model.get_base_model() if hasattr(model, "get_base_model") else model
    if reads(config) is None:
        return (
            f"rlstep does not know what its attention '{config._attn_implementation}' reads; load the model with "
            "attn_implementation sdpa, eager, flex_attention or flash_attention_2"
        )
    if "position_ids" not in inspect.signature(inner.forward).parameters:
        return f"{type(inner).__name__} takes no position_ids"
    if other := set(getattr(config, "layer_types", None) or []) - {"full_attention", "sliding_attention"}:
        return f"it has layers of the kinds {', '.join(sorted(other))}"
    if any(name.endswith("attention.bias") and buffer.dim() == 4 for name, buffer in inner.named_buffers()):
        return f"{type(inner).__name__} masks places by itself"
    return _differs_when_packed(inner) if probe else None


def _differs_when_packed(model: torch.nn.Module) -> str | None:
    """Tries it on a few tokens: an architecture may take a mask and positions, and not heed them."""
    training = model.training
    model.eval()
    try:
        same = _same_when_packed(model)
    except (RuntimeError, ValueError, TypeError, LookupError, AttributeError, AssertionError):
        return f"{type(model).__name__} takes no mask of ours"
    finally:
        model.train(training)
    return None if same else f"{type(model).__name__} gives other values under a mask and positions from outside"


@torch.no_grad()
def _same_when_packed(model: torch.nn.Module) -> bool:
    ids = [index % model.config.get_text_config().vocab_size for index in range(3, 3 + 3 * WORTH_SHARING)]
    rows = [ids, ids[: 2 * WORTH_SHARING] + ids[:2], ids[5:9]]
    # Bins as long as they need to be: in bins of the longest row's length these rows would share nothing.
    packed = pack(rows, 0, work_per_token=math.inf) if shares_places(model.config) else concatenate(rows)
    device = model.device
    with tried_as(model, packed=True):
        packed_BLV = model(
            input_ids=packed.input_ids.to(device),
            position_ids=packed.position_ids.to(device),
            use_cache=False,
            **attention_inputs(model, packed.ends.to(device)),
        ).logits.float()
    tolerance = 1e-3 if model.dtype == torch.float32 else 0.1
    for row, bin_index, places in zip(rows, packed.bins, packed.places, strict=True):
        with tried_as(model, packed=False):
            alone_TV = model(input_ids=torch.tensor([row], device=device), use_cache=False).logits[0].float()
        if (packed_BLV[bin_index, places.to(device)] - alone_TV).abs().max() > tolerance * alone_TV.abs().max():
            return False
    return True
