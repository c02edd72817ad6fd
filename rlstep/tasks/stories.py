"""Stories for word problems: a table of sentences, each with the calculations that it asks for.

Stories are drawn from the table and read back by it, so that a checker knows which calculations a story wants.
"""

import random
import re
from collections.abc import Mapping
from dataclasses import dataclass

NAMES = ("Anna", "Ben", "Clara", "David", "Emma", "Jack", "Lily", "Mia", "Noah", "Sam")
THINGS = ("apples", "books", "cards", "coins", "marbles", "pencils", "shells", "stickers")

SMALLEST, LARGEST, LARGEST_EARNING = 2, 60, 200
DISTRACTOR_SHARE = 0.3
TRIES = 500

# The operands of a sentence's calculations: a number that it states, what the story has come to, its own first result.
A, B, SO_FAR, OWN = "a", "b", "so far", "own"


@dataclass(frozen=True)
class Sentence:
    """One kind of sentence of a story.

    Attributes:
        text: how it is written; {name}, {things}, {a} and {b} are filled in.
        operations: the calculations that it asks for, as (left operand, operator, right operand); an operand is one of
            the four above or a whole number.
        lines: for each calculation the line of a demonstration, with {equation}.
    """

    text: str
    operations: tuple[tuple[str | int, str, str | int], ...] = ()
    lines: tuple[str, ...] = ()


OPENINGS = (
    Sentence("{name} has {a} bags with {b} {things} in each.", ((A, "*", B),), ("{name} has {equation} {things}.",)),
    Sentence("{name} has {a} old {things} and {b} new {things}.", ((A, "+", B),), ("{name} has {equation} {things}.",)),
    Sentence(
        "{name} had {a} {things} and lost {b} of them.", ((A, "-", B),), ("{name} has {equation} {things} left.",)
    ),
)
EVENTS = (
    Sentence("Then {name} finds {a} more.", ((SO_FAR, "+", A),), ("With the new ones there are {equation} {things}.",)),
    Sentence("Then {name} gives {a} of them to a friend.", ((SO_FAR, "-", A),), ("That leaves {equation} {things}.",)),
    Sentence("Then {name} gives half of them away.", ((SO_FAR, "/", 2),), ("Half of them is {equation} {things}.",)),
    Sentence(
        "A week later {name} has {a} times as many.", ((SO_FAR, "*", A),), ("Now there are {equation} {things}.",)
    ),
    Sentence(
        "Then {name} buys {a} boxes with {b} {things} in each.",
        ((A, "*", B), (SO_FAR, "+", OWN)),
        ("The boxes hold {equation} {things}.", "Together that is {equation} {things}."),
    ),
)
# States a number that no calculation needs.
DISTRACTOR = Sentence("{name} is {a} years old.")
QUESTIONS = (
    Sentence("How many {things} does {name} have now?"),
    Sentence(
        "If {name} makes {a} equal piles of them, how many {things} are in each pile?",
        ((SO_FAR, "/", A),),
        ("Each pile has {equation} {things}.",),
    ),
    Sentence(
        "If {name} sells each of them for {a} dollars, how many dollars does {name} get?",
        ((SO_FAR, "*", A),),
        ("{name} gets {equation} dollars.",),
    ),
)
SENTENCES = (*OPENINGS, *EVENTS, DISTRACTOR, *QUESTIONS)


@dataclass(frozen=True)
class Result:
    """An operand: what an earlier calculation of the story gives."""

    index: int


@dataclass(frozen=True)
class Operation:
    """A calculation that a story asks for, and the line in which a demonstration does it."""

    left: int | Result
    operator: str
    right: int | Result
    line: str

    def operands(self, results: Mapping[int, int]) -> tuple[int, int] | None:
        """Both numbers, given the results so far; None while one of them is missing."""
        left, right = (results.get(x.index) if isinstance(x, Result) else x for x in (self.left, self.right))
        return None if left is None or right is None else (left, right)


def calculate(a: int, operator: str, b: int) -> int | None:
    """The result; None for a division that leaves a remainder, or by zero."""
    if operator == "/":
        return a // b if b and a % b == 0 else None
    return {"+": a + b, "-": a - b, "*": a * b}[operator]


