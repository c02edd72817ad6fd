import numpy as np
import pytest

from rlstep.core.calibration import brier_score, expected_calibration_error, reliability


def loop_ece(probs, targets, bins: int) -> float:
    """Guo et al.'s definition, bin by bin: B_m holds the predictions in ((m - 1) / M, m / M]."""
    total = 0.0
    for m in range(1, bins + 1):
        inside = [i for i, p in enumerate(probs) if (m - 1) / bins < p <= m / bins or (m == 1 and p == 0)]
        if inside:
            accuracy = sum(targets[i] for i in inside) / len(inside)
            confidence = sum(probs[i] for i in inside) / len(inside)
            total += len(inside) / len(probs) * abs(accuracy - confidence)
    return total


def test_bins_by_hand():
    # (0, 0.5]: 0.1 and 0.5, of which one is right; (0.5, 1]: 0.6, 0.8, 1.0, of which two are right
    actual = reliability([0.1, 0.5, 0.6, 0.8, 1.0], [0, 1, 1, 0, 1], bins=2)
    assert actual.edges.tolist() == [0, 0.5, 1]
    assert actual.counts.tolist() == [2, 3]
    assert actual.confidence == pytest.approx([0.3, 0.8])
    assert actual.accuracy == pytest.approx([0.5, 2 / 3])
    assert actual.error == pytest.approx(2 / 5 * 0.2 + 3 / 5 * (0.8 - 2 / 3))


def test_an_upper_edge_belongs_to_its_bin_and_zero_to_the_first():
    assert reliability([0.0, 0.25, 0.5, 0.75, 1.0], [0, 0, 0, 0, 0], bins=4).counts.tolist() == [2, 1, 1, 1]


def test_empty_bins_are_nan_and_weigh_nothing():
    actual = reliability([0.9, 0.9], [1, 0], bins=3)
    assert actual.counts.tolist() == [0, 0, 2]
    assert np.isnan(actual.confidence[:2]).all()
    assert np.isnan(actual.accuracy[:2]).all()
    assert actual.error == pytest.approx(0.4)


def test_soft_targets_count_with_their_value():
    assert expected_calibration_error([0.7, 0.7], [0.5, 0.9]) == pytest.approx(0.0)
    assert expected_calibration_error([0.7, 0.7], [0.5, 0.5]) == pytest.approx(0.2)


@pytest.mark.parametrize("bins", [1, 7, 15])
def test_the_error_is_the_papers_sum(bins):
    rng = np.random.default_rng(bins)
    probs = np.concatenate([rng.random(200), [0.0, 1.0]])
    targets = np.where(rng.random(202) < 0.3, rng.random(202), rng.random(202) < probs)
    assert expected_calibration_error(probs, targets, bins) == pytest.approx(loop_ece(probs, targets, bins))


def test_fewer_bins_hide_gaps():
    probs, targets = [0.2, 0.8], [1, 0]
    assert expected_calibration_error(probs, targets, bins=1) == pytest.approx(0.0)
    assert expected_calibration_error(probs, targets) == pytest.approx(0.8)


def test_brier_score_by_hand():
    assert brier_score([0.9, 0.2, 0.5], [1, 1, 0.5]) == pytest.approx((0.01 + 0.64 + 0) / 3)
    assert brier_score([0.5, 0.5], [0, 1]) == 0.25


@pytest.mark.parametrize("measure", [reliability, expected_calibration_error, brier_score])
@pytest.mark.parametrize(
    ("probs", "targets", "message"),
    [
        ([], [], "give one of each per prediction"),
        ([0.5], [1, 0], "give one of each per prediction"),
        ([[0.5]], [[1]], "give one of each per prediction"),
        ([1.5], [1], r"probabilities must be in \[0, 1\]; got 1.5"),
        ([float("nan")], [1], r"probabilities must be in \[0, 1\]"),
        ([0.5, 0.5], [1, -1], r"targets must be in \[0, 1\]; got -1 to 1"),
    ],
)
def test_predictions_that_cannot_be_are_refused(measure, probs, targets, message):
    with pytest.raises(ValueError, match=message):
        measure(np.array(probs), np.array(targets))


def test_no_bins_are_refused():
    with pytest.raises(ValueError, match="bins is 0"):
        reliability([0.5], [1], bins=0)
