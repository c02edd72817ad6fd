"""Answers that need no algebra: plain numbers, choices, words, and numbers with a base."""

import re
from fractions import Fraction

from rlstep.steps.grading.spelling import words_of
from rlstep.steps.grading.symbols import DOLLAR

# 1e999999999 is short to write and too large to compute.
MAX_EXPONENT = 400

_DECIMAL = re.compile(r"([-+]?)((?:[1-9]\d{0,2}(?:,\d{3})+|[1-9]\d{0,2}(?: \d{3})+|\d+)(?:\.\d*)?|\.\d+)", re.ASCII)
_SCIENTIFIC = re.compile(
    r"([-+]?(?:\d+\.?\d*|\.\d+))(?:[eE]([-+]?\d{1,6})|\s*(?:\\times|\\cdot|\*|x)\s*10\s*\^\s*\{?\s*([-+]?\d{1,6})\s*\}?)",
    re.ASCII,
)
_FRACTION = re.compile(r"([-+]?)(?:(\d+) +)?(\d+) ?/ ?(\d+)", re.ASCII)
_LATEX_FRACTION = re.compile(r"([-+]?)\s?(?:(\d+) ?)?\\frac\s?\{ ?([-+]?)(\d+) ?\}\s?\{ ?(\d+) ?\}", re.ASCII)
_REPEATING = re.compile(r"([-+]?)(\d*)\.(\d*)\\overline\{(\d+)\}", re.ASCII)
_SCALED = re.compile(
    r"(.*\d)\s*(?:\\text\{)?\s*(hundred|thousand|million|billion|trillion|dozen)\s*\}?", re.ASCII | re.IGNORECASE
)
SCALES = {"hundred": 100, "dozen": 12, "thousand": 10**3, "million": 10**6, "billion": 10**9, "trillion": 10**12}

# What a choice says stands apart from its letter, as in `(B) x + 1`; `(B)x` and `(B) + 1` are mathematics.
_SAID = (
    rf"(?:(?=[0-9{DOLLAR}]|\\(?:text|frac|sqrt))|,\s+(?=[A-Za-z]{{3,}})"
    r"|[\s.:]+(?![-+*/^=<>!_)|]\s|[+*/^=<>!_)|]|\\(?:cdot|times|div|pm)))"
)
_CHOICE = re.compile(
    rf"(?:(?:answer )?(?:choice|option)\s+(?:\(([A-Z])\)|([A-Z])(?![A-Za-z]))|\(([A-Z])\)|([A-Z])[).:](?=\s|$))"
    rf"(?P<said>(?:{_SAID}.+)?)[\s.:]*",
    re.DOTALL | re.IGNORECASE,
)
_ALL_TEXT = re.compile(r"\\text\{[^{}]*\}")
_DASH = re.compile(r"(?<=[A-Z])(\)?),? -+ (?=[A-Z][a-z]{2,}|[a-z]{3,} [a-z]{2,})")
_LETTER = re.compile(r"[A-Za-z]")
# Words after the letter that name another choice, or take this one back.
_ANOTHER_CHOICE = re.compile(
    r"\([A-Z]\)|(?<![\\A-Za-z])(?:[B-H]|A(?! [a-z]{2,}))(?![A-Za-z])|^[\s.:,]*(?:\\text\{\s*)?"
    r"(?:or|and|nor|not|is|isn't|are|was|wrong|incorrect|maybe|perhaps|versus|vs)\b"
)
_BASED = re.compile(r"\(?([0-9A-Fa-f]+)\)?_(?:\{\s*)?(?:\\text\{\s*)?([a-z]+|\d+)\s*\}?\s*\}?", re.ASCII)
_BASE_WORDS = re.compile(r"\(?([0-9A-Fa-f]+)\)?,? *\(?(?:in )?base[ -](\d+|[a-z]+)\)?", re.ASCII)
_BASE_OF_CODE = re.compile(r"0(?:b(?P<b>[01]+)|o(?P<o>[0-7]+)|x(?P<x>[0-9A-Fa-f]+))", re.ASCII)
_BASES = {
    "two": 2, "three": 3, "four": 4, "five": 5, "six": 6, "seven": 7, "eight": 8, "nine": 9, "ten": 10, "eleven": 11,
    "twelve": 12, "thirteen": 13, "fourteen": 14, "fifteen": 15, "sixteen": 16,
}  # fmt: skip
_TIME = re.compile(r"(\d{1,2}(?::\d\d)?) ?([ap])\.? ?m\.?", re.ASCII)
_NAMED_TIME = re.compile(r"(?:12(?::00)? ?)?(noon|midnight)")
_TEXT = re.compile(r"[A-Za-z]+(?:(?:[ ,;]+|[-'.:] ?)[A-Za-z]+)*")
_RUN = re.compile(r"[A-Za-z]+")
# Letters that are factors when written side by side: abc is a product, cat is a word.
_FACTORS = [set(letters) for letters in ("abc", "xyz", "pqr", "mnk", "uvw", "rst", "ABC", "XYZ", "xyt", "ij", "nk")]
_NAMES = {"pi", "sin", "cos", "tan", "cot", "sec", "csc", "log", "ln", "exp", "sqrt", "infinity", "inf", "and", "or"}
_SHORT_WORDS = {
    "no", "on", "so", "is", "it", "he", "we", "me", "my", "by", "be", "do", "go", "ok", "am", "pm", "up", "us", "to",
    "in", "of", "at", "an", "as", "if", "or",
}  # fmt: skip
_ARTICLE = re.compile(r"^(?:the|an?) (?=\w\w)")
_ABBREVIATIONS = {"dne": "does not exist"}
# Phrases that have several forms, each in one of them. What has no solution does not exist.
_PHRASES = {
    "no solution": re.compile(
        r"(?:there (?:is|are|exists?) )?no (?:real )?(?:solution|root|value)s?(?: (?:to|of|for) [a-z])?(?: exists?)?"
        r"|(?:(?:it|the limit) )?(?:does not|doesn't) exist|empty set|null set"
    ),
    "real numbers": re.compile(
        r"(?:all|any|every)(?: the)? (?:reals?|real (?:numbers?|values?))(?: (?:(?:of|for) )?[a-z])?"
        r"|reals?|real numbers?|all real [a-z]"
    ),
    "infinitely many": re.compile(
        r"(?:there (?:is|are) )?(?:infinitely many|infinite|(?:an )?infinite (?:number|amount) of)"
        r"(?: (?:real )?solutions?)?"
    ),
    "undefined": re.compile(r"(?:is )?(?:undefined|not defined)"),
}
_RUN_OF_CHOICES = re.compile(r"[A-H]{2,8}")
_ONE_OF_CHOICES = r"(?:\([A-H]\)|[A-H])"
_LIST_OF_CHOICES = re.compile(rf"{_ONE_OF_CHOICES}(?:(?: ?[,;] ?(?:and )?| and | ?& ?){_ONE_OF_CHOICES})+")
_JOINED = re.compile(r"\s*(?:[,;]|\band\b|\bor\b)\s*")


