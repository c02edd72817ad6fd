"""GSM8K, grade-school word problems (Cobbe et al. 2021): real text, with a checker of each step's arithmetic.

A published solution, one step per line::

    Janet sells 16 - 3 - 4 = <<16-3-4=9>>9 duck eggs a day.
    She makes 9 * 2 = $<<9*2=18>>18 every day at the farmer's market.
    #### 18

The checker checks what the calculator annotations `<<expression=value>>` state, exactly (`rlstep.tasks.calculator`). It
does not read the words: a step that calculates correctly what was not asked for is right to it, and a step without an
annotation gets no label.
"""

from rlstep.steps.answers import reference_fault, same_answer
from rlstep.steps.extraction import stated
from rlstep.tasks.base import Check
from rlstep.tasks.calculator import annotations_hold
from rlstep.tasks.published import PublishedTask


class GSM8K(PublishedTask):
    """The task `gsm8k`. Splits: train, test."""

    name = "gsm8k"
    hub_id = "openai/gsm8k"
    hub_config = "main"

    def check(self, prompt: str, completion: str, reference: str) -> Check:
        """A step that states an answer is right when the answer is; any other by its annotations.

        Raises:
            ValueError: the reference is a whole solution.
        """
        if fault := reference_fault(reference):
            raise ValueError(fault)
        spans = self.boundary.split(completion)
        final = stated(completion)
        correct = final is not None and same_answer(final.answer, reference)
        labels = [_label(completion[start:end], reference) for start, end in spans]
        if final is not None:
            k = next(k for k, (_, end) in enumerate(spans) if end >= final.end)
            labels[k] = int(correct and annotations_hold(completion[slice(*spans[k])]) is not False)
        return Check(spans, labels, final.answer if final else None, correct)


def _label(step: str, reference: str) -> int | None:
    holds, answer = annotations_hold(step), stated(step, sentences=False)
    if answer is not None:
        return int(holds is not False and same_answer(answer.answer, reference))
    return None if holds is None else int(holds)
