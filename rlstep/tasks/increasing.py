"""Is a sequence of numbers increasing? The worked example: one comparison per step, then the answer.

A problem and its solution::

    Increasing? 3 8 12 7
    3: yes
    8 > 3: yes
    12 > 8: yes
    7 > 12: no
    Answer: no

Process supervision gives every step its own label; outcome supervision gives one for the answer. A first number has
nothing before it to be greater than, so `yes` is always right for it.

The demonstrations are written by a pupil with a misconception about place value: where two numbers lie on different
sides of ten, the pupil looks at their units alone and finds that 12 is not greater than 8. About a quarter of all pairs
come out wrong that way, always the same ones, and on those the pupil slips 60% of the time. Two wrongs can make a
right here: a sequence with a second descent is answered `no` even when the first was missed.
"""

import hashlib
import random
import re
from collections.abc import Callable

from rlstep.steps.boundaries import Boundary, line_steps
from rlstep.steps.prompts import Prompt
from rlstep.steps.records import Problem, Solution
from rlstep.tasks.base import Check, check_draw

NUMBERS = 20
LENGTHS = {"train": (4, 8), "test": (4, 8), "ood": (9, 12)}
LARGEST = 50_000
HEADER = "Increasing? "
ANSWER = "Answer: "
SLIP_SHARE = 0.6

_STEP = re.compile(r"(?:(\d{1,2})|(\d{1,2}) > (\d{1,2})): (yes|no)\n*", re.ASCII)
_ANSWER = re.compile(r"Answer: (yes|no)\n*")
_WORD = {True: "yes", False: "no"}

Comparer = Callable[[int, int], bool]


def greater(a: int, b: int) -> bool:
    return a > b


def greater_units(a: int, b: int) -> bool:
    """The pupil's rule for `a > b`: on different sides of ten, compare the units alone."""
    return a > b if (a < 10) == (b < 10) else a % 10 > b % 10


def pupil(rng: random.Random) -> Comparer:
    """A comparer that follows the misconception now and then, drawing from `rng`."""
    return lambda a, b: (greater_units if rng.random() < SLIP_SHARE else greater)(a, b)


class Increasing:
    """The task `increasing`. Splits: train, test, ood (9 to 12 numbers). Half of all sequences are increasing."""

    name = "increasing"
    splits = tuple(LENGTHS)
    boundary = Boundary("line")

    def problems(self, split: str, n: int, seed: int) -> list[Problem]:
        check_draw(self.name, split, LENGTHS, n, LARGEST)
        rng = random.Random(f"{split} {seed}")
        sequences: dict[tuple[int, ...], bool] = {}
        while len(sequences) < n:
            rises = len(sequences) % 2 == 0
            sequence = draw(rng, rng.randint(*LENGTHS[split]), rises)
            if belongs(sequence, split):
                sequences.setdefault(tuple(sequence), rises)
        drawn = list(sequences.items())
        rng.shuffle(drawn)
        return [
            Problem(f"{self.name}-{split}-{seed}-{i}", self.prompt_of(list(sequence)), _WORD[rises])
            for i, (sequence, rises) in enumerate(drawn)
        ]

    def demonstrations(self, n: int, seed: int) -> list[Solution]:
        """n solutions of training sequences as the pupil writes them, including wrong steps."""
        comparer = pupil(random.Random(f"demonstrations {seed}"))
        return [
            Solution(p.id, p.prompt, write_solution(self.read_problem(p.prompt), comparer), p.reference)
            for p in self.problems("train", n, seed)
        ]

    def prompt_of(self, sequence: list[int]) -> Prompt:
        return prompt_of(sequence)

    def read_problem(self, prompt: Prompt) -> list[int]:
        """The sequence of a prompt of this task; ValueError if it is not one."""
        return read_problem(prompt)

    def check(self, prompt: Prompt, completion: str, reference: str) -> Check:
        """A line is right when it compares the sequence's next two numbers, truly; the answer when it follows.

        The answer line is checked against the lines before it, so that each step has its own label; whether the
        answer itself is right is `correct`. Other lines, and lines after the answer, are wrong.
        """
        sequence = self.read_problem(prompt)
        spans = line_steps(completion)
        labels, answer, done, rises = [], None, 0, True
        for begin, end in spans:
            line = completion[begin:end]
            label = 0
            if answer is None and (step := _STEP.fullmatch(line)):
                said = step[4] == "yes"
                label = int(
                    done < len(sequence) and _numbers_match(step, sequence, done) and said == _truth(sequence, done)
                )
                rises, done = rises and said, done + 1
            elif answer is None and (final := _ANSWER.fullmatch(line)):
                answer = final[1]
                label = int(done == len(sequence) and answer == _WORD[rises])
            labels.append(label)
        return Check(spans, labels, answer, answer == reference)

    def tokenizer(self):
        from rlstep.tasks.wordlevel import word_level_tokenizer

        numbers = [str(number) for number in range(NUMBERS)]
        return word_level_tokenizer([HEADER, ANSWER, *numbers, " > ", ": ", "yes", "no", " ", "\n"])


