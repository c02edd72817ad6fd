r"""One expression, such as `\frac{1}{2}x^2 + 3`: read by the LaTeX grammar of latex2sympy, without evaluating any text.

This module and those that build on it run only in the grading process (`rlstep.steps.grader`): SymPy parses even digits
with `eval`, and an expression may take forever.
"""

import re
from functools import lru_cache

import sympy
from latex2sympy2_extended.latex2sympy2 import ConversionConfig, _Latex2Sympy

from rlstep.steps.grading.plain import MAX_EXPONENT, are_factors
from rlstep.steps.grading.symbols import DOLLAR


class Unreadable(Exception):
    """The text is not an expression of the grammar."""


# An answer is a value. A sum, an integral or a limit that is not yet computed only restates the question.
_UNFINISHED = (sympy.Integral, sympy.Derivative, sympy.Sum, sympy.Product, sympy.Limit)
_NUMBER = re.compile(r"\d+\.?\d*|\.\d+", re.ASCII)
_POWER_OF_TEN = re.compile(r"(?<![A-Za-z\d.])(\d+\.?\d*|\.\d+)[eE]([-+]?\d{1,6})(?![\d.])", re.ASCII)
_MIXED = re.compile(
    r"(?<![\w.^}\\/])(\d+) ?\\frac\{ ?(\d+) ?\}\{ ?(\d+) ?\}(?![\w^!])|(?<![\w.^}\\/])(\d+) (\d+) ?/ ?(\d+)(?![\w^!.])",
    re.ASCII,
)
_REPEATING = re.compile(r"(\d*)\.(\d*)\\overline\{(\d+)\}", re.ASCII)
_INFINITY = re.compile(r"[-+]?\s*\\infty\s*")
_FACTORIAL_RAISED = re.compile(r"(\d+!|[A-Za-z]!)(?=\s*\^)")
_DEGREE = re.compile(
    r"(\d+\.?\d*|\.\d+|(?<![A-Za-z\\])[A-Za-z]|\\[a-z]+|\))\s*\^\s*(?:\\circ(?![A-Za-z])|\{\s*\\circ\s*\})"
)
_RUN = re.compile(r"(\\[A-Za-z]+|_)?(?<![A-Za-z])([A-Za-z]{2,})")
_THOUSANDS = re.compile(r"(?<![\d.,])[1-9]\d{0,2}(?:,\d{3})+(?![\d,])", re.ASCII)
# C(n, k); {}_nC_k and {}^nC_k; 5C2; C_5^2 and C^2_5, with the number that is chosen above. P and A, which count
# arrangements, are written in the same ways, except P(n, k), which may be a point.
_CHOOSE = (
    re.compile(r"(?<![A-Za-z\\_}])(?P<kind>C) ?\((?P<n>[^(),]+),(?P<k>[^(),]+)\)"),
    re.compile(
        r"(?:(?:\{\}|\\cdot|\\times) ?|(?<![\w)}\]!'])(?<![\w)}\]!'] ))[_^] ?(?:\{ ?)?(?P<n>\d+|[A-Za-z])(?: ?\})? ?"
        r"(?P<kind>[CPA]) ?_ ?(?:\{ ?)?(?P<k>\d+|[A-Za-z])(?: ?\})?",
        re.ASCII,
    ),
    re.compile(r"(?<![\w.,^}\\])(?P<n>\d+) ?(?P<kind>[CP]) ?(?P<k>\d+)(?![\w.^(])", re.ASCII),
    re.compile(
        r"(?<![\w\\}])(?P<kind>[CPA]) ?_ ?(?:\{ ?)?(?P<n>\d+)(?: ?\})? ?\^ ?(?:\{ ?)?(?P<k>\d+)(?: ?\})?", re.ASCII
    ),
    re.compile(
        r"(?<![\w\\}])(?P<kind>[CPA]) ?\^ ?(?:\{ ?)?(?P<k>\d+)(?: ?\})? ?_ ?(?:\{ ?)?(?P<n>\d+)(?: ?\})?", re.ASCII
    ),
)
_LETTER_AS_TEXT = re.compile(r"\\text\{([CPA])\}(?= ?[_^(\d])")
# How many there are, or are chosen: 5, n, 2n+1; not -1, 1.5 or \sqrt{2}.
_COUNT = re.compile(r"[\dA-Za-z](?:[-+*!\w ]|\\cdot|\\times)*", re.ASCII)
_ROUND_POWER = re.compile(r"\^ ?\(([^()]*)\)")
_TEXT = re.compile(r"\\text\{\s*([^{}]*?)\s*\}")
_NO_LETTERS = re.compile(r"[^A-Za-z0-9]+")
_NOT_READ = re.compile(
    r"\d\s*_|(?<![_^\d])\d+\s+\.?\d|--|\\text\{\s*\}|\\(?:gcd|lcm|det|max|min|mod|bmod|pmod|operatorname|xrightarrow|substack|hspace|input)(?![A-Za-z])"
)
_FACTOR = (
    r"(?:\d+(?:\.\d+)?|\\frac\{[^{}]*\}\{[^{}]*\}|\\(?:pi|theta|phi|alpha|beta|gamma|omega)(?![a-z])|[a-z](?![a-z]))"
)
# The angle of a complex number on the unit circle: in brackets, or a product up to its end, 5\pi/6 of cis 5\pi/6.
_CIS = re.compile(
    r"\\cis ?(\((?:[^()]|\([^()]*\))*\)|\{[^{}]*\}"
    rf"|(?>{_FACTOR}(?: ?{_FACTOR})*(?: ?/ ?\d+)?(?: ?\^ ?(?:\\circ|\{{ ?\\circ ?\}}))?)(?! ?[\^!_/]))"
)
_PRIME = re.compile(r"([A-Za-z}])((?:'|\^\s*\{?\s*\\prime\s*\}?)+)")


