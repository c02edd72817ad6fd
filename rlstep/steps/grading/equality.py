"""Whether two values are the same (`values`), each as what it is: order counts where it is part of the value."""

import re

import sympy

from rlstep.steps.grading.expressions import Unreadable
from rlstep.steps.grading.kinds import (
    Braces,
    Bracketed,
    Combined,
    Listing,
    Matrix,
    Point,
    Ratio,
    Relation,
    Scalar,
    Words,
)
from rlstep.steps.grading.names import is_name, names_a_sum
from rlstep.steps.grading.plain import minutes_of_day
from rlstep.steps.grading.sets import as_set, beginning, is_condition, pieces, variables
from rlstep.steps.grading.values import read
from rlstep.steps.grading.zero import is_zero, points, without_functions

# Names of coordinates that have an order of their own.
_IN_ORDER = ("xyz", "abcdefgh", "mn", "pqrs", "uvw", "rst", "ijk")


class UnreadableReference(Exception):
    """The reference cannot be read as mathematics, so no answer can be graded against it."""


def same(answer: str, reference: str) -> bool:
    """Whether an answer has the reference's value; False if the answer cannot be read as mathematics.

    Both are in the spelling of `tidy`. Raises `UnreadableReference`, and whatever SymPy raises when it fails.
    """
    try:
        right = read(reference)
    except Unreadable as error:
        raise UnreadableReference(reference) from error
    try:
        left = read(answer)
    except Unreadable:
        return False
    return same_value(left, right) or _read_as_list(answer, left, right) or _read_as_list(reference, right, left)


def same_value(left, right) -> bool:
    """Whether two values are the same. An equation that names a quantity stands for its value: `x = 5`, `f(3) = 76`."""
    if isinstance(left, Relation) and isinstance(right, Relation):
        return _same_relation(left, right)
    if (equation := _value_of(left, names_a_sum)) is not left:
        return equation is not None and same_value(equation, right)
    if (equation := _value_of(right, is_name)) is not right:
        return equation is not None and same_value(left, equation)
    if isinstance(left, Braces) and isinstance(right, Scalar) and len(left.items) == 1:
        left = left.items[0]
    if isinstance(right, Braces) and isinstance(left, Scalar) and len(right.items) == 1:
        right = right.items[0]
    match left, right:
        case Scalar(), Scalar():
            return same_number(left.expr, right.expr)
        case Words(), Words():
            return left == right
        case Matrix(), Matrix():
            return len(left.rows) == len(right.rows) and all(map(_in_order, left.rows, right.rows))
        case (Matrix(), Bracketed(left="(", right=")")) | (Bracketed(left="(", right=")"), Matrix()):
            matrix, items = (left, right.items) if isinstance(left, Matrix) else (right, left.items)
            return all(len(row) == 1 for row in matrix.rows) and _in_order([row[0] for row in matrix.rows], items)
        case (Matrix(), Bracketed(left="[")) | (Bracketed(left="["), Matrix()):
            matrix, rows = (left, right.items) if isinstance(left, Matrix) else (right, left.items)
            nested = len(rows) == len(matrix.rows) and all(
                isinstance(row, Bracketed) and row.left == "[" for row in rows
            )
            return nested and all(_in_order(ours, row.items) for ours, row in zip(matrix.rows, rows, strict=True))
        case Ratio(), Ratio():
            return _same_ratios(left, right)
        case (Words(), Ratio()) | (Ratio(), Words()):
            time, clock = (left, right) if isinstance(left, Words) else (right, left)
            return clock.minutes is not None and minutes_of_day(time.parts) == clock.minutes
        case Point(), Point():
            return left.name == right.name and same_value(left.place, right.place)
        case (Point(), Bracketed()) | (Bracketed(), Point()):
            point, place = (left, right) if isinstance(left, Point) else (right, left)
            return same_value(point.place, place)
        case (Point(), Scalar()) | (Scalar(), Point()):
            point, number = (left, right) if isinstance(left, Point) else (right, left)
            return point.arrangements is not None and same_number(point.arrangements, number.expr)
        case (Ratio(), Scalar()) | (Scalar(), Ratio()):
            return _same_ratio(*((left, right) if isinstance(left, Ratio) else (right, left)))
        case Bracketed(), Bracketed():
            return (left.left, left.right) == (right.left, right.right) and _in_order(left.items, right.items)
        case (Listing(), Bracketed(left="(", right=")")) | (Bracketed(left="(", right=")"), Listing()) if not (
            is_condition(left) or is_condition(right)
        ):
            return _in_order(_by_name(left.items), _by_name(right.items))
        case Listing(), Listing() if not is_condition(left) and not is_condition(right):
            return _in_any_order(list(left.items), list(right.items))
        case ((Listing() | Braces()), (Listing() | Braces())) if not is_condition(left) and not is_condition(right):
            return _in_any_order(_distinct(left.items), _distinct(right.items))
    return _same_set(left, right)


