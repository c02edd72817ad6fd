r"""The numbers that a variable of an answer stands for: `k\pi, k \in \mathbb{Z}`, `k\pi where k is an integer`."""

import re
from dataclasses import dataclass

_TEXT = re.compile(r"\\text\{([^{}]*)\}")
_NUMBERS = r"(?P<numbers>[RZN])"
_FOR = r"(?:(?:where|for|with|and)(?: (?:any|all|some|every|each))?(?: integers?)? )?"
_AFTER = re.compile(
    rf"(?P<value>.*?[^\s,;(])[\s,;(]+{_FOR}(?P<name>[A-Za-z]) ?"
    rf"(?:\\in ?\\mathbb\{{{_NUMBERS}\}}|is (?:an |any )?integer)[ )]*",
    re.DOTALL,
)
_FOR_INTEGERS = re.compile(
    r"(?P<value>.*?[^\s,;(])[\s,;(]+for (?:any|all|some|every|each) integers? (?P<name>[A-Za-z])[ )]*", re.DOTALL
)
_REAL_BEFORE = re.compile(
    r"(?P<name>[A-Za-z]) ?\\in ?\\mathbb\{(?P<numbers>R)\}[\s,;]+(?P<value>.*(?:[<>=]|\\[gln]eq).*)", re.DOTALL
)
_ALL_BUT = re.compile(
    r"all real(?:s| numbers| values)?(?: x)?,? (?:except|but|other than|excluding)(?: for)? "
    r"(?:x ?(?:=|\\neq) ?)?(.+)",
    re.IGNORECASE,
)
_SETS_OF_ITS_OWN = re.compile(r"[<>]|\\(?:[gln]eq|in)(?![A-Za-z])")


@dataclass(frozen=True)
class Family:
    """A value with a variable in it that stands for all integers (Z), natural (N) or real numbers (R)."""

    value: str
    name: str
    numbers: str

    def renamed(self, name: str) -> str:
        """The value with another name of the variable, unless that is a name of something else in it."""
        if re.search(rf"(?<![A-Za-z\\]){name}(?![A-Za-z])", self.value):
            return self.value
        return re.sub(rf"(?<![A-Za-z\\]){self.name}(?![A-Za-z])", name, self.value)


def family(text: str) -> Family | None:
    """The family of values that a text in the spelling of `tidy` states; None for other text.

    Inequalities in an integer are none: what they say changes with the numbers that the variable stands for.
    """
    text = " ".join(_TEXT.sub(r" \1 ", text).split())
    if before := _REAL_BEFORE.fullmatch(text):
        return Family(before["value"], before["name"], "R")
    match = _AFTER.fullmatch(text) or _FOR_INTEGERS.fullmatch(text)
    if match is None:
        return None
    numbers = match.groupdict().get("numbers") or "Z"
    if numbers != "R" and _SETS_OF_ITS_OWN.search(match["value"]):
        return None
    return Family(match["value"], match["name"], numbers)


def all_but(text: str) -> str | None:
    r"""All real numbers except those that a text in words takes out, as a set; None for other text.

    >>> all_but("all real numbers except 3")
    '\\mathbb{R}\\setminus\\{3\\}'
    """
    match = _ALL_BUT.fullmatch(text)
    return rf"\mathbb{{R}}\setminus\{{{match[1]}\}}" if match else None
