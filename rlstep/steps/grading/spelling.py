r"""One spelling for the many in which people and models write the same mathematics: text in, LaTeX out.

Everything here runs in time linear in the text.

$\left(\tfrac12,\ 10{,}080\right)$.   ->  (\frac{1}{2}, 10080)
"""

import re
import unicodedata
from functools import lru_cache

from rlstep.steps.grading.domains import all_but
from rlstep.steps.grading.environments import without_environments
from rlstep.steps.grading.numerals import in_digits, overlined, without_approximately
from rlstep.steps.grading.symbols import DOLLAR, DROPPED, LOWERED, NOT_ASCII, RAISED, RENAMED, SPACES, SYMBOLS, TAKING

_COMMAND = re.compile(r"\\([A-Za-z]+)[ \t]*|\\\\|\\!\s*|\\[,;:> ~]|\\\n|~")
_TWICE_ESCAPED = re.compile(r"\\\\(?=[A-Za-z])")
_WRAPPED = re.compile(
    r"\$\$([^$]+)\$\$|\$([^$]+)\$|\"([^\"]+)\"|'([^']+)'|\*\*\*([^*]+)\*\*\*|```([^`]+)```|\\\(((?:(?!\\[()]).)+)\\\)|\\\[((?:(?!\\[\[\]]).)+)\\\]|\*\*([^*]+)\*\*|\*([^*]+)\*"
    r"|__([^_]+)__|_([^_]+)_|`([^`]+)`",
    re.DOTALL,
)
# What is drawn around an answer or leads to it, and is no part of it.
_AROUND = (
    (re.compile(r"\\(?:left|right)\s*\."), ""),
    (re.compile(r"<(b|strong|i|em|u|mark)>(.*?)</\1>", re.DOTALL), r"\2"),
    (re.compile(r"^\s*\\(?:therefore|implies|(?:Long)?[Rr]ightarrow)(?![A-Za-z])\s*"), ""),
    (re.compile(r"\\Bbb(?![A-Za-z])"), r"\\mathbb"),
    (re.compile(r"^\s*\{\}(?=\s*[\d\\A-Za-z])"), ""),
)
_INLINE = re.compile(r"\$\$?([^$]+)\$\$?|\\[()\[\]](?!\\)")
_BOLD = re.compile(r"\\mathbf(?:\{([^{}]*)\}| ?(\d+|[A-Za-z]|\\[A-Za-z]+))")
_FUNCTION_AS_TEXT = re.compile(r"\\text\{\s*((?:arc)?(?:sin|cos|tan)|cot|sec|csc|log|ln|cis)\s*\}")
_DIFFERENTIAL = re.compile(r"\\text\{d\}(?= ?[A-Za-z])")
_DEGREE_SIGN = re.compile(r"\\text\{\s*\^\\circ\s*\}|(?<=[\d)])\s*\^\s*(?:\{\s*o\s*\}|o(?![A-Za-z(]))")
_INDEX_BEFORE_ROOT = re.compile(r"\^\{(\d)\}\\sqrt ")
_INVISIBLE = re.compile(
    r"\\(?:color|[hv]?phantom|[hv]space\*?|label|tag\*?)\s*\{[^{}]*\}|(?<=\\textcolor)\s*\{[^{}]*\}"
)
_TEXT_IN_TEXT = re.compile(r"\\text\{\s*(\\text\{[^{}]*\})\s*\}")
# Digits and signs in \text{...} are mathematics all the same, and so are the constants e and i beside something else.
_DIGITS_AS_TEXT = re.compile(rf"\\text\{{((?=[^{{}}]*[\d%{DOLLAR}])(?:[^{{}}A-Za-z\\]|\\%|\b(?:and|or)\b)*)\}}")
_CONSTANT_AS_TEXT = re.compile(r"(?<=.)\\text\{([ei])\}|\\text\{([ei])\}(?=.)", re.DOTALL)
_NUMBER_AS_TEXT = re.compile(rf"\\text\{{\s*([-+{DOLLAR}]?[\d.][^{{}}\\]*)\}}")
_FONT = re.compile(r"\\text\{([^{}]*)\}")
_BOX = re.compile(r"\\(?:boxed|fbox|framebox)\s*\{")
_BRACE = re.compile(r"(?<!\\)[{}]")
_FULL_STOP = re.compile(r"(?<!\s)(?:\s|\\\\$|(?<!\.)\.$|(?<!\\)[,;:]$)+$")
_SPACE = re.compile(r"\s+")
_FREE_SPACE = re.compile(r"(?<!\d)\s+|\s+(?!\d)")
_GROUPED = re.compile(
    r"(?<![\d.,])[1-9]\d{0,2}(?:(?:\{,\}|\\,|\\!)\s*\d{3})+(?!\d)|(?<![\d.,])[1-9]\d{0,2}(?:\s*,\s*\\!\s*(?:\\,\s*)?\d{3})+(?!\d)"
)
# A comma in braces has no space after it, as within a number: three digits are thousands, any other number of them are
# decimals. In a pair that is the whole text it may be the pair's.
_DECIMAL_COMMA = re.compile(r"(?<![\d.}])(?:(\d+)\{,\}(\d\d?|\d{4,})|(0|\d{4,})\{,\}(\d{3}))(?![\d.]|\{,\})", re.ASCII)
_PAIR = re.compile(
    r"(?:\\left\s*)?(?:[(\[]|\\\{)\s*[-+]?[\d.]+\s*\{,\}\s*[-+]?[\d.]+\s*(?:\\right\s*)?(?:[)\]]|\\\})", re.ASCII
)
# 1.234.567; 1.234,5 and 1 234,56; 1'234'567: groups of three digits that can be nothing else.
_IN_GROUPS = re.compile(
    r"(?<![\w.,'])[1-9]\d{0,2}(?:(?:\.\d{3}){2,}|(?:\.\d{3})+,\d+|(?: \d{3})+,(?:\d\d?|\d{4,})|(?:'\d{3})+)(?![\w.,'])",
    re.ASCII,
)
_ARGUMENT = re.compile(r"\s*(\\[A-Za-z]+|[A-Za-z0-9])")
_TAKES = re.compile(r"\\(frac|binom|sqrt|vec|overline|bar|hat|mathbb)(?![A-Za-z])")
# What is typed without LaTeX. 5!=120 is an equation, x != 5 is not.
_TYPED = (
    (re.compile(r"(?<=[A-Za-z)])\s*:=\s*"), " = "),
    (re.compile(r"^<([^<>=]*,[^<>=]*)>$"), r"\\langle \1\\rangle "),
    (re.compile(r"^\{([^{}]*?(?:\||:)[^{}|:]*[<>=≤≥≠][^{}|:]*)\}$"), r"\\{\1\\}"),
    (re.compile(r"^(\d{1,2}) ?o'clock$"), r"\1:00"),
    (re.compile(r"(?<![<>=])>=(?![<>=])"), r"\\geq "),
    (re.compile(r"(?<![<>=])<=(?![<>=])"), r"\\leq "),
    (re.compile(r"(?<=\s)!=(?![<>=])"), r"\\neq "),
    (re.compile(r"(?:\+/|^\+)-(?=\s*[\d\\A-Za-z(])"), r"\\pm "),
    (re.compile(r"(?<=[)\]}])\s*U\s*(?=[(\[{\\])"), r"\\cup "),
    (re.compile(r"(?<=[\d})])\s+&\s+(?=[\d({\\-])"), " and "),
    (re.compile(r"\{([^{}]*)\\over(?![A-Za-z])([^{}]*)\}"), r"\\frac{\1}{\2}"),
    (re.compile(r"(?<![\w{}])(\d+|[A-Za-z]) ?\\choose(?![A-Za-z]) ?(\d+|[A-Za-z])(?![\w}])"), r"\\binom{\1}{\2}"),
    (re.compile(r"\{([^{}]*)\\choose(?![A-Za-z])([^{}]*)\}"), r"\\binom{\1}{\2}"),
)
_INFINITY_AS_TEXT = re.compile(r"^(?:\\text\{)? ?(?:(negative|positive) )?\\infty ?\}?$")
_BARE_ROOT = re.compile(r"(?<![A-Za-z\\])sqrt(?![A-Za-z])")
_INFINITIES = dict.fromkeys(("infinity", "inf", "oo"), "infty")
# At the end of the text, sec are seconds.
_BARE_NAME = re.compile(
    r"(?<![A-Za-z\\])(pi|infinity|infty|inf|oo|sin|cos|tan|cot|sec(?! ?(?:$|\}|\)|\^\{?2\}?$))|csc|log|ln|exp|cis"
    r"|arcsin|arccos|arctan|alpha|beta|theta|phi)(?![A-Za-z])"
)


