r"""Final answers: where a completion states one, and whether it is right.

The sum is \boxed{\frac{1}{2}}.     ->  \frac{1}{2}
#### 1,250                          ->  1,250
Answer: yes                         ->  yes
"""

import re
from fractions import Fraction
from functools import lru_cache

from rlstep.steps.grader import MAX_LENGTH, Grader

__all__ = ["extract", "is_correct", "same_answer"]

GRADER = Grader()

_LINE = re.compile(r"^[ \t]*Answer:[ \t]*(\S.*)$|(?<!#)####(?!#)[ \t]*(\S.*)$", re.MULTILINE)
_BRACE = re.compile(r"\\boxed\s*\{|\\.|[{}]", re.DOTALL)
_MATH_MODE = re.compile(r"\$([^$]+)\$|\\\((.+)\\\)|\\text\{([^{}]*)\}")
_DECIMAL = re.compile(r"([-+]?)(?:\\?\$)?([-+]?)((?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d*)?|\.\d+)\s*(\\?%)?", re.ASCII)
_FRACTION = re.compile(r"([-+]?)(?:(\d+) +)?(\d+) ?/ ?(\d+)", re.ASCII)
_WORDS = {"yes", "no", "true", "false"}


def extract(completion: str) -> str | None:
    r"""The last answer that a completion states: in `\boxed{...}`, after `####`, or on a line `Answer: ...`.

    >>> extract("Answer: 3\nNo, wait.\nAnswer: 4")
    '4'
    """
    found = [(match.start(), match[1] or match[2]) for match in _LINE.finditer(completion)]
    if box := _last_box(completion):
        found.append(box)
    return max(found)[1].strip() if found else None


def _last_box(text: str) -> tuple[int, str] | None:
    r"""(position, content) of the `\boxed{...}` that begins last of those that are closed and not blank."""
    last, opened = None, []
    for match in _BRACE.finditer(text):
        if match[0] == "}":
            if opened:
                boxed, start, inside = opened.pop()
                if boxed and (last is None or start > last[0]) and (content := text[inside : match.start()].strip()):
                    last = start, content
        elif match[0] != "\\{" and match[0].endswith("{"):
            opened.append((match[0] != "{", match.start(), match.end()))
    return last


def is_correct(completion: str, reference: str) -> bool:
    """Whether the completion states an answer that equals the reference."""
    answer = extract(completion)
    return answer is not None and same_answer(answer, reference)


# Samples of one problem repeat their answers, and an endless one should cost its time limit once.
@lru_cache(maxsize=1 << 14)
def same_answer(answer: str, reference: str) -> bool:
    """Whether two answers are the same: as text, as plain numbers, or else mathematically (`rlstep.steps.grader`).

    Numbers may have thousands commas, a dollar sign or a percent sign (50% equals 50, the sign being a unit, and 0.5).
    Two plain numbers are compared exactly, on the spot.
    """
    answer, reference = _tidy(answer), _tidy(reference)
    if not answer or answer == reference:
        return bool(answer)
    if answer.casefold() in _WORDS or reference.casefold() in _WORDS:
        return answer.casefold() == reference.casefold()
    numbers = _number(answer), _number(reference)
    if None not in numbers:
        return _same_number(*numbers)
    return GRADER.same(answer, reference)


def _tidy(text: str) -> str:
    text = text.strip().removesuffix(".").rstrip().replace("\u2212", "-")
    if wrapped := _MATH_MODE.fullmatch(text):
        text = next(filter(None, wrapped.groups()), "").strip()
    return text


def _number(text: str) -> tuple[Fraction, bool] | None:
    """(value, whether % follows) of a decimal number, a fraction or a mixed number; None for other text."""
    if len(text) > MAX_LENGTH:
        return None
    if decimal := _DECIMAL.fullmatch(text):
        if decimal[1] and decimal[2]:
            return None
        value = Fraction(decimal[3].replace(",", "").removesuffix("."))
        return (-value if "-" in (decimal[1], decimal[2]) else value), bool(decimal[4])
    if (fraction := _FRACTION.fullmatch(text)) and int(fraction[4]):
        value = int(fraction[2] or 0) + Fraction(int(fraction[3]), int(fraction[4]))
        return (-value if fraction[1] == "-" else value), False
    return None


def _same_number(left: tuple[Fraction, bool], right: tuple[Fraction, bool]) -> bool:
    (a, a_percent), (b, b_percent) = left, right
    if a == b:
        return True
    return a_percent != b_percent and (a / 100 == b if a_percent else a == b / 100)
