"""Whether two values are the same (`values`), each as what it is: order counts where it is part of the value."""

import re

import sympy

from rlstep.steps.grading.expressions import Unreadable
from rlstep.steps.grading.names import is_name, names_a_sum
from rlstep.steps.grading.values import (
    Braces,
    Bracketed,
    Combined,
    Listing,
    Matrix,
    Ratio,
    Reals,
    Relation,
    Scalar,
    Words,
    read,
)
from rlstep.steps.grading.zero import is_zero, points, without_functions


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
        case Ratio(), Ratio():
            return _in_order(left.parts, right.parts)
        case (Ratio(), Scalar()) | (Scalar(), Ratio()):
            return _same_ratio(*((left, right) if isinstance(left, Ratio) else (right, left)))
        case Bracketed(), Bracketed():
            return (left.left, left.right) == (right.left, right.right) and _in_order(left.items, right.items)
        case (Listing(), Bracketed(left="(", right=")")) | (Bracketed(left="(", right=")"), Listing()) if not (
            _is_condition(left) or _is_condition(right)
        ):
            return _in_order(left.items, right.items)
        case Listing(), Listing() if not _is_condition(left) and not _is_condition(right):
            return _in_any_order(list(left.items), list(right.items))
        case ((Listing() | Braces()), (Listing() | Braces())) if not _is_condition(left) and not _is_condition(right):
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


def _same_ratio(ratio: Ratio, number: Scalar) -> bool:
    """Whether a ratio equals a number: 2:3 is 2/3; what may be a time of day, 3:30, equals none."""
    if len(ratio.parts) != 2:
        return False
    above, below = (part.expr for part in ratio.parts)
    time = above.is_Integer and below.is_Integer and 10 <= below < 60
    return not time and not below.is_zero and same_number(above / below, number.expr)


def _read_as_list(text: str, value, other) -> bool:
    """Whether to read a number such as `100,200` or `x = 100,200` as a list, because the other answer is one."""
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
    if not isinstance(value, Relation) or len(names := _variables(value)) != 1:
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


def _is_condition(value) -> bool:
    """Whether a list consists of inequalities, `x < 1 or x > 3`, and so describes one set."""
    return isinstance(value, Listing) and all(
        isinstance(item, Relation) and "=" not in item.signs for item in value.items
    )


def _same_set(left, right) -> bool:
    if {type(left), type(right)} & {Scalar, Words, Matrix, Ratio} or _restates(left, right):
        return False
    variables = _variables(left), _variables(right)
    if all(variables) and variables[0] != variables[1]:
        return False
    ours, theirs = _as_set(left), _as_set(right)
    if ours is None or theirs is None:
        return False
    if ours == theirs:
        return True
    pieces = [sorted(_pieces(numbers), key=_beginning) for numbers in (ours, theirs)]
    if None in pieces[0] + pieces[1]:
        return ours.symmetric_difference(theirs).is_empty is True
    return len(pieces[0]) == len(pieces[1]) and all(map(_same_piece, *pieces))


def _variables(value) -> set[str]:
    parts = value.items if isinstance(value, Listing) else [value]
    names = set()
    for part in parts:
        if isinstance(part, Relation):
            names |= {str(name) for side in part.parts if isinstance(side, Scalar) for name in side.expr.free_symbols}
    return names


def _as_set(value) -> sympy.Set | None:
    """A value as a set of numbers; None if it is not one."""
    match value:
        case Reals():
            return value.numbers
        case Bracketed() if len(value.items) == 2 and all(isinstance(item, Scalar) for item in value.items):
            low, high = (item.expr for item in value.items)
            if not (low.is_extended_real and high.is_extended_real and low < high):
                return None
            return sympy.Interval(low, high, value.left == "(", value.right == ")")
        case Braces() if all(isinstance(item, Scalar) for item in value.items):
            return sympy.FiniteSet(*(item.expr for item in value.items))
        case Combined():
            sets = [_as_set(part) for part in value.sets]
            if None in sets:
                return None
            joined = sets[0]
            for operator, more in zip(value.operators, sets[1:], strict=True):
                joined = (
                    joined | more if operator == "\\cup" else joined & more if operator == "\\cap" else joined - more
                )
            return joined
        case Relation():
            return _solutions(value)
        case Listing() if _is_condition(value):
            sets = [_as_set(item) for item in value.items]
            if None in sets:
                return None
            return sympy.Union(*sets) if value.joined == "or" else sympy.Intersection(*sets)
    return None


def _solutions(relation: Relation) -> sympy.Set | None:
    """The real numbers for which a chain of relations in one variable holds."""
    names = _variables(relation)
    if len(names) != 1 or not all(isinstance(part, Scalar) for part in relation.parts):
        return None
    variable = sympy.Symbol("x", real=True)
    sides = [part.expr.subs(sympy.Symbol(*names), variable) for part in relation.parts]
    kinds = {"<": sympy.Lt, "<=": sympy.Le, ">": sympy.Gt, ">=": sympy.Ge, "=": sympy.Eq, "!=": sympy.Ne}
    solutions = sympy.S.Reals
    for left, sign, right in zip(sides, relation.signs, sides[1:], strict=False):
        holds = kinds[sign](left, right)
        if holds == sympy.false or holds == sympy.true:
            return None
        solutions &= holds.as_set()
    return solutions


def _pieces(numbers: sympy.Set) -> list:
    """Intervals and points of a set; a None for each part that is neither."""
    if isinstance(numbers, sympy.Union):
        return [piece for part in numbers.args for piece in _pieces(part)]
    if isinstance(numbers, sympy.FiniteSet):
        return [(point, point, False, False) for point in numbers.args]
    if isinstance(numbers, sympy.Interval):
        return [(numbers.start, numbers.end, bool(numbers.left_open), bool(numbers.right_open))]
    return [] if numbers is sympy.S.EmptySet else [None]


def _beginning(piece) -> tuple[float, float]:
    return (float(piece[0]), float(piece[1])) if piece and piece[0].is_extended_real else (0.0, 0.0)


def _same_piece(left, right) -> bool:
    return left[2:] == right[2:] and same_number(left[0], right[0]) and same_number(left[1], right[1])