@lru_cache(maxsize=1 << 12)
def tidy(text: str) -> str:
    r"""The text in one spelling. Delimiters of mathematics are removed; a dollar sign that means money is `DOLLAR`.

    >>> tidy(r"$\left(\tfrac12,\ 10{,}080\right)$.")
    '(\\frac{1}{2}, 10080)'
    """
    text = _unboxed(unwrap(text.replace("\\$", DOLLAR)))
    for typed, mathematics in _TYPED if "\\begin" not in text else ():
        text = typed.sub(mathematics, text)
    text = without_environments(text)
    for drawn, kept in _AROUND:
        text = drawn.sub(kept, text)
    text = _INLINE.sub(lambda match: match[1] or "", NOT_ASCII.sub(_ascii, text)).replace("$", DOLLAR)
    text = _DEGREE_SIGN.sub(r"^\\circ ", _INDEX_BEFORE_ROOT.sub(r"\\sqrt[\1]", text))
    text = _IN_GROUPS.sub(lambda match: re.sub(r"[.' ]", "", match[0]).replace(",", "."), text)
    if not _PAIR.fullmatch(text):
        text = _DECIMAL_COMMA.sub(lambda match: ".".join(filter(None, match.groups())), text)
        text = _GROUPED.sub(lambda match: re.sub(r"[^\d]+", "", match[0]), text)
    if "\\begin" not in text:
        text = _TWICE_ESCAPED.sub(r"\\", text)
    text = _COMMAND.sub(_command, _INVISIBLE.sub("", text.replace("{,}", ",")))
    text = overlined(_unstyled(_BOLD.sub(lambda match: match[1] or match[2] or "", text).replace("\\mathbf{", "{")))
    text = _BARE_NAME.sub(lambda match: rf"\{_INFINITIES.get(match[1], match[1])} ", text)
    text = _INFINITY_AS_TEXT.sub(lambda match: r"-\infty" if match[1] == "negative" else r"\infty", text)
    text = _arguments(_BARE_ROOT.sub(r"\\sqrt ", text).replace("**", "^"))
    text = unwrap(_SPACE.sub(" ", _ungrouped(unwrap(text))))
    text = without_approximately(text)
    worded = words_of(text, lower=False)
    return all_but(worded) or in_digits(worded) or text


