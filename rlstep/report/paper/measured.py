"""What the verifiers of the paper's experiments reach, read from the folders of finished runs.

A verifier's folder holds `evaluate/by_problem.json`, and what made its labels: `selected.jsonl`, or for rollouts
`labelled.jsonl`, each with a run record beside it.
"""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from rlstep.core.data_efficiency import Efficiency, LabelCurve, data_efficiency
from rlstep.core.first_error import NONE, first_error_agreement
from rlstep.evaluation.learning_curves import over_seeds
from rlstep.report.paper.series import CONVINCING, EXACT, UNIFORM, Series
from rlstep.runtime.errors import UserError
from rlstep.steps.records import Solution, iter_solutions

# What the paper's section 4.1 compares: minuend, subtrahend.
GAPS = {
    "process_minus_outcome_teacher": ("process", "outcome_teacher"),
    "process_minus_outcome_answer": ("process", "outcome_answer"),
    "outcome_teacher_minus_outcome_answer": ("outcome_teacher", "outcome_answer"),
}


@dataclass(frozen=True)
class Reached:
    """What a series of K sizes reached in R seeds, at the largest number of samples to pick from.

    Attributes:
        best_of: that number.
        accuracy_RPK: of each of P problems, the probability that the picked answer is right.
        clean_RK: the share of problems where the pick is right in every step as well.
    """

    best_of: int
    accuracy_RPK: np.ndarray
    clean_RK: np.ndarray

    @property
    def accuracy_RK(self) -> np.ndarray:
        return self.accuracy_RPK.mean(axis=1)


def reached(runs: Sequence[Path], series: Series) -> Reached:
    """Reads a series' evaluations.

    Args:
        runs: the folders of the seeds.
        series: one.

    Raises:
        UserError: an evaluation is missing, or was made with other numbers of problems or samples.
    """
    tables = [[_read_json(run / series.folder(size) / "evaluate" / "by_problem.json") for size in series.sizes]
              for run in runs]  # fmt: skip
    shapes = {(len(table["problems"]), table["ns"][-1]) for seed in tables for table in seed}
    if len(shapes) > 1:
        raise UserError(
            f"{series.folder(series.sizes[0])} and others of its series were evaluated on {sorted(shapes)} (problems, "
            "samples); run them with the same recipes."
        )
    ((_, best_of),) = shapes

    def at_last(name: str) -> np.ndarray:
        return np.array([[np.array(table["curves"][name])[:, -1] for table in seed] for seed in tables])

    accuracy_RKP, clean_RKP = at_last(series.kind), at_last(f"{series.kind}_clean")
    return Reached(best_of, accuracy_RKP.swapaxes(1, 2), clean_RKP.mean(axis=2))


def accuracies(measured: Reached) -> dict:
    """A series for paper.json: accuracies of the answer and of all steps, over seeds and of each seed."""
    return {
        "accuracy": over_seeds(measured.accuracy_RK.tolist()),
        "clean": over_seeds(measured.clean_RK.tolist()),
        "accuracy_of_seeds": measured.accuracy_RK.tolist(),
    }


def gaps(measured: Mapping[str, Reached]) -> dict[str, dict]:
    """Differences of the synthetic series at each size, taken within a seed first.

    Args:
        measured: by the names of the series.
    """
    return {
        gap: over_seeds((measured[a].accuracy_RK - measured[b].accuracy_RK).tolist()) for gap, (a, b) in GAPS.items()
    }


def labels_used(runs: Sequence[Path], series: Series) -> np.ndarray:
    """(R, K) labelled steps that each verifier of an active series was trained on."""
    return np.array(
        [
            [_metrics(run / series.folder(size) / "selected.jsonl")["steps_to_label"] for size in series.sizes]
            for run in runs
        ]
    )


def efficiencies(
    labels: Mapping[str, np.ndarray], measured: Mapping[str, Reached], resamples: int = 2000
) -> dict[str, Efficiency]:
    """How each active series compares with uniform choice, the paper's rule first.

    Each seed has test problems of its own.

    Args:
        labels, measured: by the names of the series.
        resamples: of the bootstrap.
    """
    curves = {name: LabelCurve(labels[name], one.accuracy_RPK) for name, one in measured.items()}
    names = [CONVINCING, *(name for name in curves if name not in (CONVINCING, UNIFORM))]
    return {name: data_efficiency(curves[name], curves[UNIFORM], resamples, same_problems=False) for name in names}


def rollout_labels(runs: Sequence[Path], series: Series) -> dict[str, list[list[float]]]:
    """What the labels of a series cost and how good they are, rows of seeds, one value per size.

    - `solutions`: that were labelled; `tokens`: that the rollouts took.
    - `rollouts_per_solution`.
    - `agreement`: the share of them whose first error is where the exact checker has it.
    """
    rows = [[_labels_of(run, series, size) for size in series.sizes] for run in runs]
    return {name: [[one[name] for one in seed] for seed in rows] for name in rows[0][0]}


def _labels_of(run: Path, series: Series, size: int | None) -> dict[str, float]:
    path = run / series.folder(size) / "labelled.jsonl"
    exact = run / EXACT.folder(None) / "labelled.jsonl"
    metrics = _metrics(path)
    ours, checked = [], []
    for one, other in zip(iter_solutions(path), iter_solutions(exact), strict=True):
        if (one.problem_id, one.sample) != (other.problem_id, other.sample):
            raise UserError(f"{path} and {exact} hold other solutions, or in another order; label the same file.")
        if any(label is not None for label in one.labels):
            ours.append(first_wrong(one))
            checked.append(first_wrong(other))
    drawn = metrics.get("rollouts", 0)
    return {
        "solutions": len(ours),
        "tokens": metrics.get("rollout_tokens", 0),
        "rollouts_per_solution": drawn / len(ours) if ours else math.nan,
        "agreement": first_error_agreement(ours, checked),
    }


def first_wrong(solution: Solution) -> int:
    """The index of the first step that is labelled 0: from there no rollout reached the answer, hard or soft."""
    return next((step for step, label in enumerate(solution.labels) if label == 0), NONE)


def _metrics(path: Path) -> dict:
    return _read_json(path.with_name(path.name + ".run.json"))["metrics"]


def _read_json(path: Path) -> dict:
    if not path.is_file():
        raise UserError(
            f"{path}: no such file. Run `rlstep lab --paper true` to its end; it continues where it stopped."
        )
    return json.loads(path.read_text(encoding="utf-8"))
