"""Chains of operations on a clock of twenty hours, one step per line, with an exact checker of every step.

A problem and its solution::

    Left to right, mod 20: 7 + 3 * 7 max 8 - 5
    7 + 3 = 10
    10 * 7 = 10
    10 max 8 = 10
    10 - 5 = 5
    Answer: 5

Two hundred and twenty facts (20 hours, 11 operations) are all there is to know, so that a model of a few hundred
thousand parameters learns the rules, and a checker is exact. The demonstrations are written by a pupil with *buggy
rules*, the systematic misconceptions that studies of children's arithmetic describe, not by noise:

- adding past the end of the clock, the pupil stops at the last hour (17 + 7 = 19);
- subtracting more than there is, the pupil takes the smaller from the larger (2 - 5 = 3);
- multiplying past the end, the pupil slips to the neighbouring row of the table (6 * 7 as 5 * 7);
- taking the maximum of a late hour and 8, or the minimum of an early hour and 12, the pupil writes the second number.

About a third of the facts are touched, and there the buggy result is written 60% of the time. A model that imitates
the pupil is therefore wrong *in the majority* on most chains: voting repeats the misconception, right answers often
rest on wrong steps (a later maximum hides them), and a sampled chain is right only now and then.

`arithmetic_short` has chains of 5 to 8 operations instead of 8 to 12. Of its sampled solutions with the right answer
about a fifth have a wrong step, not half, so that the answer says more about the steps: an ORM has something to learn.
The pupil of `arithmetic_easy`, whose chains are as short, has the first two misconceptions alone: most of what it
writes is right, and wrong answers are worth looking for.
"""

import hashlib
import random
import re

from rlstep.steps.boundaries import Boundary, line_steps
from rlstep.steps.records import Problem, Solution
from rlstep.tasks.base import Check

HOURS = 20
OPERATIONS: tuple[tuple[str, int], ...] = (
    ("+", 1), ("+", 3), ("+", 7), ("+", 9),
    ("-", 2), ("-", 5), ("-", 6),
    ("*", 3), ("*", 7),
    ("max", 8), ("min", 12),
)  # fmt: skip
# Fewest and most operations of a chain, by split.
LENGTHS = {"train": (8, 12), "test": (8, 12), "ood_long": (13, 16), "ood_mix": (8, 12)}
SHORT_LENGTHS = {"train": (5, 8), "test": (5, 8), "ood_long": (9, 12), "ood_mix": (5, 8)}
HEADER = "Left to right, mod 20: "
ANSWER = "Answer: "
BUGGY_SHARE = 0.6

_STEP = re.compile(r"(\d{1,2}) (\+|-|\*|max|min) (\d{1,2}) = (\d{1,2})\n*", re.ASCII)
_ANSWER = re.compile(r"Answer: (\d{1,2})\n*", re.ASCII)


def right(a: int, operator: str, b: int) -> int:
    """The result of one operation on the clock."""
    results = {"+": a + b, "-": a - b, "*": a * b, "max": max(a, b), "min": min(a, b)}
    return results[operator] % HOURS


def buggy(a: int, operator: str, b: int) -> int:
    """What the pupil's rule gives; equal to `right` where no misconception applies."""
    if operator == "+" and a + b >= HOURS:
        return HOURS - 1
    if operator == "-" and a < b:
        return b - a
    if operator == "*" and a * b >= HOURS:
        return (a - 1) * b % HOURS
    if (operator == "max" and a >= 15) or (operator == "min" and a < 5):
        return b
    return right(a, operator, b)


def _split_of(operations: list[tuple[str, int]], start: int) -> str:
    """Which of train and test a chain belongs to: a property of the chain, so no seed can make the two overlap."""
    text = f"{start} {operations}"
    return "test" if hashlib.sha256(text.encode()).digest()[0] < 64 else "train"


def _steady(operation: tuple[str, int]) -> bool:
    return operation[0] in "+-"