def _unstyled(text: str) -> str:
    r"""Mathematics in place of what is set as text: `\text{12}`, `3\text{i}`, `\text{\text{12}}`, `\text{12 cm}`."""
    text = _DIGITS_AS_TEXT.sub(r"\1", _TEXT_IN_TEXT.sub(r"\1", text))
    text = _DIFFERENTIAL.sub("d", _FUNCTION_AS_TEXT.sub(r"\\\1 ", text))
    text = _CONSTANT_AS_TEXT.sub(lambda match: match[1] or match[2], text)
    whole = _NUMBER_AS_TEXT.fullmatch(text.strip())
    return whole[1] if whole else text


def _ungrouped(text: str) -> str:
    """The text without braces around all of it."""
    while text.startswith("{") and text.endswith("}"):
        depth = 0
        for at, character in enumerate(text):
            depth += {"{": 1, "}": -1}.get(character, 0) if text[at - 1] != "\\" else 0
            if not depth and at < len(text) - 1:
                return text
        text = text[1:-1].strip()
    return text


def unwrap(text: str) -> str:
    """The text without surrounding space, full stop, markdown and math delimiters."""
    before = None
    while before != text:
        before = text
        text = _FULL_STOP.sub("", text.strip())
        if wrapped := _WRAPPED.fullmatch(text):
            text = next(filter(None, wrapped.groups()))
    return text


