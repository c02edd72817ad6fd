r"""Units: what is written around a value but is not part of it.

18 cm  ->  18, centimetre          \$5.40  ->  5.40, dollar          15\text{ cm}^2  ->  15, centimetre^2
"""

import re
from dataclasses import dataclass

from rlstep.steps.grading.plain import SCALES, are_factors, number
from rlstep.steps.grading.symbols import DOLLAR

_NAMES = (
    "millimetre mm millimeter millimeters millimetres", "centimetre cm centimeter centimeters centimetres",
    "metre m meter meters metres", "kilometre km kilometer kilometers kilometres", "inch in inches", "foot ft feet",
    "yard yd yards", "mile mi miles", "gram g grams", "kilogram kg kilograms kilo kilos", "pound lb lbs pounds",
    "ounce oz ounces", "litre L l liter liters litres", "millilitre mL ml milliliter milliliters millilitres",
    "gallon gal gallons", "second s sec secs seconds", "minute min mins minutes", "hour h hr hrs hours", "day days",
    "week weeks", "month months", "year yr yrs years", "dollar dollars USD usd bucks", "cent cents",
    "euro euros EUR", "degree degrees deg", "unit units",
    "hertz Hz", "electronvolt eV", "joule joules", "newton newtons", "watt watts", "kelvin kelvins", "volt volts",
    "radian radians rad", "celsius", "fahrenheit",
)  # fmt: skip
_KNOWN = {spelling: line.split()[0] for line in _NAMES for spelling in line.split()}
_CANONICAL = {*_KNOWN.values(), "per"}
# Megametres, megagrams and megalitres, which differ from the units above only by their capitals.
_OTHER_UNITS = {"Mm", "Mg", "ML"}
_SPELLED_OUT = {"mph": "miles per hour", "kmh": "km per hour", "kph": "km per hour", "kmph": "km per hour"}
_POWERS = {"square": "2", "sq": "2", "cubic": "3", "cu": "3"}
_SIGNS = {DOLLAR: "dollar", "€": "euro", "£": "pound sterling", "¥": "yen", "₹": "rupee"}
_MONEY = {*_SIGNS.values(), "cent"}
_CODES = {"USD": "dollar", "EUR": "euro", "GBP": "pound sterling", "Rs": "rupee", "Rs.": "rupee", "INR": "rupee"}
# Fractions and products of units: \frac{\text{m}}{\text{s}}, \text{kg}\cdot\text{m/s}, \text{m s}^{-1}.
_COMPOUND = re.compile(
    r"(?<=[\d})])\s*(?:\\frac\{\s*\\text\{([^{}\d]*)\}\s*\}\{\s*\\text\{([^{}\d]*)\}\s*\}"
    r"|\\text\{\s*([A-Za-z]{1,4}(?:[\s./()A-Za-z]|\\(?:cdot|mu)\s?|\^\s?(?:-?\d|\{\s*-?\d\s*\}))*)\}"
    r"((?:\s*(?:\\cdot\s*)?\\text\{[A-Za-z]{1,4}\}|\s*\^\s*\{\s*-?\d\s*\})*))$"
)
# A unit in Chinese, with no number, fraction, negation or "or" among its characters.
_CHINESE = re.compile(
    r"(?<=[\d}%])\s*(?:\\text\{\s*)?(?![^}]*(?:分之|[零〇一二三四五六七八九十百千万亿半两几或和不非负多余约点]))[\u4e00-\u9fff]+\s*\}?$"
)

# Words that change the value before them, or join it to more.
_NO_UNITS = frozenset(
    """hundred hundreds thousand thousands million millions billion billions trillion trillions dozen dozens score pair
    half halves third thirds quarter quarters fourth fourths fifth fifths sixth sixths seventh sevenths eighth eighths
    ninth ninths tenth tenths hundredth hundredths thousandth thousandths squared cubed factorial plus minus over by
    divided multiplied root power negative pi infinity or and to not than if where when is equals between either
    remainder mod base am pm a.m p.m zero one two three four five six seven eight nine ten eleven twelve twenty thirty
    forty fifty sixty seventy eighty ninety thirteen fourteen fifteen sixteen seventeen eighteen nineteen once twice
    mille mil mill bn tn lakh lakhs crore crores gross tens pairs modulo matrix
    maybe perhaps possibly probably alternatively otherwise versus vs wrong incorrect false no nor but unless except
    actually rather instead both any neither unknown unsure guess""".split()  # noqa: SIM905  forty lines otherwise
)

