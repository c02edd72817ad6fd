"""How far two labellers agree, beyond what chance would give."""

import math
from collections import Counter
from collections.abc import Hashable, Sequence

__all__ = ["cohen_kappa"]


def cohen_kappa(labels_a: Sequence[Hashable], labels_b: Sequence[Hashable]) -> float:
    """Cohen's kappa (1960): (p_o - p_e) / (1 - p_e), with p_e the agreement of independent labels of the same shares.

    p_o is the share of items with the same label; p_e sums, over the labels, the product of the shares of the items
    that each labeller gave it to. 1 is full agreement, 0 that of chance, below 0 worse than chance.

    >>> round(cohen_kappa([2, 2, -1, -1], [2, 2, -1, 2]), 3)
    0.5

    Args:
        labels_a, labels_b: one label per item, in the same order; labels are compared by equality, without an order.

    Returns:
        At most 1; NaN where both gave one and the same label to every item, which chance would as well.

    Raises:
        ValueError: no items, or not one label per item from each.
    """
    if len(labels_a) != len(labels_b):
        raise ValueError(f"{len(labels_a)} and {len(labels_b)} labels; give one per item from each labeller.")
    if not labels_a:
        raise ValueError("the agreement on no items")
    n = len(labels_a)
    same = sum(a == b for a, b in zip(labels_a, labels_b, strict=True))
    counts_a, counts_b = Counter(labels_a), Counter(labels_b)
    # In whole numbers, so that full chance agreement is exact: n^2 p_e.
    by_chance = sum(count * counts_b[label] for label, count in counts_a.items())
    if by_chance == n * n:
        return math.nan
    return (n * same - by_chance) / (n * n - by_chance)
