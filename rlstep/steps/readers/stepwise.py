"""`stepwise`: TRL's data type for process supervision.

A row: {"prompt": "What is 2 + 3 * 4?", "completions": ["3 * 4 = 12", "2 + 12 = 15"], "labels": [true, false]}
"""

from dataclasses import dataclass
from typing import ClassVar

from rlstep.steps.readers.base import ReadReport, StepReader, problem_key
from rlstep.steps.readers.values import Field
from rlstep.steps.records import Solution


@dataclass(frozen=True)
class StepwiseReader(StepReader):
    """Labels are true, false, a number from 0 to 1 (kept as it is), or null or -100 for unknown.

    Rows without a step, which occur in TRL's own data sets, are left out and counted.

    Attributes:
        close_last: also give the last step a separator. Right for data whose rows end with the rated step, such as
            every rejected step of PRM800K: otherwise a missing separator reveals that a step was rejected.
    """

    names: ClassVar[tuple[str, ...]] = ("prompt", "completions", "labels")
    has_reference: ClassVar[bool] = False

    close_last: bool = False

    def solutions(self, row: Field, report: ReadReport) -> list[Solution]:
        problem, steps = row["prompt"].text(), list(row["completions"].texts())
        labels = row["labels"].labels(len(steps))
        if not steps:
            report.dropped["no step"] += 1
            return []
        completion, spans = self.join(steps, self.close_last)
        key = f"stepwise-{problem_key(problem)}"
        return [Solution(key, self.prompt_of(problem), completion, "", steps=spans, labels=labels)]
