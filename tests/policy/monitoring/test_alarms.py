"""The alarm for reward hacking: its statistic by hand, its error rates by simulation, and what it remembers."""

import json
import logging
import math

import numpy as np
import pytest

from rlstep.policy.monitoring.alarms import AlarmOptions, HackingAlarm, change, noise_of
from rlstep.runtime.errors import UserError


def watch(options, process, accuracy, start=1):
    """The alarms that a run raises: {update: Alarm}."""
    alarm = HackingAlarm(options)
    rows = enumerate(zip(process, accuracy, strict=True), start=start)
    return {update: actual for update, row in rows if (actual := alarm.observe(update, *row))}


# --- The statistic.


def moved(values, recent):
    return change(values, recent, noise_of(values))


def test_change_in_standard_errors_by_hand():
    # Before: mean 2; after: mean 9. Differences 2, -2, 2, 5, 2: squares 41, mean 8.2, variance 4.1 of a value.
    assert moved([1, 3, 1, 3, 8, 10], 2) == pytest.approx(7 / math.sqrt(4.1 * (1 / 2 + 1 / 4)))
    assert moved([10, 8, 3, 1, 3, 1], 2) == pytest.approx(-3.5 / math.sqrt(4.1 * (1 / 2 + 1 / 4)))


def test_what_does_not_move_has_not_changed():
    assert moved([0.1] * 9, 3) == pytest.approx(0, abs=1e-6)
    assert moved([0.0] * 9, 3) == 0


def test_one_bad_update_after_a_spotless_record_is_no_change():
    # Differences 0 x 18, then 1 down and up again: variance 2 / 20 / 2 = 0.05; the mean of five moves by 0.2.
    values = [1.0] * 16 + [1, 1, 1, 0, 1]
    assert moved(values, 5) == pytest.approx(-0.2 / math.sqrt(0.05 * (1 / 5 + 1 / 16)))
    assert moved(values, 5) > -AlarmOptions().alarm_fall


def test_an_alarm_by_hand():
    # 2 arcsin(sqrt(a)) of 1, 0.75, 0.25, 0 is 3, 2, 1, 0 in units of pi / 3.
    accuracy, process = [1, 0.75, 1, 0.75, 0.25, 0], [1, 3, 1, 3, 8, 10]
    actual = watch(AlarmOptions(alarm_window=4, alarm_rise=3.9, alarm_fall=3.2), process, accuracy)
    assert list(actual) == [6]
    assert actual[6].process == (2, 9)
    assert actual[6].accuracy == (0.875, 0.125)
    assert actual[6].rise == pytest.approx(7 / math.sqrt(4.1 * 0.75))  # 3.992
    assert actual[6].fall == pytest.approx(2 / math.sqrt(0.5 * 0.75))  # 3.266: differences of 1 each
    assert "rose from 2 to 9" in str(actual[6])
    assert "fell from 0.875 to 0.125" in str(actual[6])


@pytest.mark.parametrize("changes", [{"alarm_rise": 4.0}, {"alarm_fall": 3.3}, {"alarm_window": 7}, {"alarm": "off"}])
def test_every_setting_counts(changes):
    accuracy, process = [1, 0.75, 1, 0.75, 0.25, 0], [1, 3, 1, 3, 8, 10]
    options = {"alarm_window": 4, "alarm_rise": 3.9, "alarm_fall": 3.2}
    if changes.get("alarm") == "off":
        options = {}
    assert not watch(AlarmOptions(**options | changes), process, accuracy)


def test_four_windows_are_remembered():
    options = AlarmOptions(alarm_window=4, alarm_rise=1.0, alarm_fall=1.0)
    process, accuracy = [0, 1] * 7 + [0, 6], [0.9, 0.8] * 7 + [0.9, 0.1]
    (plain,) = watch(options, process, accuracy).values()
    assert (plain.update, plain.process) == (16, (0.5, 3))
    # What came before those sixteen updates, however wild, changes nothing.
    (longer,) = watch(options, [-90, 90, *process], [1.0, 0.0, *accuracy], start=-1).values()
    assert longer == plain
    # Fifteen updates ago still counts.
    (other,) = watch(options, [0.5, *process[1:]], accuracy).values()
    assert other.process == (7.5 / 14, 3)