def draw_story(rng: random.Random, steps: int) -> str:
    """A story with that many calculations, every result a whole number of moderate size."""
    while True:
        sentences = _draw_sentences(rng, steps)
        name, things = rng.choice(NAMES), rng.choice(THINGS)
        # The kinds of sentences are kept while numbers are tried: those that seldom work out stay as frequent.
        for _ in range(TRIES):
            story = " ".join(s.text.format(name=name, things=things, **_numbers(rng, s)) for s in sentences)
            if results_of(read_story(story)) is not None:
                return story


def read_story(text: str) -> list[Operation]:
    """The calculations that a story asks for, in its order.

    Raises:
        ValueError: the text is not a story of this table.
    """
    written = re.split(r"(?<=[.?]) ", text)
    operations: list[Operation] = []
    so_far, things = None, ""
    for number, sentence_text in enumerate(written):
        sentence, values = _read_sentence(sentence_text)
        last = number == len(written) - 1
        expected = QUESTIONS if last else OPENINGS if number == 0 else (*EVENTS, DISTRACTOR)
        if sentence not in expected or len(written) < 2:
            raise ValueError(f"not a problem of the task word_problems: {text!r}")
        things = values.get("things", things)
        own = None
        for (left, operator, right), line in zip(sentence.operations, sentence.lines, strict=True):
            operands = {SO_FAR: so_far, OWN: own, **{key: int(values[key]) for key in (A, B) if key in values}}
            line = line.replace("{name}", values["name"]).replace("{things}", things)
            operations.append(Operation(operands.get(left, left), operator, operands.get(right, right), line))
            own = own or Result(len(operations) - 1)
        if sentence.operations:
            so_far = Result(len(operations) - 1)
    return operations


def results_of(operations: list[Operation]) -> list[int] | None:
    """What each calculation of a story gives; None where one gives no whole number of moderate size."""
    results: dict[int, int] = {}
    for index, operation in enumerate(operations):
        a, b = operation.operands(results)
        result = calculate(a, operation.operator, b)
        largest = LARGEST_EARNING if operation.line.endswith("dollars.") else LARGEST
        if result is None or not SMALLEST <= result <= largest:
            return None
        results[index] = result
    return list(results.values())


def _draw_sentences(rng: random.Random, steps: int) -> list[Sentence]:
    opening, question = rng.choice(OPENINGS), rng.choice(QUESTIONS)
    events, left = [], steps - len(opening.operations) - len(question.operations)
    while left:
        events.append(rng.choice([event for event in EVENTS if len(event.operations) <= left]))
        left -= len(events[-1].operations)
    if rng.random() < DISTRACTOR_SHARE:
        events.insert(rng.randint(0, len(events)), DISTRACTOR)
    return [opening, *events, question]


def _numbers(rng: random.Random, sentence: Sentence) -> dict[str, int]:
    """Numbers for a sentence: small ones where something is multiplied or divided."""
    low, high = 2, 20
    if sentence is DISTRACTOR:
        low, high = 7, 12
    elif any(operator in "*/" for _, operator, _ in sentence.operations):
        low, high = 2, 9
    return {A: rng.randint(low, high), B: rng.randint(low, high)}


def _pattern(text: str) -> re.Pattern:
    """What reads a sentence back: a group for each thing that was filled in."""
    groups = {"name": "|".join(NAMES), "things": "|".join(THINGS), A: r"[1-9]\d?", B: r"[1-9]\d?"}
    parts, seen = re.split(r"\{(\w+)\}", text), set()
    for i, part in enumerate(parts):
        if i % 2 == 0:
            parts[i] = re.escape(part)
        else:
            parts[i] = f"(?P={part})" if part in seen else f"(?P<{part}>{groups[part]})"
            seen.add(part)
    return re.compile("".join(parts), re.ASCII)


_PATTERNS = {sentence: _pattern(sentence.text) for sentence in SENTENCES}


def _read_sentence(text: str) -> tuple[Sentence | None, dict[str, str]]:
    for sentence, pattern in _PATTERNS.items():
        if match := pattern.fullmatch(text):
            return sentence, match.groupdict()
    return None, {}
