"""How far two labellers agree beyond chance."""

import math
from collections.abc import Hashable, Sequence

__all__ = ["cohen_kappa"]


def cohen_kappa(labels_a: Sequence[Hashable], labels_b: Sequence[Hashable]) -> float:
    """Agreement of two labellers corrected for chance (Cohen, 1960): (p_o - p_e) / (1 - p_e).

    p_o is the share of items that both label alike; p_e the share that would be if each labelled at random with the
    frequencies that it has: the sum over labels of the product of their shares.

    >>> cohen_kappa([1, 1, 0, 0], [1, 1, 0, 1])
    0.5

    Args:
        labels_a, labels_b: N labels each, of the same items in the same order.

    Returns:
        1 for full agreement, 0 for that of chance; NaN where both give all items one and the same label, or N is 0.

    Raises:
        ValueError: not one label of each per item.
    """
    if len(labels_a) != len(labels_b):
        raise ValueError(f"{len(labels_a)} labels and {len(labels_b)}; give both labellers' labels of the same items.")
    n = len(labels_a)
    if n == 0:
        return math.nan
    observed = sum(a == b for a, b in zip(labels_a, labels_b, strict=True)) / n
    kinds = {*labels_a, *labels_b}
    expected = sum(list(labels_a).count(kind) * list(labels_b).count(kind) for kind in kinds) / n**2
    return math.nan if expected == 1 else (observed - expected) / (1 - expected)
