"""Policies of one kind over several seeds: their learning curves, the samples they need, and how many are lost."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from rlstep.core.stats import t_interval, wilson_interval
from rlstep.evaluation.learning_curves import read_history, samples_to_reach
from rlstep.report.summary import HISTORY
from rlstep.runtime.errors import UserError


def read_curves(runs: Sequence[Path], folder: str, first: str) -> list[list[dict]]:
    """The evaluations of each seed's policy in `folder`.

    Args:
        runs: run folders, one per seed.
        folder: the policy's, in each of them.
        first: that of the policy of the first seed whose numbers of samples all others have to share.

    Raises:
        DataError: a curve has a row without its numbers.
        UserError: a curve is missing, or a policy was evaluated at other numbers of samples.
    """
    samples = [row["samples"] for row in read_history(runs[0] / first / HISTORY)]
    curves = [read_history(run / folder / HISTORY) for run in runs]
    for run, rows in zip(runs, curves, strict=True):
        if [row["samples"] for row in rows] != samples:
            raise UserError(
                f"{run / folder} was evaluated at other samples than {runs[0] / first}; run all of them with the same "
                "recipe."
            )
    return curves


def reached_and_lost(curves: Sequence[Sequence[dict]], target: float) -> dict:
    """How many samples policies need, how many of them are lost, and where they end.

    Args:
        curves: one per seed, all at the same numbers of samples.
        target: the clean accuracy up to which samples are counted.

    Returns:
        `reached`: each seed's samples up to `target`, None where it never gets there; `samples`: their t-interval, in
        which such a seed counts with all of its samples, and whether it is a `bound` therefore; `lost`: the share of
        runs, with Wilson's interval; `clean_accuracy`: that of the last evaluation.
    """
    clean = [[row["clean_accuracy"] for row in rows] for rows in curves]
    reached = [samples_to_reach(rows, target, "clean_accuracy") for rows in curves]
    lost = [is_lost(of_seed) for of_seed in clean]
    at_least = [curves[0][-1]["samples"] if number is None else number for number in reached]
    low, high = wilson_interval(np.array([np.mean(lost)]), np.array([len(lost)]))
    return {
        "reached": reached,
        "samples": t_interval(at_least)._asdict() | {"bound": None in reached},
        "lost": {"mean": float(np.mean(lost)), "low": float(low[0]), "high": float(high[0])},
        "clean_accuracy": t_interval([of_seed[-1] for of_seed in clean])._asdict(),
    }


def clean_minus(curves: Sequence[Sequence[dict]], others: Sequence[Sequence[dict]]) -> dict:
    """How far policies' clean accuracy is above that of others, with t-intervals over the seeds that they share.

    Args:
        curves: one per seed, from before the first update on.
        others: those of the same seeds, at the same numbers of samples.

    Returns:
        `mean`: over all evaluations after the start; `last`: at the last one.
    """
    differences = [
        [row["clean_accuracy"] - other["clean_accuracy"] for row, other in zip(*pair, strict=True)]
        for pair in zip(curves, others, strict=True)
    ]
    return {
        "mean": t_interval([float(np.mean(of_seed[1:])) for of_seed in differences])._asdict(),
        "last": t_interval([of_seed[-1] for of_seed in differences])._asdict(),
    }


def is_lost(clean: Sequence[float]) -> bool:
    """Whether a run's clean accuracy, from before the first update on, is never above its start, or ends below it."""
    start, *later = clean
    return max(later, default=start) <= start or clean[-1] < start