def draw(rng: random.Random, length: int, rises: bool) -> list[int]:
    """A random increasing sequence of 2 to 20 numbers, or one that fails to increase in one place or two.

    One that fails is an increasing one with neighbours swapped or a number repeated, so that it is no easier to tell
    than a right one.
    """
    sequence = sorted(rng.sample(range(NUMBERS), length))
    if rises:
        return sequence
    for _ in range(rng.randint(1, 2)):
        i = rng.randrange(1, length)
        if rng.random() < 0.8:
            sequence[i - 1], sequence[i] = sequence[i], sequence[i - 1]
        else:
            sequence[i] = sequence[i - 1]
    return sequence if not is_increasing(sequence) else draw(rng, length, rises)


def is_increasing(sequence: list[int]) -> bool:
    return all(_truth(sequence, i) for i in range(len(sequence)))


def prompt_of(sequence: list[int]) -> str:
    return HEADER + " ".join(map(str, sequence)) + "\n"


def read_problem(prompt: str) -> list[int]:
    """The sequence of a prompt of this task.

    Raises:
        ValueError: the text is not such a prompt.
    """
    words = prompt.removeprefix(HEADER).split()
    if not prompt.startswith(HEADER) or not words or not all(word.isdecimal() for word in words):
        raise ValueError(f"not a prompt of the task increasing: {prompt!r}")
    return [int(word) for word in words]


def write_solution(sequence: list[int], comparer: Comparer) -> str:
    """The sequence worked through by `comparer(a, b) -> a > b`, one step per line."""
    verdicts = [True, *(comparer(b, a) for a, b in zip(sequence, sequence[1:], strict=False))]
    shown = [str(sequence[0]), *(f"{b} > {a}" for a, b in zip(sequence, sequence[1:], strict=False))]
    lines = [f"{text}: {_WORD[verdict]}" for text, verdict in zip(shown, verdicts, strict=True)]
    return "\n".join([*lines, f"{ANSWER}{_WORD[all(verdicts)]}"])


def _truth(sequence: list[int], i: int) -> bool:
    return i == 0 or sequence[i] > sequence[i - 1]


def _numbers_match(step: re.Match, sequence: list[int], i: int) -> bool:
    """Whether a step's numbers are those of position i."""
    if i == 0:
        return step[1] == str(sequence[0])
    return (step[2], step[3]) == (str(sequence[i]), str(sequence[i - 1]))


def belongs(sequence: list[int], split: str) -> bool:
    """Whether a sequence is of the split: a property of its text, so no seed can make train and test overlap."""
    if split not in ("train", "test"):
        return True
    is_test = hashlib.sha256(str(sequence).encode()).digest()[0] < 64
    return is_test == (split == "test")
