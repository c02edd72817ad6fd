"""A number that tells expressions apart: their value where each variable has a value of its own.

Comparing two expressions takes algebra; comparing their values at one point does not, and values that differ there are
those of different expressions. Of hundreds of answers nearly all pairs need nothing more.
"""

import zlib

import sympy
from mpmath.libmp import to_float
from sympy.core.evalf import evalf

from rlstep.steps.grading.expressions import Unreadable
from rlstep.steps.grading.kinds import Scalar
from rlstep.steps.grading.values import read
from rlstep.steps.grading.zero import without_functions

BITS = 53
CERTAIN_BITS = 40


def signature(text: str) -> tuple[float, float] | None:
    """The real and imaginary part of an expression's value at the point, each to `CERTAIN_BITS`.

    None for what is no single expression, and where it has no finite value that can be computed so well.
    """
    try:
        value = read(text)
    except Unreadable:
        return None
    if not isinstance(value, Scalar) or value.expr.has(sympy.oo, -sympy.oo, sympy.zoo, sympy.nan):
        return None
    expr = without_functions(value.expr)
    parts = evalf(expr.subs({variable: _value_of(str(variable)) for variable in expr.free_symbols}), BITS, {})
    if any(part is not None and bits < CERTAIN_BITS for part, bits in zip(parts[:2], parts[2:], strict=True)):
        return None
    real, imaginary = (0.0 if part is None else to_float(part) for part in parts[:2])
    return (real, imaginary) if abs(complex(real, imaginary)) < float("inf") else None


def _value_of(variable: str) -> sympy.Rational:
    """The variable's value at the point, the same in every expression."""
    k = zlib.crc32(variable.encode())
    return sympy.Rational(k % 89 + 2, k % 13 + 3)
