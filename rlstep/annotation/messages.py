"""What the page sends and gets, as pydantic models. Requests hold ratings, and no text to keep."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from rlstep.annotation.desk import Assignment, Finished, Progress
from rlstep.annotation.rows import FinishReason, Marks
from rlstep.runtime.visible import visible

Name = Annotated[str, Field(min_length=1, max_length=200)]
_Rating = Annotated[int, Field(ge=-1, le=1)]  # a Literal would take true for 1


class _Request(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class Visit(_Request):
    """Who asks, and from which browser tab (a random name that the page makes)."""

    labeller: Name
    browser: Name


class SaveRequest(Visit):
    """All marks on a solution; see `rlstep.annotation.desk.Desk.save`."""

    item: Name
    revision: Annotated[int, Field(ge=1)]
    ratings: Annotated[list[_Rating], Field(max_length=100_000)]
    finish_reason: FinishReason | None
    milliseconds: Annotated[int, Field(ge=0, le=10**12)]

    def marks(self) -> Marks:
        return Marks(tuple(self.ratings), self.finish_reason, self.milliseconds)


class ReopenRequest(Visit):
    """Which solution an undo takes up again; see `rlstep.annotation.desk.Desk.reopen`."""

    item: Name
    revision: Annotated[int, Field(ge=1)]


def screen(assignment: Assignment | None, finished: Finished | None, progress: Progress, show_reference: bool) -> dict:
    """What the page needs to show a solution, and to undo the end of the one before.

    `item` is null where there is none left for this labeller, `finished` where they have finished none.

    Args:
        assignment, finished, progress: of the labeller.
        show_reference: whether the right answer is sent along.
    """
    return {
        "item": None if assignment is None else _item(assignment, show_reference),
        "finished": None if finished is None else {"id": finished.item, "revision": finished.revision},
        "progress": {
            "needed": progress.needed, "done": progress.done, "mine": progress.mine, "open": progress.open,
        },
    }  # fmt: skip


def _item(assignment: Assignment, show_reference: bool) -> dict:
    reference = assignment.item.reference
    return {
        "id": assignment.item.id,
        "number": assignment.number,
        # As it is rated, not as it may turn itself around; the row keeps the text as it was.
        "problem": visible(assignment.item.problem),
        "steps": [visible(step) for step in assignment.item.steps],
        "reference": visible(reference) if show_reference and reference is not None else None,
        "revision": assignment.revision,
        "ratings": assignment.marks.ratings,
        "milliseconds": assignment.marks.milliseconds,
    }
