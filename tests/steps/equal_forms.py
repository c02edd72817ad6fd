r"""Other ways to write a reference, each with a name, made from its text: equal ones, and ones that are not equal.

Nothing of the grader is used: the forms follow from how references of MATH are written.
"""

import re
from collections.abc import Iterator
from fractions import Fraction

_INTEGER = re.compile(r"-?\d+")
_FRACTION = re.compile(r"(-?)\\d?frac\{(\d+)\}\{(\d+)\}")
_TUPLE = re.compile(r"(?:\\left)?([(\[])(.*?)(?:\\right)?([)\]])")
_INTERVAL = re.compile(r"(?:\\left)?([(\[])([^,]*),([^,]*?)(?:\\right)?([)\]])")
_LIST = re.compile(r"-?\d+(?:, ?-?\d+)+")
_MATRIX = re.compile(r"\\begin\{pmatrix\}(.*)\\end\{pmatrix\}")
_BASED = re.compile(r"(\d+)_\{?(\d)\}?")
_CHOICE = re.compile(r"\\text\{\(([A-E])\)\}")
_WORD = re.compile(r"\\text\{([A-Za-z]+)\}")
_EXPRESSION = re.compile(r"(?:[-+*/^_(){}. a-zA-Z\d]|\\(?:d?frac|sqrt|pi|cot|cdot))+")


def is_expression(reference: str) -> bool:
    """One number or expression, with no base, unit, list or relation."""
    return bool(_EXPRESSION.fullmatch(reference)) and "_" not in reference


def _is_list(reference: str) -> bool:
    return bool(_LIST.fullmatch(reference)) and not re.fullmatch(r"\d+,\d{3}", reference)


def equal_forms(reference: str) -> Iterator[tuple[str, str]]:
    """(kind, text) of ways to write what the reference says."""
    yield "spaces", re.sub(r"(?<=[-+,=(])|(?=[-+,=)])", " ", reference)
    yield "left and right", reference.replace("(", r"\left(").replace(")", r"\right)").replace(r"\left\left", r"\left")
    yield "mathematics mode", f"${reference}$."
    yield "markdown", f"**{reference}**"
    yield "thin spaces", reference.replace(" ", r"\,")
    if r"\frac" in reference:
        yield "dfrac", reference.replace(r"\frac", r"\dfrac")
    if _INTEGER.fullmatch(reference):
        yield from _forms_of_integer(int(reference))
    if fraction := _FRACTION.fullmatch(reference):
        yield from _forms_of_fraction(*fraction.groups())
    if is_expression(reference):
        yield "assigned", f"x = {reference}"
        yield "function value", f"f(3) = {reference}"
        yield "plus and minus one", rf"({reference})+1-1"
        yield "minus minus", f"-(-({reference}))"
        yield "one half of the double", rf"\frac{{2({reference})}}{{2}}"
        yield "turned round", f"1-(1-({reference}))"
        yield "power one", f"({reference})^1"
    if _is_list(reference):
        items = [item.strip() for item in reference.split(",")]
        yield "list reordered", ", ".join(reversed(items))
        yield "set", r"\{" + ", ".join(items) + r"\}"
        yield "and", ", ".join(items[:-1]) + " and " + items[-1]
        yield "equations", ", ".join(f"x = {item}" for item in items)
    if matrix := _MATRIX.fullmatch(reference):
        yield "bmatrix", rf"\begin{{bmatrix}}{matrix[1]}\end{{bmatrix}}"
        yield "fractions in a matrix", re.sub(r"(\d+)/(\d+)", r"\\frac{\1}{\2}", reference)
    if based := _BASED.fullmatch(reference):
        yield "base in braces", f"{based[1]}_{{{based[2]}}}"
        yield "base in words", f"{based[1]} base {based[2]}"
    if choice := _CHOICE.fullmatch(reference):
        for form in (
            f"({choice[1]})",
            choice[1],
            f"{choice[1]})",
            rf"\textbf{{({choice[1]})}}",
            rf"\text{{{choice[1]}}}",
        ):
            yield "choice", form
    if word := _WORD.fullmatch(reference):
        for form in (word[1], word[1].upper(), f"{word[1]}.", rf"\mathrm{{{word[1]}}}"):
            yield "word", form
    if reference.endswith(r"^\circ"):
        number = reference.removesuffix(r"^\circ")
        for form in (number, f"{number}°", f"{number} degrees", rf"{number}^{{\circ}}", rf"{number}\text{{ degrees}}"):
            yield "degrees", form
    if (interval := _INTERVAL.fullmatch(reference)) and (
        "[" in reference or "]" in reference or r"\infty" in reference
    ):
        left, low, high, right = interval.groups()
        signs = ["<" if left == "(" else r"\leq", "<" if right == ")" else r"\leq"]
        sides = [f"{low} {signs[0]} ", "x", f" {signs[1]} {high}"]
        yield "inequality", "".join(sides[r"\infty" in low : 3 - (r"\infty" in high)])


def _forms_of_integer(number: int) -> Iterator[tuple[str, str]]:
    yield "decimal", f"{number}.0"
    yield "decimal", f"{number}.00"
    yield "fraction", rf"\frac{{{2 * number}}}{{2}}"
    yield "sum", f"{number - 1}+1"
    yield "assigned", f"x = {number}"
    yield "assigned", f"f(2) = {number}"
    yield "unit", f"{number} cm"
    yield "unit", f"{number} apples"
    yield "unit", rf"{number}\text{{ square units}}"
    yield "unit", f"{number} dollars"
    yield "power of ten", rf"{number} \times 10^0"
    yield "power of ten", f"{number}e0"
    if number > 0:
        yield "ordinal", f"{number}th"
        yield "root", rf"\sqrt{{{number**2}}}"
        yield "currency", f"${number}"
        yield "currency", rf"\${number}.00"
    if number >= 1000:
        for separator in (",", "{,}", r"\,", r",\!", "\u2009", " "):
            yield "thousands", f"{number:,}".replace(",", separator)


