"""Whether an expression is zero, whatever its variables are.

At rational points of both signs the value of a polynomial or rational function is exact, and one that vanishes at all
of them vanishes. Any other value is computed with as many digits as it takes to tell it from zero, up to DIGITS. No
number is rounded, so there is no tolerance that a wrong answer could lie within.
"""

from itertools import islice

import sympy
from sympy.core.evalf import evalf
from sympy.core.function import AppliedUndef

DIGITS = 400
_POINTS = 5
_CANDIDATES = 12
_BITS_OF_A_DIGIT = 3.33
_PRIMES = (2, 3, 5, 7, 11, 13, 17, 19, 23, 29, 31, 37, 41, 43, 47, 53)


def is_zero(expr: sympy.Expr) -> bool:
    """Whether an evaluated expression is zero at every point; False where it is nowhere defined."""
    if expr.is_Rational:
        return expr == 0
    expr = without_functions(expr)
    values = list(islice(filter(_is_finite, (expr.subs(point) for point in points(expr.free_symbols))), _POINTS))
    return bool(values) and all(map(_vanishes, values))


def points(variables: set[sympy.Symbol]):
    """Dictionaries of rational values of the variables, of either sign and none of them special."""
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


def without_functions(expr: sympy.Expr) -> sympy.Expr:
    """With f(3) and the like, of which nothing is known, as variables."""
    calls = expr.atoms(AppliedUndef)
    return expr.xreplace({call: sympy.Symbol(str(call)) for call in calls}) if calls else expr


def _is_finite(value: sympy.Expr) -> bool:
    return not value.has(sympy.nan, sympy.zoo, sympy.oo, -sympy.oo)


def _vanishes(value: sympy.Expr) -> bool:
    if value.is_Rational:
        return value == 0
    real, imaginary, real_bits, imaginary_bits = evalf(value, 53, {"maxprec": int(DIGITS * _BITS_OF_A_DIGIT)})
    # Bits that are sure are those of a number that is not zero.
    return not any(part and bits > 8 for part, bits in ((real, real_bits), (imaginary, imaginary_bits)))