_SIGN = re.compile(rf"([-+]?)\s*(?:US\s*(?={DOLLAR}))?([{''.join(_SIGNS)}]|(?:USD|EUR|GBP|Rs\.?|INR)(?=\s?\d))\s*")
_SIGN_AFTER = re.compile(rf"(?<=[\d}}])\s*([{''.join(_SIGNS)}¢])$")
_TEXT = re.compile(r"^(.*[^\s_^])\s*\\text\{([^{}]*)\}\s*((?:\^\s*\{?\s*\d\s*\}?)?)$", re.DOTALL)
_DEGREE = re.compile(
    r"(?<=.)\s*(?:\^\s*\\circ(?![A-Za-z])|\^\s*\{\s*\\circ\s*\})\s*(?:(?:\\text\{\s*)?([CF])(?![A-Za-z])\s*\}?)?",
    re.DOTALL,
)
_ORDINAL = re.compile(r"^(\d+)\s*(?:\^\s*)?(?:\{\s*)?(?:\\text\{\s*)?(?:st|nd|rd|th)\b\s*\}?\s*\}?\s*(.*)$", re.DOTALL)
_WORDY = re.compile(
    r"^(.*?(?:[\d})!]|\\[A-Za-z]+(?=\s)))\s*([A-Za-z][A-Za-z./' -]*?)((?:\^\s*\{?\s*\d\s*\}?)?)$", re.DOTALL
)
_SCALE = re.compile(rf"({'|'.join(SCALES)})\s+(?=[a-z])", re.IGNORECASE)
_NO_WORDS = re.compile(r"[\d=<>+*\\]")
_WORD = re.compile(r"[A-Za-z][A-Za-z.'-]*")
_NUMBER = re.compile(r"[-+]?(?:\d[\d,]*(?:\.\d+)?|\.\d+|\d+\s*/\s*\d+|(?:\d+\s*)?\\frac\{\d+\}\{\d+\})")
_NO_LETTERS = re.compile(r"\\(?:text|frac|cdot|mu)|[^A-Za-z.]")
_ROOT = re.compile(r"[-+]?[\d./]*\s*\\sqrt\{\d+\}(?:/\d+)?")
_RATE = re.compile(r"(?<=[\d}])\s*(?:\\text\{\s*)?(?:/|per\s)\s*([A-Za-z][A-Za-z ]*?)\s*\}?$")
_SHORT_SCALE = re.compile(r"([\d.,]*\d)\s*(?:\\text\{\s*)?(k|K|M|B|mn|bn)\s*\}?", re.ASCII)
_SHORT_SCALES = {"k": "thousand", "K": "thousand", "M": "million", "mn": "million", "B": "billion", "bn": "billion"}
_RAISED = re.compile(r"([A-Za-z]{2,12})\.? (squared|cubed)(?=\s*\}?$)")
_SCALES = {"C": "celsius", "F": "fahrenheit"}
_TRIGONOMETRY = re.compile(r"\\(?:arc)?(?:sin|cos|tan|cot|sec|csc|cis)")


@dataclass(frozen=True)
class Measured:
    """A value as text, and its unit where one is stated."""

    value: str
    unit: str | None


def split_unit(text: str, loose: bool = False) -> Measured:
    """The value and the unit of a text in the spelling of `tidy`.

    Args:
        loose: whether `5 m` and `5cm` have units rather than being products; true if nothing else has variables.
    """
    unit, text = None, _RAISED.sub(_before_unit, text)
    if sign := _SIGN.match(text):
        unit, text = _SIGNS.get(sign[2]) or _CODES[sign[2]], sign[1] + text[sign.end() :]
        if rate := _RATE.search(text):
            unit, text = f"{unit} per {_unit(rate[1], '')}", text[: rate.start()]
        if short := _SHORT_SCALE.fullmatch(text):
            text = f"{short[1]} {_SHORT_SCALES[short[2]]}"
    elif sign := _SIGN_AFTER.search(text):
        return Measured(text[: sign.start()], _SIGNS.get(sign[1], "cent"))
    if chinese := _CHINESE.search(text, 1):
        return Measured(text[: chinese.start()].removesuffix("\\"), unit)
    if text.endswith("%"):
        return Measured(text.removesuffix("%").removesuffix("\\").rstrip(), "%")
    if (degree := _DEGREE.search(text, 1)) and not _TRIGONOMETRY.search(text):
        return Measured(_DEGREE.sub(" ", text).strip(), f"degree {_SCALES[degree[1]]}" if degree[1] else "degree")
    if ordinal := _ORDINAL.match(text):
        things = re.sub(r"\\text|[{}]", "", ordinal[2])
        return Measured(ordinal[1], _unit(things, "") or None) if _is_unit(things) else Measured(text, unit)
    if (named := _TEXT.match(text)) and _is_unit(named[2]):
        inner = split_unit(named[1], loose)
        if named[2].strip().casefold() == "percent":
            return Measured(inner.value, "%")
        return Measured(inner.value, inner.unit or _unit(named[2], named[3]) or None)
    if wordy := _WORDY.match(text):
        value, things, power = wordy[1], wordy[2].strip(), wordy[3]
        if (scale := _SCALE.match(things)) and _is_unit(things[scale.end() :]):
            return Measured(f"{value} {scale[1]}", unit or _unit(things[scale.end() :], power))
        if not _is_unit(things):
            return Measured(text, unit)
        known = {word.split("^")[0] for word in _unit(things, "").split()} <= _CANONICAL
        apart = text[len(value)].isspace() and len(things.strip(". ")) > 1
        if things.casefold() == "percent":
            return Measured(value, "%")
        apart_of_number = apart and _is_number(value.rpartition("=")[2].strip())
        if (known and (loose or apart)) or (apart_of_number and _are_words(things)):
            return Measured(value, unit or _unit(things, power))
    if (compound := _COMPOUND.search(text)) and _is_unit(_NO_LETTERS.sub(" ", compound[0])):
        return Measured(text[: compound.start()], unit or _compound(compound))
    return Measured(text, unit)