def same_number(left: sympy.Expr, right: sympy.Expr) -> bool:
    """Whether two expressions are equal, exactly and identically."""
    if left.has(sympy.zoo, sympy.nan) or right.has(sympy.zoo, sympy.nan):
        return False
    if left == right:
        return True
    infinite = (sympy.oo, -sympy.oo)
    return not left.has(*infinite) and not right.has(*infinite) and is_zero(left - right)


def _value_of(value, named):
    """The value that an equation gives a named quantity, None if it contradicts itself; other values unchanged."""
    if not isinstance(value, Relation) or set(value.signs) != {"="}:
        return value
    stated = value.parts[1:] if named(value.texts[0]) else value.parts
    if len(stated) == len(value.parts) == 2 and is_name(value.texts[1]):
        stated = stated[:1]
    return stated[-1] if all(same_value(part, stated[-1]) for part in stated[:-1]) else None


def _in_order(left, right) -> bool:
    return len(left) == len(right) and all(map(same_value, left, right))


def _by_name(items: tuple) -> tuple:
    """Coordinates that are equations in the order of their names: `y = 2, x = 1` is (1, 2)."""
    if not all(isinstance(item, Relation) and item.signs == ("=",) for item in items):
        return items
    names = [item.texts[0].strip() for item in items]
    ordered = len(set(names)) == len(names) and any(set(names) <= set(letters) for letters in _IN_ORDER)
    return (
        tuple(item for _, item in sorted(zip(names, items, strict=True), key=lambda one: one[0])) if ordered else items
    )


def _in_any_order(left: list, right: list) -> bool:
    if len(left) != len(right):
        return False
    for value in left:
        k = next((k for k, other in enumerate(right) if same_value(value, other)), None)
        if k is None:
            return False
        right = right[:k] + right[k + 1 :]
    return True


def _distinct(items) -> list:
    kept = []
    for item in items:
        if not any(same_value(item, other) for other in kept):
            kept.append(item)
    return kept


def _same_ratios(left: Ratio, right: Ratio) -> bool:
    """Whether two ratios are proportional; what may be a time, 2:40, is that time alone."""
    if len(left.parts) != len(right.parts):
        return False
    if (left.minutes, right.minutes) != (None, None) or any(part.expr.is_zero for part in left.parts + right.parts):
        return _in_order(left.parts, right.parts)
    scale = left.parts[0].expr / right.parts[0].expr
    return all(same_number(a.expr, b.expr * scale) for a, b in zip(left.parts, right.parts, strict=True))


def _same_ratio(ratio: Ratio, number: Scalar) -> bool:
    """Whether a ratio equals a number: 2:3 is 2/3; what may be a time of day, 3:30, equals none."""
    if len(ratio.parts) != 2:
        return False
    above, below = (part.expr for part in ratio.parts)
    time = above.is_Integer and below.is_Integer and 10 <= below < 60
    return not time and not below.is_zero and same_number(above / below, number.expr)