class _Grammar(_Latex2Sympy):
    """latex2sympy's reader with exact numbers, and with products read as such: the original reads 2(3) as 2 + 3/1."""

    def __init__(self):
        super().__init__(config=ConversionConfig(lowercase_symbols=False))

    def parse_number(self, text: str):
        text = text.replace(",", "").strip()
        if not _NUMBER.fullmatch(text):
            raise Unreadable(text)
        whole, _, part = text.partition(".")
        return sympy.Rational(int(whole + part), 10 ** len(part)) if part else sympy.Integer(int(whole))

    def convert_postfix(self, postfix):
        operators = postfix.postfix_op()
        if len(operators) == 2 and all(operator.BANG() for operator in operators):
            # The original reads 9!! as (9!)!.
            return sympy.factorial2(
                self.convert_exp(postfix.exp() if hasattr(postfix, "exp") else postfix.exp_nofunc())
            )
        return super().convert_postfix(postfix)

    def convert_postfix_list(self, arr, i=0):
        factors = [self.convert_postfix(factor) for factor in arr[i:]]
        if any(isinstance(factor, list) for factor in factors):
            raise Unreadable("a derivative")
        product = factors[0]
        for factor in factors[1:]:
            matrices = getattr(product, "is_Matrix", False) or getattr(factor, "is_Matrix", False)
            product = self.mat_mul_flat(product, factor) if matrices else self.mul_flat(product, factor)
        return product


@lru_cache(maxsize=1 << 10)
def expression(text: str) -> sympy.Basic:
    """The SymPy expression or matrix of a text in the spelling of `tidy`, evaluated; `Unreadable` for other text."""
    text = with_binomials(text)
    if _NOT_READ.search(text):
        raise Unreadable(text)
    try:
        tree = _Grammar().parse(_for_the_grammar(text))
    except RecursionError as error:
        raise Unreadable(text) from error
    except Exception as error:  # the grammar raises plain Exceptions, and SymPy whatever senseless arguments lead to
        if isinstance(error, PermissionError):
            raise
        raise Unreadable(text) from error
    if not isinstance(tree, sympy.Expr | sympy.MatrixBase) or tree.has(*_UNFINISHED):
        raise Unreadable(text)
    value = tree.doit().subs(sympy.Symbol("i"), sympy.I)
    if "\\infty" in text and not _INFINITY.fullmatch(text):  # 1/\infty is a limit as well
        raise Unreadable(text)
    return value