def _unboxed(text: str) -> str:
    """The content of a box that is the whole text, as references are given that were cut out of solutions."""
    box = _BOX.match(text)
    if box is None or not text.endswith("}"):
        return text
    depth = 0
    for brace in _BRACE.finditer(text, box.end() - 1):
        depth += 1 if brace[0] == "{" else -1
        if depth == 0:
            return unwrap(text[box.end() : -1]) if brace.end() == len(text) else text
    return text


def squeezed(text: str) -> str:
    """The text without spaces, except between two digits."""
    return _FREE_SPACE.sub("", text)


def words_of(text: str, lower: bool = True) -> str:
    r"""The text without `\text{...}` and quotes around its words, in lower case, with single spaces."""
    text = _SPACE.sub(" ", _FONT.sub(r"\1", text).replace('"', "")).strip().removesuffix(".")
    return text.casefold() if lower else text


def _ascii(match: re.Match) -> str:
    text = match[0]
    if text[0] in "⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻ⁿ":
        return "^{" + text.translate(RAISED) + "}"
    if text[0] in "₀₁₂₃₄₅₆₇₈₉":
        return "_{" + text.translate(LOWERED) + "}"
    if text.isdecimal():  # of another script
        return str(unicodedata.decimal(text))
    return SYMBOLS.get(text, text)


def _command(match: re.Match) -> str:
    name = match[1]
    if match[0] == "\\\\":
        return match[0]
    if name is None:
        return "" if match[0].startswith("\\!") else " "
    if name in SPACES:
        return " "
    if name in DROPPED:
        return ""
    if name not in RENAMED:
        return match[0].rstrip() + (" " if match[0][-1].isspace() else "")
    return RENAMED[name] + (" " if RENAMED[name][-1].isalpha() and RENAMED[name] not in TAKING else "")


def _arguments(text: str) -> str:
    r"""Adds braces around the arguments of commands: `\frac43` -> `\frac{4}{3}`, `\sqrt(3)` -> `\sqrt{3}`."""
    parts, at = [], 0
    for match in _TAKES.finditer(text):
        if match.start() < at:
            continue
        parts += [text[at : match.end()]]
        at = match.end()
        if match[1] == "sqrt":
            if index := re.compile(r"\s*(\[[^\[\]]*\])").match(text, at):
                parts += [index[1]]
                at = index.end()
            if opened := re.compile(r"\s*\(([^()]*)\)").match(text, at):
                parts += ["{", opened[1], "}"]
                at = opened.end()
                continue
            if number := re.compile(r"\s*(\d+)").match(text, at):
                # "√10" and "\sqrt 10" mean the root of ten, though TeX would take the 1 alone.
                parts += ["{", number[1], "}"]
                at = number.end()
                continue
        for _ in range(2 if match[1] in ("frac", "binom") else 1):
            if not (argument := _ARGUMENT.match(text, at)):
                at = _braced(text, at, parts)
                continue
            if argument[1] in ("\\frac", "\\sqrt", "\\binom", "\\text"):
                break
            parts += ["{", argument[1], "}"]
            at = argument.end()
    return "".join(parts) + text[at:]


def _braced(text: str, at: int, parts: list[str]) -> int:
    """The end of the braced argument that starts at `at`; adds missing braces inside it."""
    start = len(text) - len(text[at:].lstrip())
    if start >= len(text) or text[start] != "{":
        return at
    depth = 0
    for end in range(start, len(text)):
        depth += {"{": 1, "}": -1}.get(text[end], 0) if text[end - 1] != "\\" else 0
        if depth == 0:
            parts += ["{", _arguments(text[start + 1 : end]), "}"]
            return end + 1
    return at
