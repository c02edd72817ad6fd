"""The metrics of a verifier's evaluation during training, from its margins at labelled positions."""

import logging

import numpy as np

from rlstep.core.calibration import Reliability, reliability
from rlstep.steps.labels import NEUTRAL
from rlstep.verifiers.metrics import RowScores, binary_metrics, step_metrics, undefined

logger = logging.getLogger(__name__)

UNUSED = -100  # the Trainer pads what it gathers with this


def evaluation_metrics(
    of_steps: bool, margins_FN: np.ndarray, targets_FN: np.ndarray, problems_F: np.ndarray, shared_F: np.ndarray
) -> tuple[dict[str, float], Reliability]:
    """The metrics of an evaluation, and its calibration for a picture.

    Args:
        of_steps: whether positions are steps, which can be wrong first, or an outcome asked at each.
        margins_FN: log-odds of right at each row's positions, `UNUSED` where it has no more.
        targets_FN: the targets there (`rlstep.steps.labels`).
        problems_F: each row's problem.
        shared_F: how many of each row's first positions are counted with another row.
    """
    # A neutral step of a third class counts as right here, as it does by default in scoring.
    targets_FN = np.where(targets_FN == NEUTRAL, 1.0, targets_FN)
    known_FN = targets_FN >= 0
    counted_FN = known_FN & (np.arange(known_FN.shape[1]) >= shared_F[:, None])
    metrics = {"positions": int(counted_FN.sum()), **binary_metrics(margins_FN[counted_FN], targets_FN[counted_FN])}
    if "auroc" not in metrics:
        logger.warning("the evaluation data has labels of one kind only: no AUROC, no balanced accuracy")
    probs_FN = 1 / (1 + np.exp(-margins_FN.astype(np.float64)))
    calibration = reliability(probs_FN[counted_FN], targets_FN[counted_FN])
    if of_steps:
        targets_FN = np.where(known_FN, targets_FN, np.nan)
        lengths_F = (margins_FN != UNUSED).sum(axis=1)
        rows = zip(probs_FN, targets_FN, lengths_F, problems_F, shared_F, strict=True)
        metrics |= step_metrics([RowScores(p[:n], t[:n], str(problem), s) for p, t, n, problem, s in rows])
        if absent := undefined(metrics):
            logger.info("this evaluation data does not define %s", ", ".join(absent))
    else:
        last_F = known_FN.sum(axis=1) - 1
        rows_F = np.arange(len(last_F))
        final = binary_metrics(margins_FN[rows_F, last_F], targets_FN[rows_F, last_F])
        metrics |= {f"final_{name}": value for name, value in final.items()}
    return metrics, calibration
