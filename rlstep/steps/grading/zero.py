"""Whether an expression is identically zero.

At rational points of both signs the value of a polynomial or rational function is exact, and one that vanishes at all
of them is zero; absolute values, roots and roundings are also tried far out and beside the places where they turn. Any
other value is computed with as many digits as it takes to distinguish it from zero: at most DIGITS, and more where the
expression has numbers so large or small that its value may be smaller than that (`_digits`). No number is rounded, so
there is no tolerance within which a wrong answer could pass.
"""

from itertools import islice

import sympy
from sympy.core.evalf import evalf
from sympy.core.function import AppliedUndef
from sympy.functions.elementary.hyperbolic import HyperbolicFunction

DIGITS = 400
MOST_DIGITS = 40_000
_POINTS = 5
_CANDIDATES = 12
_BITS_OF_A_DIGIT = 3.33
_PRIMES = (2, 3, 5, 7, 11, 13, 17, 19, 23, 29, 31, 37, 41, 43, 47, 53)


# Their formulas change from place to place.
_TURNING = (sympy.Abs, sympy.sign, sympy.floor, sympy.ceiling, sympy.Max, sympy.Min)


class Undecided(Exception):
    """Too many digits would be needed to tell a value from zero."""


def is_zero(expr: sympy.Expr) -> bool:
    """Whether an evaluated expression is zero at every point; False if it is defined nowhere."""
    if expr.is_Rational:
        return expr == 0
    expr = without_functions(expr)
    if expr.has(sympy.factorial, sympy.binomial):
        # Their values at fractions are those of the gamma function, which takes seconds to so many digits.
        expr = sympy.gammasimp(expr)
    values = list(islice(filter(_is_finite, (expr.subs(point) for point in points(expr.free_symbols))), _POINTS))
    beside = filter(_is_finite, (expr.subs(point) for point in _turning_points(expr)))
    return bool(values) and all(map(_vanishes, values)) and all(map(_vanishes, beside))


def points(variables: set[sympy.Symbol]):
    """Dictionaries of rational values for the variables, of both signs, avoiding special values."""
    variables = sorted(variables, key=str)
    if not variables:
        yield {}
        return
    for k in range(_CANDIDATES):
        yield {
            variable: sympy.Rational(
                (-1) ** ((k >> (i % 3)) + i * k) * (_PRIMES[(3 * k + 5 * i + 2) % 16] + i),
                _PRIMES[(5 * k + 7 * i) % 16] + 2 * i + 1,
            )
            for i, variable in enumerate(variables)
        }


def _turning_points(expr: sympy.Expr):
    """Points at and beside the places where a part of an expression changes its formula, and beyond all its numbers."""
    turning = [part for part in expr.atoms(*_TURNING, sympy.Pow) if part.free_symbols and _turns(part)]
    if not turning:
        return
    numbers = [max(abs(number.p), number.q) for number in expr.atoms(sympy.Rational)]
    beyond = min(max(numbers, default=1), 10**6) * sympy.Rational(17, 7) + 1
    around = next(points(expr.free_symbols))
    for variable, usual in around.items():
        others = {name: value for name, value in around.items() if name is not variable}
        places = {zero for part in turning for zero in _zeros(part, others, variable)}
        beside = [place + step for place in places for step in (0, sympy.Rational(1, 7), -sympy.Rational(1, 7))]
        for value in (beyond, -beyond, beyond + usual, *beside):
            yield others | {variable: value}


def _turns(part: sympy.Expr) -> bool:
    return not part.is_Pow or (part.exp.is_Rational and not part.exp.is_Integer)


def _zeros(part: sympy.Expr, others: dict, variable: sympy.Symbol):
    """Where what a turning part is about, if it is linear in the variable, is zero."""
    first, *rivals = part.args if isinstance(part, sympy.Max | sympy.Min) else part.args[:1]
    for about in [first - rival for rival in rivals] or [first]:
        linear = about.subs(others)
        slope = linear.diff(variable)
        if slope.is_Rational and slope != 0:
            yield linear.subs(variable, 0) / -slope


def without_functions(expr: sympy.Expr) -> sympy.Expr:
    """The expression with functions that have no value at fractions, such as f(3) and n!!, replaced by variables."""
    calls = expr.atoms(AppliedUndef, sympy.factorial2)
    return expr.xreplace({call: sympy.Symbol(str(call)) for call in calls}) if calls else expr


def _is_finite(value: sympy.Expr) -> bool:
    return not value.has(sympy.nan, sympy.zoo, sympy.oo, -sympy.oo)


def _vanishes(value: sympy.Expr) -> bool:
    if value.is_Rational:
        return value == 0
    if not _vanishes_in(value, DIGITS):
        return False
    digits = _digits(value)
    if digits > MOST_DIGITS:
        raise Undecided(f"it takes {digits} digits to tell {str(value)[:60]} from zero")
    return digits == DIGITS or _vanishes_in(value, digits)


def _vanishes_in(value: sympy.Expr, digits: int) -> bool:
    real, imaginary, real_bits, imaginary_bits = evalf(value, 53, {"maxprec": int(digits * _BITS_OF_A_DIGIT)})
    # A number with any certain bits is not zero.
    return not any(part and bits > 8 for part, bits in ((real, real_bits), (imaginary, imaginary_bits)))


def _digits(value: sympy.Expr) -> int:
    """The digits that tell a value from zero: sqrt(10^1000 + 1) and 10^500 are the same in the first thousand."""
    return DIGITS + int(4 * sum(map(_orders_of_magnitude, set(sympy.preorder_traversal(value)) - {value})))


def _orders_of_magnitude(part: sympy.Expr) -> float:
    """How many digits away from 1 a number is, or may make what it stands in: tanh(1000) is 1 up to the 868th."""
    if part.is_Rational:
        return (max(part.p.bit_length(), part.q.bit_length()) - 1) / _BITS_OF_A_DIGIT
    if isinstance(part, HyperbolicFunction):
        return 2 * float(abs(part.args[0].evalf(5)))
    size = abs(part.evalf(5)) if part.is_number else None
    if size is None or not size.is_Float or size == 0:
        return 0.0
    _, _, exponent, bits = size._mpf_
    return abs(exponent + bits) / _BITS_OF_A_DIGIT
