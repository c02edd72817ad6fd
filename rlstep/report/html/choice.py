"""Which solutions a page shows: as many of each kind, spread evenly over the file."""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

from rlstep.policy.rewards.guards import Guards, answer_step, completion_guard, guard_reasons
from rlstep.report.examples import PRM, THRESHOLD, first_wrong
from rlstep.steps.answers import extract
from rlstep.steps.prompts import problem_text
from rlstep.steps.records import Solution


@dataclass(frozen=True)
class Kind:
    """What a solution can be an example of.

    Attributes:
        name: as data has it.
        title: as the page's filter has it.
    """

    name: str
    title: str


# A solution's kinds are a number whose bits stand for these, in this order.
KINDS = (
    Kind("right_on_wrong", "right answer on a wrong step"),
    Kind("scored_high", f"PRM mistake: a wrong step scored {THRESHOLD} or more"),
    Kind("scored_low", f"PRM mistake: a right step scored below {THRESHOLD}"),
    Kind("guarded", "a guard fires"),
    Kind("wrong", "wrong answer, or none"),
    Kind("clean", "answer and every step right"),
)


@dataclass(frozen=True)
class Withheld:
    """What the guards withhold of a solution: the guard of each step, or None, and that of the whole."""

    steps: list[str | None]
    whole: str | None

    def __bool__(self) -> bool:
        return self.whole is not None or any(self.steps)


def withheld(solution: Solution, guards: Guards) -> Withheld:
    """What guards with these settings say of a solution, whoever wrote it: they only read text."""
    if not solution.steps:
        return Withheld([], None)
    given = solution.answer is not None
    answer = answer_step(solution.completion, solution.steps, extract) if given else None
    reasons = guard_reasons(problem_text(solution.prompt), solution.completion, solution.steps, answer, guards)
    return Withheld(reasons, completion_guard(reasons, answer, guards))


def kinds_of(solution: Solution, guarded: bool) -> int:
    """A solution's kinds as bits, in the order of `KINDS`.

    PRM mistakes count up to and including the first wrong step: a PRM is not trained on later ones.

    Args:
        solution: labelled and scored, or not; without labels or scores it is of fewer kinds.
        guarded: whether the guards withhold any of it.
    """
    labelled = bool(solution.labels)
    wrong = first_wrong(solution) if labelled else None
    judged = list(zip(solution.scores.get(PRM, []), solution.verdicts, strict=False))
    judged = judged[: None if wrong is None else wrong + 1]
    # A step that did not fit has no score.
    judged = [(p, right) for p, right in judged if p is not None and right is not None]
    holds = (
        bool(solution.correct) and wrong is not None,
        any(not right and p >= THRESHOLD for p, right in judged),
        any(right and p < THRESHOLD for p, right in judged),
        guarded,
        solution.correct is False,
        solution.clean,
    )
    return sum(held << bit for bit, held in enumerate(holds))


def kinds_told(solution: Solution) -> int:
    """The kinds of which a solution's row says whether it is of them, as bits in the order of `KINDS`."""
    graded, labelled = solution.correct is not None, bool(solution.labels)
    scored = labelled and PRM in solution.scores
    tells = (graded and labelled, scored, scored, solution.steps is not None, graded, graded and labelled)
    return sum(told << bit for bit, told in enumerate(tells))


def choose(kinds: Sequence[int], most: int) -> list[int]:
    """Indices of at most `most` rows, each kind in turn, those of no kind last among them.

    Within a kind they are spread evenly, so that any beginning of the list is a fair choice too.

    >>> choose([1, 1, 0, 1, 32], 3)
    [0, 4, 2]
    """
    queues = [[row for row, bits in enumerate(kinds) if bits >> bit & 1] for bit in range(len(KINDS))]
    queues.append([row for row, bits in enumerate(kinds) if not bits])
    waiting = [deque(rows[place] for place in spread(len(rows))) for rows in queues]
    chosen: dict[int, None] = {}
    while len(chosen) < most and any(waiting):
        for queue in waiting:
            while queue and queue[0] in chosen:
                queue.popleft()
            if queue and len(chosen) < most:
                chosen[queue.popleft()] = None
    return list(chosen)


def spread(count: int) -> list[int]:
    """0 to count - 1 in the order of their bits read backwards, which spreads every beginning evenly.

    >>> spread(8)
    [0, 4, 2, 6, 1, 5, 3, 7]
    """
    bits = max(count - 1, 0).bit_length()
    return sorted(range(count), key=lambda k: int(f"{k:0{bits}b}"[::-1], 2))
