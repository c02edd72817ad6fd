r"""What an answer is: one expression, or several in a list, a tuple, a set, an interval, a matrix or a relation.

The structure is parsed here, because LaTeX grammars lose it: `1, 2` has no order, `(1, 2)` has one and may be an
interval, `[1, 2)` is an interval, `x > 1` is a relation and a set.
"""

import itertools
import re
from dataclasses import replace
from functools import lru_cache

import sympy

from rlstep.steps.grading.expressions import Unreadable, arranged, expression, with_binomials
from rlstep.steps.grading.kinds import (
    Braces,
    Bracketed,
    Combined,
    Listing,
    Matrix,
    Point,
    Ratio,
    Reals,
    Relation,
    Scalar,
    Words,
)
from rlstep.steps.grading.lists import CLOSING, OPENING, TOKEN, split, split_deep, split_items
from rlstep.steps.grading.names import is_name
from rlstep.steps.grading.plain import based, time_of_day, words

_SIGNS = {"=": "=", "<": "<", ">": ">", "\\leq": "<=", "\\geq": ">=", "\\neq": "!=", "\\approx": "~"}
_JOINS = re.compile(r"\\text\{\s*,?\s*(and|or)\s*,?\s*\}|(?<![A-Za-z\\])(and|or)(?![A-Za-z])")
_NUMBER_WITH_COMMAS = re.compile(r"[-+]?[1-9]\d{0,2}(?:,\d{3})+(?:\.\d*)?", re.ASCII)
# Commas that separate no items: three digits from 0 on are none, and a side of a relation may be a number as well.
_THOUSANDS = re.compile(
    r"(?<![\d.])[1-9]\d{0,2}(?:, ?0\d\d)+(?!\d)"
    r"|(?:(?<=[=<>])|(?<=\\[lgn]eq)) ?[-+]?[1-9]\d{0,2}(?:,\d{3})+(?:\.\d+)?$"
    r"|^[-+]?[1-9]\d{0,2}(?:,\d{3})+(?:\.\d+)?(?= ?(?:[=<>]|\\[lgn]eq))",
    re.ASCII,
)
_MATRIX = re.compile(r"\\begin\{([pb]?matrix|array)\}(?:\{[lcr| ]*\})?(.*)\\end\{\1\}", re.DOTALL)
_WRAPPED_MATRIX = re.compile(r"[(\[]\s*(\\begin\{(?:matrix|array)\}.*\\end\{(?:matrix|array)\})\s*[)\]]", re.DOTALL)
_NUMBERS = {
    r"\mathbb{R}": sympy.S.Reals, r"\mathbb{Z}": sympy.S.Integers,
    r"\mathbb{N}": sympy.S.Naturals, r"\mathbb{Q}": sympy.S.Rationals, r"\mathbb{C}": sympy.S.Complexes,
    r"\emptyset": sympy.S.EmptySet, r"\{\}": sympy.S.EmptySet, r"\{ \}": sympy.S.EmptySet,
}  # fmt: skip
_POINT = re.compile(r"([A-Z](?:_(?:\w|\{\w+\}))?'*) ?(\(.*\))", re.DOTALL)
# Intervals with their brackets turned outwards: ]0, 1[ and [0, 1[.
_BETWEEN_SQUARES = re.compile(r"([\[\]])(\s*[^\[\](),;\s][^\[\](),;]*[,;][^\[\](),;]*[^\[\](),;\s]\s*)([\[\]])")
_TO = re.compile(r"\d+(?: ?(?:\\text\{ ?)?to(?: ?\})? ?\d+)+", re.ASCII)
_CLOCK = re.compile(r"(\d{1,2}):([0-5]\d)", re.ASCII)
_SET_SIGNS = {"\\cup", "\\cap", "\\setminus", "\\backslash"}


# Each answer to a problem is compared with several others, and parsing is the slowest part.
@lru_cache(maxsize=1 << 10)
def read(text: str):
    """The value of a text in the spelling of `tidy`; raises `Unreadable` if it has none."""
    text = _JOINS.sub(lambda match: f" \\{match[1] or match[2]} ", text).strip()
    if not text:
        raise Unreadable(text)
    text = _BETWEEN_SQUARES.sub(_turned_inwards, text)
    if not _NUMBER_WITH_COMMAS.fullmatch(text):
        text = _THOUSANDS.sub(lambda match: re.sub("[, ]", "", match[0]), text)
    return _listing(text) or _combined(text) or _relation(text) or _whole(text)


def _turned_inwards(match: re.Match) -> str:
    left, inside, right = match.groups()
    return f"{'[' if left == '[' else '('}{inside}{']' if right == ']' else ')'}"


def _listing(text: str) -> Listing | None:
    if _NUMBER_WITH_COMMAS.fullmatch(text):
        return None
    parts, separators = split_items(text, {",", ";", "\\and", "\\or"})
    if not separators:
        return None
    kept = [part for part in parts if part]  # ", and" is one separator
    if len(kept) < 2 or len(kept) < len(parts) - separators.count("\\and") - separators.count("\\or"):
        raise Unreadable(text)
    items = tuple(itertools.chain.from_iterable(_spread(read(part)) for part in kept))
    return Listing(_none_of(items), next((name[1:] for name in separators if name[0] == "\\"), ","))


def _none_of(items: tuple) -> tuple:
    r"""The items, where each number after `x \neq 1` is one more that x is not: `x \neq 1, 2`."""
    first, *others = items
    if not (
        isinstance(first, Relation) and first.signs == ("!=",) and all(isinstance(item, Scalar) for item in others)
    ):
        return items
    return tuple(replace(first, parts=(first.parts[0], item)) for item in (first.parts[1], *others))


