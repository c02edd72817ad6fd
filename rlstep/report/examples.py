"""What the step scores say about the test solutions: counts over all of them, and a few to show."""

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from rlstep.steps.records import Solution, iter_solutions

PRM, ORM = "prm", "orm"
THRESHOLD = 0.5
SHOWN_STEPS = 14


@dataclass(frozen=True)
class Example:
    """A solution to show, and what it is an example of."""

    title: str
    solution: Solution


@dataclass(frozen=True)
class StepScores:
    """Counts over a file of scored solutions.

    Attributes:
        tally: the counts, for summary.json; None if no row could be counted.
        examples: some of the solutions.
        left_out: how many rows were not counted, by what they lack.
    """

    tally: dict | None
    examples: list[Example]
    left_out: dict[str, int]


def first_wrong(solution: Solution) -> int | None:
    """Index of the first step labelled wrong."""
    return solution.verdicts.index(False) if False in solution.verdicts else None


def first_flagged(solution: Solution, threshold: float = THRESHOLD) -> int | None:
    """Index of the first step that the PRM flags as wrong: its score is below `threshold`."""
    return next((k for k, p in enumerate(solution.scores[PRM]) if p < threshold), None)


def read_step_scores(path: str | Path) -> StepScores:
    """Counts how often the PRM locates the first wrong step, and picks one example of each kind.

    The kinds: a right answer after a wrong step, a wrong answer, a fully right solution. Each is the most telling one,
    not a random one: where the PRM locates the error and the ORM is misled most. If the PRM got none of a kind right,
    one that it got wrong is shown, and its title says so.

    Rows that are not labelled, not graded or not scored by the PRM, as where they did not fit into it, are left out.
    Without the ORM's scores any solution is as telling as another for it.
    """
    counts = dict.fromkeys(("solutions", "right_answer", "right_answer_wrong_step", "with_wrong_step", "all_right"), 0)
    places_found = unflagged = 0
    best: dict[str, tuple[tuple, Solution]] = {}
    left_out: Counter[str] = Counter()
    for solution in iter_solutions(path):
        if lack := _lack(solution):
            left_out[lack] += 1
            continue
        wrong, flagged = first_wrong(solution), first_flagged(solution)
        counts["solutions"] += 1
        counts["right_answer"] += solution.correct
        counts["right_answer_wrong_step"] += solution.correct and wrong is not None
        counts["with_wrong_step"] += wrong is not None
        counts["all_right"] += solution.clean
        places_found += wrong is not None and flagged == wrong
        unflagged += solution.clean and flagged is None
        kind = _kind(solution, wrong)
        if kind and (kind not in best or _telling(solution, wrong) > best[kind][0]):
            best[kind] = (_telling(solution, wrong), solution)
    if not counts["solutions"]:
        return StepScores(None, [], dict(left_out))
    tally = {
        **counts,
        "threshold": THRESHOLD,
        "first_wrong_step_found": places_found / counts["with_wrong_step"] if counts["with_wrong_step"] else None,
        "all_right_unflagged": unflagged / counts["all_right"] if counts["all_right"] else None,
    }
    kinds = [kind for kind in ("right on a wrong step", "wrong", "all right") if kind in best]
    examples = [Example(_title(kind, best[kind][1]), best[kind][1]) for kind in kinds]
    return StepScores(tally, examples, dict(left_out))


def _lack(solution: Solution) -> str | None:
    """What a row lacks to be counted."""
    if solution.steps is None or solution.labels is None:
        return "labels"
    if solution.correct is None:
        return "correct"
    scores = solution.scores.get(PRM)
    return f"scores.{PRM} of every step" if scores is None or None in scores else None


def orm_score(solution: Solution) -> float | None:
    """The ORM's score, if it gave one."""
    return (solution.scores.get(ORM) or [None])[-1]


def _kind(solution: Solution, wrong: int | None) -> str | None:
    if not solution.steps or solution.answer is None:
        return None
    if wrong is not None:
        return "right on a wrong step" if solution.correct else "wrong"
    return "all right" if solution.clean else None


def _telling(solution: Solution, wrong: int | None) -> tuple:
    """Sort key, the largest is shown: fits the figure, the PRM is right, the error is in the middle, the ORM errs."""
    fits = len(solution.steps) <= SHOWN_STEPS
    agrees = first_flagged(solution) == wrong
    orm = orm_score(solution) or 0.0
    if wrong is None:
        return fits, agrees, True, min(solution.scores[PRM]) - orm
    return fits, agrees, 0 < wrong < len(solution.steps) - 2, orm - solution.scores[PRM][wrong]


def _title(kind: str, solution: Solution) -> str:
    seen = first_flagged(solution) == first_wrong(solution)
    return {
        "right on a wrong step": "Right answer, wrong step: " + ("caught" if seen else "not caught"),
        "wrong": "Wrong answer: " + ("error located" if seen else "error not located"),
        "all right": "Every step right: " + ("passed" if seen else "wrongly flagged"),
    }[kind]
