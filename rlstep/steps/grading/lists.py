"""The parts of a text that stand side by side, outside all brackets."""

import re

TOKEN = re.compile(r"\\(?:begin|end)\{[a-z]*\*?\}|\\[A-Za-z]+|\\.|.", re.DOTALL)
OPENING = {"(", "[", "{", "\\{", "\\langle", "\\lfloor", "\\lceil"}
CLOSING = {")", "]", "}", "\\}", "\\rangle", "\\rfloor", "\\rceil"}
# The two sides of a comma within a number: `1,500`, `x = 1,500`.
_BEFORE_THOUSANDS = re.compile(r"(?:.*(?:[=<>]|\\[lgn]eq))?\s*[-+]?\s*[1-9]\d{0,2}(?:,\d{3})*", re.ASCII)
_AFTER_THOUSANDS = re.compile(r"\d{3}(?!\d)", re.ASCII)


def split(text: str, separators: set[str]) -> tuple[list[str], list[str]]:
    """The parts between separators that are outside all brackets, and the separators."""
    parts, between = _split_at(text, separators, lambda depth: depth == 0)
    return [part.strip() for part in parts], between


def split_items(text: str, separators: set[str]) -> tuple[list[str], list[str]]:
    """The items of a list between separators that are outside all brackets, and the separators.

    Where items are told apart by more than a comma, as in `1,500, 2,000` and `1,500 and 2,000`, a comma without a space
    after it that three digits follow is that of thousands.
    """
    parts, between = _split_at(text, separators, lambda depth: depth == 0)
    apart = [sign != "," or part[:1].isspace() for sign, part in zip(between, parts[1:], strict=True)]
    items, kept = parts[:1], []
    for sign, is_apart, part in zip(between, apart, parts[1:], strict=True):
        in_a_number = _BEFORE_THOUSANDS.fullmatch(items[-1]) and _AFTER_THOUSANDS.match(part)
        if in_a_number and any(apart) and not is_apart:
            items[-1] += f",{part}"
        else:
            items.append(part)
            kept.append(sign)
    return [item.strip() for item in items], kept


def split_deep(text: str, separators: set[str]) -> tuple[list[str], list[str]]:
    """The parts between separators that are outside or inside brackets, and the separators."""
    parts, between = _split_at(text, separators, lambda depth: True)
    return [part.strip() for part in parts], between


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
    return ["".join(part) for part in parts], between
