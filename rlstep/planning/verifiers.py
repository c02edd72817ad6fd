"""Verifiers that a stage loads: an adapter may be put on weights that are there, and an implicit PRM is two models."""

from dataclasses import dataclass

from rlstep.core.memory import FLOAT, Precision, mask_bytes, working_per_place
from rlstep.planning.models import Model
from rlstep.verifiers.forward import LARGEST_LOGITS


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
    own = 0 if model.lora is None else model.adapter(model.lora, FLOAT)[1]
    if own and shared:
        return Loaded(own, own * FLOAT)
    copies = 2 if model.implicit else 1
    return Loaded(own + copies * model.parameters, own * FLOAT + copies * model.weight_bytes(number))


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
