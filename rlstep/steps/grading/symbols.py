"""Signs and commands that are other ways to write one: the tables of `rlstep.steps.grading.spelling`."""

import re

DOLLAR = "\u00a4"

SYMBOLS = {
    **dict.fromkeys("\u2212\u2013\u2014\u2010\u2011", "-"),
    **dict.fromkeys("\u00a0\u2002\u2003\u2004\u2005\u2006\u2007\u2008\u2009\u200a\u202f\u3000", "\\,"),
    **dict.fromkeys("\u200b\u2060\ufeff", ""),
    **dict.fromkeys("\u201c\u201d", '"'), **dict.fromkeys("\u2018\u2019\u2032", "'"),
    "×": r"\times ", "·": r"\cdot ", "⋅": r"\cdot ", "∙": r"\cdot ", "÷": r"\div ", "π": r"\pi ", "∞": r"\infty ",
    "≤": r"\leq ", "≥": r"\geq ", "⩽": r"\leq ", "⩾": r"\geq ", "≠": r"\neq ", "≈": r"\approx ", "±": r"\pm ",
    "≡": r"\equiv ", "٫": ".", "٬": ",",
    "∪": r"\cup ", "∩": r"\cap ", "∈": r"\in ", "∅": r"\emptyset ", "ℝ": r"\mathbb{R}", "ℤ": r"\mathbb{Z}",
    "°": r"^\circ ", "º": r"^\circ ", "∠": r"\angle ", "√": r"\sqrt ", "∛": r"\sqrt[3]", "∜": r"\sqrt[4]",
    "∘": r"\circ ",
    "α": r"\alpha ", "β": r"\beta ", "γ": r"\gamma ", "δ": r"\delta ", "θ": r"\theta ", "λ": r"\lambda ", "μ": r"\mu ",
    "ϕ": r"\phi ", "ϵ": r"\epsilon ", "ε": r"\epsilon ",
    "ρ": r"\rho ", "σ": r"\sigma ", "φ": r"\phi ", "ω": r"\omega ", "⟨": r"\langle ", "⟩": r"\rangle ",
    "½": r"\frac12 ", "⅓": r"\frac13 ", "⅔": r"\frac23 ", "¼": r"\frac14 ", "¾": r"\frac34 ", "⅕": r"\frac15 ",
    "⅖": r"\frac25 ", "⅗": r"\frac35 ", "⅘": r"\frac45 ", "⅙": r"\frac16 ", "⅚": r"\frac56 ", "⅛": r"\frac18 ",
    **{chr(code): chr(code - 0xFEE0) for code in range(0xFF01, 0xFF5F)}, "。": ".", "、": ",", "…": r"\ldots ",
    "⅜": r"\frac38 ", "⅝": r"\frac58 ", "⅞": r"\frac78 ", "⁄": "/", "∕": "/",
}  # fmt: skip
RAISED = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻ⁿ", "0123456789+-n")
LOWERED = str.maketrans("₀₁₂₃₄₅₆₇₈₉", "0123456789")
NOT_ASCII = re.compile(r"[⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻ⁿ]+|[₀₁₂₃₄₅₆₇₈₉]+|[^\x00-\x7f]")

RENAMED = {
    **dict.fromkeys(("dfrac", "tfrac", "cfrac", "nicefrac", "sfrac"), r"\frac"),
    **dict.fromkeys(("dbinom", "tbinom"), r"\binom"),
    **dict.fromkeys(
        ("mathrm", "textrm", "textbf", "textit", "textnormal", "textsf", "texttt", "mbox", "hbox", "emph"), r"\text"
    ), "operatorname": r"\text",
    **dict.fromkeys(
        ("boldsymbol", "bm", "mathit", "mathsf", "underline", "boxed", "fbox", "ensuremath", "textcolor"), r"\mathbf"
    ), **dict.fromkeys(("le", "leqslant"), r"\leq"),
    **dict.fromkeys(("ge", "geqslant"), r"\geq"), "ne": r"\neq", "lt": "<", "gt": ">", "varnothing": r"\emptyset",
    "colon": ":", **dict.fromkeys(("dots", "cdots", "dotsc", "dotsb"), r"\ldots"),
    "lbrace": r"\{", "rbrace": r"\}", "lbrack": "[", "rbrack": "]", "ast": r"\cdot", "lor": r"\text{ or }",
    "vee": r"\text{ or }", "land": r"\text{ and }", "wedge": r"\text{ and }", "infin": r"\infty", "degree": r"^\circ",
    **{name: rf"\mathbb{{{name}}}" for name in "RZNQ"}, "lg": r"\log_{10}", "degrees": r"^\circ",
    "pounds": "£", "euro": "€", "yen": "¥", "textdollar": DOLLAR,
    **{f"var{name}": rf"\{name}" for name in ("epsilon", "phi", "theta", "rho")},
    "arcsec": r"\operatorname{arcsec}", **dict.fromkeys(("lvert", "rvert", "vert"), "|"),
}  # fmt: skip
TAKING = {r"\mathbb", r"\frac", r"\binom", r"\text", r"\mathbf"}
SPACES = {"quad", "qquad", "thinspace", "enspace", "space", "hfill", "newline"}
DROPPED = {
    "left", "right", "middle", "big", "Big", "bigg", "Bigg", "bigl", "bigr", "Bigl", "Bigr", "biggl", "biggr",
    "tiny", "small", "footnotesize", "normalsize", "large", "Large", "LARGE", "huge", "Huge",
    "displaystyle", "textstyle", "scriptstyle", "limits", "nolimits", "mleft", "mright", "rm", "it", "bf",
}  # fmt: skip
