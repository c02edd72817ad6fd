"""How well a verifier tells right from wrong."""

import numpy as np


def auroc(scores: np.ndarray, right: np.ndarray) -> float:
    """The chance that a right one scores above a wrong one, ties counting half (Mann-Whitney U on average ranks).

    Args:
        scores: (N,) any increasing measure of being right.
        right: (N,) booleans, with both values present.
    """
    _, inverse, counts = np.unique(scores, return_inverse=True, return_counts=True)
    average_ranks = (np.cumsum(counts) - (counts - 1) / 2)[inverse]
    n_right = int(right.sum())
    n_wrong = len(right) - n_right
    if n_right == 0 or n_wrong == 0:
        raise ValueError("AUROC needs both right and wrong ones")
    u = average_ranks[right].sum() - n_right * (n_right + 1) / 2
    return float(u / (n_right * n_wrong))


def binary_metrics(margins: np.ndarray, targets: np.ndarray) -> dict[str, float]:
    """loss, accuracy and, where both classes are present, balanced_accuracy and auroc.

    Args:
        margins: (N,) logit of right minus logit of wrong.
        targets: (N,) in [0, 1]; a soft target counts as right from one half on.
    """
    right, said_right = targets >= 0.5, margins >= 0
    # -t log p - (1 - t) log(1 - p) with p = sigmoid(margin)
    losses = np.logaddexp(0, -margins) * targets + np.logaddexp(0, margins) * (1 - targets)
    found = {"loss": float(losses.mean()), "accuracy": float((said_right == right).mean())}
    if right.any() and not right.all():
        found["balanced_accuracy"] = float((said_right[right].mean() + (~said_right[~right]).mean()) / 2)
        found["auroc"] = auroc(margins, right)
    return found
