"""Quantities in known units: 1.5 hours are 90 minutes and 1 hour 30 minutes, 5'10" is 70 inches, 36 km/h are 10 m/s."""

import re
from dataclasses import dataclass
from fractions import Fraction

from rlstep.steps.grading.plain import number
from rlstep.steps.grading.symbols import DOLLAR
from rlstep.steps.grading.units import split_unit

# The size of each unit in the first of its line.
_SIZES = (
    {"millimetre": 1, "centimetre": 10, "metre": 1000, "kilometre": 10**6},
    {"inch": 1, "foot": 12, "yard": 36, "mile": 63360},
    {"gram": 1, "kilogram": 1000},
    {"ounce": 1, "pound": 16},
    {"millilitre": 1, "litre": 1000},
    {"second": 1, "minute": 60, "hour": 3600, "day": 86400, "week": 7 * 86400},
    {"cent": 1, "dollar": 100},
)
_SIZE = {unit: (line, size) for line, sizes in enumerate(_SIZES) for unit, size in sizes.items()}
_FRACTION = r"\\frac\{\d+\}\{\d+\}"
_PART = re.compile(
    rf"\s*({DOLLAR}?(?:[\d.,]*\d(?: \d+/\d+| ?/ ?\d+| ?{_FRACTION})?|{_FRACTION}))\s*(?:\\text\{{\s*)?"
    r"([A-Za-z./ ]*[A-Za-z]|¢)?\.?\s*\}?\s*((?:\^\s*\{?\s*[23]\s*\}?)?),?",
    re.ASCII,
)
_AND = re.compile(r"(?:\\text\{)?\s+and\s+\}?")
_FEET = re.compile(r"(\d+) ?'(?: ?(\d+(?:\.\d+)?) ?(?:\"|''))?")
_ANGLE = re.compile(
    r"(?P<degrees>\d+) ?\^(?:\\circ|\{ ?\\circ ?\}) ?(?P<minutes>\d+) ?(?:'|\^\{?\\prime\}?)"
    r"(?: ?(?P<seconds>\d+(?:\.\d+)?) ?(?:\"|''|\^\{?\\prime ?\\prime\}?))?",
    re.ASCII,
)


@dataclass(frozen=True)
class Quantity:
    """An amount of one kind, in the smallest unit of it; `whole` is the amount in the largest unit that is named."""

    kind: tuple
    amount: Fraction
    whole: Fraction
    parts: int


def quantity(text: str) -> Quantity | None:
    """The quantity of a text in the spelling of `tidy`; None for others, and for units that have no other beside them.

    >>> quantity("1 hour 30 minutes").amount == quantity("1.5 h").amount == 5400
    True
    """
    if feet := _FEET.fullmatch(text):
        text = f"{feet[1]} feet" + (f" {feet[2]} inches" if feet[2] else "")
    parts, at = [], 0
    text = _AND.sub(" ", text)
    while at < len(text) and (part := _PART.match(text, at)):
        parts.append(_part(part))
        at = part.end()
    if not parts or at < len(text) or None in parts:
        return None
    kinds, sizes, values = zip(*parts, strict=True)
    # Each part of 1 hour 30 minutes is smaller than the one before it.
    if len(set(kinds)) > 1 or any(after >= before for before, after in zip(sizes, sizes[1:], strict=False)):
        return None
    amount = sum(size * value for size, value in zip(sizes, values, strict=True))
    return Quantity(kinds[0], amount, amount / sizes[0], len(parts))


def angle(text: str) -> Fraction | None:
    """The degrees of an angle with minutes, `45^\\circ 30'`; None for other text."""
    if (match := _ANGLE.fullmatch(text)) is None:
        return None
    return int(match["degrees"]) + Fraction(match["minutes"]) / 60 + Fraction(match["seconds"] or 0) / 3600


def _part(match: re.Match) -> tuple[tuple, Fraction, Fraction] | None:
    """(kind, size, number) of one number with its unit."""
    written = " ".join(filter(None, (match[1], match[2]))) + match[3]
    measured = split_unit(written, loose=True)
    units = [_size(unit) for unit in (measured.unit or "").split(" per ")]
    value = number(measured.value.strip())
    if None in units or value is None or len(units) > 2:
        return None
    kinds, sizes = zip(*units, strict=True)
    return kinds, sizes[0] / (sizes[1] if len(sizes) > 1 else 1), value


def _size(unit: str) -> tuple[tuple, Fraction] | None:
    """(kind, size) of one unit, which may have a power."""
    unit, _, power = unit.partition("^")
    if unit not in _SIZE:
        return None
    kind, size = _SIZE[unit]
    return (kind, power), Fraction(size) ** int(power or 1)