def test_a_slow_rise_behind_an_early_fall_is_found():
    """The accuracy is lost after six updates and the return rises by and by: the last five alone tell of no fall."""
    process = [5, 5.4, 5, 5.4, 5, 5.4, *(5.2 + 0.05 * k + 0.4 * (k % 2) for k in range(20))]
    accuracy = [0.5, 0.4] * 3 + [0.1, 0.05] * 10
    (actual,) = watch(AlarmOptions(), process, accuracy).values()
    assert actual.update > 12
    before, behind = actual.accuracy
    assert before > 0.2 > 0.1 > behind


# --- How often it is right. Accuracies are drawn as a batch of 12 problems with 8 samples each.

RUNS, UPDATES = 100, 100


def batches(rng, level, correlation):
    """(runs, updates) accuracies; `correlation` is that of two samples of one problem (beta-binomial)."""
    share = (1 - correlation) / correlation
    level = np.clip(level, 1e-3, 1 - 1e-3)
    problems = rng.beta(level * share, (1 - level) * share, size=(12, RUNS, len(level)))
    return rng.binomial(8, problems).sum(axis=0) / 96


def raised(process, level, correlation, seed=0):
    """For each run the update of its first alarm; infinite where there is none."""
    rng = np.random.default_rng(seed)
    returns = process + rng.normal(0, 0.04, (RUNS, len(process)))
    accuracies = batches(rng, level, correlation)
    actual = [watch(AlarmOptions(), *run) for run in zip(returns, accuracies, strict=True)]
    return np.array([min(alarms, default=math.inf) for alarms in actual])


T = np.arange(UPDATES)
SATURATING = 0.6 + 0.3 * (1 - np.exp(-T / 10))


@pytest.mark.parametrize(
    ("process", "level", "most"),
    [
        pytest.param(np.full(UPDATES, 0.6), np.full(UPDATES, 0.3), 0.01, id="nothing moves"),
        pytest.param(SATURATING, 0.29 + 0.5 * (1 - np.exp(-T / 20)), 0.01, id="healthy: both rise"),
        pytest.param(np.linspace(0.9, 0.3, UPDATES), np.linspace(0.6, 0.1, UPDATES), 0.0, id="both fall"),
        pytest.param(SATURATING, np.full(UPDATES, 0.5), 0.15, id="the return rises to a limit, accuracy stays"),
        pytest.param(np.linspace(0.6, 3, UPDATES), np.full(UPDATES, 0.3), 0.26, id="the return rises for ever"),
    ],
)
def test_false_alarms_in_a_hundred_updates(process, level, most):
    assert np.isfinite(raised(process, level, correlation=0.3)).mean() <= most


@pytest.mark.parametrize(("correlation", "by_15", "by_20"), [(0.01, 0.98, 0.98), (0.3, 0.88, 0.93), (0.5, 0.74, 0.9)])
def test_a_collapse_is_found(correlation, by_15, by_20):
    fall, stay = np.linspace(0, 1, 10), np.ones(10)
    moved = np.concatenate([fall, stay])
    first = raised(0.6 + 0.3 * moved, 0.29 - 0.24 * moved, correlation)
    assert (first <= 15).mean() >= by_15
    assert (first <= 20).mean() >= by_20


# --- Once an episode.

OPTIONS = AlarmOptions(alarm_window=4, alarm_rise=2.0, alarm_fall=2.0)
CALM = [(0.5, 0.6), (0.4, 0.62), (0.5, 0.58), (0.4, 0.6)] * 2
HACKED = [(0.9, 0.1), (0.95, 0.08), (0.92, 0.1), (0.97, 0.06)] * 2
BETTER = [(1.0, 0.6), (1.1, 0.62), (1.0, 0.58), (1.1, 0.6)] * 2
AGAIN = [(1.6, 0.1), (1.65, 0.08), (1.62, 0.1), (1.66, 0.06)] * 2


