"""`prm800k`: the human step labels of "Let's Verify Step by Step" (Lightman et al., 2305.20050), phases 1 and 2.

A row, cut down to what is read::

    {"generation": 9, "is_quality_control_question": false, "is_initial_screening_question": false,
     "question": {"problem": "What is 2 + 3 * 4?", "ground_truth_answer": "14"},
     "label": {"finish_reason": "found_error", "steps": [
       {"completions": [{"text": "3 * 4 = 12", "rating": 1, "flagged": null}],
        "human_completion": null, "chosen_completion": 0},
       {"completions": [{"text": "2 + 12 = 15", "rating": -1, "flagged": null},
                        {"text": "Now add.", "rating": 0, "flagged": null}],
        "human_completion": null, "chosen_completion": null}]}}

This row gives two solutions of one tree, one for each of the two steps after the chosen one: "3 * 4 = 12" and
"2 + 12 = 15", labelled 1 and 0, and "3 * 4 = 12" and "Now add.", labelled 1 and neutral. The label of the first step
is in both and counts once (`rlstep.steps.trees`). An alternative is always the last step of its solution: nobody
labelled a step after a step that was not chosen.
"""

import re
from collections import Counter
from dataclasses import dataclass
from typing import ClassVar, Literal, NamedTuple, get_args

from rlstep.runtime.errors import UserError
from rlstep.steps.readers.base import ReadReport, StepReader, problem_key
from rlstep.steps.readers.values import Field
from rlstep.steps.records import Solution
from rlstep.steps.sources import stem

Keep = Literal["quality_control", "screening", "give_up", "bad_problem", "flagged"]
FINISH_REASONS = ("found_error", "solution", "bad_problem", "give_up")

_ANSWER = re.compile(r"^# Answer\s+(\S.*)", re.MULTILINE | re.DOTALL)


class Candidate(NamedTuple):
    """A step that was offered: its text, its label (None: unknown), and whether it is neutral."""

    text: str
    label: int | None
    neutral: bool

    @property
    def rated(self) -> bool:
        return self.neutral or self.label is not None


