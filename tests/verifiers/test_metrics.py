import math

import numpy as np
import pytest

from rlstep.verifiers.metrics import STEP_METRICS, RowScores, binary_metrics, step_metrics, undefined

NAN = math.nan


def test_binary_metrics_by_hand():
    actual = binary_metrics(np.array([2.0, -1.0, -3.0]), np.array([1.0, 1.0, 0.0]))
    loss = (math.log1p(math.exp(-2)) + math.log1p(math.exp(1)) + math.log1p(math.exp(-3))) / 3
    assert actual == pytest.approx({"loss": loss, "accuracy": 2 / 3, "balanced_accuracy": (0.5 + 1) / 2, "auroc": 1.0})


def test_one_class_has_no_auroc():
    assert set(binary_metrics(np.array([1.0, -1.0]), np.array([1.0, 1.0]))) == {"loss", "accuracy"}


def test_soft_target_in_the_loss():
    assert binary_metrics(np.array([0.7]), np.array([0.25]))["loss"] == pytest.approx(
        0.25 * math.log1p(math.exp(-0.7)) + 0.75 * math.log1p(math.exp(0.7))
    )


def rows(*given: tuple[list[float], list[float]]) -> list[RowScores]:
    """Each solution of a problem of its own."""
    return [RowScores(probs, targets, f"problem {number}") for number, (probs, targets) in enumerate(given)]


def test_step_metrics_by_hand():
    actual = step_metrics(
        rows(
            ([0.9, 0.4, 0.2], [1, 0, NAN]),  # first error at 1, found
            ([0.8, 0.6], [1, 1]),  # none, found
            ([0.7, 0.3], [1, 1]),  # none, but step 1 is blamed
            ([0.6, 0.7], [0, NAN]),  # first error at 0, not seen
            ([0.5, 0.9], [NAN, 0.75]),  # open: its first step has no label
        )
    )
    # labelled: 0.9 0.4 | 0.8 0.6 | 0.7 0.3 | 0.6 | 0.9, of which 0.4 and the second 0.6 are wrong
    assert actual["accuracy"] == pytest.approx(6 / 8)
    assert actual["balanced_accuracy"] == pytest.approx((5 / 6 + 1 / 2) / 2)
    # over 0.4: 0.9 0.8 0.6 0.7 0.9; over 0.6: 0.9 0.8 0.7 0.9 and a tie
    assert actual["auroc"] == pytest.approx((5 + 4.5) / 12)
    squares = [0.1**2, 0.4**2, 0.2**2, 0.4**2, 0.3**2, 0.7**2, 0.6**2, 0.15**2]
    assert actual["brier"] == pytest.approx(sum(squares) / 8)
    # 15 bins: both 0.9 and both 0.6 lie together
    gaps = [abs(1.8 - 1.75), 0.4, 0.2, abs(1.2 - 1), 0.3, 0.7]
    assert actual["ece"] == pytest.approx(sum(gaps) / 8)
    assert actual["first_error_exact"] == pytest.approx(2 / 4)
    # the last step is the lowest in the first three, labelled or not
    assert actual["min_is_last"] == pytest.approx(3 / 5)


def test_a_shared_beginning_counts_once_and_its_solution_is_judged_whole():
    actual = step_metrics(
        [
            RowScores([0.9, 0.8, 0.9], [1, 1, 0], "p"),  # first error at 2, not seen
            RowScores([0.9, 0.8, 0.2], [1, 1, 0], "p", shared=2),  # first error at 2, found
            RowScores([0.9, 0.3], [1, 1], "p", shared=1),  # none, but step 1 is blamed
        ]
    )
    # labelled: 0.9 0.8 0.9 | 0.2 | 0.3
    assert actual["accuracy"] == pytest.approx(3 / 5)
    assert actual["brier"] == pytest.approx((0.1**2 + 0.2**2 + 0.9**2 + 0.2**2 + 0.7**2) / 5)
    assert actual["first_error_exact"] == pytest.approx(1 / 3)
    assert actual["min_is_last"] == pytest.approx(2 / 3)


def test_the_threshold_of_the_first_error_is_not_tuned_on_its_rows():
    good = [RowScores([0.9, 0.8], [1, 1], f"p{i}") for i in range(6)]
    bad = [RowScores([0.9, 0.6], [1, 0], f"p{i}") for i in range(6)]
    actual = step_metrics(good + bad)
    # At 0.5 no error is seen; between 0.6 and 0.8, which either half finds, all are.
    assert actual["first_error_exact"] == 0.5
    assert actual["processbench_f1"] == 1.0
    assert actual["processbench_accuracy_on_errors"] == actual["processbench_accuracy_on_correct"] == 1.0
    # One problem alone has no other half.
    alone = step_metrics([RowScores(row.probs, row.targets, "p") for row in good + bad])
    assert undefined(alone) == [name for name in STEP_METRICS if name.startswith("processbench")]


@pytest.mark.parametrize(
    ("targets", "expected"),
    [
        ([1, 0, NAN], 1),
        ([1, 0, 1], 1),
        ([1, 1, 1], -1),
        ([0.5, 0.49, NAN], 1),
        ([1, 1, NAN], None),
        ([NAN, 0, NAN], None),
        ([NAN, NAN, NAN], None),
    ],
)
def test_labels_say_where_the_first_error_is_or_leave_it_open(targets, expected):
    assert RowScores([0.5, 0.5, 0.5], targets, "p").first_error == expected


def test_what_the_data_do_not_define_is_named_and_not_zero():
    assert step_metrics([]) == {}
    assert undefined({}) == list(STEP_METRICS)
    actual = step_metrics(rows(([0.9], [1.0]), ([0.8], [1.0])))
    assert set(actual) == {"accuracy", "ece", "brier", "first_error_exact"}
    assert undefined(actual)[:2] == ["balanced_accuracy", "auroc"]
    # nothing labelled: only what needs no label
    assert step_metrics(rows(([0.9, 0.8], [NAN, NAN]))) == {"min_is_last": 1.0}


def test_every_measure_is_defined_on_ordinary_data():
    generator = np.random.default_rng(0)
    ordinary = []
    for number in range(40):
        targets = np.ones(4) if number % 2 else np.array([1, 1, 0, NAN])
        ordinary.append(RowScores(generator.random(4), targets, f"p{number // 4}"))
    actual = step_metrics(ordinary)
    assert list(actual) == list(STEP_METRICS)
    assert undefined(actual) == []
    assert all(0 <= value <= 1 for value in actual.values())


@pytest.mark.parametrize(
    ("probs", "targets", "message"),
    [
        ([0.5], [1, 0], r"'p': probs \(1,\), targets \(2,\)"),
        ([1.1], [1], r"'p': probs and targets must be in \[0, 1\]"),
        ([NAN], [1], "'p': probs and targets must be"),
        ([0.5], [2], "targets NaN where unknown"),
        ([0.5], [-1], "targets NaN where unknown"),
    ],
)
def test_scores_that_cannot_be_are_refused(probs, targets, message):
    with pytest.raises(ValueError, match=message):
        RowScores(probs, targets, "p")
