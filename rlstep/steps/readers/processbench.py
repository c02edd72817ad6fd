"""`processbench`: where the first wrong step of a solution is (Zheng et al., 2412.06559).

A row: {"id": "gsm8k-0", "generator": "Qwen2-7B-Instruct", "problem": "How many legs have 2 ducks?",
"steps": ["A duck has 3 legs.", "2 * 3 = 6."], "final_answer_correct": false, "label": 0}
"""

from dataclasses import dataclass
from typing import ClassVar

from rlstep.steps.answers import extract
from rlstep.steps.readers.base import ReadReport, StepReader
from rlstep.steps.readers.values import Field
from rlstep.steps.records import Solution


@dataclass(frozen=True)
class ProcessBenchReader(StepReader):
    """`label` k is the first wrong step, from 0: right before it, unknown after it. -1 says that every step is right.

    The problem's id is the row's id, which begins with the name of the subset.
    """

    names: ClassVar[tuple[str, ...]] = ("id", "generator", "problem", "steps", "final_answer_correct", "label")
    has_reference: ClassVar[bool] = False

    def solutions(self, row: Field, report: ReadReport) -> list[Solution]:
        steps = list(row["steps"].texts())
        if not steps:
            raise row["steps"].fault("an empty list; a solution has at least one step.")
        wrong = row["label"].index(len(steps), lowest=-1)
        correct = row["final_answer_correct"].boolean()
        labels = [1] * len(steps) if wrong < 0 else [1] * wrong + [0] + [None] * (len(steps) - wrong - 1)
        completion, spans = self.join(steps)
        prompt = self.prompt_of(row["problem"].text())
        if not row.get("generator").is_null:
            report.seen[f"generator: {row['generator'].value}"] += 1
        return [
            Solution(
                row["id"].text(), prompt, completion, "",
                steps=spans, labels=labels, answer=extract(completion), correct=correct,
            )
        ]  # fmt: skip
