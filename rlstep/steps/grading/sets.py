"""Values as sets of numbers: intervals, sets, inequalities and unions of them."""

import sympy

from rlstep.steps.grading.kinds import Braces, Bracketed, Combined, Listing, Reals, Relation, Scalar


def as_set(value) -> sympy.Set | None:
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
            sets = [as_set(part) for part in value.sets]
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
        case Listing() if _are_intervals(value):
            sets = [as_set(item) for item in value.items]
            return None if None in sets else sympy.Union(*sets)
        case Listing() if is_condition(value):
            sets = [as_set(item) for item in value.items]
            if None in sets:
                return None
            both = sympy.Intersection(*sets)
            # Nobody states conditions that exclude each other: x < 1, x > 3 are alternatives.
            alternatives = value.joined == "or" or (value.joined == "," and both is sympy.S.EmptySet)
            return sympy.Union(*sets) if alternatives else both
    return None


def variables(value) -> set[str]:
    parts = value.items if isinstance(value, Listing) else [value]
    names = set()
    for part in parts:
        if isinstance(part, Relation):
            names |= {str(name) for side in part.parts if isinstance(side, Scalar) for name in side.expr.free_symbols}
    return names


def is_condition(value) -> bool:
    """Whether a list consists of inequalities, `x < 1 or x > 3`, and so describes one set."""
    return isinstance(value, Listing) and all(
        isinstance(item, Relation) and "=" not in item.signs for item in value.items
    )


def pieces(numbers: sympy.Set) -> list:
    """Intervals and points of a set; a None for each part that is neither."""
    if isinstance(numbers, sympy.Union):
        return [piece for part in numbers.args for piece in pieces(part)]
    if isinstance(numbers, sympy.FiniteSet):
        return [(point, point, False, False) for point in numbers.args]
    if isinstance(numbers, sympy.Interval):
        return [(numbers.start, numbers.end, bool(numbers.left_open), bool(numbers.right_open))]
    return [] if numbers is sympy.S.EmptySet else [None]


def beginning(piece) -> tuple[float, float]:
    return (float(piece[0]), float(piece[1])) if piece and piece[0].is_extended_real else (0.0, 0.0)


def _are_intervals(value: Listing) -> bool:
    r"""Whether a list is one of intervals rather than of points: `(-\infty, 0), (2, \infty)`, `(0, 1) or (2, 3)`."""
    if not all(isinstance(item, Bracketed) and len(item.items) == 2 for item in value.items):
        return False
    ends = [end for item in value.items for end in item.items if isinstance(end, Scalar)]
    mixed = any((item.left == "(") != (item.right == ")") for item in value.items)
    return value.joined == "or" or mixed or any(end.expr.is_infinite for end in ends)


def _solutions(relation: Relation) -> sympy.Set | None:
    """The real numbers for which a chain of relations in one variable holds."""
    names = variables(relation)
    if len(names) != 1 or not all(isinstance(part, Scalar) for part in relation.parts):
        return None
    variable = sympy.Symbol("x", real=True)
    sides = [part.expr.subs(sympy.Symbol(*names), variable) for part in relation.parts]
    kinds = {"<": sympy.Lt, "<=": sympy.Le, ">": sympy.Gt, ">=": sympy.Ge, "=": sympy.Eq, "!=": sympy.Ne}
    solutions = sympy.S.Reals
    for left, sign, right in zip(sides, relation.signs, sides[1:], strict=False):
        if {left, right} & {sympy.oo, -sympy.oo} and kinds[sign](left, right) == sympy.true:
            continue  # as in -oo < x < 3
        holds = kinds[sign](left, right)
        if holds == sympy.false or holds == sympy.true:
            return None
        solutions &= holds.as_set()
    return solutions
