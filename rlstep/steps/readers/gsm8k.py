"""`gsm8k`: the published problems of GSM8K, each with its reference solution.

A row: {"question": "How many legs have 2 ducks?", "answer": "They have 2*2=<<2*2=4>>4 legs.\\n#### 4"}
"""

from dataclasses import dataclass
from typing import ClassVar

from rlstep.steps.readers.base import PROBLEM, Reader, ReadReport
from rlstep.steps.readers.values import Field
from rlstep.steps.records import Solution
from rlstep.steps.sources import stem

GSM8K_PROMPT = "Question: {question}\nAnswer:\n"
GSM8K_ANSWER = "####"


@dataclass(frozen=True)
class Gsm8kReader(Reader):
    """Problems are numbered: a row's id is `gsm8k-FILE-ROW`.

    The socratic edition (`train_socratic.jsonl`), in the same folder as the main one, has a question in every step.
    """

    names: ClassVar[tuple[str, ...]] = ("question", "answer")
    editions: ClassVar[tuple[str, ...]] = ("socratic",)

    prompt: str = GSM8K_PROMPT.replace("{question}", PROBLEM)

    def solutions(self, row: Field, report: ReadReport) -> list[Solution]:
        question, answer = row["question"].text(), row["answer"]
        _, mark, reference = answer.text().rpartition(GSM8K_ANSWER)
        if not mark or not reference.strip():
            raise answer.fault(f"no final answer; expected a last line '{GSM8K_ANSWER} number'.")
        key = f"gsm8k-{stem(row.row.source)}-{row.row.number}"
        return [Solution(key, self.prompt_of(question), answer.value.rstrip(), reference.strip())]