def with_binomials(text: str) -> str:
    """The text with binomial coefficients and numbers of arrangements as the grammar has them, however written."""
    text = _LETTER_AS_TEXT.sub(r"\1", text)
    for written in _CHOOSE:
        text = written.sub(_chosen, text)
    return text


def arranged(n: str, k: str) -> str | None:
    """The number of ways to put k of n things in order, as LaTeX; None if n and k are no numbers of things."""
    if not _are_counts(n, k):
        return None
    return rf"\frac{{({n})!}}{{({n}-({k}))!}}"


def _for_the_grammar(text: str) -> str:
    text = text.replace(DOLLAR, "")
    text = _REPEATING.sub(_fraction_of_repeating, text)
    text = _POWER_OF_TEN.sub(_power_of_ten, text)
    text = _MIXED.sub(_sum_of_mixed, text)
    text = _DEGREE.sub(_radians, _CIS.sub(r"(e^{i \\cdot (\1)})", text))
    text = _PRIME.sub(lambda match: match[1] + "_{" + "p" * (match[2].count("'") + match[2].count("prime")) + "}", text)
    text = _FACTORIAL_RAISED.sub(r"(\1)", text)
    text = _ROUND_POWER.sub(r"^{\1}", text)
    text = _THOUSANDS.sub(lambda match: match[0].replace(",", ""), text)
    text = _TEXT.sub(lambda match: r"\text{" + _NO_LETTERS.sub("", match[1]).casefold() + "}", text)
    return _words_as_symbols(text)


def _words_as_symbols(text: str) -> str:
    """Turns each run of letters that is not a product of variables into one symbol: blue is not b l u e."""
    parts, at = [], 0
    for match in re.compile(r"\\[A-Za-z]+(?:\{[^{}]*\})?|(?<![A-Za-z\\_])[A-Za-z]{3,}").finditer(text):
        run = match[0]
        if run.startswith("\\") or are_factors(run):
            continue
        parts += [text[at : match.start()], r"\text{", run.casefold(), "}"]
        at = match.end()
    return "".join(parts) + text[at:]


def _chosen(match: re.Match) -> str:
    """The number of choices; C(2, 5) and C(-1, 2), where nothing can be chosen, may be points named C and stay."""
    n, k = match["n"].strip(), match["k"].strip()
    if not _are_counts(n, k):
        return match[0]
    return rf"\binom{{{n}}}{{{k}}}" if match["kind"] == "C" else arranged(n, k)


def _are_counts(n: str, k: str) -> bool:
    too_many = n.isdecimal() and k.isdecimal() and int(n) < int(k)
    return bool(_COUNT.fullmatch(n) and _COUNT.fullmatch(k)) and not too_many


def _radians(match: re.Match) -> str:
    to = r" \cdot \frac{\pi}{180}"
    return match[1] + to if match[1] == ")" else f"({match[1]}{to})"


def _power_of_ten(match: re.Match) -> str:
    if abs(int(match[2])) > MAX_EXPONENT:
        raise Unreadable(match[0])
    return rf"({match[1]} \cdot 10^{{{int(match[2])}}})"


def _sum_of_mixed(match: re.Match) -> str:
    whole, above, below = (int(part) for part in match.groups() if part is not None)
    return rf"\frac{{{whole * below + above}}}{{{below}}}" if above < below else match[0]


def _fraction_of_repeating(match: re.Match) -> str:
    nines = 10 ** len(match[3]) - 1
    value = int((match[1] or "0") + match[2]) * nines + int(match[3])
    return rf"\frac{{{value}}}{{{nines * 10 ** len(match[2])}}}"
