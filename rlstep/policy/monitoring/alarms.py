"""An alarm for reward hacking: the process return rises while the verified accuracy falls.

Both series are noisy: of 96 samples an accuracy of 0.3 has a standard error of 0.05, of 12 problems with 8 samples each
twice that, because samples of one problem succeed together. So a change counts in standard errors of its own noise.

With W = `alarm_window`, the last 4 W updates are split in two, W/2 of them at least on either side, and the means of
the two sides are compared:

    z = (recent - before) / (sigma sqrt(1/n_recent + 1/n_before))
    sigma^2 = mean squared difference of successive updates / 2     (von Neumann 1941: a trend hardly adds to it)

The accuracy a enters as 2 arcsin(sqrt(a)), whose noise does not depend on a: near 0, where a hacked policy ends, a
itself has far less noise than where it began. The alarm is raised when some split has z >= alarm_rise for the return
and z <= -alarm_fall for the accuracy. All splits are tried because a policy can be lost within five updates: against a
fixed number of recent updates, what was before the fall would soon be few among many. Nothing is said before W updates.

By simulation, batches of 12 problems with 8 samples (`tests/policy/monitoring/test_alarms.py` has the model and holds
the rates): within 100 updates the defaults raise it in less than 1% of runs where neither series moves or both rise, in
7 to 10% of runs where the return rises to a limit and the accuracy stays, and in 16 to 19% where the return rises all
the time. A fall from 0.29 to 0.05 within 10 updates is seen by the 15th in 100, 94 and 82% of runs, and by the 20th in
100, 97 and 95%, where two samples of a problem correlate by 0.01, 0.3 and 0.5.
"""

import logging
import math
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Annotated, Literal

from rlstep.policy.config import StepPPOConfig
from rlstep.runtime.constraints import MayChange, Range, ReadBy, check
from rlstep.runtime.trackers import active_trackers
from rlstep.runtime.tracking import unharmed

logger = logging.getLogger(__name__)

SMALLEST_WINDOW = 4
WATCHING = ReadBy("alarm", "warn", "stop")
WATCHES = MayChange("the alarm does not affect updates; it can only end a run")


@dataclass
class AlarmOptions:
    """When the alarm is raised, and what follows.

    Raises:
        UserError: settings outside their ranges or without effect, all of them in one message.
    """

    alarm: Annotated[Literal["off", "warn", "stop"], WATCHES] = field(
        default="warn",
        metadata={
            "help": "What to do if the process return rises while verified accuracy falls: off: nothing; warn: log it; "
            "stop: also end the training."
        },
    )
    alarm_window: Annotated[int, Range(at_least=SMALLEST_WINDOW), WATCHING, WATCHES] = field(
        default=10,
        metadata={
            "help": "Fewest updates the alarm needs. It looks back over four windows and compares updates before and "
            "after a point in them, with at least half a window on either side."
        },
    )
    alarm_rise: Annotated[float, Range(above=0), WATCHING, WATCHES] = field(
        default=3.0,
        metadata={"help": "How far the process return must have risen, in standard errors of its noise."},
    )
    alarm_fall: Annotated[float, Range(above=0), WATCHING, WATCHES] = field(
        default=3.5,
        metadata={"help": "How far the verified accuracy must have fallen, in standard errors of its noise."},
    )

    def __post_init__(self):
        check(self)


@dataclass(frozen=True)
class Alarm:
    """An alarm that was raised.

    Attributes:
        update: the update at which it was raised.
        process, accuracy: (mean before, mean after) the point where they moved most clearly apart.
        rise, fall: how far the return rose and the accuracy fell, in standard errors; both above 0.
    """

    update: int
    process: tuple[float, float]
    accuracy: tuple[float, float]
    rise: float
    fall: float

    def __str__(self) -> str:
        return (
            f"update {self.update}: the process return rose from {self.process[0]:.3g} to {self.process[1]:.3g} "
            f"({self.rise:.1f} standard errors) while the verified accuracy fell from {self.accuracy[0]:.3g} to "
            f"{self.accuracy[1]:.3g} ({self.fall:.1f}): the policy learns what the step rewards favour, not what is "
            "right. Give the verified outcome more weight (outcome_weight), use a credit scheme under which padding "
            "gains nothing (delta, min_form), or refresh the PRM (refresh_every)."
        )

    def tell(self, args: StepPPOConfig) -> None:
        """Warns in the log and at the trackers that the run reports to; call it on the main process only."""
        logger.warning("%s", self)
        for tracker in active_trackers(args):
            with unharmed(f"{tracker.__name__}: the alert"):
                tracker.alert(title="Reward hacking", text=str(self), level=tracker.AlertLevel.WARN)