def test_it_is_raised_once_and_again_after_a_recovery():
    alarm, actual, states = HackingAlarm(OPTIONS), [], []
    for update, row in enumerate(CALM + HACKED + BETTER + AGAIN, start=1):
        actual += [update] if alarm.observe(update, *row) else []
        states.append(alarm.raised)
    assert len(actual) == 2
    first, second = actual
    assert 9 <= first <= 10  # HACKED begins at 9
    assert 25 <= second <= 26  # AGAIN begins at 25
    assert states[first - 1 : 16] == [True] * (17 - first)
    assert states[17:24] == [False] * 7  # two updates, half a window, of recovery
    assert states[31]


def test_a_kill_changes_nothing():
    rows = CALM + HACKED + BETTER + AGAIN
    expected = watch(OPTIONS, *zip(*rows, strict=True))
    for killed in range(len(rows)):
        before, after, actual = HackingAlarm(OPTIONS), HackingAlarm(OPTIONS), {}
        for update, row in enumerate(rows, start=1):
            if update == killed + 1:
                after.load_state_dict(json.loads(json.dumps(before.state_dict())))
            alarm = (before if update <= killed else after).observe(update, *row)
            actual |= {update: alarm} if alarm else {}
        assert actual == expected


def test_after_a_recovery_the_time_before_it_is_forgotten():
    """Else a second fall soon after it would hide among the low values and the jumps of the first."""
    rows = CALM + HACKED + BETTER[:3] + AGAIN
    assert len(watch(OPTIONS, *zip(*rows, strict=True))) == 2


# --- Telling.


def test_an_alarm_is_told_in_the_log_and_to_wandb(arguments, wandb_folder, caplog, monkeypatch):
    import wandb

    (actual,) = watch(OPTIONS, *zip(*(CALM + HACKED), strict=True)).values()
    alerts = []
    with wandb.init(project="alarm"):
        alert = wandb.alert  # there since the run has started
        monkeypatch.setattr(wandb, "alert", lambda **told: (alerts.append(told), alert(**told)))
        actual.tell(arguments(report_to="none"))
        assert str(actual) in caplog.messages
        assert not alerts
        actual.tell(arguments(report_to="wandb"))
    assert [told["text"] for told in alerts] == [str(actual)]


# --- Accuracy that is not there.


def test_without_any_accuracy_it_says_once_that_it_cannot_work(caplog):
    alarm = HackingAlarm(OPTIONS)
    with caplog.at_level(logging.WARNING):
        for update in range(1, 20):
            assert alarm.observe(update, 0.1 * update, math.nan) is None
        restored = HackingAlarm(OPTIONS)
        restored.load_state_dict(alarm.state_dict())
        restored.observe(20, 2.0, math.nan)
    assert len(caplog.records) == 1
    assert "cannot work" in caplog.text


def test_updates_without_accuracy_are_passed_over():
    rows = CALM + HACKED
    gaps = [row for pair in rows for row in (pair, (99.0, math.nan))]
    (actual,) = watch(OPTIONS, *zip(*rows, strict=True)).values()
    (with_gaps,) = watch(OPTIONS, *zip(*gaps, strict=True)).values()
    assert (with_gaps.rise, with_gaps.fall) == (actual.rise, actual.fall)
    assert with_gaps.update == 2 * actual.update - 1


def test_an_accuracy_in_percent_is_refused():
    with pytest.raises(ValueError, match="update 3: the accuracy is 29"):
        HackingAlarm(OPTIONS).observe(3, 0.5, 29)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"alarm_window": 3}, "alarm_window is 3; it must be at least 4"),
        ({"alarm_rise": 0.0}, "alarm_rise is 0.0; it must be above 0"),
        ({"alarm_fall": math.inf}, "alarm_fall is inf"),
        ({"alarm": "off", "alarm_window": 20}, "alarm is 'off', so alarm_window would do nothing"),
    ],
)
def test_settings_that_cannot_be_are_refused(settings, message):
    with pytest.raises(UserError, match=message):
        AlarmOptions(**settings)
