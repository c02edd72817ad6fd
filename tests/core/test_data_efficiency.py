import math

import numpy as np
import pytest

from rlstep.core.data_efficiency import (
    LabelCurve,
    LogLine,
    data_efficiency,
    label_factor,
    log_line,
    slope_ratio,
)

LABELS = [10, 100, 1000]


def curve(*per_problem, labels=LABELS) -> LabelCurve:
    """One seed."""
    return LabelCurve([labels], [per_problem])


def test_the_line_is_the_least_squares_one_over_log10():
    # x = 1, 2, 3; y = 0.1, 0.4, 0.5: mean 1/3, slope (0.5 - 0.1) / 2 = 0.2, intercept 1/3 - 0.4.
    line = log_line(LABELS, [0.1, 0.4, 0.5])
    assert (line.slope, line.intercept) == (pytest.approx(0.2), pytest.approx(1 / 3 - 0.4))
    assert line.accuracy(10) == pytest.approx(1 / 3 - 0.2)
    slope, intercept = np.polyfit(np.log10([3, 20, 70, 900]), [0.1, 0.3, 0.2, 0.6], 1)
    line = log_line([3, 20, 70, 900], [0.1, 0.3, 0.2, 0.6])
    assert (line.slope, line.intercept) == (pytest.approx(slope), pytest.approx(intercept))


def test_slope_ratio_and_label_factor_are_two_things():
    """Lines that meet at one label: at accuracy 0.2 the flat one needs 100 labels, the one twice as steep 10."""
    flat, steep, raised = LogLine(0.1, 0.0), LogLine(0.2, 0.0), LogLine(0.1, 0.1)
    assert slope_ratio(steep, flat) == pytest.approx(2.0)
    assert label_factor(steep, flat, 0.2) == pytest.approx(10.0)
    assert label_factor(steep, flat, 0.4) == pytest.approx(100.0)
    # Parallel, and always ten times fewer labels: the ratio of slopes does not see it.
    assert slope_ratio(raised, flat) == pytest.approx(1.0)
    assert [label_factor(raised, flat, at) for at in (0.2, 0.3)] == pytest.approx([10.0, 10.0])


def test_lines_that_do_not_rise():
    up, down = LogLine(0.1, 0.0), LogLine(-0.1, 0.5)
    assert slope_ratio(up, down) == label_factor(up, down, 0.3) == math.inf
    assert slope_ratio(down, down) == label_factor(down, up, 0.3) == label_factor(down, down, 0.3) == 0
    assert slope_ratio(down, up) == pytest.approx(-1)
    assert label_factor(up, LogLine(1e-9, 0.0), 0.3) == math.inf


def test_data_efficiency_of_known_curves():
    """Every problem has the same lines, so every resample has their ratio."""
    steep, flat = [0.2, 0.4, 0.6], [0.1, 0.2, 0.3]
    result = data_efficiency(curve(steep, steep), curve(flat, flat), resamples=20)
    assert result.slope_ratio == pytest.approx((2.0, 2.0, 2.0))
    # What the flat line reaches with 1,000 labels the steep one reaches with 10 ** 1.5.
    assert result.at_accuracy == pytest.approx(0.3)
    assert result.label_factor == pytest.approx((10**1.5,) * 3)


def test_the_interval_holds_the_truth_about_as_often_as_it_says():
    rng = np.random.default_rng(0)
    truth, inside = 2.0, 0
    for trial in range(60):

        def problems(slope):
            noise = rng.normal(0, 0.3, size=(1, 80, 1)) + rng.normal(0, 0.05, size=(1, 80, 3))
            return LabelCurve([LABELS], 0.1 + slope * np.log10(LABELS) + noise)

        low, high = data_efficiency(problems(0.2), problems(0.1), resamples=200, seed=trial).slope_ratio[1:]
        inside += low <= truth <= high
    assert inside >= 51


def test_the_interval_is_of_pairs():
    """A problem's level is drawn with both curves: levels that differ much between problems do not widen it."""
    rng = np.random.default_rng(1)
    level = rng.normal(0, 1, size=(30, 1))
    steep, flat = (np.array([[slope * x for x in (1, 2, 3)]] * 30) + level for slope in (0.2, 0.1))
    result = data_efficiency(curve(*steep), curve(*flat), resamples=100)
    assert result.slope_ratio == pytest.approx((2.0, 2.0, 2.0))


def test_seeds_are_drawn_too():
    """Two seeds whose slopes differ: one problem each, so that drawing seeds alone can move the ratio."""
    ours = LabelCurve([LABELS] * 2, [[[0.1, 0.2, 0.3]], [[0.3, 0.6, 0.9]]])
    other = LabelCurve([LABELS] * 2, [[[0.1, 0.2, 0.3]], [[0.1, 0.2, 0.3]]])
    assert data_efficiency(ours, other, resamples=200).slope_ratio == pytest.approx((2.0, 1.0, 3.0))


def test_problems_of_several_seeds_are_drawn_together_or_apart():
    rng = np.random.default_rng(2)
    slopes = rng.normal(0.2, 0.1, size=40)
    one = [[slope * x for x in (1, 2, 3)] for slope in slopes]
    flat = [[0.1, 0.2, 0.3]] * 40
    ours, other = (LabelCurve([LABELS] * 3, [problems] * 3) for problems in (one, flat))

    def width(**given) -> float:
        _, low, high = data_efficiency(ours, other, resamples=400, **given).slope_ratio
        return high - low

    # Three seeds on the same 40 problems say no more of the problems than one does.
    assert width() == pytest.approx(width(same_problems=False) * 3**0.5, rel=0.2)


def test_draws_depend_on_the_seed_alone():
    rng = np.random.default_rng(3)
    ours, other = (LabelCurve([LABELS], rng.random((1, 20, 3)) + [0, s, 2 * s]) for s in (0.4, 0.2))
    first = data_efficiency(ours, other, resamples=50)
    assert first == data_efficiency(ours, other, resamples=50)
    assert first.slope_ratio != data_efficiency(ours, other, resamples=50, seed=1).slope_ratio


def test_a_single_unit_has_no_interval():
    result = data_efficiency(curve([0.2, 0.4, 0.6]), curve([0.1, 0.2, 0.3]), resamples=5)
    assert result.slope_ratio == (pytest.approx(2.0), None, None)


@pytest.mark.parametrize(
    ("labels", "accuracy", "message"),
    [
        ([LABELS], [[[0.1, 0.2]]], "give .seeds, budgets. and"),
        ([[10, 10]], [[[0.1, 0.2]]], "at least two numbers of labels"),
        ([[0, 10]], [[[0.1, 0.2]]], "above 0"),
        ([[1, 10]], [[[0.1, math.nan]]], "finite"),
        ([[1, 10]], np.zeros((1, 0, 2)), "at least one seed and one problem"),
    ],
)
def test_curves_that_are_none_are_refused(labels, accuracy, message):
    with pytest.raises(ValueError, match=message):
        LabelCurve(labels, accuracy)


def test_curves_of_different_problems_are_refused():
    with pytest.raises(ValueError, match="give both the same ones"):
        data_efficiency(curve([0.1, 0.2, 0.3]), curve([0.1, 0.2, 0.3], [0.1, 0.2, 0.3]))
    with pytest.raises(ValueError, match="resamples is 0"):
        data_efficiency(curve([0.1, 0.2, 0.3]), curve([0.1, 0.2, 0.3]), resamples=0)
    with pytest.raises(ValueError, match="two different numbers"):
        log_line([10, 10], [0.1, 0.2])