def _read_as_list(text: str, value, other) -> bool:
    """Whether to read a number such as `100,200` or `x = 100,200` as a list, because the other answer is one."""
    if isinstance(value, Listing) and isinstance(other, Listing) and len(value.items) < len(other.items):
        # In `100,200 and 300` the comma may be one of thousands or not; one with a space after it is not.
        apart = text if ", " in text else text.replace(",", ", ")
        return apart != text and same_value(read(apart), other)
    name, _, text = text.rpartition("=")
    if (
        not isinstance(value, Relation if name else Scalar)
        or not isinstance(other, Listing)
        or (name and not is_name(name))
        or not re.fullmatch(r"-?[1-9]\d*(?:,[1-9]\d\d)+", text.strip())
    ):
        return False
    return same_value(Listing(tuple(map(read, text.split(",")))), other)


def _same_relation(left: Relation, right: Relation) -> bool:
    if set(left.signs) == set(right.signs) == {"="}:
        names = [re.sub(r"\s", "", relation.texts[0]) for relation in (left, right)]
        if names[0] == names[1] and is_name(left.texts[0]):
            values = _value_of(left, is_name), _value_of(right, is_name)
            return None not in values and same_value(*values)
    if _restates(left, right):
        return False
    if len(left.signs) == len(right.signs) == 1 and all(isinstance(part, Scalar) for part in left.parts + right.parts):
        return _proportional(left, right) or (left.signs[0] != "=" and right.signs[0] != "=" and _same_set(left, right))
    return _same_set(left, right)


def _restates(answer, reference) -> bool:
    """Whether an answer leaves to be solved what the reference has solved, and so may be the problem itself."""
    return _is_unsolved(answer) and not _is_unsolved(reference)


def _is_unsolved(value) -> bool:
    """Whether a relation says what one variable is only by way of algebra: `2x + 1 < 7`, not `x < 3` or `|x| < 3`."""
    if isinstance(value, Listing):
        return any(map(_is_unsolved, value.items))
    if isinstance(value, Combined):
        return any(map(_is_unsolved, value.sets))
    if not isinstance(value, Relation) or len(names := variables(value)) != 1:
        return False
    variable = sympy.Symbol(*names)
    return any(
        isinstance(part, Scalar) and part.expr.free_symbols and part.expr not in (variable, sympy.Abs(variable))
        for part in value.parts
    )


def _proportional(left: Relation, right: Relation) -> bool:
    """Whether the difference of the sides of one relation is a positive multiple of the other's."""
    (sign, ours), (other_sign, theirs) = map(_against_zero, (left, right))
    ours, theirs = without_functions(ours), without_functions(theirs)
    if sign != other_sign or ours.free_symbols != theirs.free_symbols:
        return False
    for point in points(ours.free_symbols):
        a, b = ours.subs(point), theirs.subs(point)
        if a.is_finite and b.is_finite and not is_zero(a) and not is_zero(b):
            return is_zero(ours * b - theirs * a) and (sign in ("=", "!=") or bool(a / b > 0))
    return False


def _against_zero(relation: Relation) -> tuple[str, sympy.Expr]:
    sign, (left, right) = relation.signs[0], (part.expr for part in relation.parts)
    return {"<": ">", "<=": ">="}.get(sign, sign), right - left if sign in ("<", "<=") else left - right


def _same_set(left, right) -> bool:
    if {type(left), type(right)} & {Scalar, Words, Matrix, Ratio} or _restates(left, right):
        return False
    names = variables(left), variables(right)
    if all(names) and names[0] != names[1]:
        return False
    ours, theirs = as_set(left), as_set(right)
    if ours is None or theirs is None:
        return False
    if ours == theirs:
        return True
    parts = [sorted(pieces(numbers), key=beginning) for numbers in (ours, theirs)]
    if None in parts[0] + parts[1]:
        return ours.symmetric_difference(theirs).is_empty is True
    return len(parts[0]) == len(parts[1]) and all(map(_same_piece, *parts))


def _same_piece(left, right) -> bool:
    return left[2:] == right[2:] and same_number(left[0], right[0]) and same_number(left[1], right[1])
