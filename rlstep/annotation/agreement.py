"""How far labellers agree on the solutions that two of them labelled."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import combinations

from rlstep.annotation.rows import Marks
from rlstep.core.agreement import cohen_kappa


@dataclass(frozen=True)
class PairAgreement:
    """The agreement of two labellers.

    Attributes:
        labellers: their names.
        solutions: how many both of them finished, those left out where one gave up or found the problem bad.
        same_first_error: the share of these on which they name the same first wrong step, or both none.
        first_error_kappa: Cohen's kappa of the first wrong step's place (-1 for none); None where it is undefined.
        steps: how many steps of these solutions both of them rated.
        step_kappa: Cohen's kappa of these steps' ratings; None where it is undefined.
    """

    labellers: tuple[str, str]
    solutions: int
    same_first_error: float
    first_error_kappa: float | None
    steps: int
    step_kappa: float | None


def pair_agreements(finished: Mapping[tuple[str, str], Marks]) -> list[PairAgreement]:
    """The agreement of every two labellers who have solutions in common, by their names.

    Args:
        finished: marks by labeller and item.
    """
    by_labeller: dict[str, dict[str, Marks]] = {}
    for (labeller, item), marks in finished.items():
        if marks.finish_reason in ("found_error", "solution"):
            by_labeller.setdefault(labeller, {})[item] = marks
    pairs = []
    for a, b in combinations(sorted(by_labeller), 2):
        common = [(marks, by_labeller[b][item]) for item, marks in by_labeller[a].items() if item in by_labeller[b]]
        if common:
            pairs.append(_agreement((a, b), common))
    return pairs


def _agreement(labellers: tuple[str, str], common: list[tuple[Marks, Marks]]) -> PairAgreement:
    places_a, places_b = [marks.first_error for marks, _ in common], [marks.first_error for _, marks in common]
    # Nobody rated a step after the first that they found wrong.
    steps = [pair for one, other in common for pair in zip(one.ratings, other.ratings, strict=False)]
    return PairAgreement(
        labellers=labellers,
        solutions=len(common),
        same_first_error=sum(a == b for a, b in zip(places_a, places_b, strict=True)) / len(common),
        first_error_kappa=_defined(cohen_kappa(places_a, places_b)),
        steps=len(steps),
        step_kappa=_defined(cohen_kappa([a for a, _ in steps], [b for _, b in steps])),
    )


def _defined(kappa: float) -> float | None:
    return None if math.isnan(kappa) else kappa
