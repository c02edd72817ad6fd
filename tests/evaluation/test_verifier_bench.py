import math

import pytest

from rlstep.evaluation.verifier_bench import JudgedSolution, class_of, prmbench, processbench, subset_of
from rlstep.runtime.errors import UserError
from rlstep.steps.records import Solution


def judged(part: str, problem: str, probs: list[float], labels: list) -> JudgedSolution:
    return JudgedSolution(part, problem, probs, labels)


# gsm8k: of two with an error one is located at 0.5; of two without one both are kept: F1 2 (1/2) 1 / (3/2) = 2/3.
# math: of one with an error none; of one without, it is kept: F1 0.
PROCESS = [
    judged("gsm8k", "a", [0.9, 0.3, 0.1], [1, 0, None]),
    judged("gsm8k", "b", [0.4, 0.2], [1, 0]),
    judged("gsm8k", "c", [0.9, 0.6], [1, 1]),
    judged("gsm8k", "d", [0.55], [1]),
    judged("math", "e", [0.8, 0.7], [1, 0]),
    judged("math", "f", [0.8], [1]),
]


def test_processbench_by_hand():
    measures = processbench(PROCESS, 0.5)
    assert list(measures) == ["gsm8k", "math", "average"]
    assert measures["gsm8k"].score.mean == pytest.approx(2 / 3)
    assert measures["math"].score.mean == 0
    assert measures["average"].score.mean == pytest.approx(1 / 3)
    assert (measures["gsm8k"].solutions, measures["average"].solutions) == (4, 6)
    low, high = measures["gsm8k"].score[1:]
    assert 0 <= low < 2 / 3 < high <= 1


def test_a_threshold_may_be_chosen_on_a_subset():
    # Between 0.2 and 0.4 both of gsm8k's errors are located, a above 0.3: the best lies between 0.3 and 0.4.
    measures = processbench(PROCESS, "gsm8k")
    assert measures["gsm8k"].score.mean == 1
    [limit] = measures["math"].thresholds
    assert 0.3 < limit <= 0.4
    with pytest.raises(UserError, match="cross_fitted, or one of the subsets that are there, gsm8k, math"):
        processbench(PROCESS, "omnimath")
    with pytest.raises(UserError, match="no threshold can be chosen on the subset math"):
        processbench([row for row in PROCESS if row.problem != "f"], "math")


def test_a_cross_fitted_threshold_is_that_of_the_other_half():
    rows = [judged("s", f"{k}", [0.9, 0.3 if k % 2 else 0.8], [1, 0 if k % 2 else 1]) for k in range(40)]
    measure = processbench(rows, "cross_fitted")["s"]
    assert measure.score.mean == 1
    assert len(measure.thresholds) == 2
    # Without a solution of one kind there is no threshold, and no score.
    few = processbench(rows[:1], "cross_fitted")["s"]
    assert math.isnan(few.score.mean)
    assert few.to_dict() == {"score": None, "low": None, "high": None, "solutions": 1, "thresholds": []}


def test_intervals_are_over_problems():
    alone = [judged("s", f"{k}", [0.4 if k % 2 else 0.6], [0 if k % 4 < 2 else 1]) for k in range(64)]
    alike = [JudgedSolution(row.part, int(row.problem) // 16, row.probs, row.labels) for row in alone]
    width = {}
    for name, rows in (("alone", alone), ("alike", alike)):
        measure = processbench(rows, 0.5)["s"].score
        width[name] = measure.high - measure.low
    # Sixteen solutions of a problem are all alike here: four of each kind in each, so problems do not differ.
    assert width["alike"] == pytest.approx(0, abs=1e-9)
    assert width["alone"] > 0.1


# counterfactual: TP 1, FN 1, TN 1, FP 0. multi_solutions: TP 2, FN 1.
PRM = [
    judged("counterfactual", "a", [0.9, 0.4, 0.2], [1, 1, 0]),
    judged("multi_solutions", "b", [0.9, 0.9, 0.1], [1, 1, 1]),
    judged("original", "a", [0.1, 0.1], [1, 1]),
]


def test_prmbench_by_hand():
    measures = prmbench(PRM, 0.5)
    assert measures["counterfactual"].score.mean == pytest.approx((2 / 3 + 2 / 3) / 2)
    assert measures["multi_solutions"].score.mean == pytest.approx(4 / 5)
    # Together TP 3, FN 2, TN 1, FP 0; the unmodified solution counts nowhere.
    assert measures["overall"].score.mean == pytest.approx((6 / 8 + 2 / 4) / 2)
    assert set(measures) == {"overall", "counterfactual", "multi_solutions"}
    assert prmbench(PRM, 0.15)["counterfactual"].score.mean == pytest.approx((4 / 5 + 0) / 2)


def test_a_group_is_the_mean_of_its_classes():
    rows = [judged("redundency", "a", [0.9], [1]), judged("circular", "b", [0.9, 0.9], [1, 0])]
    measures = prmbench(rows, 0.5)
    # redundency has no wrong step here: F1 of right ones, 1; circular: TP 1, FP 1: (2/3 + 0) / 2.
    assert measures["simplicity"].score.mean == pytest.approx((1 + 1 / 3) / 2)
    assert measures["simplicity"].solutions == 2


def test_parts_come_from_the_rows():
    assert subset_of(Solution("omnimath-12", "p", "c", "")) == "omnimath"
    assert class_of(Solution("x", "p", "c", "", extra={"classification": "deception"})) == "deception"
    with pytest.raises(UserError, match="'seven' is no id of ProcessBench"):
        subset_of(Solution("seven", "p", "c", ""))
