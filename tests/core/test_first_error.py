import math
import random

import pytest

from rlstep.core.first_error import (
    ProcessBench,
    best_threshold,
    cross_fitted_f1,
    cross_fitted_thresholds,
    f1_of_counts,
    first_error,
    first_error_agreement,
    min_is_last_share,
    processbench_f1,
)

ROWS = [
    ([0.9, 0.8, 0.7], -1),
    ([0.9, 0.4], -1),
    ([0.9, 0.3, 0.1], 1),
    ([0.6, 0.2], 1),
    ([0.5, 0.9], 0),
]


def loop_f1(rows, threshold: float) -> float:
    """ProcessBench's definition, one solution at a time."""
    hits = {True: [], False: []}
    for probs, label in rows:
        said = -1
        for step, p in enumerate(probs):
            if p < threshold:
                said = step
                break
        hits[label >= 0].append(said == label)
    a, b = (sum(actual) / len(actual) for actual in hits.values())
    return 2 * a * b / (a + b) if a + b else 0.0


def random_rows(seed: int, count: int, digits: int) -> list[tuple[list[float], int]]:
    """Rows with many equal probabilities where `digits` is small; some solutions without steps."""
    generator = random.Random(seed)
    rows = [([], -1)]
    for _ in range(count):
        steps = generator.randint(1, 6)
        first = generator.choice([-1, generator.randrange(steps)])
        probs = [generator.betavariate(5, 1 + (first >= 0) * (step >= first)) for step in range(steps)]
        rows.append(([round(p, digits) for p in probs], first))
    return rows


def test_the_first_step_below_the_threshold():
    assert first_error([0.9, 0.2, 0.1], 0.5) == 1
    assert first_error([0.9, 0.5], 0.5) == -1
    assert first_error([0.0], 0.0) == -1
    assert first_error([], 0.5) == -1


def test_f1_by_hand():
    # errors: 1 is found, 1 is found, 0.5 is not below 0.5; correct: all right, 0.4 is below
    actual = processbench_f1(ROWS, 0.5)
    assert actual == ProcessBench(pytest.approx(2 * (2 / 3) * 0.5 / (2 / 3 + 0.5)), pytest.approx(2 / 3), 0.5, 0.5)
    # 0.65: the fourth row's first step is blamed, the fifth row's is found
    assert processbench_f1(ROWS, 0.65) == ProcessBench(
        pytest.approx(2 * (2 / 3) * 0.5 / (2 / 3 + 0.5)), pytest.approx(2 / 3), 0.5, 0.65
    )
    assert processbench_f1(ROWS, 0.0) == ProcessBench(0.0, 0.0, 1.0, 0.0)


def test_a_kind_that_is_missing_is_nan_and_not_zero():
    actual = processbench_f1(ROWS[:2], 0.5)
    assert math.isnan(actual.f1)
    assert math.isnan(actual.accuracy_on_errors)
    assert actual.accuracy_on_correct == 0.5
    actual = processbench_f1(ROWS[2:], 0.5)
    assert math.isnan(actual.f1)
    assert math.isnan(actual.accuracy_on_correct)
    assert math.isnan(processbench_f1([], 0.5).accuracy_on_correct)


def test_the_best_threshold_by_hand():
    # (0.3, 0.4] finds two errors of three and passes both correct rows; (0.5, 0.6] finds all three and passes one
    assert processbench_f1(ROWS, 0.35).f1 == pytest.approx(2 * (2 / 3) / (2 / 3 + 1))
    assert processbench_f1(ROWS, 0.55).f1 == pytest.approx(2 * 0.5 / (1 + 0.5))
    assert best_threshold(ROWS) == pytest.approx(0.35)


@pytest.mark.parametrize("seed", range(6))
def test_no_threshold_is_better_than_the_best(seed):
    rows = random_rows(seed, 60, digits=1 + seed % 3)
    values = sorted({p for probs, _ in rows for p in probs} | {0.0, 1.0})
    tried = values + [(a + b) / 2 for a, b in zip(values, values[1:], strict=False)] + [math.nextafter(1, 2)]
    best = best_threshold(rows)
    assert loop_f1(rows, best) == pytest.approx(max(loop_f1(rows, threshold) for threshold in tried))
    assert processbench_f1(rows, best).f1 == pytest.approx(loop_f1(rows, best))


def test_of_equally_good_thresholds_the_one_nearest_to_one_half_is_taken_then_the_lower():
    # F1 is 1 on (0.2, 0.9], all one stretch: its middle
    assert best_threshold([([0.9], -1), ([0.2], 0)]) == pytest.approx(0.55)
    # F1 is 2/3 on (0.1, 0.3] and on (0.8, 0.95], 0 between: 0.2 is nearer to 0.5 than 0.875
    rows = [([0.95], -1), ([0.3, 0.1], 1), ([0.99, 0.8], 1)]
    assert processbench_f1(rows, 0.2).f1 == processbench_f1(rows, 0.875).f1 == pytest.approx(2 / 3)
    assert best_threshold(rows) == pytest.approx(0.2)
    # (0.1, 0.2] and (0.5, 0.6]: the higher one is nearer
    assert best_threshold([([0.7], -1), ([0.2, 0.1], 1), ([0.6, 0.5], 1)]) == pytest.approx(0.55)
    # (0.25, 0.375] and (0.625, 0.75] have their middles as far from one half
    rows = [([0.875], -1), ([0.375, 0.25], 1), ([0.75, 0.625], 1)]
    assert best_threshold(rows) == pytest.approx(0.3125)


