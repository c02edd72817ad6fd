"""The one forward pass of verifiers: rows in, logits or log-probabilities at their positions out, packed or padded.

Training, scoring and refreshing all read a model here::

    batch = batch_of(model, features, pad_id, packing)     rows laid out, on the model's device
    logits_NK = logits_at(model, batch)                    at the N positions where the rows are read
    logps_N = logps_at(model, batch)                       of the tokens that follow these positions

The model's own forward runs, wrapped as it is; a hook before its head picks the positions, so that dropout, activation
checkpointing and the hooks of DDP and ZeRO stay in force while the head sees only the tokens that are read.
"""

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence
from torch.utils.checkpoint import checkpoint

from rlstep.verifiers.attention import attention_inputs, kernel_length, reads, shares_places
from rlstep.verifiers.features import Feature, TokenFeature
from rlstep.verifiers.heads import head_of
from rlstep.verifiers.packing import concatenate, pack, work_per_token

# Logits in memory at once: 256 MiB in float32, 440 tokens of a vocabulary of 152,000.
LARGEST_LOGITS = 2**26


# --- Rows to a batch


def collate(
    features: Sequence[Feature], pad_id: int, packing: bool, work: float | None = None, share: bool = True
) -> dict[str, Tensor]:
    """Lays rows out as a batch.

    Args:
        features: F rows, none empty.
        pad_id: fills what is not used.
        packing: lay rows out in bins, shared prefixes once, instead of one row each.
        work: `packing.work_per_token` of the model.
        share: `attention.shares_places` of the model; False lays packed rows out whole, all of them in one bin.

    Returns:
        `input_ids` (B, T); `attention_mask` (B, T) of padded rows, or `position_ids` and `ends` (B, L) of packed ones;
        `rows` and `positions` (N,), where in B and T the tokens stand that are read; `owners` (N,), the feature
        that each belongs to. Of token features also `next_ids` (N,). Where targets are known: `labels` (N,), or (F,)
        of token features, twice as the Trainer needs them, and `problems` and `shared` (F,).
    """
    counts_F = torch.tensor([len(feature.positions) for feature in features])
    batch = {"owners": torch.repeat_interleave(torch.arange(len(features)), counts_F)}
    if packing:
        ids = [feature.ids.tolist() for feature in features]
        packed = pack(ids, pad_id, work_per_token=work) if share else concatenate(ids)
        batch |= {"input_ids": packed.input_ids, "position_ids": packed.position_ids, "ends": packed.ends}
        batch["rows"] = torch.tensor(packed.bins)[batch["owners"]]
        places = [places[feature.positions] for places, feature in zip(packed.places, features, strict=True)]
        batch["positions"] = torch.cat(places)
    else:
        lengths_F = torch.tensor([len(feature.ids) for feature in features])
        input_ids_FT = pad_sequence([feature.ids for feature in features], batch_first=True, padding_value=pad_id)
        batch |= {
            "input_ids": input_ids_FT,
            "attention_mask": (torch.arange(input_ids_FT.shape[1]) < lengths_F[:, None]).long(),
            "rows": batch["owners"],
            "positions": torch.cat([feature.positions for feature in features]),
        }
    if isinstance(features[0], TokenFeature):
        batch["next_ids"] = torch.cat([feature.next_ids for feature in features])
    if features[0].targets is not None:
        batch["labels"] = torch.cat([feature.targets for feature in features])
        # For a causal LM the Trainer counts a batch's labels without the first, unless it finds these.
        batch["shift_labels"] = batch["labels"]
        batch["problems"] = torch.tensor([feature.problem for feature in features])
        batch["shared"] = torch.tensor([feature.shared for feature in features])
    return batch


def batch_of(model: nn.Module, features: Sequence[Feature], pad_id: int, packing: bool) -> dict[str, Tensor]:
    """`collate` for a model of transformers, on its device."""
    work = work_per_token(model.config) if packing else None
    batch = collate(features, pad_id, packing, work, shares_places(model.config))
    return {name: tensor.to(model.device) for name, tensor in batch.items()}


def pad_id_of(tokenizer) -> int:
    """What fills short rows; they are masked, so any token of the vocabulary will do where there is none for it."""
    return tokenizer.pad_token_id if tokenizer.pad_token_id is not None else 0


# --- A batch through the model


@dataclass(frozen=True)
class Prefix:
    """A beginning that rows share, computed once.

    Attributes:
        length: how many tokens it has.
        key_values: the model's cache of them.
    """

    length: int
    key_values: Any

    @classmethod
    def of(cls, model: nn.Module, ids: list[int]) -> "Prefix":
        """One pass over the tokens of a prefix, by a model whose every layer attends to the whole row."""
        ids_1P = torch.tensor([ids], device=model.device)
        # The backbone alone: token classifiers do not hand its cache on.
        return cls(len(ids), model.base_model(input_ids=ids_1P, use_cache=True).past_key_values)


