"""What the verifiers of the paper's experiments reach, read from the folders of finished runs.

A verifier's folder holds `evaluate/by_problem.json`, and what made its labels: `selected.jsonl`, or for rollouts
`labelled.jsonl`, each with a run record beside it. A verifier whose labels taught nothing was left out of its run
(`rlstep.runtime.pipeline.left_out`): its values are None, and the means over seeds at its size, too. A mean over the
other seeds would be that of the luckier ones.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from rlstep.core.data_efficiency import Efficiency, LabelCurve, data_efficiency
from rlstep.core.stats import Interval, t_interval
from rlstep.report.paper.series import CONVINCING, UNIFORM, Series
from rlstep.runtime.errors import UserError
from rlstep.runtime.pipeline import left_out

# What the paper's section 4.1 compares: minuend, subtrahend.
GAPS = {
    "process_minus_outcome_teacher": ("process", "outcome_teacher"),
    "process_minus_outcome_answer": ("process", "outcome_answer"),
    "outcome_teacher_minus_outcome_answer": ("outcome_teacher", "outcome_answer"),
}
# A value per seed and size, rows of seeds; None where it was not measured.
BySeed = list[list[float | None]]


@dataclass(frozen=True)
class Verifier:
    """What a verifier reached at the largest number of samples to pick from.

    Attributes:
        best_of: that number.
        accuracy_P: of each of P problems, the probability that the picked answer is right.
        clean: the share of problems where the pick is right in every step as well.
    """

    best_of: int
    accuracy_P: np.ndarray
    clean: float


@dataclass(frozen=True)
class Reached:
    """What a series of K sizes reached in R seeds.

    Attributes:
        series: which.
        verifiers: R rows of K; None for one that was left out.
        reasons: for each that was left out {"seed", "size", "reason"}.
    """

    series: Series
    verifiers: list[list[Verifier | None]]
    reasons: list[dict]

    def by_seed(self, value: Callable[[Verifier], float]) -> BySeed:
        return [[None if one is None else value(one) for one in seed] for seed in self.verifiers]

    @property
    def accuracy(self) -> BySeed:
        return self.by_seed(lambda one: float(one.accuracy_P.mean()))

    @property
    def measured_places(self) -> set[int]:
        """The indices of the sizes that were measured in every seed."""
        return {place for place, column in enumerate(zip(*self.verifiers, strict=True)) if None not in column}


def reached(runs: Sequence[Path], series: Series) -> Reached:
    """Reads a series' evaluations.

    Args:
        runs: the folders of the seeds.
        series: one.

    Raises:
        UserError: an evaluation is missing, or was made with other numbers of problems or samples.
    """
    reasons = [
        {"seed": run.name, "size": size, "reason": reason}
        for run in runs
        for size in series.sizes
        if (reason := left_out(run, series.evaluation(size))) is not None
    ]
    absent = {(one["seed"], one["size"]) for one in reasons}
    verifiers = [
        [None if (run.name, size) in absent else _verifier(run, series, size) for size in series.sizes] for run in runs
    ]
    return Reached(series, verifiers, reasons)


def common_shape(every: Sequence[Reached]) -> tuple[int, int]:
    """(problems, samples to pick from) of all verifiers.

    Raises:
        UserError: there are none, or they differ.
    """
    shapes = {
        (len(verifier.accuracy_P), verifier.best_of): one.series.folder(size)
        for one in every
        for row in one.verifiers
        for size, verifier in zip(one.series.sizes, row, strict=True)
        if verifier is not None
    }
    if not shapes:
        raise UserError(f"no verifier was trained: {every[0].reasons[0]['reason']}")
    if len(shapes) > 1:
        evaluated = ", ".join(f"{name} on {problems} (of {n} samples)" for (problems, n), name in shapes.items())
        raise UserError(
            f"verifiers were evaluated on different numbers of problems: {evaluated}; run all with the same recipes."
        )
    return next(iter(shapes))


def accuracies(measured: Reached) -> dict:
    """A series for paper.json: accuracies of the answer and of all steps, over seeds and of each seed."""
    curve = {
        "accuracy": over_seeds(measured.accuracy),
        "clean": over_seeds(measured.by_seed(lambda one: one.clean)),
        "accuracy_of_seeds": measured.accuracy,
    }
    return curve | ({"not_measured": measured.reasons} if measured.reasons else {})


def over_seeds(values: BySeed) -> dict[str, list[float | None]]:
    """Mean and 95% t-interval over seeds at each size, as {"mean", "low", "high"}; None where a seed lacks it.

    >>> over_seeds([[0.5, 0.5], [0.5, None]])
    {'mean': [0.5, None], 'low': [0.5, None], 'high': [0.5, None]}
    """
    unknown = Interval(None, None, None)
    intervals = [unknown if None in column else t_interval(column) for column in zip(*values, strict=True)]
    return {part: [getattr(interval, part) for interval in intervals] for part in ("mean", "low", "high")}


def gaps(measured: Mapping[str, Reached]) -> dict[str, dict]:
    """Differences of the synthetic series at each size, taken within a seed first.

    Args:
        measured: by the names of the series.
    """
    return {gap: over_seeds(_differences(measured[a].accuracy, measured[b].accuracy)) for gap, (a, b) in GAPS.items()}


def _differences(minuends: BySeed, subtrahends: BySeed) -> BySeed:
    rows = [zip(*pair, strict=True) for pair in zip(minuends, subtrahends, strict=True)]
    return [[None if None in (a, b) else a - b for a, b in row] for row in rows]


def labels_used(runs: Sequence[Path], series: Series) -> BySeed:
    """Labelled steps that each verifier of an active series was trained on; None where nothing could be selected."""

    def used(run: Path, size: int | None) -> int | None:
        if left_out(run, series.selection(size)) is not None:
            return None
        return metrics_of(run / series.folder(size) / "selected.jsonl")["steps_to_label"]

    return [[used(run, size) for size in series.sizes] for run in runs]


@dataclass(frozen=True)
class Compared:
    """A series against uniform choice.

    Attributes:
        sizes: the budgets that both lines are fitted to: those that both have measured in every seed.
        efficiency: None with fewer than two of them.
    """

    sizes: list[int | None]
    efficiency: Efficiency | None


def efficiencies(
    labels: Mapping[str, BySeed], measured: Mapping[str, Reached], resamples: int = 2000
) -> dict[str, Compared]:
    """How each active series compares with uniform choice, the paper's rule first.

    Each seed has test problems of its own.

    Args:
        labels, measured: by the names of the series.
        resamples: of the bootstrap.
    """
    names = [CONVINCING, *(name for name in measured if name not in (CONVINCING, UNIFORM))]
    compared = {}
    for name in names:
        places = sorted(measured[name].measured_places & measured[UNIFORM].measured_places)
        efficiency = None
        if len(places) > 1:
            curve, baseline = (_label_curve(labels[one], measured[one], places) for one in (name, UNIFORM))
            efficiency = data_efficiency(curve, baseline, resamples, same_problems=False)
        compared[name] = Compared([measured[name].series.sizes[place] for place in places], efficiency)
    return compared


def _label_curve(labels: BySeed, measured: Reached, places: Sequence[int]) -> LabelCurve:
    return LabelCurve(
        np.array([[seed[place] for place in places] for seed in labels]),
        np.array([np.stack([seed[place].accuracy_P for place in places], axis=1) for seed in measured.verifiers]),
    )


def metrics_of(path: Path) -> dict:
    """Those in the run record of a file."""
    return _read_json(path.with_name(path.name + ".run.json"))["metrics"]


def _verifier(run: Path, series: Series, size: int | None) -> Verifier:
    table = _read_json(run / series.folder(size) / "evaluate" / "by_problem.json")
    accuracy_P, clean_P = (
        np.array(table["curves"][name])[:, -1] for name in (series.kind, f"{series.kind}_clean")
    )  # fmt: skip
    return Verifier(table["ns"][-1], accuracy_P, float(clean_P.mean()))


def _read_json(path: Path) -> dict:
    if not path.is_file():
        raise UserError(
            f"{path}: no such file. Run `rlstep lab --paper true` to its end; it continues where it stopped."
        )
    return json.loads(path.read_text(encoding="utf-8"))
