"""`versaprm`: labelled solutions in 14 domains (Zeng et al., 2502.06737), MMLU-Pro-CoT-Train-Labeled.

A row, cut down to what is read; its lists are texts, as Python writes them::

    {"id": "70", "cot_id": 3, "category": "law", "question": "Which is a tort? A. Theft B. Nuisance", "answer": "B",
     "chain_of_thoughts": "['Theft is a crime.', 'So a tort is theft. The answer is (A).']", "labels": "[1, -1]",
     "parsed_answer": "A", "parsed_answer_correctness": false}
"""

import ast
from dataclasses import dataclass
from typing import ClassVar

from rlstep.runtime.counted import counted
from rlstep.steps.readers.base import ReadReport, StepReader, problem_key
from rlstep.steps.readers.values import Field
from rlstep.steps.records import Solution

LABELS = {1: 1, -1: 0}


@dataclass(frozen=True)
class VersaPrmReader(StepReader):
    """A label is 1 for right and -1 for wrong; after the first wrong step it is unknown, as its labeller stopped there.

    The category is counted, and kept in `Solution.extra`.
    """

    names: ClassVar[tuple[str, ...]] = (
        "id", "category", "question", "answer", "chain_of_thoughts", "labels", "parsed_answer",
        "parsed_answer_correctness",
    )  # fmt: skip

    def solutions(self, row: Field, report: ReadReport) -> list[Solution]:
        question, category = row["question"].text(), row.get("category")
        steps = list(_listed(row["chain_of_thoughts"]).texts())
        labels = [_label(item) for item in _listed(row["labels"]).items()]
        if len(labels) != len(steps):
            raise row["labels"].fault(f"{counted(len(labels), 'label')} for {counted(len(steps), 'step')}.")
        if not steps:
            report.dropped["no step"] += 1
            return []
        if 0 in labels:
            first = labels.index(0) + 1
            labels[first:] = [None] * (len(labels) - first)
        if not category.is_null:
            report.seen[f"category: {category.value}"] += 1
        reference, answer, correct = (
            row.get(name) for name in ("answer", "parsed_answer", "parsed_answer_correctness")
        )
        completion, spans = self.join(steps)
        return [
            Solution(
                f"versaprm-{problem_key(question)}", self.prompt_of(question), completion,
                "" if reference.is_null else reference.text(),
                steps=spans, labels=labels,
                answer=None if answer.is_null else answer.text(),
                correct=None if correct.is_null else correct.boolean(),
                extra={} if category.is_null else {"category": category.text()},
            )
        ]  # fmt: skip


def _listed(field: Field) -> Field:
    """A list, or the literal of one in a text: literals alone are read, and nothing is run."""
    if not isinstance(field.value, str):
        return field
    try:
        return Field(field.row, field.name, ast.literal_eval(field.value.strip()))
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        raise field.expected("a list, or a text with a list as Python writes it") from None


def _label(field: Field) -> int:
    if isinstance(field.value, bool) or field.value not in LABELS:
        raise field.expected("1 or -1")
    return LABELS[field.value]
