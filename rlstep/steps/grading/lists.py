"""The parts of a text that stand side by side, outside all brackets."""

import re

TOKEN = re.compile(r"\\(?:begin|end)\{[a-z]*\*?\}|\\[A-Za-z]+|\\.|.", re.DOTALL)
OPENING = {"(", "[", "{", "\\{", "\\langle", "\\lfloor", "\\lceil"}
CLOSING = {")", "]", "}", "\\}", "\\rangle", "\\rfloor", "\\rceil"}


def split(text: str, separators: set[str]) -> tuple[list[str], list[str]]:
    """The parts between separators that are outside all brackets, and the separators."""
    return _split_at(text, separators, lambda depth: depth == 0)


def split_deep(text: str, separators: set[str]) -> tuple[list[str], list[str]]:
    return _split_at(text, separators, lambda depth: True)


def _split_at(text: str, separators: set[str], where) -> tuple[list[str], list[str]]:
    parts, between, depth = [[]], [], 0
    for token in TOKEN.findall(text):
        depth += token in OPENING or token.startswith("\\begin")
        depth -= token in CLOSING or token.startswith("\\end")
        if token in separators and where(depth):
            between.append(token)
            parts.append([])
        else:
            parts[-1].append(token)
    return ["".join(part).strip() for part in parts], between
