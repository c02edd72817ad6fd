import numpy as np
import pytest

from rlstep.core.step_detection import count_steps, negative_f1, positive_f1, prm_score

# Right and called right, right and called wrong, wrong and called wrong, wrong and called right.
COUNTS = np.array([6, 2, 1, 3])


def test_steps_are_counted_by_what_they_are_and_what_they_are_called():
    probs = [0.9, 0.5, 0.49, 0.1, 0.7, 0.2]
    wrong = [False, False, False, True, True, True]
    assert count_steps(probs, wrong, 0.5).tolist() == [2, 1, 2, 1]
    assert count_steps(probs, wrong, 0.8).tolist() == [1, 2, 3, 0]


def test_both_f1_by_hand():
    # Right steps: precision 6/9, recall 6/8. Wrong ones: precision 1/3, recall 1/4.
    assert positive_f1(COUNTS) == pytest.approx(2 * (6 / 9) * (6 / 8) / (6 / 9 + 6 / 8))
    assert negative_f1(COUNTS) == pytest.approx(2 * (1 / 3) * (1 / 4) / (1 / 3 + 1 / 4))
    assert prm_score(COUNTS) == pytest.approx((12 / 17 + 2 / 7) / 2)


def test_without_wrong_steps_the_score_is_the_f1_of_right_ones():
    assert prm_score([3, 1, 0, 0]) == pytest.approx(6 / 7)


def test_a_verifier_that_calls_nothing_right_scores_zero_there():
    assert positive_f1([0, 4, 2, 0]) == 0
    assert np.isnan(positive_f1([0, 0, 2, 0]))
    assert np.isnan(negative_f1([3, 0, 0, 0]))


def test_many_counts_at_once():
    both = np.stack([COUNTS, [3, 1, 0, 0]])
    np.testing.assert_allclose(prm_score(both), [prm_score(COUNTS), 6 / 7])


def test_as_many_marks_as_probabilities():
    with pytest.raises(ValueError, match="2 probabilities for 1 steps"):
        count_steps([0.1, 0.2], [True], 0.5)
