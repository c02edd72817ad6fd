"""Whether an expression is identically zero.

At rational points of both signs the value of a polynomial or rational function is exact, and one that vanishes at all
of them is zero. Any other value is computed with as many digits as it takes to distinguish it from zero, up to DIGITS.
No number is rounded, so there is no tolerance within which a wrong answer could pass.
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
    """Whether an evaluated expression is zero at every point; False if it is defined nowhere."""
    if expr.is_Rational:
        return expr == 0
    expr = without_functions(expr)
    if expr.has(sympy.factorial, sympy.binomial):
        # Their values at fractions are those of the gamma function, which takes seconds to so many digits.
        expr = sympy.gammasimp(expr)
    values = list(islice(filter(_is_finite, (expr.subs(point) for point in points(expr.free_symbols))), _POINTS))
    return bool(values) and all(map(_vanishes, values))


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


def without_functions(expr: sympy.Expr) -> sympy.Expr:
    """The expression with functions that have no value at fractions, such as f(3) and n!!, replaced by variables."""
    calls = expr.atoms(AppliedUndef, sympy.factorial2)
    return expr.xreplace({call: sympy.Symbol(str(call)) for call in calls}) if calls else expr


def _is_finite(value: sympy.Expr) -> bool:
    return not value.has(sympy.nan, sympy.zoo, sympy.oo, -sympy.oo)


def _vanishes(value: sympy.Expr) -> bool:
    if value.is_Rational:
        return value == 0
    real, imaginary, real_bits, imaginary_bits = evalf(value, 53, {"maxprec": int(DIGITS * _BITS_OF_A_DIGIT)})
    # A number with any certain bits is not zero.
    return not any(part and bits > 8 for part, bits in ((real, real_bits), (imaginary, imaginary_bits)))
