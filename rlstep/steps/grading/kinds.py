"""The kinds of value that an answer may be; texts are read as them in `rlstep.steps.grading.values`."""

from dataclasses import dataclass

import sympy


@dataclass(frozen=True)
class Scalar:
    """One expression."""

    expr: sympy.Expr


@dataclass(frozen=True)
class Words:
    """An answer in words, or a number with its base."""

    parts: object


@dataclass(frozen=True)
class Listing:
    """Values without brackets, `1, 2`: unordered, with repetitions."""

    items: tuple
    joined: str = ","


@dataclass(frozen=True)
class Bracketed:
    """Ordered values in brackets: a tuple, or if there are two, perhaps an interval."""

    left: str
    right: str
    items: tuple


@dataclass(frozen=True)
class Braces:
    """A finite set."""

    items: tuple


@dataclass(frozen=True)
class Reals:
    """A set of numbers that has its own symbol."""

    numbers: sympy.Set


@dataclass(frozen=True)
class Combined:
    r"""Sets joined by `\cup`, `\cap` or `\setminus`, left-associative."""

    operators: tuple[str, ...]
    sets: tuple


@dataclass(frozen=True)
class Matrix:
    """Rows of values."""

    rows: tuple[tuple, ...]


@dataclass(frozen=True)
class Relation:
    """`a < x <= b`: the sides and the relation signs between them."""

    texts: tuple[str, ...]
    parts: tuple
    signs: tuple[str, ...]


@dataclass(frozen=True)
class Ratio:
    """`2:3`; where it may also be a time, as `2:30` may, that time in minutes."""

    parts: tuple
    minutes: int | None = None


@dataclass(frozen=True)
class Point:
    """`A(1, 2)`: a point with its name. `P(5, 2)` may also be a number of arrangements."""

    name: str
    place: Bracketed
    arrangements: sympy.Expr | None = None
