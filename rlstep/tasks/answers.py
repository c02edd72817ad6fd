r"""Problems of any kind with a final answer each: the answer is graded, nothing is known of the steps.

grader    the answer of a completion is                                     right when it
math      what it states (`rlstep.steps.extraction`)                        equals the reference by value
number    the number that it states, or the last one in what it states;      is the same number
          if there is none, the last one that it writes
choice    the letter that it states, `B`, `(B)` or `B) 12 cm`               is the same letter
exact     what it states, else its last line                                is the same text, white space folded
regex     the first group of the last match of `answer_pattern`             equals the reference by value

Steps are lines, unless the settings say otherwise. As in the task `math`, the one in which the answer ends is labelled
by it, the others are unknown.
"""

import logging
import re
from collections.abc import Iterator
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import regex

from rlstep.runtime.errors import UserError
from rlstep.steps.answers import reference_fault, same_answer
from rlstep.steps.boundaries import Boundary, line_steps
from rlstep.steps.extraction import Stated, stated
from rlstep.steps.grader import MAX_LENGTH
from rlstep.steps.grading.plain import choice, letter, number
from rlstep.steps.grading.spelling import tidy
from rlstep.steps.grading.units import split_unit
from rlstep.steps.problems import read_problems
from rlstep.steps.records import Solution
from rlstep.steps.sources import is_hub_id
from rlstep.tasks.base import Check, Grader
from rlstep.tasks.published import PublishedTask, split_of

logger = logging.getLogger(__name__)

# The pattern is the user's and the text a model's: together they may take exponential time.
SEARCH_SECONDS = 1.0

_NUMBER = re.compile(
    r"(?<![\w.^{])[-+]?(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?"
    r"(?:[eE][-+]?\d+|\s?(?:\\times|\\cdot|[\u00d7\u00b7*x])\s?10\s?(?:\^\s?\{?\s?[-+]?\d+\s?\}?|\u207b?[\u2070\u00b9\u00b2\u00b3\u2074-\u2079]+)"
    r"|\s?/\s?\d+)?(?![\d])",
    re.ASCII,
)
_ASIDE = re.compile(r"\([^()]*\)")