def _forms_of_fraction(sign: str, above: str, below: str) -> Iterator[tuple[str, str]]:
    a, b = int(above), int(below)
    yield "slash", f"{sign}{a}/{b}"
    yield "not reduced", rf"{sign}\frac{{{3 * a}}}{{{3 * b}}}"
    yield "division", rf"{sign}{a} \div {b}"
    yield "sign above", rf"\frac{{{sign}{a}}}{{{b}}}"
    yield "sum", rf"{sign}(\frac{{{a - 1}}}{{{b}}} + \frac{{1}}{{{b}}})"
    yield "power", rf"{sign}{a} \cdot {b}^{{-1}}"
    if a > b and not sign:
        yield "mixed", rf"{a // b}\frac{{{a % b}}}{{{b}}}"
        yield "mixed", f"{a // b} {a % b}/{b}"
    value, decimals = Fraction(a, b), 12
    if (10**decimals * value).denominator == 1:
        digits = str(int(10**decimals * value)).zfill(decimals + 1)
        decimal = sign + f"{digits[:-decimals]}.{digits[-decimals:]}".rstrip("0")
        yield "decimal", decimal
        yield "percent", f"{sign}{_plain(value * 100)}%"
        if value < 1:
            yield "decimal", decimal.replace("0.", ".", 1)


def _plain(value: Fraction) -> str:
    return str(value.numerator) if value.denominator == 1 else f"{float(value):.10f}".rstrip("0")


def unequal_forms(reference: str) -> Iterator[tuple[str, str]]:
    """(kind, text) of changes to the reference that change what it says."""
    for k, digit in enumerate(reference):
        if digit.isdigit():
            changed = reference[:k] + str((int(digit) + 1) % 10) + reference[k + 1 :]
            if not re.search(r"(?:frac|/)\s*\{?0", changed[:k] + changed[k]):
                yield "a digit", changed
    if is_expression(reference):
        if reference.strip("0. ") or not _INTEGER.fullmatch(reference):
            yield "the sign", f"-({reference})"
        yield "a tiny part more", f"{reference}+10^{{-9}}"
        yield "a part more", rf"{reference}+\frac{{1}}{{1000000000}}"
        yield "imaginary", f"({reference})i" if reference != "0" else "i"
        yield "a variable more", f"({reference})+q"
        yield "percent of", rf"({reference})+1\%"
        yield "an inequality", f"x > {reference}"
        yield "a list", f"{reference}, 1234"
        yield "hedged", f"{reference} or 1234"
    if is_expression(reference) and _INTEGER.fullmatch(reference):
        yield "times ten", f"{reference} million" if reference != "0" else "1"
        yield "a base", f"{reference}_{{11}}"
        yield "close by", f"{int(reference)}.000000001"
        yield "factorial", rf"\frac{{1}}{{{abs(int(reference)) + 1000}!}}"
    for sign, other in (("+", "-"), (" - ", " + ")):
        if sign in reference:
            yield "a sign inside", reference.replace(sign, other, 1)
    if r"\pi" in reference:
        yield "pi", reference.replace(r"\pi", "3.14159265358979")
    if r"\sqrt" in reference:
        yield "a root", reference.replace(r"\sqrt", r"\sqrt[3]")
    if bracketed := _TUPLE.fullmatch(reference):
        left, inside, right = bracketed.groups()
        items = [item.strip() for item in inside.split(",")]
        if len(items) > 1:
            if items[0] != items[-1] and left == "(" and right == ")" and r"\infty" not in inside:
                yield "order", "(" + ", ".join(reversed(items)) + ")"
            if not items[0].endswith(r"\infty"):
                yield "a bracket", f"{'[' if left == '(' else '('}{inside}{right}"
            if not items[-1].endswith(r"\infty"):
                yield "a bracket", f"{left}{inside}{']' if right == ')' else ')'}"
            yield "a set", r"\{" + inside + r"\}"
            yield "one more", f"{left}{inside}, 0{right}"
    if _is_list(reference):
        yield "one fewer", reference.rsplit(",", 1)[0]
        yield "one more", f"{reference}, 9999"
    if matrix := _MATRIX.fullmatch(reference):
        rows = [row.strip() for row in matrix[1].split(r"\\")]
        yield "order of rows", r"\begin{pmatrix}" + r" \\ ".join(reversed(rows)) + r"\end{pmatrix}"
        yield "a row", r"\begin{pmatrix}" + " & ".join(rows) + r"\end{pmatrix}"
    if based := _BASED.fullmatch(reference):
        yield "base", f"{based[1]}_{(int(based[2]) + 1) % 10}"
        yield "no base", based[1]
    if choice := _CHOICE.fullmatch(reference):
        yield "choice", f"({chr(ord(choice[1]) + 1)})"
    if (word := _WORD.fullmatch(reference)) and word[1] != word[1][::-1]:
        yield "letters", rf"\text{{{word[1][::-1]}}}"
        yield "letters", word[1][1:] + word[1][0]
