"""Exact arithmetic on GSM8K's calculator annotations, `<<16-3-4=9>>`.

A small parser over fractions: + - * / %, parentheses, decimals; no names, no powers, bounded length and depth.
Nothing is evaluated as code, and no input takes long.
"""

import re
from fractions import Fraction

MAX_LENGTH = 200
MAX_DEPTH = 20

_ANNOTATION = re.compile(r"<<(.*?)>>")
_TOKEN = re.compile(r"\s*(?:((?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d*)?|\.\d+)|([-+*/()%$]))")
_DECIMAL_NUMBER = re.compile(r"[-+$\s]*[\d,]*\.(\d+)\s*(%?)\s*")


def annotations_hold(line: str) -> bool | None:
    """Whether the arithmetic of every annotation in `line` is right; None where there is none.

    A bracket that is opened but not closed, or closed but not opened, is a malformed annotation, which is wrong.
    """
    annotations = _ANNOTATION.findall(line)
    if line.count("<<") != len(annotations) or line.count(">>") != len(annotations):
        return False
    return all(holds(annotation) for annotation in annotations) if annotations else None


def holds(annotation: str) -> bool:
    """Whether `expression=value` is true, the value exact or rounded at its last written decimal place.

    >>> holds("16-3-4=9"), holds("10/3=3.33"), holds("10/3=3.3"), holds("10/3=4")
    (True, True, True, False)
    """
    expression, equals, written = annotation.partition("=")
    if not equals or "=" in written:
        return False
    try:
        exact, value = evaluate(expression), evaluate(written)
    except ValueError:
        return False
    if exact == value:
        return True
    decimal = _DECIMAL_NUMBER.fullmatch(written)
    if not decimal:
        return False
    last_place = Fraction(1, 10 ** len(decimal[1]) * (100 if decimal[2] else 1))
    return abs(exact - value) <= last_place / 2


def evaluate(expression: str) -> Fraction:
    """The exact value of an arithmetic expression.

    Raises:
        ValueError: it cannot be read, is too long or too deep, or divides by zero.
    """
    if len(expression) > MAX_LENGTH:
        raise ValueError(f"longer than {MAX_LENGTH} characters")
    parser = _Parser(_tokens(expression))
    value = parser.sum(depth=0)
    if parser.rest:
        raise ValueError(f"unexpected {parser.rest[-1]!r}")
    return value


def _tokens(expression: str) -> list[str]:
    tokens, position = [], 0
    expression = expression.rstrip()
    while position < len(expression):
        match = _TOKEN.match(expression, position)
        if not match:
            raise ValueError(f"unexpected {expression[position]!r}")
        tokens.append(match[1] or match[2])
        position = match.end()
    return tokens


class _Parser:
    """Recursive descent over

    sum = product (("+" | "-") product)*; product = factor (("*" | "/") factor)*;
    factor = ("+" | "-" | "$")* (number | "(" sum ")") "%"*
    """

    def __init__(self, tokens: list[str]):
        self.rest = tokens[::-1]

    def peek(self) -> str:
        return self.rest[-1] if self.rest else ""

    def sum(self, depth: int) -> Fraction:
        value = self.product(depth)
        while self.peek() in ("+", "-"):
            sign = 1 if self.rest.pop() == "+" else -1
            value += sign * self.product(depth)
        return value

    def product(self, depth: int) -> Fraction:
        value = self.factor(depth)
        while self.peek() in ("*", "/"):
            operator, right = self.rest.pop(), self.factor(depth)
            if operator == "/" and right == 0:
                raise ValueError("division by zero")
            value = value * right if operator == "*" else value / right
        return value

    def factor(self, depth: int) -> Fraction:
        sign = 1
        while self.peek() in ("+", "-", "$"):
            sign = -sign if self.rest.pop() == "-" else sign
        if depth > MAX_DEPTH:
            raise ValueError(f"more than {MAX_DEPTH} parentheses deep")
        token = self.rest.pop() if self.rest else ""
        if token == "(":
            value = self.sum(depth + 1)
            if not self.rest or self.rest.pop() != ")":
                raise ValueError("a parenthesis is not closed")
        elif token[:1].isdigit() or token[:1] == ".":
            value = Fraction(token.replace(",", "").rstrip("."))
        else:
            raise ValueError(f"expected a number, got {token!r}")
        while self.peek() == "%":
            self.rest.pop()
            value /= 100
        return sign * value
