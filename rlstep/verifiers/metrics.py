"""How well a verifier separates right from wrong: single steps, and the first wrong step of a solution."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from rlstep.core.calibration import brier_score, expected_calibration_error
from rlstep.core.first_error import cross_fitted_f1, first_error, min_is_last_share
from rlstep.core.stats import auroc
from rlstep.verifiers.step_table import OPEN, JudgedRows, StepTable, first_labelled_error

THRESHOLD = 0.5  # a step whose probability or soft label is at least this counts as right
STEP_METRICS = (
    "accuracy",
    "balanced_accuracy",
    "auroc",
    "ece",
    "brier",
    "first_error_exact",
    "processbench_f1",
    "processbench_accuracy_on_errors",
    "processbench_accuracy_on_correct",
    "min_is_last",
)


@dataclass(frozen=True)
class RowScores:
    """A verifier's scores of one solution's steps, and their labels.

    Attributes:
        probs: (S,) its probability that each step is right.
        targets: (S,) 0 wrong to 1 right, NaN where a step has no label.
        key: shared by solutions that are alike: the problem's id.
        shared: how many of the first steps are counted with another row (`rlstep.steps.trees`).
    """

    probs: np.ndarray
    targets: np.ndarray
    key: str
    shared: int = 0

    def __post_init__(self):
        for name in ("probs", "targets"):
            object.__setattr__(self, name, np.asarray(getattr(self, name), dtype=np.float64))
        if self.probs.ndim != 1 or self.probs.shape != self.targets.shape:
            raise ValueError(
                f"'{self.key}': probs {self.probs.shape}, targets {self.targets.shape}; give one per step."
            )
        known = self.targets[self.known]
        if not (self._are_shares(self.probs) and self._are_shares(known)):
            raise ValueError(f"'{self.key}': probs and targets must be in [0, 1], targets NaN where unknown.")

    @staticmethod
    def _are_shares(values: np.ndarray) -> bool:
        return bool(((values >= 0) & (values <= 1)).all())

    @property
    def known(self) -> np.ndarray:
        """(S,) whether a step has a label."""
        return ~np.isnan(self.targets)

    @property
    def first_error(self) -> int | None:
        """The first step labelled wrong, -1 where all are right; None where unlabelled steps leave that open."""
        first = first_labelled_error(self.targets, THRESHOLD)
        return None if first == OPEN else first


def binary_metrics(margins: np.ndarray, targets: np.ndarray) -> dict[str, float]:
    """loss, accuracy and, where both classes are present, balanced_accuracy and auroc.

    Args:
        margins: (N,) logit of right minus logit of wrong.
        targets: (N,) in [0, 1]; a soft target of one half or more counts as right.
    """
    right, said_right = targets >= THRESHOLD, margins >= 0
    # -t log p - (1 - t) log(1 - p) with p = sigmoid(margin)
    losses = np.logaddexp(0, -margins) * targets + np.logaddexp(0, margins) * (1 - targets)
    return {"loss": float(losses.mean()), **_classification(margins, said_right, right)}


def table_of(rows: Iterable[RowScores]) -> StepTable:
    """The rows as one table."""
    table = StepTable()
    for row in rows:
        table.add(row.probs, row.targets, row.key, row.shared)
    return table


def step_metrics(rows: Sequence[RowScores] | StepTable) -> dict[str, float]:
    """Everything that `STEP_METRICS` names and the data define; `undefined` lists what they do not.

    Over labelled steps, those that several solutions of a tree share once::

        accuracy            of calling p >= 0.5 right; a soft label of one half or more counts as right
        balanced_accuracy   mean of the accuracies on right and on wrong steps; needs both
        auroc               chance that a right step scores above a wrong one; needs both
        ece, brier          calibration (`rlstep.core.calibration`), soft labels as they are

    Over solutions, whole, whose labels say which step is the first wrong one, or that none is::

        first_error_exact   share in which the first step with p < 0.5 is that step
        processbench_f1     of finding it, with thresholds chosen on the other half of the problems; and its two
                            accuracies (`rlstep.core.first_error.cross_fitted_f1`)

    Over all solutions of two steps or more::

        min_is_last         share whose lowest p is the last one (`rlstep.core.first_error.min_is_last_share`)

    Args:
        rows: one per solution, or a table of them.
    """
    table = rows if isinstance(rows, StepTable) else table_of(rows)
    probs, targets = table.labelled()
    measures: dict[str, float] = {}
    if len(probs):
        measures |= _classification(probs, probs >= THRESHOLD, targets >= THRESHOLD)
        measures |= {"ece": expected_calibration_error(probs, targets), "brier": brier_score(probs, targets)}
    judged = JudgedRows(table, table.first_errors(THRESHOLD))
    if len(judged):
        hits = sum(first_error(probs, THRESHOLD) == first for probs, first in judged)
        bench = cross_fitted_f1(judged, judged.keys)
        measures |= {
            "first_error_exact": hits / len(judged),
            "processbench_f1": bench.f1,
            "processbench_accuracy_on_errors": bench.accuracy_on_errors,
            "processbench_accuracy_on_correct": bench.accuracy_on_correct,
        }
    measures["min_is_last"] = min_is_last_share(probs for probs, _ in table.rows())
    return {name: value for name, value in measures.items() if not math.isnan(value)}


def undefined(measures: dict[str, float]) -> list[str]:
    """The names of the measures that `step_metrics` left out, because the data do not define them."""
    return [name for name in STEP_METRICS if name not in measures]


def _classification(scores: np.ndarray, said_right: np.ndarray, right: np.ndarray) -> dict[str, float]:
    """Accuracy; balanced accuracy and AUROC where there are right and wrong ones."""
    measures = {"accuracy": float((said_right == right).mean())}
    if right.any() and not right.all():
        measures["balanced_accuracy"] = float((said_right[right].mean() + (~said_right[~right]).mean()) / 2)
        measures["auroc"] = auroc(scores, right)
    return measures