def _spread(value) -> tuple:
    return value.items if isinstance(value, Listing) else (value,)


def _combined(text: str) -> Combined | None:
    parts, separators = split(text, _SET_SIGNS)
    if not separators:
        minus = re.fullmatch(r"(\\mathbb\{[RZQC]\}|\(.*\))\s*-\s*(\\\{.*\\\})", text)
        if not minus:
            return None
        parts, separators = list(minus.groups()), ["\\setminus"]
    return Combined(tuple(separators), tuple(map(read, parts)))


def _relation(text: str):
    parts, signs = split(text, {*_SIGNS, "\\in"})
    if not signs:
        return None
    if signs == ["\\in"] and parts[0] and not isinstance(numbers := read(parts[1]), Scalar):
        return numbers
    if "\\in" in signs or not all(parts):
        raise Unreadable(text)
    signs = [_SIGNS[sign] for sign in signs]
    if "~" in signs:  # the value comes before its approximation
        cut = signs.index("~") + 1
        parts, signs = (
            (parts[:cut], signs[: cut - 1]) if cut > 1 or not is_name(parts[0]) else (parts, ["=" for _ in signs])
        )
        if len(parts) == 1:
            return read(parts[0])
    sides = tuple(map(_side, parts))
    if signs == ["!="] and isinstance(sides[1], Listing):  # x is not \pm 1
        return Listing(tuple(Relation(tuple(parts), (sides[0], item), ("!=",)) for item in sides[1].items))
    return Relation(tuple(parts), sides, tuple(signs))


def _side(text: str):
    """A side of a relation; a name that is not an expression, such as f^{-1}(3), becomes a symbol."""
    try:
        return read(text)
    except Unreadable:
        if is_name(text):
            return Scalar(sympy.Symbol(re.sub(r"\s", "", text)))
        raise


def _whole(text: str):
    squeezed = re.sub(r"\s", "", text)
    if squeezed in _NUMBERS:
        return Reals(_NUMBERS[squeezed])
    if special := based(text) or time_of_day(text) or words(text):
        return Words(special)
    if matrix := _MATRIX.fullmatch(text) or (
        (wrapped := _WRAPPED_MATRIX.fullmatch(text)) and _MATRIX.fullmatch(wrapped[1])
    ):
        return _matrix(matrix[2])
    if value := _bracketed(text) or _point(text):
        return value
    parts, colons = split(re.sub(r"\D+", ":", text) if _TO.fullmatch(text) else text, {":"})
    if colons:
        return Ratio(tuple(map(_scalar, parts)), _minutes(text))
    return _signs_chosen(text)


def _matrix(body: str) -> Matrix:
    rows, _ = split(body, {"\\\\"})
    cells = [tuple(map(_scalar, split(row, {"&"})[0])) for row in rows if row.strip(" \\hline")]
    if len(set(map(len, cells))) != 1:
        raise Unreadable(body)
    return Matrix(tuple(cells))


def _bracketed(text: str):
    tokens = TOKEN.findall(text)
    if tokens[0] not in OPENING - {"{", "\\lfloor", "\\lceil"} or tokens[-1] not in CLOSING - {
        "}",
        "\\rfloor",
        "\\rceil",
    }:
        return None
    depth = 0
    for k, token in enumerate(tokens):
        depth += (token in OPENING) - (token in CLOSING)
        if depth == 0 and k < len(tokens) - 1:
            return None
    left, right = tokens[0], tokens[-1]
    inside = "".join(tokens[1:-1]).strip()
    if left == "\\{":
        return _set(inside)
    parts, separators = split_items(inside, {",", ";"})
    if not separators:
        if {left, right} <= {"(", ")", "[", "]"} and (left == "(") == (right == ")"):
            return read(inside)
        raise Unreadable(text)
    items = tuple(itertools.chain.from_iterable(_spread(read(part)) for part in parts))
    return Bracketed("[" if left == "[" else "(", "]" if right == "]" else ")", items)


def _point(text: str) -> Point | None:
    named = _POINT.fullmatch(text)
    if named is None or with_binomials(text) != text:
        return None
    place = _bracketed(named[2])
    if not isinstance(place, Bracketed):
        return None
    counts = split(named[2][1:-1], {","})[0]
    arrangements = arranged(*counts) if named[1] == "P" and len(counts) == 2 else None
    return Point(named[1], place, arrangements and expression(arrangements))


def _minutes(text: str) -> int | None:
    clock = _CLOCK.fullmatch(text)
    return 60 * int(clock[1]) + int(clock[2]) if clock and int(clock[1]) < 24 else None


def _set(inside: str):
    condition, bars = split(inside, {"\\mid", "|", ":"})
    if bars:
        if len(bars) > 1:
            raise Unreadable(inside)
        return read(condition[1])
    parts, _ = split_items(inside, {",", ";"})
    return Braces(tuple(itertools.chain.from_iterable(_spread(read(part)) for part in parts)))


def _signs_chosen(text: str):
    r"""The expression, or if it has `\pm`, one expression for each choice of signs."""
    parts, signs = split_deep(text, {"\\pm", "\\mp"})
    if not signs:
        return _scalar(text)
    if len(signs) > 4:
        raise Unreadable(text)
    chosen = []
    for choice in itertools.product("+-", repeat=len(signs)):
        chosen.append(_scalar("".join(itertools.chain(*zip(parts, choice, strict=False), parts[-1:]))))
    return Listing(tuple(chosen))


def _scalar(text: str):
    value = expression(text.strip())
    if isinstance(value, sympy.MatrixBase):
        return Matrix(tuple(tuple(map(Scalar, value.row(k))) for k in range(value.rows)))
    return Scalar(value)
