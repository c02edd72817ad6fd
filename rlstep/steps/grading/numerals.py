r"""Numbers that are not written in digits alone: `twenty-one`, `0.\bar{3}`, `0.(3)`, `0.333...`, `approximately 12`."""

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
_SCALES = {"thousand": 10**3, "million": 10**6, "billion": 10**9}
_UNIT = r"(?: (?:hundred|thousand|million|billion|dozen|percent|dollars|cents|degrees|units))?"
_WORD = "|".join(sorted((*_TO_NINETEEN, *_TENS, "hundred", *_SCALES), key=len, reverse=True))
_IN_WORDS = re.compile(rf"((?:{_WORD})(?:(?:[ -]|,? and |, )(?:{_WORD}))*)(?={_UNIT}$)", re.IGNORECASE)
_PARTS = {"half": 2, "quarter": 4, "third": 3, "fourth": 4, "fifth": 5, "sixth": 6, "seventh": 7, "eighth": 8,
          "ninth": 9, "tenth": 10}  # fmt: skip
_COUNT = "|".join(("an?", *_TO_NINETEEN[1:]))
_FRACTION_IN_WORDS = re.compile(
    rf"(?:(?P<whole>{_WORD}|\d+) and )?(?P<above>{_COUNT})[ -](?P<below>halve|{'|'.join(_PARTS)})s?", re.IGNORECASE
)
_IRREGULAR = {"one": "first", "two": "second", "three": "third", "five": "fifth", "eight": "eighth", "nine": "ninth",
              "twelve": "twelfth"}  # fmt: skip


def _ordinal(name: str) -> str:
    """Twenty-first for `twenty one`."""
    *ten, last = name.split()
    return " ".join((*ten, _IRREGULAR.get(last) or (f"{last[:-1]}ieth" if last.endswith("y") else f"{last}th")))


_ORDINALS = {_ordinal(name): value for name, value in _VALUES.items() if value}
_ENDINGS = {1: "st", 2: "nd", 3: "rd"}
_NEGATIVE = re.compile(r"(?:negative|minus) (?=\w|\\frac)", re.IGNORECASE)
_IN_DIGITS = re.compile(r"\d[\d.,]*(?:/\d+)?|\\frac\{\d+\}\{\d+\}", re.ASCII)
_A_DOZEN = re.compile(r"an? (?=(?:dozen|hundred|thousand|million|billion)$)", re.IGNORECASE)
_BAR = re.compile(r"(\.\d*)\\(?:bar|dot)\s*\{(\d+)\}")
_IN_ROUND_BRACKETS = re.compile(r"(?<![\w.)}])(0\.\d{0,9}|\d+\.)\((\d{1,9})\)(?![\w(^!])", re.ASCII)
_TWO_DOTS = re.compile(r"(\.\d*)\\dot\s*\{(\d)\}(\d*)\\dot\s*\{(\d)\}")
# Three rounds of one digit say how they go on, or two of more digits.
_GOES_ON = re.compile(r"(\d*\.\d*?)(?:(\d)\2\2+|(\d{2,6}?)\3+)\s*(?:\.\.\.|\\[lc]?dots)")
_APPROXIMATELY = re.compile(r"(?:\\approx|approximately|about|roughly|around)\s*(?=[-\d\\\u00a4])", re.IGNORECASE)


def in_digits(text: str) -> str | None:
    """The text with a number in words that begins it in digits, if nothing but a unit follows; None for other text.

    >>> in_digits("two hundred and five dollars"), in_digits("two-thirds"), in_digits("third"), in_digits("two to")
    ('205 dollars', '\\\\frac{2}{3}', '3rd', None)
    """
    if negative := _NEGATIVE.match(text):
        positive = text[negative.end() :]
        value = positive if _IN_DIGITS.fullmatch(positive) else in_digits(positive)
        return value and f"-{value}"
    if text.casefold() in ("half", "one half"):
        return r"\frac{1}{2}"
    if fraction := _FRACTION_IN_WORDS.fullmatch(text):
        return _fraction(fraction)
    if place := _ORDINALS.get(text.casefold().removeprefix("the ").replace("-", " ")):
        return f"{place}{'th' if 10 < place < 14 else _ENDINGS.get(place % 10, 'th')}"
    text = _A_DOZEN.sub("one ", text)
    number = _IN_WORDS.match(text)
    value = number and _value_of(number[1])
    return None if value is None else f"{value}{text[number.end() :]}"


def _fraction(match: re.Match) -> str | None:
    whole, above, below = (match[name].casefold() if match[name] else None for name in ("whole", "above", "below"))
    count = 1 if above in ("a", "an") else _VALUES[above]
    whole = 0 if whole is None else int(whole) if whole.isdecimal() else _VALUES.get(whole)
    if whole is None:
        return None
    below = 2 if below == "halve" else _PARTS[below]
    return rf"\frac{{{whole * below + count}}}{{{below}}}"


def _value_of(text: str) -> int | None:
    """The value of a whole number in words; None for words that are not the way to write one, such as "one two"."""
    words = re.sub(r",| and |-", " ", text.casefold()).split()
    total = group = 0
    for word in words:
        if word == "hundred":
            group *= 100
        elif word in _SCALES:
            total, group = total + group * _SCALES[word], 0
        else:
            group += _VALUES[word]
    return total + group if words in (_in_words(total + group), _in_hundreds(total + group)) else None


def _in_hundreds(value: int) -> list[str]:
    """Twelve hundred, and thirteen hundred fifty."""
    return [*_in_words(value // 100), "hundred", *(_in_words(value % 100) if value % 100 else ())]


def _in_words(value: int) -> list[str]:
    if value < 100:
        return [word for word, number in _VALUES.items() if number == value][0].split()
    for name, scale in ("billion", 10**9), ("million", 10**6), ("thousand", 1000), ("hundred", 100):
        if value >= scale:
            above, below = divmod(value, scale)
            return [*_in_words(above), name, *(_in_words(below) if below else ())]
    return []


def overlined(text: str) -> str:
    r"""The text with `\overline` around the digits that repeat, in place of `0.\dot{3}`, `0.(3)` and `0.333...`."""
    text = _BAR.sub(r"\1\\overline{\2}", _TWO_DOTS.sub(r"\1\\overline{\2\3\4}", text))
    text = _IN_ROUND_BRACKETS.sub(r"\1\\overline{\2}", text)
    return _GOES_ON.sub(lambda match: rf"{match[1]}\overline{{{match[2] or match[3]}}}", text)


def without_approximately(text: str) -> str:
    r"""The text without `\approx` or "about" before it."""
    match = _APPROXIMATELY.match(text)
    return text[match.end() :] if match else text
