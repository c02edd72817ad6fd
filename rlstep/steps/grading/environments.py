r"""LaTeX environments in the few forms that values are read from: `matrix`, and lists of equations joined by "and".

\begin{aligned} x &= 1 \\ y &= 2 \end{aligned}   ->   x = 1 \text{ and } y = 2
\left(\begin{smallmatrix}1\\[4pt]2\end{smallmatrix}\right)   ->   \left(\begin{matrix}1\\2\end{matrix}\right)
"""

import re

_ROW_SPACING = re.compile(r"\\\\\s*\[\s*-?[\d.]+\s*(?:pt|em|ex|mm|cm|in)\s*\]")
_SMALL = re.compile(r"\\(begin|end)\{smallmatrix\}")
_LINES = re.compile(
    r"(?:\\left\s*)?(?:\\\{)?\s*\\begin\{(?P<name>d?cases|aligned|align\*?|gathered|split|array)\}"
    r"(?:\{[lcr| ]*\})?(?P<body>.*)\\end\{(?P=name)\}\s*(?:\\right\s*\.?)?",
    re.DOTALL,
)
_BY_A_SIGN = re.compile(r"&\s*(?=[=<>]|\\(?:[lg]eq?|ne)(?![a-z]))|(?<==)\s*&")
_GOES_ON = re.compile(r"\\\\\s*(?==)")
_SIGN = re.compile(r"[=<>]|\\(?:[lg]eq?|ne)(?![a-z])")
_TRANSPOSED = re.compile(
    r"(?:\\left)?[(\[]([^()\[\]&]*,[^()\[\]&]*?)(?:\\right)?[)\]]\s*"
    r"\^\s*\{?\s*(?:T|\\top|\\(?:text|mathsf|mathrm|intercal)\{T\})\s*\}?"
)


def without_environments(text: str) -> str:
    """The text with its equations in lines side by side, and its matrices in one environment."""
    if "\\begin" not in text:
        return _column(text) if "^" in text else text
    text = _SMALL.sub(r"\\\1{matrix}", _ROW_SPACING.sub(r"\\\\", text))
    lines = _LINES.fullmatch(text.strip())
    return _side_by_side(text, lines) if lines else text


def _side_by_side(text: str, lines: re.Match) -> str:
    r"""The lines joined by "and"; a line that begins with = goes on with the one before. Cases `x & x > 0` stay."""
    body = _GOES_ON.sub("", _BY_A_SIGN.sub("", lines["body"]))
    if "&" in body or "\\begin" in body:
        return text
    items = [item.strip().rstrip(",;") for item in body.split("\\\\") if item.strip()]
    if not items or (len(items) > 1 and not all(map(_SIGN.search, items))):
        return text
    return r" \text{ and } ".join(items)


def _column(text: str) -> str:
    """A transposed row in brackets as the column that it is."""
    row = _TRANSPOSED.fullmatch(text.strip())
    return r"\begin{pmatrix}" + r" \\ ".join(row[1].split(",")) + r"\end{pmatrix}" if row else text
