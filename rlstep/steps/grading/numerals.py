r"""Numbers that are not written in digits alone: `twenty-one`, `0.\bar{3}`, `0.333...`, `approximately 12`."""

import re

_TO_NINETEEN = [
    "zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve",
    "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen",
]  # fmt: skip
_TENS = ["twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety"]
_VALUES = {name: value for value, name in enumerate(_TO_NINETEEN)}
_VALUES |= {
    f"{ten} {one}".rstrip(): 20 + 10 * k + value
    for k, ten in enumerate(_TENS)
    for value, one in enumerate(["", *_TO_NINETEEN[1:10]])
}
_IN_WORDS = re.compile(
    rf"({'|'.join(sorted(_VALUES, key=len, reverse=True)).replace(' ', '[ -]')})"
    r"(?= (?:hundred|thousand|million|billion|dozen|percent|dollars|cents|degrees|units)$|$)",
    re.IGNORECASE,
)
_BAR = re.compile(r"(\.\d*)\\(?:bar|dot)\s*\{(\d+)\}")
_TWO_DOTS = re.compile(r"(\.\d*)\\dot\s*\{(\d)\}(\d*)\\dot\s*\{(\d)\}")
# Three rounds of the same digits say how they go on.
_GOES_ON = re.compile(r"(\d*\.\d*?)(\d{1,6}?)\2\2+\s*(?:\.\.\.|\\[lc]?dots)")
_APPROXIMATELY = re.compile(r"(?:\\approx|approximately|about|roughly|around)\s*(?=[-\d\\\u00a4])", re.IGNORECASE)


def words_as_digits(text: str) -> str:
    """The text with a number in words, up to ninety-nine, that begins it in digits, if nothing but a unit follows."""
    return _IN_WORDS.sub(lambda match: str(_VALUES[match[1].casefold().replace("-", " ")]), text, count=1)


def is_in_words(text: str) -> bool:
    """Whether a text is a number in words, or one with a unit."""
    return bool(_IN_WORDS.match(text))


def overlined(text: str) -> str:
    r"""The text with `\overline` around the digits that repeat: `0.\overline{3}` for `0.\dot{3}` and `0.333...`."""
    text = _BAR.sub(r"\1\\overline{\2}", _TWO_DOTS.sub(r"\1\\overline{\2\3\4}", text))
    return _GOES_ON.sub(r"\1\\overline{\2}", text)


def without_approximately(text: str) -> str:
    r"""The text without `\approx` or "about" before it."""
    match = _APPROXIMATELY.match(text)
    return text[match.end() :] if match else text
