"""`math`: the published problems of MATH, each with its reference solution.

A row: {"problem": "What is $\\\\frac{1}{4}+\\\\frac{1}{4}$?", "solution": "It is $\\\\boxed{\\\\frac{1}{2}}$.",
"level": "Level 1", "type": "Prealgebra"}; some versions have "subject" for the type, the final answer in "answer", and
"unique_id".
"""

from dataclasses import dataclass
from typing import ClassVar

from rlstep.steps.answers import extract
from rlstep.steps.problems import NO_ANSWERS
from rlstep.steps.readers.base import Reader, ReadReport, problem_key
from rlstep.steps.readers.values import Field
from rlstep.steps.records import Solution


@dataclass(frozen=True)
class MathReader(Reader):
    """The reference is `answer` if the row has it, else the content of the solution's last closed \\boxed{}."""

    names: ClassVar[tuple[str, ...]] = ("problem", "solution", "answer", "level", "type", "subject", "unique_id")

    def solutions(self, row: Field, report: ReadReport) -> list[Solution]:
        problem, solution = row["problem"].text(), row["solution"].text()
        for name in ("level", "type", "subject"):
            if not row.get(name).is_null:
                report.seen[f"{name}: {row.get(name).value}"] += 1
        if not row.get("answer").is_null:
            reference = row["answer"].text()
            if reference in NO_ANSWERS:
                raise row["answer"].fault(f"is '{reference}', which stands for no answer.")
        elif (reference := extract(solution)) is None:
            raise row["solution"].fault("no \\boxed{} answer, and the row has no 'answer'.")
        unique = row.get("unique_id")
        key = f"math-{problem_key(problem)}" if unique.is_null else unique.text()
        return [Solution(key, self.prompt_of(problem), solution, reference)]
