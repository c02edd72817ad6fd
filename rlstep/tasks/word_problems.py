"""Short word problems of two to four arithmetic steps, for chat models; every calculation is checked exactly.

A problem is one user's message::

    Mia has 3 bags with 4 apples in each. Then Mia finds 5 more. Then Mia gives half of them away. How many apples does
    Mia have now?

and a solution has one calculation per line, in its own words, and the answer in the last one::

    Mia has 3 * 4 = 12 apples.
    With the new ones there are 12 + 6 = 18 apples.
    Half of them is 18 / 2 = 9 apples.
    Answer: 9

The checker reads the story and knows which calculations it asks for (`rlstep.tasks.stories`). Above, the second line is
wrong: its arithmetic is true, but it adds a number that the story does not have. The third is right again.
"""

import hashlib
import random
import re

from rlstep.steps.boundaries import Boundary, line_steps
from rlstep.steps.prompts import Prompt, problem_text
from rlstep.steps.records import Problem, Solution
from rlstep.tasks.base import Check, check_draw
from rlstep.tasks.stories import NAMES, SENTENCES, THINGS, Operation, calculate, draw_story, read_story, results_of

STEPS = {"train": (2, 4), "test": (2, 4), "ood": (5, 6)}
LARGEST = 50_000
ANSWER = "Answer: "

_EQUATION = re.compile(r"(\d{1,6}) ([-+*/]) (\d{1,6}) = (\d{1,6})", re.ASCII)
_ANSWER = re.compile(r"Answer: (\d{1,6})\.?\n*", re.ASCII)


class WordProblems:
    """The task `word_problems`. Splits: train and test (2 to 4 calculations, evenly), ood (5 or 6)."""

    name = "word_problems"
    splits = tuple(STEPS)
    boundary = Boundary("line")

    def problems(self, split: str, n: int, seed: int) -> list[Problem]:
        check_draw(self.name, split, STEPS, n, LARGEST)
        rng = random.Random(f"{split} {seed}")
        low, high = STEPS[split]
        stories: dict[str, None] = {}
        while len(stories) < n:
            story = draw_story(rng, steps=low + len(stories) % (high - low + 1))
            if _belongs(story, split):
                stories.setdefault(story)
        drawn = list(stories)
        rng.shuffle(drawn)
        return [
            Problem(f"word_problems-{split}-{seed}-{i}", [{"role": "user", "content": story}], _answer(story))
            for i, story in enumerate(drawn)
        ]

    def demonstrations(self, n: int, seed: int) -> list[Solution]:
        """n solutions of training problems, all of them right."""
        return [
            Solution(p.id, p.prompt, write_solution(read_story(problem_text(p.prompt))), p.reference)
            for p in self.problems("train", n, seed)
        ]

    def check(self, prompt: Prompt, completion: str, reference: str) -> Check:
        """A line is right when its one calculation is due, on the numbers that the solution has, and its result true.

        A calculation is due once those whose results it needs are done: independent ones may come in either order, and
        so may the operands of + and *. After a wrong result the next line is judged on the number it was given; a
        calculation that nobody asked for takes the place of the first one that is due. The words around it are free.
        The answer line is right when it says what the last calculation gave, and none is left out.

        Lines without a calculation, with two, or after the answer are wrong, and so is another way to the same answer:
        the story's own is what the demonstrations show.
        """
        done = _Done(read_story(problem_text(prompt)))
        spans = line_steps(completion)
        labels, answer = [], None
        for begin, end in spans:
            line = completion[begin:end]
            label = 0
            if answer is None and (final := _ANSWER.fullmatch(line)):
                answer = final[1]
                label = int(done.gives(int(answer)))
            elif answer is None and (calculation := _only_calculation(line)):
                label = int(done.takes(*calculation))
            labels.append(label)
        return Check(spans, labels, answer, answer is not None and int(answer) == int(reference))

    def tokenizer(self):
        from rlstep.tasks.wordlevel import chat_tokenizer

        texts = [text for sentence in SENTENCES for text in (sentence.text, *sentence.lines)]
        words = [word for text in texts for word in re.findall(r" ?[A-Za-z]+", re.sub(r"\{\w+\}", "0", text))]
        filled = [f"{space}{word}" for word in (*NAMES, *THINGS) for space in ("", " ")]
        signs = [f" {sign} " for sign in "+-*/="]
        return chat_tokenizer(sorted({*words, *filled, *signs, *map(str, range(10)), ANSWER}))


class _Done:
    """How far a solution has come in a story's calculations."""

    def __init__(self, operations: list[Operation]):
        self.operations = operations
        self.results: dict[int, int] = {}

    def takes(self, a: int, operator: str, b: int, c: int) -> bool:
        """Takes in the solution's next calculation, `a operator b = c`; whether it is due, and true."""
        due = {
            index: operands
            for index, operation in enumerate(self.operations)
            if index not in self.results and (operands := operation.operands(self.results))
        }
        ways = [(a, b), (b, a)] if operator in "+*" else [(a, b)]
        asked = [i for i, operands in due.items() if operator == self.operations[i].operator and operands in ways]
        for index in (asked or list(due))[:1]:
            self.results[index] = c
        return bool(asked) and c == calculate(a, operator, b)

    def gives(self, answer: int) -> bool:
        """Whether nothing is left to do, and the last calculation gave `answer`."""
        last = len(self.operations) - 1
        return len(self.results) == len(self.operations) and self.results[last] == answer


def write_solution(operations: list[Operation]) -> str:
    """The right solution of a story, one calculation per line."""
    results = dict(enumerate(results_of(operations)))
    lines = []
    for index, operation in enumerate(operations):
        a, b = operation.operands(results)
        lines.append(operation.line.replace("{equation}", f"{a} {operation.operator} {b} = {results[index]}"))
    return "\n".join([*lines, f"{ANSWER}{results[len(operations) - 1]}"])


def _answer(story: str) -> str:
    return str(results_of(read_story(story))[-1])


def _only_calculation(line: str) -> tuple[int, str, int, int] | None:
    """The calculation in a line that has one, and no other number or equals sign."""
    match = _EQUATION.search(line)
    if not match or re.search(r"[\d=]", line[: match.start()] + line[match.end() :]):
        return None
    return int(match[1]), match[2], int(match[3]), int(match[4])


def _belongs(story: str, split: str) -> bool:
    """Whether a story is of the split: a property of its text, so no seed can make train and test overlap."""
    if split not in ("train", "test"):
        return True
    is_test = hashlib.sha256(story.encode()).digest()[0] < 64
    return is_test == (split == "test")
