r"""Lines of prose with display formulas, where a formula belongs to the sentence that it stands in.

Instruct models write a formula on lines of its own::

    The area of the circle is
    \[
    A = \pi r^2 = 9\pi,
    \]
    so the answer is 9.
    Next, the square.

Taken line by line, a bare `\[` and a bare `\]` would be steps. Here a newline within a formula (`\[...\]`, `$$...$$`,
an environment) ends no step; a formula belongs to the line of prose before it, blank lines between them or not; and so
does a line after it that goes on with the sentence, beginning with a small letter or a punctuation mark. The example
has two steps.

A formula after a formula is a step of its own: a derivation in formulas alone would be one step otherwise. An opener
without its closer protects nothing, and the two dollar signs of `$$` stand in one paragraph, as in TeX.
"""

import re
from bisect import bisect_left
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

# Two backslashes are a line break, and what follows them is no opener.
_MARK = re.compile(r"\\\\|\\\[|\\\]|\$\$|\\(?:begin|end)\{[^{}\n]*\}")
# Environments of text: their lines are steps like others.
_PROSE = re.compile(r"\\begin\{(?:enumerate|itemize|description|center|quote|proof|document|solution|tabular\*?)\}")
_LINE = re.compile(r"[^\n]*\n|[^\n]+")
_BLANK_LINE = re.compile(r"\n[^\S\n]*\n")
_GOES_ON = re.compile(r"[a-z,;:.]")
_PUNCTUATION = " \t\n.,;:!?"


@dataclass(frozen=True)
class _Block:
    """Lines that no step ends within; `opens` and `closes` with a formula, punctuation after it aside."""

    start: int
    end: int
    opens: bool
    closes: bool


def formula_line_ends(text: str) -> list[int]:
    r"""Where in `text` a step ends and the next one begins, blank lines being a part of the one before them.

    >>> text = "We get\n\\[\nx = 3\n\\]\nand so on.\n\nThen"
    >>> formula_line_ends(text) == [text.index("Then")]
    True
    """
    pairs = pairwise(_blocks(text))
    return [following.start for block, following in pairs if not _belong_together(text, block, following)]


def _belong_together(text: str, block: _Block, following: _Block) -> bool:
    if following.opens:
        return not block.closes
    first = text[following.start : following.end].lstrip()[:1]
    return block.closes and _GOES_ON.match(first) is not None


def _blocks(text: str) -> Iterator[_Block]:
    """Yields the text's visible lines; those that one formula joins are one block."""
    formulas = list(_formulas(text))
    starts, ends = ([formula[side] for formula in formulas] for side in (0, 1))
    opening, closing = set(starts), set(ends)
    begin = None
    for line in _LINE.finditer(text):
        if begin is None and not line[0].strip():
            continue
        begin = line.start() if begin is None else begin
        # The first formula that ends after this line: does it begin before its end?
        across = bisect_left(ends, line.end())
        if across < len(formulas) and starts[across] < line.end() and line.end() < len(text):
            continue
        written = text[begin : line.end()]
        first, last = line.end() - len(written.lstrip()), begin + len(written.rstrip(_PUNCTUATION))
        yield _Block(begin, line.end(), first in opening, last in closing)
        begin = None


def _formulas(text: str) -> Iterator[tuple[int, int]]:
    """Yields (start, end) of the outermost display formulas."""
    marks = [mark for mark in _MARK.finditer(text) if mark[0] != "\\\\" and not _PROSE.fullmatch(mark[0])]
    closers: dict[str, list[int]] = {}
    for index, mark in enumerate(marks):
        closers.setdefault(mark[0], []).append(index)
    free = 0
    for index, mark in enumerate(marks):
        closer = {"\\[": "\\]", "$$": "$$"}.get(mark[0], mark[0].replace("\\begin", "\\end"))
        if index < free or (closer == mark[0] and closer != "$$"):
            continue
        later = closers.get(closer, [])
        place = bisect_left(later, index + 1)
        if place == len(later):
            continue
        start, end = mark.start(), marks[later[place]].end()
        if closer == "$$" and _BLANK_LINE.search(text, start, end):
            continue
        yield start, end
        free = later[place] + 1
