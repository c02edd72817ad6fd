"""The task `increasing` for chat models: the sequence is asked about in a user's message.

A problem and its solution::

    Are these numbers in increasing order: 3, 8, 12, 7? Compare each number with the one before it, one line each, then
    answer yes or no.

    3: yes
    8 > 3: yes
    12 > 8: yes
    7 > 12: no
    Answer: no

Checker, splits and the pupil of the demonstrations are those of `rlstep.tasks.increasing`.
"""

import re

from rlstep.steps.prompts import Prompt, problem_text
from rlstep.tasks.increasing import ANSWER, NUMBERS, Increasing

QUESTION = "Are these numbers in increasing order: "
REQUEST = "? Compare each number with the one before it, one line each, then answer yes or no."

_PROMPT = re.compile(rf"{re.escape(QUESTION)}(\d{{1,2}}(?:, \d{{1,2}})*){re.escape(REQUEST)}", re.ASCII)


class IncreasingWords(Increasing):
    """The task `increasing_words`. Splits: train, test, ood (9 to 12 numbers). Half of all sequences are increasing."""

    name = "increasing_words"

    def prompt_of(self, sequence: list[int]) -> Prompt:
        return [{"role": "user", "content": QUESTION + ", ".join(map(str, sequence)) + REQUEST}]

    def read_problem(self, prompt: Prompt) -> list[int]:
        match = _PROMPT.fullmatch(problem_text(prompt))
        if not match:
            raise ValueError(f"not a prompt of the task increasing_words: {problem_text(prompt)!r}")
        return [int(number) for number in match[1].split(", ")]

    def tokenizer(self):
        from rlstep.tasks.wordlevel import chat_tokenizer

        numbers = [str(number) for number in range(NUMBERS)]
        return chat_tokenizer([QUESTION, REQUEST, ANSWER, *numbers, ", ", " > ", ": ", "yes", "no"])
