import itertools
import math
from statistics import mean, stdev

import numpy as np
import pytest
from scipy.stats import binomtest

from rlstep.core.stats import (
    Interval,
    auroc,
    bootstrap_interval,
    normal_margin,
    percentile_interval,
    resampled_sums,
    t_interval,
    wilson_interval,
)


def test_t_interval_of_three_numbers_by_hand():
    # mean 2, s = 1, t_{0.975,2} = 4.302653 (table), half = 4.302653 / sqrt(3)
    assert t_interval([1, 2, 3]) == pytest.approx((2, 2 - 2.484138, 2 + 2.484138), abs=1e-5)
    assert t_interval([0.5, 0.5]) == (0.5, 0.5, 0.5)


@pytest.mark.parametrize(("degrees", "table"), [(1, 12.7062), (2, 4.3027), (3, 3.1824), (9, 2.2622), (30, 2.0423)])
def test_t_interval_has_the_quantile_of_the_printed_table(degrees, table):
    values = [k**1.5 for k in range(degrees + 1)]
    actual = t_interval(values)
    quantile = (actual.high - actual.mean) / (stdev(values) / math.sqrt(len(values)))
    assert quantile == pytest.approx(table, abs=5e-5)
    assert actual.mean - actual.low == pytest.approx(actual.high - actual.mean)


def test_one_value_gives_no_spread_and_none_no_mean():
    assert t_interval([0.4]) == (0.4, None, None)
    with pytest.raises(ValueError, match="no values"):
        t_interval([])


def test_normal_margin_is_that_of_each_column():
    columns = [[1, 0.5, 0, 0.5], [3, 1, 4, 1]]
    expected = [1.959964 * stdev(column) / 2 for column in columns]
    assert normal_margin(np.array(columns).T) == pytest.approx(expected)
    with pytest.raises(ValueError, match="1 rows have no spread"):
        normal_margin(np.ones((1, 3)))


def test_wilson_interval_by_hand():
    # 8 of 10: (0.8 + 0.19207 -/+ 1.96 sqrt(0.016 + 0.0096)) / 1.38415; 0 of 4: from 0 to 3.8415 / 7.8415
    low, high = wilson_interval(np.array([0.8, 0.0]), np.array([10, 4]))
    assert low == pytest.approx([0.4902, 0.0], abs=1e-4)
    assert high == pytest.approx([0.9433, 0.4899], abs=1e-4)


def test_wilson_interval_is_scipys_of_each_count():
    n = 23
    low, high = wilson_interval(np.arange(n + 1) / n, np.full(n + 1, n))
    for k in range(n + 1):
        expected = binomtest(k, n).proportion_ci(method="wilson")
        assert (low[k], high[k]) == pytest.approx((expected.low, expected.high), abs=1e-7)


def test_wilson_interval_holds_its_share_and_stays_in_range():
    low, high = wilson_interval(np.array([0.0, 1.0, 0.999]), np.array([3, 3, 1]))
    assert (low >= 0).all()
    assert (high <= 1).all()
    assert low[0] == 0
    assert high[1] == 1
    assert low[2] <= 0.999 <= high[2]


def test_auroc_by_hand_with_a_tie():
    # pairs (right, wrong): (3,1) 1, (3,2) 1, (2,1) 1, (2,2) a half
    scores, right = np.array([3.0, 2.0, 1.0, 2.0]), np.array([True, True, False, False])
    assert auroc(scores, right) == pytest.approx(3.5 / 4)


def test_auroc_is_the_share_of_ordered_pairs():
    rng = np.random.default_rng(0)
    scores, right = rng.integers(0, 9, 60).astype(float), rng.random(60) < 0.4
    pairs = [(a > b) + 0.5 * (a == b) for a in scores[right] for b in scores[~right]]
    assert auroc(scores, right) == pytest.approx(np.mean(pairs))


def test_auroc_is_the_area_under_the_curve():
    rng = np.random.default_rng(1)
    scores, right = rng.normal(size=200).round(1), rng.random(200) < 0.3
    thresholds = sorted({*scores, math.inf}, reverse=True)
    curve = [((scores[~right] >= t).mean(), (scores[right] >= t).mean()) for t in thresholds]
    area = sum((x1 - x0) * (y0 + y1) / 2 for (x0, y0), (x1, y1) in itertools.pairwise(curve))
    assert auroc(scores, right) == pytest.approx(area)