def number(text: str) -> Fraction | None:
    r"""The value of a decimal number, a fraction, a mixed number or a power of ten as written; None for other text.

    >>> number("1,250.50"), number(r"1\frac{1}{2}"), number("1,2")
    (Fraction(2501, 2), Fraction(3, 2), None)
    """
    if decimal := _DECIMAL.fullmatch(text):
        return _signed(decimal[1], Fraction(re.sub(r"[, ]", "", decimal[2]).removesuffix(".")))
    if scientific := _SCIENTIFIC.fullmatch(text):
        exponent = int(scientific[2] or scientific[3])
        return (
            None
            if abs(exponent) > MAX_EXPONENT
            else Fraction(scientific[1].removesuffix(".")) * Fraction(10) ** exponent
        )
    if (fraction := _FRACTION.fullmatch(text)) and int(fraction[4]):
        return _signed(fraction[1], int(fraction[2] or 0) + Fraction(int(fraction[3]), int(fraction[4])))
    if (fraction := _LATEX_FRACTION.fullmatch(text)) and int(fraction[5]):
        part = Fraction(int(fraction[4]), int(fraction[5]))
        if fraction[2] and (fraction[3] or part >= 1):  # 2\frac{3}{2} is a product
            return None
        return _signed(fraction[1], int(fraction[2] or 0) + _signed(fraction[3], part))
    if repeating := _REPEATING.fullmatch(text):
        sign, whole, once, again = repeating.groups()
        value = int(whole or 0) + Fraction(int(once or 0) + Fraction(int(again), 10 ** len(again) - 1), 10 ** len(once))
        return _signed(sign, value)
    if (scaled := _SCALED.fullmatch(text)) and (value := number(scaled[1])) is not None:
        return value * SCALES[scaled[2].lower()]
    return None


