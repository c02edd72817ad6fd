import math

import numpy as np
import pytest

from rlstep.verifiers.metrics import auroc, binary_metrics


def test_auroc_by_hand_with_a_tie():
    # pairs (right, wrong): (3,1) 1, (3,2) 1, (2,1) 1, (2,2) a half
    scores, right = np.array([3.0, 2.0, 1.0, 2.0]), np.array([True, True, False, False])
    assert auroc(scores, right) == pytest.approx(3.5 / 4)


def test_auroc_is_the_share_of_ordered_pairs():
    rng = np.random.default_rng(0)
    scores, right = rng.integers(0, 9, 60).astype(float), rng.random(60) < 0.4
    pairs = [(a > b) + 0.5 * (a == b) for a in scores[right] for b in scores[~right]]
    assert auroc(scores, right) == pytest.approx(np.mean(pairs))


def test_binary_metrics_by_hand():
    found = binary_metrics(np.array([2.0, -1.0, -3.0]), np.array([1.0, 1.0, 0.0]))
    loss = (math.log1p(math.exp(-2)) + math.log1p(math.exp(1)) + math.log1p(math.exp(-3))) / 3
    assert found == pytest.approx({"loss": loss, "accuracy": 2 / 3, "balanced_accuracy": (0.5 + 1) / 2, "auroc": 1.0})


def test_one_class_has_no_auroc():
    assert set(binary_metrics(np.array([1.0, -1.0]), np.array([1.0, 1.0]))) == {"loss", "accuracy"}


def test_soft_target_in_the_loss():
    assert binary_metrics(np.array([0.7]), np.array([0.25]))["loss"] == pytest.approx(
        0.25 * math.log1p(math.exp(-0.7)) + 0.75 * math.log1p(math.exp(0.7))
    )
