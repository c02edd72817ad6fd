"""Charts of what PPO logged at each update (`ppo_ARM/metrics.jsonl`), with the alarm's marks."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from rlstep.core.stats import t_interval
from rlstep.policy.monitoring.glossary import METRICS
from rlstep.report import arms
from rlstep.report.arms import Arm
from rlstep.report.html.charts import COLOURS, chart, series
from rlstep.report.run_files import Faults
from rlstep.runtime.rows import read_rows

LOG = "metrics.jsonl"
MOST_POINTS = 400  # of a line; longer ones are thinned

# Metric -> the chart's title, in the order of the page.
SHOWN = {
    "reward/process": "Process reward",
    "reward/outcome": "Outcome reward",
    "accuracy": "Answer right, training batches",
    "clean_accuracy": "Answer and every step right, training batches",
    "kl": "KL to the reference",
    "entropy": "Entropy",
    "steps/count": "Steps per completion",
    "completions/mean_length": "Tokens per completion",
    "prm/gap": "PRM score above accuracy",
    "steps/withheld": "Steps withheld by guards",
    "completions/truncated": "Truncated completions",
    "critic/value_loss": "Value loss",
    "critic/explained_variance": "Variance explained by the critic",
    "clip_ratio/region_mean": "Clipped tokens",
    "reward/no_signal": "Groups without a signal",
    "grad_norm": "Gradient norm",
}
OWN = "reward/own/"  # a user's own rewards, a chart each


@dataclass
class Training:
    """What one seed of an arm logged.

    Attributes:
        samples: by update, completions drawn so far.
        values: by metric, its finite values by update.
        alarms: (first, last) update of each stretch in which the alarm was raised.
        faults: rows that could not be read, in words.
    """

    samples: dict[int, float] = field(default_factory=dict)
    values: dict[str, dict[int, float]] = field(default_factory=dict)
    alarms: list[tuple[int, int]] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)


def read_training(path: str | Path) -> Training:
    """The updates of a run's log; of an update that was logged twice, as by a resumed run, the later row counts.

    A run that is still writing may leave half a row: `faults` names it, and the others are read.
    """
    training, faults = Training(), Faults()
    raised: dict[int, bool] = {}
    for _, row in read_rows(path, faults.add):
        update, samples = row.get("update"), row.get("samples")
        # Evaluations and the summary at the end have rows of their own.
        if "alarm" not in row and "loss" not in row or not (_is_number(update) and _is_number(samples)):
            continue
        training.samples[update] = samples
        raised[update] = bool(row.get("alarm"))
        for name, value in row.items():
            if (name in SHOWN or name.startswith(OWN)) and _is_number(value):
                training.values.setdefault(name, {})[update] = value
    training.alarms, training.faults = _stretches(raised), faults.words(Path(path))
    return training


def _is_number(value) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _stretches(raised: Mapping[int, bool]) -> list[tuple[int, int]]:
    stretches: list[tuple[int, int]] = []
    before = False
    for update in sorted(raised):
        if raised[update]:
            stretches = [*stretches[:-1], (stretches[-1][0], update)] if before else [*stretches, (update, update)]
        before = raised[update]
    return stretches


def read_arms(folders: Mapping[str, Path]) -> tuple[dict[str, dict[str, Training]], list[str]]:
    """(by arm and seed, what was logged; what is missing) of the seeds' run folders."""
    by_arm: dict[str, dict[str, Training]] = {}
    missing = []
    for arm in arms.ARMS:
        for seed, folder in folders.items():
            path = folder / arm.folder / LOG
            if not path.is_file():
                if path.parent.is_dir():
                    missing.append(f"training charts: no {seed}/{arm.folder}/{LOG}")
                continue
            if path.stat().st_size == 0:
                missing.append(f"training charts: {seed}/{arm.folder}/{LOG} is empty")
                continue
            training = read_training(path)
            missing += training.faults
            by_arm.setdefault(arm.name, {})[seed] = training
    return by_arm, missing


def training_charts(runs: Sequence[dict[str, dict[str, Training]]]) -> list[dict]:
    """A chart for each metric that any of the runs has, against samples.

    Args:
        runs: one panel each; by arm and seed, what was logged. Over several seeds of an arm a line is their mean at the
            updates that all of them have, with its 95% t-interval.
    """
    charts = []
    for metric in _metrics(training for run in runs for seeds in run.values() for training in seeds.values()):
        panels = [_panel(run, metric) for run in runs]
        if any(panels):
            title = SHOWN.get(metric) or f"Own reward: {metric.removeprefix(OWN)}"
            about = METRICS.get(metric) or METRICS[OWN + "*"]
            note = f"{about.meaning} Healthy: {about.healthy}."
            charts.append(chart(title, note, "samples used for RL", metric, panels))
    return charts


def _metrics(trainings: Iterable[Training]) -> list[str]:
    present = {name for training in trainings for name in training.values}
    return [name for name in SHOWN if name in present] + sorted(present - SHOWN.keys())


def _panel(run: dict[str, dict[str, Training]], metric: str) -> dict | None:
    lines, marks = [], []
    for arm in arms.ARMS:
        seeds = {seed: one for seed, one in run.get(arm.name, {}).items() if one.values.get(metric)}
        if seeds:
            lines += _line(arm, list(seeds.values()), metric)
            marks += [mark for seed, one in seeds.items() for mark in _marks(arm, seed if len(seeds) > 1 else "", one)]
    return {"series": lines, "marks": marks} if lines else None


def _line(arm: Arm, seeds: list[Training], metric: str) -> list[dict]:
    shared = sorted(set.intersection(*(set(one.values[metric]) for one in seeds)))
    if not shared:
        return []
    every = -(-len(shared) // MOST_POINTS)
    shared = [update for place, update in enumerate(shared) if place % every == 0 or place == len(shared) - 1]
    intervals = [t_interval([one.values[metric][update] for one in seeds]) for update in shared]
    curve = {part: [getattr(interval, part) for interval in intervals] for part in ("mean", "low", "high")}
    name = f"{arm.label} (1 update in {every})" if every > 1 else arm.label
    return [series(name, arm.style, [seeds[0].samples[update] for update in shared], curve, width=1.6)]


def _marks(arm: Arm, seed: str, training: Training) -> list[dict]:
    who = f"{arm.label}, {seed}" if seed else arm.label
    return [
        {
            "from": training.samples[first],
            "to": training.samples[last],
            "colour": COLOURS[arm.style.colour],
            "text": f"alarm: {who}, update {first}" + (f" to {last}" if last > first else ""),
        }
        for first, last in training.alarms
    ]