def choice(text: str) -> str | None:
    r"""The letter of a choice, `(B)`, `\text{(B)}`, `B)`, `(B) 12`, `B - Paris`, `option B`; None for a bare `B`."""
    text = words_of(text, lower=False) if _ALL_TEXT.fullmatch(text.strip()) else text
    text = re.sub(r"\\text\{\s*((?:(?:choice|option)\s+)?\(?[A-Z]\)?[.:]?)\s*\}", r"\1 ", text, flags=re.IGNORECASE)
    match = _CHOICE.fullmatch(_DASH.sub(r"\1: ", text.strip(), count=1))
    letter = match and next(filter(None, match.groups()), None)
    if not letter or not letter.isupper() or _ANOTHER_CHOICE.search(match["said"]):
        return None
    return letter


def letter(text: str) -> str | None:
    r"""The letter of `B`, `b` and `\text{B}`, which may be a choice."""
    text = words_of(text)
    return text.upper() if _LETTER.fullmatch(text) else None


def based(text: str) -> tuple[str, int] | None:
    """(digits, base) of `101_2`, `(101)_{2}`, `101_{\\text{two}}`, `101 base 2` and `0b101`; None for other text."""
    if code := _BASE_OF_CODE.fullmatch(text.strip()):
        return code[code.lastgroup].upper().lstrip("0") or "0", {"b": 2, "o": 8, "x": 16}[code.lastgroup]
    text = re.sub(r"\\text\{\s*base\s*\}\s*(?=\d)", "", text.strip()) if "_" in text else text.strip()
    match = _BASED.fullmatch(text) or _BASE_WORDS.fullmatch(re.sub(r"\\text\{([^{}]*)\}", r"\1", text))
    if not match or not re.search(r"\d", match[1]):
        return None
    if not match[2].isdigit() and match[2] not in _BASES:
        return None
    base = int(match[2]) if match[2].isdigit() else _BASES[match[2]]
    return match[1].upper().lstrip("0") or "0", base


def time_of_day(text: str) -> tuple[str, str] | None:
    """(time, "a" or "p") of `3:30 pm`, `3 p.m.`, `noon` and `12 midnight`; None for other text."""
    text = re.sub(r"\\text\{([^{}]*)\}", r"\1", text).casefold()
    if named := _NAMED_TIME.fullmatch(text):
        return "12", "p" if named[1] == "noon" else "a"
    match = _TIME.fullmatch(text)
    return (match[1].lstrip("0").removesuffix(":00"), match[2]) if match else None


def minutes_of_day(time: object) -> int | None:
    """The minutes since midnight of what `time_of_day` returns; None for other values and for no time of a clock."""
    if not isinstance(time, tuple) or time[1] not in ("a", "p"):
        return None
    hours, _, minutes = time[0].partition(":")
    if not 1 <= int(hours or 0) <= 12:
        return None
    return 60 * (int(hours) % 12 + 12 * (time[1] == "p")) + int(minutes or 0)


def words(text: str) -> frozenset[str] | None:
    r"""What an answer in words names: `\text{Evelyn}`, `no solution`, `red and blue`. None for mathematics."""
    said = wording(text)
    return None if said is None else frozenset(map(_in_one_form, said))


def wording(text: str) -> frozenset[str] | None:
    """As `words`, each phrase as it is worded: `no solution` and `no solutions` are two."""
    plain = words_of(text)
    if (
        _NAMED_TIME.fullmatch(plain)
        or not _TEXT.fullmatch(plain)
        or not any(map(_is_word, _RUN.findall(words_of(text, lower=False))))
    ):
        return None
    named = (_ARTICLE.sub("", part) for part in _JOINED.split(plain) if part)
    return frozenset(_ABBREVIATIONS.get(part, part) for part in named)


def choices(text: str) -> tuple[frozenset[str], bool] | None:
    """The letters of several choices, `A, C`, and whether they are a run, `AC`; None for other text."""
    text = words_of(text, lower=False)
    if _RUN_OF_CHOICES.fullmatch(text) and list(text) == sorted(set(text)):
        return frozenset(text), True
    return (frozenset(re.findall("[A-H]", text)), False) if _LIST_OF_CHOICES.fullmatch(text) else None


def are_factors(letters: str) -> bool:
    """Whether a run of letters is a common product of variables, such as `xyz`."""
    return any(set(letters) <= together for together in _FACTORS)


def _is_word(run: str) -> bool:
    if len(run) < 3:
        return run.casefold() in _SHORT_WORDS
    return run.casefold() not in _NAMES and not are_factors(run)


def _in_one_form(part: str) -> str:
    return next((phrase for phrase, forms in _PHRASES.items() if forms.fullmatch(part)), part)


def _signed(sign: str, value: Fraction) -> Fraction:
    return -value if sign == "-" else value
