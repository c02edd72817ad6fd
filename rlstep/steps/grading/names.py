"""What names a quantity: the side of an equation that is not its value."""

import re

_GREEK = "alpha|beta|gamma|delta|epsilon|theta|lambda|mu|rho|sigma|phi|varphi|omega|psi|tau|Delta|Omega|ell"
_NAME = re.compile(
    r"(?:m ?)?(?:\\(?:angle|triangle) ?[A-Za-z]+|\\(?:text|overline|vec|bar)\{[^{}]*\}"
    rf"|\\(?:{_GREEK}) ?|[A-Za-z]{{1,3}})"
    r"(?:_\{?\\?\w+\}?)?'*(?:\s*\^\s*\{?-1\}?)?(?:\s*\([^()=<>]*\))?(?:_\{?\w+\}?)?"
)
# A probability and a mean may have a relation in brackets; a sine, a derivative and a largest value are named as such.
_NAMED = re.compile(
    r"(?:\\mathbb\{[PE]\}|\\text\{(?:Pr|Var|Cov|E|P)\}|\\Pr|Pr|P|E|Var) ?"
    r"(?:\([^()]*\)|\[[^\[\]]*\]|\\\{[^{}]*\\\})"
    rf"|\\(?:sin|cos|tan|cot|sec|csc) ?(?:\\angle ?)?"
    rf"(?:\\(?:{_GREEK})|[A-Za-z]+|\([A-Za-z\\ ]+\)|\{{[A-Za-z\\ ]+\}})"
    r"|\\frac\{d\^?\d?[A-Za-z]?\}\{d[A-Za-z](?:\^\d)?\}|\\(?:max|min)"
)
# What has a value that is not a variable's: lengths, areas, norms, compositions, and what is to be computed.
_COMPUTED = re.compile(
    r"\[[A-Z]{3,}\]|\|[A-Z]{2}\||(?:\||\\\|)\\?(?:vec|overline|mathbf)\{[^{}]*\}(?:\||\\\|)|\\\|[A-Za-z](?:_\{?\w\}?)?\\\|"
    r"|[a-zA-Z](?:\([A-Za-z]\([^()=<>]*\)\))|\([A-Za-z] ?\\circ ?[A-Za-z]\) ?\([^()=<>]*\)"
    r"|(?:\\(?:gcd|lcm|sum|prod|i*int|lim)|\\(?:text|operatorname)\{(?:gcd|lcm)\})(?![A-Za-z]).*"
    r"|[^=<>]*\d[^=<>]*\\(?:bmod|pmod|mod)(?![A-Za-z]).*",
    re.DOTALL,
)
_NAMES_IN_ORDER = re.compile(r"\(?[A-Za-z](?:_\{?\w\}?)?(?:, ?[A-Za-z](?:_\{?\w\}?)?)+\)?")
_SUM_OF_NAMES = re.compile(r"(?:[A-Za-z]+|[-+/|]|\\cdot|\\overline|\\frac|\\angle|_\{?\d\}?|[{}() ])+")


def is_name(text: str) -> bool:
    r"""Whether a text names a quantity: `x`, `f(3)`, `x_1`, `\angle ABC`, `\text{Area}`."""
    return any(names.fullmatch(text.strip()) for names in (_NAME, _NAMES_IN_ORDER, _NAMED, _COMPUTED))


def names_a_sum(text: str) -> bool:
    r"""Whether a text is an expression in names alone, without numbers: `m + n`, `\frac{a}{b}`."""
    return is_name(text) or bool(_SUM_OF_NAMES.fullmatch(text.strip()))
