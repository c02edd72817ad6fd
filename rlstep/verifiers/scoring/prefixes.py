"""The shared beginning of many rows, computed once: its keys and values are kept and every row continues from them.

Samples of one problem share the prompt. Packing alone would make them share it by seeing each other's places under a
mask, which costs attention; here the prompt is a cache that each row reads.
"""

import copy
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from rlstep.verifiers.features import Feature
from rlstep.verifiers.packing import WORTH_SHARING, added_mask, mask_dtype, shared_runs
from rlstep.verifiers.pretrained import classify_at

# Shares of all tokens that a cache must save before it is worth a pass of its own.
WORTH_CACHING = 0.05


@dataclass(frozen=True)
class Family:
    """Rows and the beginning that they share.

    Attributes:
        prefix: its tokens, none of which is asked.
        members: indices of the rows, the longest first.
    """

    prefix: list[int]
    members: list[int]


def families(features: Sequence[Feature]) -> tuple[list[Family], list[int]]:
    """Rows that share enough for a cache, and the indices of all others."""
    rows = [feature.ids.tolist() for feature in features]
    found: list[Family] = []
    alone: list[int] = []

    def close(members: list[int], common: int) -> None:
        saved = common * (len(members) - 1)
        if common >= WORTH_SHARING and saved > WORTH_CACHING * sum(len(rows[index]) for index in members):
            found.append(Family(rows[members[0]][:common], sorted(members, key=lambda index: -len(rows[index]))))
        else:
            alone.extend(members)

    for run in shared_runs(rows):
        members, common = [], 0
        for index, shared in run:
            # Nothing inside the prefix may be asked, for the pass over it is made once and its outputs are not kept.
            free = int(features[index].columns.min())
            joint = min(common, shared, free) if members else free
            if members and 2 * joint < common and len(members) > 1:
                # Another problem behind the same instruction: what it shares with the ones before is little.
                close(members, common)
                members, joint = [], free
            members.append(index)
            common = joint
        close(members, common)
    return found, alone


def without_prefix(feature: Feature, length: int) -> Feature:
    return replace(feature, ids=feature.ids[length:], columns=feature.columns - length)


class PrefixCache:
    """Keys and values of a prefix, for any number of rows that continue it.

    Args:
        model: a causal model whose every layer attends to the whole row.
        prefix: (P,) its tokens.
    """

    def __init__(self, model, prefix: list[int]):
        ids_1P = torch.tensor([prefix], device=model.device)
        self.model, self.length = model, len(prefix)
        # The backbone alone: token classifiers do not hand its cache on.
        self.cache = model.base_model(input_ids=ids_1P, use_cache=True).past_key_values

    def classify(self, inputs: dict[str, Tensor]) -> Tensor:
        """`classify_at` for rows without their prefix.

        Args:
            inputs: of `collate.model_inputs`, of packed rows; their places see the whole prefix.
        """
        mask = inputs["attention_mask"]
        bins, _, places, _ = mask.shape
        seen = torch.ones((bins, 1, places, self.length), dtype=torch.bool, device=mask.device)
        dtype = mask_dtype(self.model)
        if dtype is not None:
            seen = added_mask(seen, dtype)
        cache = copy.deepcopy(self.cache)
        cache.batch_repeat_interleave(bins)
        moved = {
            "attention_mask": torch.cat([seen, mask], dim=-1),
            "position_ids": inputs["position_ids"] + self.length,
            "past_key_values": cache,
        }
        return classify_at(self.model, **(inputs | moved))


@torch.inference_mode()
def can_cache(model) -> bool:
    """Whether a model continues from a cache under a mask of ours, by trying it on a few tokens."""
    vocabulary = model.config.get_text_config().vocab_size
    ids_1T = torch.tensor([[index % vocabulary for index in range(3, 15)]], device=model.device)
    whole_TK = model(input_ids=ids_1T, use_cache=False).logits[0]
    length = ids_1T.shape[1] - 8
    rest = torch.arange(8, device=model.device)
    mask = rest[None, None, None, :] <= rest[None, None, :, None]
    inputs = {
        "input_ids": ids_1T[:, length:],
        "attention_mask": mask if mask_dtype(model) is None else added_mask(mask, mask_dtype(model)),
        "position_ids": rest[None],
        "rows": torch.zeros_like(rest),
        "columns": rest,
    }
    try:
        found_TK = PrefixCache(model, ids_1T[0, :length].tolist()).classify(inputs)
    except (TypeError, AttributeError, ValueError, RuntimeError):
        return False  # no cache of keys and values, or none that can be repeated
    tolerance = 1e-3 if model.dtype == torch.float32 else 0.1
    return bool((found_TK.float() - whole_TK[length:].float()).abs().max() <= tolerance * whole_TK.float().abs().max())
