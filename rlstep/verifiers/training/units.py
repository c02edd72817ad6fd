"""The units of a training batch: rows, trees of rows that share prefixes, or pairs of solutions."""

import logging
from collections.abc import Sequence

import torch

from rlstep.runtime.errors import NothingToLearn, UserError
from rlstep.verifiers.features import Feature

logger = logging.getLogger(__name__)

ROWS_OF_A_TREE = 64  # larger trees are several units, so that none is a batch too large


def tree_units(features: Sequence[Feature]) -> list[list[Feature]]:
    """Rows, those of one tree together so that they can share their prefix."""
    units: list[list[Feature]] = []
    unit_of: dict[str, list[Feature]] = {}
    for row in features:
        if row.tree in unit_of and len(unit_of[row.tree]) < ROWS_OF_A_TREE:
            unit_of[row.tree].append(row)
            continue
        units.append([row])
        if row.tree is not None:
            unit_of[row.tree] = units[-1]
    return units


def pair_up(features: Sequence[Feature]) -> list[list[Feature]]:
    """[right, wrong] pairs of each problem: every solution in at least one, the rarer kind in several."""
    problems: dict[int, tuple[list[Feature], list[Feature]]] = {}
    for feature in features:
        problems.setdefault(feature.problem, ([], []))[0 if feature.targets[-1] >= 0.5 else 1].append(feature)
    return [
        [right[index % len(right)], wrong[index % len(wrong)]]
        for right, wrong in problems.values()
        if right and wrong
        for index in range(max(len(right), len(wrong)))
    ]


def require_rows(what: str, features: Sequence[Feature], counts: dict[str, int]) -> None:
    """Logs what was dropped; data with nothing left is an error.

    Args:
        what: "training" or "evaluation".
        features: the rows that are left.
        counts: of `train_features`.
    """
    dropped = {name: count for name, count in counts.items() if count and name not in ("rows", "positions")}
    if dropped:
        logger.warning("%s data: dropped %s", what, ", ".join(f"{count} {name}" for name, count in dropped.items()))
    if not features:
        reason = f" (dropped: {dropped})" if dropped else ": it has no rows"
        kind = NothingToLearn if what == "training" else UserError
        raise kind(f"the {what} data has no labelled position{reason}. Label it, or raise max_length.")


def require_both_classes(features: Sequence[Feature]) -> None:
    """Refuses training data whose labels are all the same."""
    targets = torch.cat([feature.targets for feature in features])
    if bool((targets == targets[0]).all()):
        raise NothingToLearn(
            f"every label of the training data is {targets[0].item():g}: there is nothing to tell apart. "
            "Sample more solutions (a higher temperature, more per problem), or check the labels."
        )
