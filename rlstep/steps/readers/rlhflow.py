"""`rlhflow`: the conversations of RLHFlow's Mistral- and Deepseek-PRM-Data.

A row: {"conversations": [{"role": "user", "content": "How many legs have 2 ducks? Step 1: A duck has 2 legs."},
{"role": "assistant", "content": "+"}, {"role": "user", "content": "Step 2: 2 * 2 = 5. The answer is: 5"},
{"role": "assistant", "content": "-"}]}
"""

from dataclasses import dataclass
from typing import ClassVar

from rlstep.runtime.counted import counted
from rlstep.runtime.errors import UserError
from rlstep.steps.readers.base import ReadReport, StepReader, problem_key, split_question
from rlstep.steps.readers.math_shepherd import SIGNS, with_outcome
from rlstep.steps.readers.values import Field
from rlstep.steps.records import Solution


@dataclass(frozen=True)
class RlhflowReader(StepReader):
    """A user's turn is a step, the assistant's answer its label; the first turn begins with the question.

    In some rows (most of Deepseek-PRM-Data), the first step does not begin with `first_step`, so it cannot be separated
    from the question: it then stays in the prompt, its label is left out, and the row is counted.

    `correct` is the label of a step that states the final answer, as in Math-Shepherd's rows.

    Attributes:
        first_step: where the question ends and the solution begins within the first turn, in either case.
    """

    names: ClassVar[tuple[str, ...]] = ("conversations",)
    has_reference: ClassVar[bool] = False

    first_step: str = "Step 1:"

    def __post_init__(self):
        super().__post_init__()
        if not self.first_step.strip():
            raise UserError("first_step is blank; it must be the text that the rows hold.")

    def solutions(self, row: Field, report: ReadReport) -> list[Solution]:
        turns = row["conversations"].items()
        if not turns or len(turns) % 2:
            raise row["conversations"].fault(
                f"{counted(len(turns), 'turn')}; expected pairs of a user and an assistant."
            )
        for turn, role in zip(turns, ("user", "assistant") * (len(turns) // 2), strict=True):
            if turn["role"].value != role:
                raise turn["role"].expected(f"'{role}'")
        texts = [turn["content"].text() for turn in turns[::2]]
        labels = [_sign(turn["content"]) for turn in turns[1::2]]
        if self.first_step.lower() in texts[0].lower():
            question, texts[0] = split_question(turns[0]["content"], texts[0], self.first_step, report)
            steps = texts
        else:
            question, *steps = texts
            labels = labels[1:]
            report.seen["first step not separable from the question, its label left out"] += 1
        if not steps:
            report.dropped["no step after the question"] += 1
            return []
        completion, spans = self.join(steps)
        key = f"rlhflow-{problem_key(question)}"
        solution = Solution(key, self.prompt_of(question), completion, "", steps=spans, labels=labels)
        return [with_outcome(solution, steps[-1])]


def _sign(content: Field) -> int:
    if content.text() not in SIGNS:
        raise content.expected("'+' or '-'")
    return SIGNS[content.text()]