def same_unit(left: str | None, right: str | None) -> bool:
    """Whether the values are comparable: unless both units are stated and differ, certain only for known units.

    Degrees and radians are, after conversion. What money or things are counted by may be left out: $5 is comparable to
    $5 per hour and pages to pages per day, but centimetres are not to centimetres per second.
    For other units one common word is enough, or one on either side of "per": apples match red apples, but not pears.
    """
    if not left or not right or "%" in (left, right) or "unit" in (left.split("^")[0], right.split("^")[0]):
        return True
    ours, theirs = set(left.split()), set(right.split())
    if {left, right} == {"degree", "radian"}:
        return True
    if "degree" in ours & theirs:
        return "degree" in (left, right) or ours == theirs
    pairs = [(set(one.split()), set(other.split())) for one, other in zip(*_by_rates(left, right), strict=True)]
    if (" per " in left) != (" per " in right):
        common = set.intersection(*pairs[0])
        return bool(common) and (common <= _MONEY or not any(map(_is_known, common)))
    if all(map(_is_known, ours | theirs)):
        return all(one == other for one, other in pairs)
    return all(one & other for one, other in pairs)


def _by_rates(*units: str) -> list[tuple[str, str]]:
    """What is counted by each unit and what it is counted by, the unit itself if it is no rate."""
    return [tuple(unit.split(" per ", 1)) if " per " in unit else (unit, unit) for unit in units]


def _is_known(word: str) -> bool:
    return word.split("^")[0] in _CANONICAL


def _before_unit(match: re.Match) -> str:
    """`square feet` for `feet squared`; `x squared` stays."""
    return f"{'square' if match[2] == 'squared' else 'cubic'} {match[1]}" if match[1].casefold() in _KNOWN else match[0]


def _is_number(text: str) -> bool:
    """Whether words after a text are about a number, and no factors: `3.5`, `4.5e33`, `6\\sqrt{3}`."""
    return bool(_NUMBER.fullmatch(text)) or number(text) is not None or bool(_ROOT.fullmatch(text))


def _compound(match: re.Match) -> str:
    """The unit of `_COMPOUND` in one spelling: its letters alone."""
    letters = re.sub(r"\\(?:text|frac|cdot)|[{}\s]", "", match[0].replace("}{", "/"))
    return _unit(letters, "") if re.fullmatch(r"[A-Za-z]+(?:/[A-Za-z]+)?", letters) else letters


def _is_unit(text: str) -> bool:
    words = _WORD.findall(text)
    return not any(word.casefold().strip(".") in _NO_UNITS for word in words) and not _NO_WORDS.search(text)


def _are_words(text: str) -> bool:
    return any(len(word) > 2 and not are_factors(word) for word in _WORD.findall(text))


def _unit(text: str, power: str) -> str:
    """The unit in one spelling: its words, known units by their name above, with the power."""
    text = text.strip(" .")
    words = _SPELLED_OUT.get(text.casefold(), text).replace("/", " per ").split()
    words = [word for word in words if word.casefold() not in ("a", "of")]
    words = words[words[:1] == ["per"] :]
    raised = "".join(re.findall(r"\d", power))
    if len(words) > 1 and words[0].casefold().strip(".") in _POWERS:
        raised, words = _POWERS[words[0].casefold().strip(".")], words[1:]
    return " ".join(map(_word, words)) + (f"^{raised}" if words and raised else "")


def _word(text: str) -> str:
    text = text.strip(".,")
    known = _KNOWN.get(text) or (len(text) > 1 and text not in _OTHER_UNITS and _KNOWN.get(text.casefold()))
    if known or len(text) > 3:
        return known or text.casefold().removesuffix("s")
    if len(text) == 3 and text[1:].islower() and set("aeiou") & set(text.casefold()):
        return text.casefold()  # a word: Men are men
    # Another short one is a symbol: mW is not MW. Thousands of it may have a capital.
    return "k" + text[1:] if text[:1] == "K" else text
