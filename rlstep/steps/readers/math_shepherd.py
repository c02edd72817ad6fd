"""`math_shepherd`: the automatically labelled steps of Math-Shepherd (Wang et al., 2312.08935).

A row: {"input": "How many legs have 2 ducks? Step 1: A duck has 2 legs. ки\\nStep 2: 2 * 2 = 4. The answer is: 4 ки",
"label": "How many legs have 2 ducks? Step 1: A duck has 2 legs. +\\nStep 2: 2 * 2 = 4. The answer is: 4 +",
"task": "GSM8K"}: `label` is `input` with a sign in place of every step tag.
"""

from dataclasses import dataclass
from typing import ClassVar

from rlstep.runtime.errors import UserError
from rlstep.steps.readers.base import ReadReport, StepReader, problem_key, split_question, stated_answer
from rlstep.steps.readers.values import Field
from rlstep.steps.records import Solution

SIGNS = {"+": 1, "-": 0}


@dataclass(frozen=True)
class MathShepherdReader(StepReader):
    """The tag is removed from the completion: the steps' spans say where a reward model scores.

    In versions with soft labels, `label` is a list of numbers, one per tag. A few published rows have a tag inside the
    question; it does not end a step, and its label is left out. Text after the last tag is a step of unknown label.

    `correct` is the label of a step that states the final answer: all of its rollouts end in this answer.

    Attributes:
        tag: the mark after every step.
        first_step: where the question ends and the solution begins, in either case.
    """

    names: ClassVar[tuple[str, ...]] = ("input", "label", "task")
    has_reference: ClassVar[bool] = False

    tag: str = "ки"
    first_step: str = "Step 1:"

    def __post_init__(self):
        super().__post_init__()
        for name in ("tag", "first_step"):
            if not getattr(self, name).strip():
                raise UserError(f"{name} is blank; it must be the text that the rows hold.")

    def solutions(self, row: Field, report: ReadReport) -> list[Solution]:
        tagged = row["input"]
        *parts, last = tagged.text().split(self.tag)
        if not parts:
            raise tagged.fault(f"no step tag '{self.tag}'; the option 'tag' names another.")
        labels = self._labels(row["label"], parts, last)
        if last.strip():
            parts, labels = [*parts, last], [*labels, None]
        question, steps, labels = self._steps(tagged, parts, labels, report)
        if not row.get("task").is_null:
            report.seen[f"task: {row['task'].value}"] += 1
        completion, spans = self.join(steps)
        key = f"math_shepherd-{problem_key(question)}"
        solution = Solution(key, self.prompt_of(question), completion, "", steps=spans, labels=labels)
        return [with_outcome(solution, steps[-1])]

    def _labels(self, label: Field, parts: list[str], last: str) -> list[float | None]:
        """The label after each part; a labelled text must agree with the input everywhere else."""
        if not isinstance(label.value, str):
            return label.labels(len(parts))
        rest, labels = label.text(), []
        for number, part in enumerate(parts, start=1):
            # Both texts are stripped, so they must agree from the first character on.
            if not rest.startswith(part) or (sign := rest[len(part) : len(part) + 1]) not in SIGNS:
                raise label.fault(f"differs from 'input' at step tag {number}; expected + or - there, and its text.")
            labels.append(SIGNS[sign])
            rest = rest[len(part) + 1 :]
        if rest.strip() != last.strip():
            raise label.fault("differs from 'input' after its last step tag.")
        return labels

    def _steps(
        self, tagged: Field, parts: list[str], labels: list[float | None], report: ReadReport
    ) -> tuple[str, list[str], list[float | None]]:
        """(question, step texts, their labels): the first step is in the same part as the question."""
        first = next((k for k, part in enumerate(parts) if self.first_step.lower() in part.lower()), 0)
        question, begin = split_question(tagged, "".join(parts[: first + 1]), self.first_step, report)
        if first:
            report.seen["tag inside the question"] += 1
        steps = [text.strip() for text in (begin, *parts[first + 1 :])]
        if "" in steps:
            raise tagged.fault(f"step {steps.index('') + 1} is blank.")
        return question, steps, labels[first:]


def with_outcome(solution: Solution, last_step: str) -> Solution:
    """Sets `answer` and `correct` if the last step states the final answer and is labelled right or wrong.

    With labels from rollouts, the last one is the label of the whole solution: there is nothing left to roll out.
    """
    solution.answer = stated_answer(last_step)
    if solution.answer is not None and solution.labels[-1] in (0, 1):
        solution.correct = solution.labels[-1] == 1
    return solution