class Answers(PublishedTask):
    """The task `answers`. Splits: train, test.

    Args:
        path: for `problems`: a folder with files named by split, one file, a fixed quarter of whose rows is the test
            split, or a hub id (`rlstep.steps.problems.read_problems`).
        fields, config_name: see there.
        grader, pattern: who says what the answer is and whether it is right; see the module.
        boundary: what the checker takes for a step.

    Raises:
        UserError: a pattern that is none, or that has no group.
    """

    name = "answers"
    hub_id = ""

    def __init__(
        self,
        path: str | None = None,
        grader: Grader = "math",
        pattern: str | None = None,
        fields: list[str] | None = None,
        config_name: str | None = None,
        boundary: Boundary = Boundary(),  # noqa: B008 - frozen
    ):
        super().__init__(path, boundary)
        self.grader, self.pattern = grader, compiled(pattern) if pattern is not None else None
        self.fields, self.config_name = fields, config_name

    def demonstrations(self, n: int, seed: int) -> list[Solution]:
        """None: the rows hold answers alone."""
        if n:
            raise UserError(f"{n} demonstrations were asked for, and the task answers has none; set demonstrations: 0.")
        return []

    def check(self, prompt: str, completion: str, reference: str) -> Check:
        """The answer's step is right when the answer is; others are unknown.

        Raises:
            ValueError: the reference is nothing that the grader could compare with.
        """
        self._check_reference(reference)
        spans = self.boundary.split(completion)
        labels: list[int | None] = [None] * len(spans)
        final = self._final(completion)
        if final is None:
            return Check(spans, labels, None, False)
        correct = self._same(final.answer, reference)
        # Without a step there may be an answer still, of a pattern that matches white space.
        if (step := next((k for k, (_, end) in enumerate(spans) if end >= final.end), None)) is not None:
            labels[step] = int(correct)
        return Check(spans, labels, final.answer, correct)

    def _final(self, completion: str) -> Stated | None:
        """The completion's answer and where it stands."""
        if self.grader == "regex":
            return self._matched(completion)
        final = stated(completion)
        if self.grader == "number" and (final is None or _number(final.answer) is None):
            if final and (inside := _NUMBER.findall(_ASIDE.sub("", final.answer)) or _NUMBER.findall(final.answer)):
                return replace(final, answer=inside[-1])
            numbers = list(_NUMBER.finditer(completion))
            return Stated(*numbers[-1].span(), numbers[-1][0]) if numbers else None
        if self.grader == "choice" and (final is None or _choice(final.answer) is None):
            lines = [span for span in line_steps(completion) if _choice(completion[slice(*span)].strip())]
            return Stated(*lines[-1], completion[slice(*lines[-1])].strip()) if lines else None
        if self.grader == "exact" and final is None and (lines := line_steps(completion)):
            return Stated(*lines[-1], completion[slice(*lines[-1])].strip())
        return final

    def _matched(self, completion: str) -> Stated | None:
        last = None
        try:
            for match in self.pattern.finditer(completion, timeout=SEARCH_SECONDS):
                last = match if match[1] is not None else last
        except TimeoutError:
            logger.warning("answer_pattern took more than %g s on a completion, which counts as unanswered: %.80r",
                           SEARCH_SECONDS, completion)  # fmt: skip
            return None
        return None if last is None else Stated(*last.span(), last[1].strip())

    def _same(self, answer: str, reference: str) -> bool:
        if self.grader == "number":
            return _number(answer) == _number(reference)
        if self.grader == "choice":
            return _choice(answer) == _choice(reference)
        if self.grader == "exact":
            return answer.split() == reference.split()
        return same_answer(answer, reference)

    def _check_reference(self, reference: str) -> None:
        read = {"number": _number, "choice": _choice}.get(self.grader)
        if read is not None and read(reference) is None:
            raise ValueError(f"the reference {reference!r} is no {self.grader}, and the grader is {self.grader}")
        if self.grader in ("math", "regex") and (fault := reference_fault(reference)):
            raise ValueError(fault)

    def _read(self, split: str) -> Iterator[Solution]:
        if not self.path:
            raise UserError("task answers needs task_path: a folder, a file or a hub id with the problems.")
        one_file = Path(self.path).is_file()
        wanted = None if one_file else split
        if not one_file and not Path(self.path).is_dir() and not is_hub_id(self.path):
            raise UserError(f"{self.path}: no such file or folder. Give one, or a hub id.")
        for problem in read_problems(self.path, self.fields, wanted, self.config_name):
            if not one_file or split_of(problem.prompt) == split:
                yield Solution(problem.id, problem.prompt, "", problem.reference, extra=problem.extra)


def compiled(pattern: str) -> regex.Pattern:
    """A pattern whose first group is the answer.

    Raises:
        UserError: it is no regular expression, or has no group.
    """
    try:
        expression = regex.compile(pattern, regex.MULTILINE)
    except regex.error as error:
        raise UserError(f"answer_pattern is {pattern!r}, which is no regular expression: {error}.") from None
    if not expression.groups:
        raise UserError(f"answer_pattern is {pattern!r}; it needs a group, in round brackets, that holds the answer.")
    return expression


def _number(text: str) -> Fraction | None:
    if len(text) > MAX_LENGTH:
        return None
    return number(split_unit(tidy(text), True).value)


def _choice(text: str) -> str | None:
    if len(text) > MAX_LENGTH:
        return None
    text = text.strip().strip("*_` ").removesuffix(".")
    return choice(text) or letter(text) or (letter(text[1:-1]) if re.fullmatch(r"\([a-z]\)", text) else None)
