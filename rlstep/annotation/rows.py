"""A labelled solution as a row of PRM800K, and back.

A row (wrapped here), as `rlstep.steps.readers.prm800k` reads it::

    {"labeler": "ada", "timestamp": "2026-01-02T03:04:05.678901", "generation": null,
     "is_quality_control_question": false, "is_initial_screening_question": false,
     "question": {"problem": "What is 2 + 3 * 4?", "ground_truth_solution": null, "ground_truth_answer": "14",
                  "pre_generated_steps": ["3 * 4 = 12", "2 + 12 = 15", "# Answer\\n\\n15"],
                  "pre_generated_answer": "15", "pre_generated_verifier_score": null},
     "label": {"steps": [
         {"completions": [{"text": "3 * 4 = 12", "rating": 1, "flagged": null}],
          "human_completion": null, "chosen_completion": 0},
         {"completions": [{"text": "2 + 12 = 15", "rating": -1, "flagged": null}],
          "human_completion": null, "chosen_completion": null}],
       "total_time": 8200, "finish_reason": "found_error"}}

As in the published phase 2, nothing is chosen at the step where the labelling ended early. Where the labeller gave up,
or found the problem bad, that is the step that was on the screen, with a null rating.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Literal

from rlstep.annotation.items import Item
from rlstep.runtime.counted import counted
from rlstep.steps.readers.prm800k import FINISH_REASONS
from rlstep.steps.readers.values import Field

Rating = Literal[-1, 0, 1]
FinishReason = Literal["found_error", "solution", "bad_problem", "give_up"]


@dataclass(frozen=True)
class Marks:
    """What a labeller has said of a solution so far.

    Attributes:
        ratings: of its first steps, in order: 1 positive, 0 neutral, -1 negative.
        finish_reason: how the labelling ended; None while it goes on.
        milliseconds: how long the solution has been on the labeller's screen.
    """

    ratings: tuple[Rating, ...] = ()
    finish_reason: FinishReason | None = None
    milliseconds: int = 0

    def fault(self, steps: int) -> str | None:
        """Why the protocol does not allow these marks on a solution with this number of steps; None if it does."""
        if len(self.ratings) > steps:
            return f"{counted(len(self.ratings), 'rating')} for {counted(steps, 'step')}."
        if -1 in self.ratings[:-1]:
            return "steps were rated after the first negative one, at which the labelling ends."
        ended = self.ratings[-1:] == (-1,)
        if ended != (self.finish_reason == "found_error"):
            return "a negative rating, and nothing else, ends the labelling as found_error."
        if (len(self.ratings) == steps and not ended) != (self.finish_reason == "solution"):
            return "a solution without a negative rating ends as solution, once all its steps are rated."
        return None

    @property
    def first_error(self) -> int:
        """The index of the first negative step, -1 if there is none."""
        return self.ratings.index(-1) if -1 in self.ratings else -1


def row_of(item: Item, labeller: str, marks: Marks) -> dict:
    """The row of finished marks, as of now."""
    steps = [_step(text, rating) for text, rating in zip(item.steps, marks.ratings, strict=False)]
    if marks.finish_reason in ("bad_problem", "give_up"):
        steps.append(_step(item.steps[len(marks.ratings)], None))
    return {
        "labeler": labeller,
        "timestamp": datetime.now(UTC).replace(tzinfo=None).isoformat(timespec="microseconds"),
        "generation": None,
        "is_quality_control_question": False,
        "is_initial_screening_question": False,
        "question": {
            "problem": item.problem,
            "ground_truth_solution": None,
            "ground_truth_answer": item.reference,
            "pre_generated_steps": list(item.steps),
            "pre_generated_answer": item.answer,
            "pre_generated_verifier_score": None,
        },
        "label": {"steps": steps, "total_time": marks.milliseconds, "finish_reason": marks.finish_reason},
    }


def _step(text: str, rating: Rating | None) -> dict:
    return {
        "completions": [{"text": text, "rating": rating, "flagged": None}],
        "human_completion": None,
        "chosen_completion": 0 if rating in (0, 1) else None,
    }


def parse_row(row: Field) -> tuple[str, str, list[str], Marks]:
    """(labeller, problem, steps, marks) of a row that `row_of` made.

    Raises:
        DataError: it is no such row.
    """
    question, label = row["question"], row["label"]
    reason, time = label["finish_reason"], label["total_time"]
    if reason.value not in FINISH_REASONS:
        raise reason.expected(" or ".join(FINISH_REASONS))
    if not isinstance(time.value, int) or isinstance(time.value, bool) or time.value < 0:
        raise time.expected("whole milliseconds from 0")
    ratings = _ratings([_rating(step) for step in label["steps"].items()])
    steps = list(question["pre_generated_steps"].texts())
    marks = Marks(ratings, reason.value, time.value)
    if fault := marks.fault(len(steps)):
        raise label.fault(fault)
    return row["labeler"].text(), question["problem"].text(), steps, marks


def _rating(step: Field) -> Rating | None:
    offered = step["completions"].items()
    if len(offered) != 1:
        raise step["completions"].fault(f"{len(offered)} completions; `rlstep annotate` writes one at each step.")
    rating = offered[0]["rating"]
    if isinstance(rating.value, bool) or rating.value not in (None, -1, 0, 1):
        raise rating.expected("-1, 0, 1 or null")
    return rating.value


def _ratings(ratings: Sequence[Rating | None]) -> tuple[Rating, ...]:
    return tuple(rating for rating in ratings if rating is not None)
