"""`solutions`: what rlstep's stages write."""

from dataclasses import dataclass, fields

from rlstep.steps.readers.base import ReadReport
from rlstep.steps.readers.values import Field
from rlstep.steps.records import Solution, solution_of


@dataclass(frozen=True)
class OursReader:
    """Rows of `Solution`, which are validated and passed on, sample numbers included."""

    # What else a row holds goes into extra: extra.model=model.
    names = (*(field.name for field in fields(Solution)), "scores.*", "extra.*")
    has_reference = True
    cut_short = False
    editions = ()

    def solutions(self, row: Field, report: ReadReport) -> list[Solution]:
        return [solution_of(row.row)]
