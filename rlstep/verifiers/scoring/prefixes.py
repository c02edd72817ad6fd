"""Rows that begin alike: which of them are worth computing their beginning once, as a cache that each row reads.

Samples of one problem share the prompt. Packing alone would make them share it by seeing each other's places under a
mask, which costs attention.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

from rlstep.verifiers.attention import shares_places
from rlstep.verifiers.features import Feature
from rlstep.verifiers.forward import Prefix, logits_at
from rlstep.verifiers.packing import WORTH_SHARING, shared_runs

# Shares of all tokens that a cache must save before it is worth a pass of its own.
WORTH_CACHING = 0.05


@dataclass(frozen=True)
class Family:
    """Rows and the beginning that they share.

    Attributes:
        prefix: its tokens, none of which is read.
        members: indices of the rows, the longest first.
    """

    prefix: list[int]
    members: list[int]


def families(features: Sequence[Feature]) -> tuple[list[Family], list[int]]:
    """Rows that share enough for a cache, and the indices of all others."""
    rows = [feature.ids.tolist() for feature in features]
    groups: list[Family] = []
    alone: list[int] = []

    def close(members: list[int], common: int) -> None:
        saved = common * (len(members) - 1)
        if common >= WORTH_SHARING and saved > WORTH_CACHING * sum(len(rows[index]) for index in members):
            groups.append(Family(rows[members[0]][:common], sorted(members, key=lambda index: -len(rows[index]))))
        else:
            alone.extend(members)

    for run in shared_runs(rows):
        members, common = [], 0
        for index, shared in run:
            # Nothing inside the prefix may be read: the pass over it is made once and its outputs are not kept.
            free = int(features[index].positions.min())
            joint = min(common, shared, free) if members else free
            if members and 2 * joint < common and len(members) > 1:
                # Another problem after the same instruction: what it shares with the ones before is little.
                close(members, common)
                members, joint = [], free
            members.append(index)
            common = joint
        close(members, common)
    return groups, alone


def without_prefix(feature: Feature, length: int) -> Feature:
    """A row without its first `length` tokens."""
    return replace(feature, ids=feature.ids[length:], positions=feature.positions - length)


@torch.inference_mode()
def can_cache(model) -> bool:
    """Whether a model continues from a cache in its bins, by trying it on a few tokens."""
    if not shares_places(model.config):
        return False
    vocabulary = model.config.get_text_config().vocab_size
    ids_1T = torch.tensor([[index % vocabulary for index in range(3, 15)]], device=model.device)
    whole_TK = model(input_ids=ids_1T, use_cache=False).logits[0]
    length = ids_1T.shape[1] - 8
    places = torch.arange(8, device=model.device)
    batch = {
        "input_ids": ids_1T[:, length:],
        "ends": torch.full_like(places, 8)[None],
        "position_ids": places[None],
        "rows": torch.zeros_like(places),
        "positions": places,
    }
    try:
        continued_TK = logits_at(model, batch, Prefix.of(model, ids_1T[0, :length].tolist()))
    except (TypeError, AttributeError, ValueError, RuntimeError):
        return False  # no cache of keys and values, or none that can be repeated
    tolerance = 1e-3 if model.dtype == torch.float32 else 0.1
    difference_TK = continued_TK.float() - whole_TK[length:].float()
    return bool(difference_TK.abs().max() <= tolerance * whole_TK.float().abs().max())
