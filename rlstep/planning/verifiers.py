"""Verifiers that a stage loads: an adapter may be put on weights that are there, and an implicit PRM is two models.

All others have a head of a few labels, or the rows of a few label tokens, and no language model's head.
"""

from dataclasses import dataclass

from rlstep.core.memory import FLOAT, Precision, mask_bytes, working_per_place
from rlstep.planning.models import Model
from rlstep.verifiers.forward import LARGEST_LOGITS

LABELS = 2  # wrong and right; neutral would be one more


@dataclass(frozen=True)
class Loaded:
    """A verifier in memory: its parameters, and their bytes."""

    parameters: int
    weights: float


def loaded(model: Model, number: int, shared: bool = False) -> Loaded:
    """A verifier as it is loaded, whole.

    Args:
        model: its.
        number: bytes of a weight.
        shared: whether its adapter is put on a base that is in memory already.
    """
    lora = 0 if model.lora is None else model.adapter(model.lora, FLOAT)[1]
    if model.implicit:
        return Loaded(lora + 2 * model.parameters, lora * FLOAT + 2 * model.weight_bytes(number))
    head = LABELS * model.shape.hidden
    if lora and shared:
        return Loaded(lora + head, (lora + head) * FLOAT)
    # The vocabulary's head is never quantised.
    backbone = model.weight_bytes(number) - model.vocabulary_head * number
    weights = backbone + lora * FLOAT + head * (FLOAT if lora else number)
    return Loaded(lora + head + model.parameters - model.vocabulary_head, weights)


def scoring_peak(model: Model, number: int, batch_tokens: int, longest: int, attention: str) -> float:
    """Bytes of activations in a pass without gradients over rows that are packed.

    Args:
        model: the verifier's.
        number: bytes of a weight.
        batch_tokens: of a pass.
        longest: tokens of the longest row.
        attention: transformers' name of the implementation.
    """
    shape, precision, places = model.shape, Precision(number, number), max(batch_tokens, longest)
    passes = places * working_per_place(shape, precision, 0, False)
    passes += mask_bytes(shape, precision, max(1, places // longest), longest, True, attention, False)
    if model.implicit:
        # A piece of logits, the same in float32, and their log-probabilities.
        passes += (number + 2 * FLOAT) * min(places * shape.vocabulary, LARGEST_LOGITS)
    return passes
