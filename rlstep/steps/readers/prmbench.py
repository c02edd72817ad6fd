"""`prmbench`: solutions with errors of nine kinds written into them (PRMBench, Song et al., 2501.03124).

A row, cut down to what is read::

    {"original_question": "How many legs have 2 ducks?", "original_process": ["A duck has 2 legs.", "2 * 2 = 4."],
     "modified_question": "How many legs have 2 ducks?",
     "modified_process": ["A duck has 3 legs.", "2 * 3 = 6."], "error_steps": [1, 2],
     "classification": "counterfactual"}
"""

from dataclasses import dataclass
from typing import ClassVar

from rlstep.steps.readers.base import ReadReport, StepReader, problem_key
from rlstep.steps.readers.values import Field
from rlstep.steps.records import Solution

# The published evaluation takes the unmodified solutions, each once, from the rows of this class.
WITH_ORIGINAL = "redundency"
# What `Solution.extra` says of a solution: its class, for the unmodified ones this word.
CLASS, ORIGINAL = "classification", "original"


@dataclass(frozen=True)
class PrmBenchReader(StepReader):
    """The modified solution: wrong at `error_steps` (from 1), right everywhere else, even after the first wrong step.

    Rows of the class "redundency" (their spelling) also give the original solution, all of whose steps are right: the
    published evaluation takes it as the sample without an error. The other classes repeat the same originals.

    Redundant and circular steps count as wrong in this benchmark, and in "multi_solutions" no step is wrong. The data
    does not say whether a final answer is right. `extra` holds each solution's class.
    """

    names: ClassVar[tuple[str, ...]] = (
        "original_question",
        "original_process",
        "modified_question",
        "modified_process",
        "error_steps",
        "classification",
    )
    has_reference: ClassVar[bool] = False

    def solutions(self, row: Field, report: ReadReport) -> list[Solution]:
        kind = row["classification"].text()
        question, steps = row["modified_question"].text(), _steps(row["modified_process"])
        wrong = {step.index(len(steps) + 1, lowest=1) - 1 for step in row["error_steps"].items()}
        both = [(question, steps, [int(k not in wrong) for k in range(len(steps))], kind)]
        if kind == WITH_ORIGINAL:
            original = _steps(row["original_process"])
            both.append((row["original_question"].text(), original, [1] * len(original), ORIGINAL))
            report.seen["original solution"] += 1
        report.seen[f"classification: {kind}"] += 1
        return [self._solution(*one) for one in both]

    def _solution(self, question: str, steps: list[str], labels: list[int], kind: str) -> Solution:
        completion, spans = self.join(steps)
        key, extra = f"prmbench-{problem_key(question)}", {CLASS: kind}
        return Solution(key, self.prompt_of(question), completion, "", steps=spans, labels=labels, extra=extra)


def _steps(process: Field) -> list[str]:
    steps = list(process.texts())
    if not steps:
        raise process.fault("an empty list; a solution has at least one step.")
    return steps