def test_auroc_turns_round_with_the_scores_and_does_not_hide_nan():
    scores, right = [0.1, 0.4, 0.2, 0.9], [False, True, False, True]
    assert auroc(scores, right) == 1
    assert auroc([-score for score in scores], right) == 0
    assert auroc([1, 1, 1, 1], right) == 0.5
    assert math.isnan(auroc([0.1, math.nan, 0.2, 0.9], right))


@pytest.mark.parametrize("right", [[True, True], [False, False]])
def test_auroc_needs_both_kinds(right):
    with pytest.raises(ValueError, match="both right and wrong"):
        auroc([0.1, 0.2], right)


def test_bootstrap_interval_against_every_resample_there_is():
    units = [0.0, 1.0, 5.0, 20.0]
    every = [mean(drawn) for drawn in itertools.product(units, repeat=4)]
    actual = bootstrap_interval(units, mean, resamples=40_000)
    assert actual.mean == 6.5
    assert (actual.low, actual.high) == tuple(np.percentile(every, [2.5, 97.5], method="inverted_cdf"))


def test_bootstrap_draws_units_whole():
    # Two problems of three steps each, all alike: steps drawn one by one would nearly never give 0 or 1.
    problems = [[1, 1, 1], [0, 0, 0]]
    actual = bootstrap_interval(problems, lambda drawn: mean(step for steps in drawn for step in steps))
    assert actual == (0.5, 0, 1)


def test_bootstrap_goes_by_its_seed_and_number_of_resamples():
    units = [0.1, 0.7, 0.2, 0.9, 0.4]
    first = bootstrap_interval(units, mean, resamples=50)
    assert bootstrap_interval(units, mean, resamples=50) == first
    assert bootstrap_interval(units, mean, resamples=50, seed=1) != first
    assert bootstrap_interval(units, mean, resamples=60) != first


def test_bootstrap_of_too_little():
    assert bootstrap_interval([3.0], mean) == (3.0, None, None)
    with pytest.raises(ValueError, match="no units"):
        bootstrap_interval([], mean)
    with pytest.raises(ValueError, match="resamples is 0"):
        bootstrap_interval([1.0, 2.0], mean, resamples=0)


def test_resampled_sums_are_sums_of_as_many_units():
    counts = np.array([[1, 0], [1, 10], [1, 100]])
    sums = resampled_sums(counts, resamples=4000)
    assert (sums[:, 0] == 3).all()
    assert set(sums[:, 1].tolist()) == {sum(drawn) for drawn in itertools.product([0, 10, 100], repeat=3)}
    # Each unit is drawn once on average; the variance of the sum is 3 times that of one draw.
    assert sums[:, 1].mean() == pytest.approx(110, rel=0.03)
    assert sums[:, 1].var() == pytest.approx(3 * np.var([0, 10, 100]), rel=0.1)
    assert (resampled_sums(counts, 50, seed=1) != resampled_sums(counts, 50, seed=2)).any()


def test_resampled_sums_give_the_interval_of_the_slow_bootstrap():
    hits = [float(k % 3 == 0) for k in range(60)]
    slow = bootstrap_interval(hits, lambda drawn: float(np.mean(drawn)))
    sums = resampled_sums(np.array([[hit, 1] for hit in hits]))
    quick = percentile_interval(20 / 60, sums[:, 0] / sums[:, 1])
    assert quick == pytest.approx(slow, abs=0.02)


@pytest.mark.parametrize(("counts", "resamples", "message"), [([], 5, "no units"), ([[1]], 0, "at least 1")])
def test_sums_of_nothing_are_refused(counts, resamples, message):
    with pytest.raises(ValueError, match=message):
        resampled_sums(np.array(counts), resamples)


def test_percentiles_leave_out_what_is_undefined():
    drawn = np.array([np.nan, *np.linspace(0, 1, 41)])
    assert percentile_interval(0.4, drawn) == pytest.approx((0.4, 0.025, 0.975))
    assert percentile_interval(0.4, np.array([np.nan])) == Interval(0.4, None, None)