class HackingAlarm:
    """Watches the process return and the verified accuracy (module docstring).

    It is raised once an episode: after an alarm it stays `raised`, and silent, until the accuracy has made up for half
    of its fall; what lies before that is forgotten then. Updates without a verified accuracy (NaN) are passed over, and
    the first of them is reported.

    Args:
        options: the settings; if `alarm` is "off", nothing is observed.

    Attributes:
        raised: whether an alarm was raised from which the accuracy has not recovered.
    """

    def __init__(self, options: AlarmOptions):
        self.options = options
        self._half = options.alarm_window // 2
        self._history: deque[tuple[float, float]] = deque(maxlen=4 * options.alarm_window)
        self._recovered_at: float | None = None  # the accuracy that ends an episode, transformed
        self._told = False

    @property
    def raised(self) -> bool:
        return self._recovered_at is not None

    def observe(self, update: int, process_return: float, accuracy: float) -> Alarm | None:
        """The alarm that this update raises, if it does.

        Args:
            update: its number, for messages.
            process_return: the batch's mean sum of step rewards.
            accuracy: its share of verified answers, NaN where none could be verified.

        Raises:
            ValueError: the accuracy is a number outside [0, 1].
        """
        if self.options.alarm == "off":
            return None
        if not (math.isfinite(process_return) and math.isfinite(accuracy)):
            self._tell_once(update, process_return, accuracy)
            return None
        if not 0 <= accuracy <= 1:
            raise ValueError(f"update {update}: the accuracy is {accuracy}; it must be between 0 and 1.")
        self._history.append((float(process_return), float(accuracy)))
        if self.raised:
            self._look_for_recovery()
            return None
        return self._look(update) if len(self._history) >= self.options.alarm_window else None

    def _look(self, update: int) -> Alarm | None:
        process, accuracy = zip(*self._history, strict=True)
        steady = [_steady(a) for a in accuracy]
        noises = noise_of(process), noise_of(steady)
        best, split = 1.0, None
        for recent in range(self._half, len(process) - self._half + 1):
            rise, fall = change(process, recent, noises[0]), -change(steady, recent, noises[1])
            # How far the weaker of the two is beyond what the alarm needs.
            beyond = min(rise / self.options.alarm_rise, fall / self.options.alarm_fall)
            if beyond >= best:
                best, split = beyond, (recent, rise, fall)
        if split is None:
            return None
        recent, rise, fall = split
        self._recovered_at = sum(_split_means(steady, recent)) / 2
        return Alarm(update, _split_means(process, recent), _split_means(accuracy, recent), rise, fall)

    def _look_for_recovery(self) -> None:
        recent = list(self._history)[-self._half :]
        if _mean([_steady(accuracy) for _, accuracy in recent]) >= self._recovered_at:
            self._recovered_at = None
            # The jumps of this episode are not noise, and its low values are no baseline for the next fall.
            self._history.clear()
            self._history.extend(recent)

    def _tell_once(self, update: int, process_return: float, accuracy: float) -> None:
        if not self._told:
            self._told = True
            logger.warning(
                "update %d has the process return %s and the verified accuracy %s: the alarm for reward hacking passes "
                "such updates over, and without any verified accuracy it cannot work; this is said once",
                update,
                process_return,
                accuracy,
            )

    def state_dict(self) -> dict:
        history = [list(pair) for pair in self._history]
        return {"history": history, "recovered_at": self._recovered_at, "told": self._told}

    def load_state_dict(self, state: dict) -> None:
        self._history.clear()
        self._history.extend((process, accuracy) for process, accuracy in state["history"])
        self._recovered_at, self._told = state["recovered_at"], state["told"]


def change(values: Sequence[float], recent: int, noise: tuple[float, float]) -> float:
    """How far the mean of the last `recent` values is above the mean of the others, in standard errors.

    Args:
        values: in the order of time; more than `recent`.
        recent: how many of them make up the second mean, at least 1.
        noise: `noise_of` the values, the same wherever they are split.
    """
    before, after = values[:-recent], values[-recent:]
    variance, rounding = noise
    error = math.sqrt(variance * (1 / len(after) + 1 / len(before)))
    return (_mean(after) - _mean(before)) / max(error, rounding)


def noise_of(values: Sequence[float]) -> tuple[float, float]:
    """The variance of one value, and what rounding may make of a mean.

    The variance is estimated from successive differences (module docstring). Values that are all the same have not
    changed, whatever the rounding of their means.
    """
    variance = _mean([(b - a) ** 2 for a, b in zip(values, values[1:], strict=False)]) / 2
    return variance, 1e-9 * max(abs(value) for value in values) + 1e-300


def _split_means(values: Sequence[float], recent: int) -> tuple[float, float]:
    return _mean(values[:-recent]), _mean(values[-recent:])


def _steady(accuracy: float) -> float:
    """2 arcsin(sqrt(a)): the mean of n independent samples has the variance 1/n there, whatever a is."""
    return 2 * math.asin(math.sqrt(accuracy))


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