def logits_at(model: nn.Module, batch: dict[str, Tensor], prefix: Prefix | None = None) -> Tensor:
    """Logits at a batch's positions alone.

    Args:
        model: a token classifier or a causal LM, wrapped or not.
        batch: of `collate`, on the model's device; targets are not used.
        prefix: what every row continues; the batch is then packed, without the prefix. It is left as it was.

    Returns:
        (N, K) logits: of the classes, or of the vocabulary.
    """

    def choose(hidden_BTH: Tensor) -> Tensor:
        return hidden_BTH[batch["rows"], batch["positions"]]

    return _run(model, batch, choose, prefix)


def logps_at(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
    """Log-probability of the token that follows each position, never with the logits of all of them in memory.

    The model's own forward runs with nothing left for its head to do; the head then sees the chosen positions in
    pieces. In the backward pass a piece's logits are computed again.

    Args:
        model: a causal LM that passes `heads.require_plain_head`, wrapped or not.
        batch: of `collate`, of token features, on the model's device.

    Returns:
        (N,) in nats, in float32.
    """
    device, chosen = batch["input_ids"].device.type, []

    def choose(hidden_BTH: Tensor) -> Tensor:
        # A mixed-precision wrapper switches autocast on inside the forward; the head is to run under the same.
        enabled, dtype = torch.is_autocast_enabled(device), torch.get_autocast_dtype(device)
        hidden_NH = hidden_BTH[batch["rows"], batch["positions"]]
        chosen.append((hidden_NH, torch.autocast(device, dtype, enabled)))
        return hidden_BTH[:, :0]

    none_B0V = _run(model, batch, choose)
    ((hidden_NH, autocast),) = chosen
    head, size = head_of(model), max(1, LARGEST_LOGITS // none_B0V.shape[-1])
    pieces = zip(hidden_NH.split(size), batch["next_ids"].split(size), strict=True)
    with autocast:
        if len(hidden_NH) <= size or not torch.is_grad_enabled():
            return torch.cat([_logps(head, *piece) for piece in pieces])
        return torch.cat([checkpoint(_logps, head, *piece, use_reentrant=False) for piece in pieces])


def _logps(head: nn.Module, hidden_NH: Tensor, next_ids_N: Tensor) -> Tensor:
    return -nn.functional.cross_entropy(head(hidden_NH).float(), next_ids_N, reduction="none")


def _run(
    model: nn.Module, batch: dict[str, Tensor], choose: Callable[[Tensor], Tensor], prefix: Prefix | None = None
) -> Tensor:
    """The logits of one pass, in which the head is given what `choose` makes of the hidden states (B, T, H)."""
    inputs = _inputs(unwrapped(model), batch, prefix)
    hook = head_of(model).register_forward_pre_hook(lambda _, inputs: (choose(inputs[0]),))
    try:
        return model(use_cache=False, **inputs).logits
    finally:
        hook.remove()


def _inputs(model: nn.Module, batch: dict[str, Tensor], prefix: Prefix | None) -> dict[str, Any]:
    """What the model's forward takes; masks of packed rows are made here, on the batch's own device."""
    if "ends" not in batch:
        return {"input_ids": batch["input_ids"], "attention_mask": batch["attention_mask"]}
    before, cache = 0, {}
    if prefix is not None:
        key_values = copy.deepcopy(prefix.key_values)
        key_values.batch_repeat_interleave(len(batch["ends"]))
        before, cache = prefix.length, {"past_key_values": key_values}
    packed = {name: batch[name] for name in ("input_ids", "position_ids", "ends")}
    if _has_kernels(batch["input_ids"].device):
        packed = filled_up(packed, kernel_length(packed["ends"].shape[1], reads(model.config)))
    told = attention_inputs(model, packed["ends"], before)
    return {"input_ids": packed["input_ids"], "position_ids": packed["position_ids"] + before, **told, **cache}


def _has_kernels(device: torch.device) -> bool:
    """Whether attention kernels are prepared for the lengths that they meet."""
    return device.type != "cpu"


def filled_up(packed: dict[str, Tensor], length: int) -> dict[str, Tensor]:
    """Bins (B, L) of `collate` made `length` long by more places that see themselves and are read nowhere."""
    more = length - packed["ends"].shape[1]
    padded = {name: nn.functional.pad(packed[name], (0, more)) for name in ("input_ids", "position_ids")}
    ends_BM = torch.arange(length - more + 1, length + 1, device=packed["ends"].device).repeat(len(packed["ends"]), 1)
    return padded | {"ends": torch.cat([packed["ends"], ends_BM], dim=1)}


def inputs_of(model: nn.Module, batch: dict[str, Tensor]) -> dict[str, Any]:
    """What a model's forward takes of a batch of `collate`; the model may be wrapped."""
    return _inputs(unwrapped(model), batch, None) | {"use_cache": False}


def unwrapped(model: nn.Module) -> nn.Module:
    """The model that DDP or DeepSpeed wraps, which has its configuration."""
    while isinstance(inner := getattr(model, "module", None), nn.Module):
        model = inner
    return model