@dataclass(frozen=True)
class Prm800kReader(StepReader):
    """Ratings 1 and -1 become labels 1 and 0; 0 is a neutral step. Steps are joined by `separator`.

    As in the paper (section 2.4), questions for quality control and for screening labelers are left out, and so are
    rows that the labeler could not finish (`give_up`) or considered broken (`bad_problem`). A step that the labeler
    flagged as not ratable has no label. A step that the labeler wrote counts as right if it has no rating of its own:
    labelers wrote one when every step offered was wrong.

    The first solution of a row is the chosen path. If it ends because nothing was chosen (in phase 2, at the first
    wrong step), its last step is the first of those offered. Each rated alternative is a further solution.

    A solution is finished when its last step states an answer ("# Answer"), or when its path ends in "solution". This
    finish reason does not say that the answer is right: `correct` is left to grading by the reference.

    Attributes:
        keep: what to keep of that which is left out by default: quality_control, screening, give_up, bad_problem rows,
            and the ratings of flagged steps.
    """

    names: ClassVar[tuple[str, ...]] = (
        "question",
        "label",
        "is_quality_control_question",
        "is_initial_screening_question",
    )
    cut_short: ClassVar[bool] = True

    keep: tuple[Keep, ...] = ()

    def __post_init__(self):
        super().__post_init__()
        for name in self.keep:
            if name not in get_args(Keep):
                raise UserError(f"keep has '{name}'; choose from {', '.join(get_args(Keep))}.")

    def solutions(self, row: Field, report: ReadReport) -> list[Solution]:
        question, label = row["question"], row["label"]
        problem, reference = question["problem"].text(), question["ground_truth_answer"]
        reason = label["finish_reason"]
        if reason.value not in FINISH_REASONS:
            raise reason.expected(" or ".join(FINISH_REASONS))
        report.seen[f"finish reason: {reason.value}"] += 1
        if why := self._why_dropped(row, reason.value):
            report.dropped[why] += 1
            return []
        path, branches, seen = self._tree(label["steps"])
        report.seen.update(seen)
        trajectories = _trajectories(path, branches)
        if not trajectories:
            report.dropped["no step"] += 1
            return []
        named = {
            "problem_id": f"prm800k-{problem_key(problem)}",
            "prompt": self.prompt_of(problem),
            "reference": "" if reference.is_null else reference.text(),
            "tree": f"prm800k-{stem(row.row.source)}-{row.row.number}",
        }
        solved = reason.value == "solution"
        return [self._solution(steps, solved and steps is path, **named) for steps in trajectories]

    def _why_dropped(self, row: Field, reason: str) -> str | None:
        whys = {
            "quality_control": row["is_quality_control_question"].boolean(),
            "screening": row["is_initial_screening_question"].boolean(),
            "give_up": reason == "give_up",
            "bad_problem": reason == "bad_problem",
        }
        return next((why for why, holds in whys.items() if holds and why not in self.keep), None)

    def _tree(self, steps: Field) -> tuple[list[Candidate], list[tuple[int, Candidate]], Counter]:
        """The chosen path, the rated alternatives with their places on it, and what else was seen."""
        path, branches, seen = [], [], Counter()
        items = steps.items()
        for place, step in enumerate(items):
            candidates, chosen = self._candidates(step, seen)
            others = [candidate for k, candidate in enumerate(candidates) if k != chosen]
            branches += [(place, candidate) for candidate in others if candidate.rated]
            if unrated := sum(not candidate.rated for candidate in others):
                seen["alternative without a rating"] += unrated
            if chosen is None:
                if after := len(items) - place - 1:
                    # The step before them is unknown.
                    seen["step after the end of the path"] += after
                break
            path.append(candidates[chosen])
        return path, branches, seen

    def _candidates(self, step: Field, seen: Counter) -> tuple[list[Candidate], int | None]:
        """The candidates at a step, and the index of the one that the path takes; None if it ends there."""
        offered, human, chosen = step["completions"], step.get("human_completion"), step["chosen_completion"]
        candidates = [] if offered.is_null else [self._candidate(item, seen) for item in offered.items()]
        taken = None if chosen.is_null else chosen.index(len(candidates))
        if not human.is_null:
            seen["step written by the labeler"] += 1
            candidates.append(self._written(human, seen))
            taken = len(candidates) - 1 if taken is None else taken
        return candidates, taken

    def _written(self, human: Field, seen: Counter) -> Candidate:
        """A step that the labeler wrote, an object like the others or text; without a rating it counts as right."""
        if isinstance(human.value, str):
            return Candidate(human.text(), 1, False)
        step = self._candidate(human, seen)
        return step._replace(label=1) if human.get("rating").is_null else step

    def _candidate(self, item: Field, seen: Counter) -> Candidate:
        text, rating, flagged = item["text"].text(), item.get("rating"), item.get("flagged")
        if isinstance(rating.value, bool) or rating.value not in (None, -1, 0, 1):
            raise rating.expected("-1, 0, 1 or null")
        if not flagged.is_null and flagged.boolean():
            seen["flagged step"] += 1
            if "flagged" not in self.keep:
                return Candidate(text, None, False)
        return Candidate(text, {None: None, -1: 0, 0: None, 1: 1}[rating.value], rating.value == 0)

    def _solution(self, steps: list[Candidate], solved: bool, **named) -> Solution:
        answer = _ANSWER.search(steps[-1].text)
        finished = solved or answer is not None
        completion, spans = self.join((step.text for step in steps), close=not finished)
        return Solution(
            completion=completion,
            finished=finished,
            steps=spans,
            labels=[step.label for step in steps],
            neutral=[k for k, step in enumerate(steps) if step.neutral] or None,
            answer=answer[1].strip() if answer else None,
            **named,
        )


def _trajectories(path: list[Candidate], branches: list[tuple[int, Candidate]]) -> list[list[Candidate]]:
    """The steps of every labelled trajectory; none is a prefix of another."""
    # A path that ends before steps none of which was chosen is not a separate solution: the first of them completes it.
    last = next((k for k, (place, _) in enumerate(branches) if place == len(path)), None)
    whole = path if last is None else [*path, branches[last][1]]
    others = [[*path[:place], step] for k, (place, step) in enumerate(branches) if k != last]
    return [whole, *others] if whole else []
