"""How many digits of a sequence are greater than the one before? Asked in a user's message, for chat models.

A problem and its solution::

    How many of these numbers are greater than the one before: 3, 8, 9, 5, 7? Compare each number with the one before
    it, one line each, then give the count.

    8 > 3: yes
    9 > 8: yes
    5 > 9: no
    7 > 5: yes
    Answer: 3

The digits are in no order, so a comparison is false as often as true: neither one word nor one count for everything
pays, as they do where it is asked whether a sequence increases (`rlstep.tasks.increasing_words`). They are digits, one
token each, as a chat model of 135 million parameters does not learn to compare longer numbers from a few hundred
solutions. The demonstrations are written by a pupil who mixes up digits that are close to each other; two slips of
opposite kinds give the right count.
"""

import random
import re

from rlstep.steps.boundaries import Boundary, line_steps
from rlstep.steps.prompts import Prompt, problem_text
from rlstep.steps.records import Problem, Solution
from rlstep.tasks.base import Check, check_draw
from rlstep.tasks.increasing import ANSWER, LARGEST, Comparer, belongs, greater

NUMBERS = 10
LENGTHS = {"train": (4, 8), "test": (4, 8), "ood": (9, 10)}
CLOSE = 2
SLIP_SHARE = 0.6
QUESTION = "How many of these numbers are greater than the one before: "
REQUEST = "? Compare each number with the one before it, one line each, then give the count."

_PROMPT = re.compile(rf"{re.escape(QUESTION)}(\d(?:, \d)+){re.escape(REQUEST)}", re.ASCII)
_STEP = re.compile(r"(\d) > (\d): (yes|no)\n*", re.ASCII)
_ANSWER = re.compile(r"Answer: (\d)\n*", re.ASCII)


def pupil(rng: random.Random) -> Comparer:
    """A comparer that mixes up digits at most `CLOSE` apart in a `SLIP_SHARE` of the cases, drawing from `rng`."""
    return lambda a, b: greater(a, b) != (abs(a - b) <= CLOSE and rng.random() < SLIP_SHARE)


class RisesWords:
    """The task `rises_words`. Splits: train, test, ood (9 or 10 numbers)."""

    name = "rises_words"
    splits = tuple(LENGTHS)
    boundary = Boundary("line")

    def problems(self, split: str, n: int, seed: int) -> list[Problem]:
        check_draw(self.name, split, LENGTHS, n, LARGEST)
        rng = random.Random(f"{self.name} {split} {seed}")
        sequences: dict[tuple[int, ...], None] = {}
        while len(sequences) < n:
            sequence = rng.sample(range(NUMBERS), rng.randint(*LENGTHS[split]))
            if belongs(sequence, split):
                sequences.setdefault(tuple(sequence))
        return [
            Problem(f"{self.name}-{split}-{seed}-{i}", prompt_of(sequence), str(rises(sequence, greater)))
            for i, sequence in enumerate(map(list, sequences))
        ]

    def demonstrations(self, n: int, seed: int) -> list[Solution]:
        """n solutions of training sequences as the pupil writes them, including wrong steps."""
        comparer = pupil(random.Random(f"{self.name} demonstrations {seed}"))
        return [
            Solution(p.id, p.prompt, write_solution(read_problem(p.prompt), comparer), p.reference)
            for p in self.problems("train", n, seed)
        ]

    def check(self, prompt: Prompt, completion: str, reference: str) -> Check:
        """A line is right when it compares the sequence's next two numbers, truly; the answer when it counts the lines.

        The answer line is checked against the lines before it, so that each step has its own label; whether the
        answer itself is right is `correct`. Other lines, and lines after the answer, are wrong.
        """
        sequence = read_problem(prompt)
        pairs = list(zip(sequence[1:], sequence, strict=False))
        spans = line_steps(completion)
        labels, answer, done, count = [], None, 0, 0
        for begin, end in spans:
            line = completion[begin:end]
            label = 0
            if answer is None and (step := _STEP.fullmatch(line)):
                said = step[3] == "yes"
                asked = done < len(pairs) and (step[1], step[2]) == tuple(map(str, pairs[done]))
                label = int(asked and said == greater(*pairs[done]))
                count, done = count + said, done + 1
            elif answer is None and (final := _ANSWER.fullmatch(line)):
                answer = final[1]
                label = int(done == len(pairs) and answer == str(count))
            labels.append(label)
        return Check(spans, labels, answer, answer == reference)

    def tokenizer(self):
        from rlstep.tasks.wordlevel import chat_tokenizer

        numbers = [str(number) for number in range(NUMBERS)]
        return chat_tokenizer([QUESTION, REQUEST, ANSWER, *numbers, ", ", " > ", ": ", "yes", "no"])


def prompt_of(sequence: list[int]) -> Prompt:
    return [{"role": "user", "content": QUESTION + ", ".join(map(str, sequence)) + REQUEST}]


def read_problem(prompt: Prompt) -> list[int]:
    """The sequence of a prompt of this task.

    Raises:
        ValueError: the text is not such a prompt.
    """
    match = _PROMPT.fullmatch(problem_text(prompt))
    if not match:
        raise ValueError(f"not a prompt of the task rises_words: {problem_text(prompt)!r}")
    return [int(number) for number in match[1].split(", ")]


def rises(sequence: list[int], comparer: Comparer) -> int:
    """How many numbers are greater than the one before, by `comparer(a, b) -> a > b`."""
    return sum(comparer(b, a) for a, b in zip(sequence, sequence[1:], strict=False))


def write_solution(sequence: list[int], comparer: Comparer) -> str:
    """The sequence worked through by `comparer`, one comparison per line."""
    verdicts = [comparer(b, a) for a, b in zip(sequence, sequence[1:], strict=False)]
    lines = [
        f"{b} > {a}: {'yes' if verdict else 'no'}"
        for a, b, verdict in zip(sequence, sequence[1:], verdicts, strict=False)
    ]
    return "\n".join([*lines, f"{ANSWER}{sum(verdicts)}"])