class Arithmetic:
    """The task `arithmetic`. Splits: train, test, ood_long (13 to 16 operations), ood_mix (no + and no -, which no
    training chain does without)."""

    name = "arithmetic"
    lengths = LENGTHS
    misconceptions = ("+", "-", "*", "max", "min")  # the operators of the pupil's buggy rules
    splits = tuple(LENGTHS)
    boundary = Boundary("line")

    def problems(self, split: str, n: int, seed: int) -> list[Problem]:
        if split not in self.lengths:
            raise ValueError(f"no split '{split}'; there are {', '.join(self.lengths)}")
        rng = random.Random(f"{split} {seed}")
        problems: dict[str, Problem] = {}
        while len(problems) < n:
            start, operations = _chain(rng, split, self.lengths[split])
            prompt = HEADER + " ".join([str(start), *(f"{op} {b}" for op, b in operations)]) + "\n"
            if prompt not in problems:
                reference = str(_trace(start, operations, right)[-1])
                problems[prompt] = Problem(f"{self.name}-{split}-{seed}-{len(problems)}", prompt, reference)
        return list(problems.values())

    def demonstrations(self, n: int, seed: int) -> list[Solution]:
        """n solutions of training chains as the pupil writes them, including wrong steps."""
        rng = random.Random(f"demonstrations {seed}")

        def pupil(a: int, operator: str, b: int) -> int:
            mistaken = rng.random() < BUGGY_SHARE and operator in self.misconceptions
            return buggy(a, operator, b) if mistaken else right(a, operator, b)

        return [
            Solution(p.id, p.prompt, write_solution(*read_problem(p.prompt), pupil), p.reference)
            for p in self.problems("train", n, seed)
        ]

    def check(self, prompt: str, completion: str, reference: str) -> Check:
        """A line is right when it does the chain's next operation on the number the solution has, with its true result.

        After a wrong result the next line is checked on the number it was given: each step has its own label, and a
        solution is clean when all are right. Lines that are not a step of this chain, or follow the answer, are wrong.
        """
        start, operations = read_problem(prompt)
        spans = line_steps(completion)
        labels, answer, value, done = [], None, start, 0
        for begin, end in spans:
            line = completion[begin:end]
            label = 0
            if answer is None and (step := _STEP.fullmatch(line)):
                a, operator, b, c = int(step[1]), step[2], int(step[3]), int(step[4])
                expected = done < len(operations) and (value, *operations[done]) == (a, operator, b)
                label = int(expected and c == right(a, operator, b))
                value, done = c, done + 1
            elif answer is None and (final := _ANSWER.fullmatch(line)):
                answer = final[1]
                label = int(done == len(operations) and int(answer) == value)
            labels.append(label)
        correct = answer is not None and int(answer) == int(reference)
        return Check(spans, labels, answer, correct)

    def tokenizer(self):
        from rlstep.tasks.wordlevel import word_level_tokenizer

        numbers = [str(number) for number in range(HOURS)]
        operations = [f" {operator} {b}" for operator, b in OPERATIONS]
        # A step is three tokens, "7", " + 3 = " and "10\n": fewer to sample, and the one that decides the result also
        # ends the step.
        results = [f"{number}\n" for number in numbers]
        equations = [f"{operation} = " for operation in operations]
        return word_level_tokenizer([HEADER, ANSWER, *numbers, *results, *operations, *equations, "\n"])


class ArithmeticShort(Arithmetic):
    """The task `arithmetic_short`: chains of 5 to 8 operations; ood_long has 9 to 12."""

    name = "arithmetic_short"
    lengths = SHORT_LENGTHS


class ArithmeticEasy(ArithmeticShort):
    """The task `arithmetic_easy`: the chains of `arithmetic_short`, by a pupil who errs in + and - alone."""

    name = "arithmetic_easy"
    misconceptions = ("+", "-")


def _chain(rng: random.Random, split: str, lengths: tuple[int, int]) -> tuple[int, list[tuple[str, int]]]:
    low, high = lengths
    while True:
        start = rng.randrange(HOURS)
        choices = [op for op in OPERATIONS if not _steady(op)] if split == "ood_mix" else OPERATIONS
        operations = [rng.choice(choices) for _ in range(rng.randint(low, high))]
        if split not in ("train", "test"):
            return start, operations
        if any(_steady(op) for op in operations) and _split_of(operations, start) == split:
            return start, operations


def _trace(start: int, operations: list[tuple[str, int]], solver) -> list[int]:
    """The numbers a solver passes through, the start first."""
    values = [start]
    for operator, b in operations:
        values.append(solver(values[-1], operator, b))
    return values


def read_problem(prompt: str) -> tuple[int, list[tuple[str, int]]]:
    """(start, operations) of a prompt of this task.

    Raises:
        ValueError: the text is not such a prompt.
    """
    words = prompt.removeprefix(HEADER).split()
    try:
        if not prompt.startswith(HEADER) or len(words) % 2 == 0:
            raise ValueError
        return int(words[0]), [(words[i], int(words[i + 1])) for i in range(1, len(words), 2)]
    except ValueError:
        raise ValueError(f"not a prompt of the task arithmetic: {prompt!r}") from None


def write_solution(start: int, operations: list[tuple[str, int]], solver) -> str:
    """The chain worked through by `solver(a, operator, b) -> c`, one step per line."""
    values = _trace(start, operations, solver)
    lines = [f"{a} {op} {b} = {c}" for a, (op, b), c in zip(values, operations, values[1:], strict=False)]
    return "\n".join([*lines, f"{ANSWER}{values[-1]}"])