def test_neighbouring_floats_have_a_threshold_between_them():
    low = 0.7
    middle = math.nextafter(low, 1)
    high = math.nextafter(middle, 1)
    rows = [([high], -1), ([middle], 0), ([low], 0)]
    assert processbench_f1(rows, best_threshold(rows)).f1 == 1.0


def test_fifty_thousand_rows_with_as_many_thresholds_are_no_burden(no_hang):
    rows = random_rows(0, 50_000, digits=12)
    best = best_threshold(rows)
    assert loop_f1(rows, best) > max(loop_f1(rows, best + change) for change in (-0.02, 0.02))


def test_cross_fitting_judges_each_half_with_the_others_threshold():
    # Whichever key is in the first half: one wants a threshold in (0.6, 0.8], the other in (0.1, 0.2].
    high = [([0.8], -1), ([0.6], 0)]
    low = [([0.2], -1), ([0.1], 0)]
    keys = ["high", "high", "low", "low"]
    actual = cross_fitted_f1(high + low, keys)
    # judged with 0.15 both of `high` pass, judged with 0.7 both of `low` fail: one right of two, of either kind
    assert (actual.accuracy_on_errors, actual.accuracy_on_correct, actual.f1) == (0.5, 0.5, 0.5)
    assert sorted(actual.threshold) == pytest.approx([0.15, 0.7])
    # tuned where it is reported, one threshold does better: 0.7 or 0.15
    assert processbench_f1(high + low, best_threshold(high + low)).f1 > 0.5


def test_the_halves_hold_no_key_together_and_depend_on_the_keys_alone():
    rows, keys = random_rows(1, 80, 2), [f"p{index % 9}" for index in range(81)]
    actual = cross_fitted_f1(rows, keys)
    order = list(range(81))
    random.Random(0).shuffle(order)
    assert cross_fitted_f1([rows[i] for i in order], [keys[i] for i in order]) == actual
    # One problem's rows are never judged with a threshold that they had a part in.
    together = cross_fitted_f1(rows, ["the same problem"] * 81)
    assert math.isnan(together.f1)
    assert all(math.isnan(threshold) for threshold in together.threshold)


def test_cross_fitting_two_halves_that_agree_is_as_good_as_one_threshold():
    rows = [([0.9], -1), ([0.2], 0)] * 10
    actual = cross_fitted_f1(rows, [str(index // 2) for index in range(20)])
    assert actual == ProcessBench(1.0, 1.0, 1.0, (pytest.approx(0.55), pytest.approx(0.55)))


def test_the_minimum_is_last_only_where_no_earlier_step_is_as_low():
    assert min_is_last_share([[0.9, 0.1], [0.1, 0.9], [0.5, 0.7, 0.5], [1.0, 1.0]]) == 0.25
    assert min_is_last_share([[0.1], [], [0.3, 0.2]]) == 1.0
    assert math.isnan(min_is_last_share([[0.1], []]))


@pytest.mark.parametrize("measure", [lambda rows: processbench_f1(rows, 0.5), best_threshold])
@pytest.mark.parametrize(
    ("row", "message"),
    [
        (([0.5, 1.5], -1), r"row 1: probabilities must be in \[0, 1\], got \[0.5, 1.5\]"),
        (([math.nan], -1), "row 1: probabilities must be"),
        (([0.5], 1), "row 1: the first wrong step is 1 of 1 steps; give -1 for none"),
        (([0.5], -2), "row 1: the first wrong step is -2"),
        (([], 0), "row 1: the first wrong step is 0 of 0 steps"),
    ],
)
def test_rows_that_cannot_be_are_refused(measure, row, message):
    with pytest.raises(ValueError, match=message):
        measure([([0.5], 0), row])


def test_a_threshold_needs_both_kinds_and_a_row_its_key():
    with pytest.raises(ValueError, match="with and without a wrong step"):
        best_threshold(ROWS[:2])
    with pytest.raises(ValueError, match="with and without a wrong step"):
        best_threshold(ROWS[2:])
    with pytest.raises(ValueError, match="5 rows, 1 keys"):
        cross_fitted_f1(ROWS, ["a"])


def test_f1_of_counts_by_hand():
    # Located 1 of 4, kept 2 of 4: 2 (1/4) (1/2) / (3/4).
    assert f1_of_counts([1, 4, 2, 4]) == pytest.approx(1 / 3)
    assert f1_of_counts([0, 4, 0, 4]) == 0
    assert math.isnan(f1_of_counts([0, 0, 2, 4]))
    assert math.isnan(f1_of_counts([1, 2, 0, 0]))


def test_every_row_gets_the_threshold_of_the_other_half():
    rows, keys = random_rows(3, 60, 2), [f"p{k // 2}" for k in range(61)]
    thresholds, (first, second) = cross_fitted_thresholds(rows, keys)
    halves = {limit: [k for k, own in enumerate(thresholds) if own == limit] for limit in (first, second)}
    assert first != second
    for limit, other in ((first, second), (second, first)):
        assert best_threshold([rows[k] for k in halves[other]]) == limit
    assert not {keys[k] for k in halves[first]} & {keys[k] for k in halves[second]}


def test_agreement_on_the_first_error_by_hand():
    # Places 2 and none alike; 0 against 1, and an error against none.
    assert first_error_agreement([2, -1, 0, 3, 1], [2, -1, 1, -1, 1]) == 3 / 5
    assert math.isnan(first_error_agreement([], []))
    with pytest.raises(ValueError, match="1 first errors and 2"):
        first_error_agreement([0], [0, 1])
