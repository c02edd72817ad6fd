r"""Where sentences end in prose with LaTeX.

A sentence ends with a newline, or with ``.``, ``!``, ``?`` and the closing brackets and quotes after them if a space
follows and then something that can begin a sentence; 。！？ need no space. It does not end inside

    math            $...$, $$...$$, \(...\), \[...\]
    environments    \begin{name}...\end{name}
    arguments       the braces of \text{...}, \frac{...}{...} and every other command

nor after an abbreviation, an initial, an ellipsis, a factorial or a list's number. In ambiguous cases ("point A. Then",
"so 5. then") it does not end either: a step that is too long is merely scored once, but one that is too short would be
scored before its claim is complete.

An opener without its closer is plain text and protects nothing. A dollar sign looks the same on both sides, so, as in
TeX, its partner must be in the same paragraph; and "$5 and $6" is money: a dollar sign between a space and a word, or
before a digit, closes nothing, and one between a word and a space opens nothing. The scan is linear in the text's
length.
"""

import re

_PAIR = re.compile(r"\\(begin|end)(\{[^{}\n]*\})|\\.|[{}]")
_TOKEN = re.compile(
    r"\\begin\{[^{}\n]*\}|(?:\\[a-zA-Z]+\*?|(?<=[}\]]))\{|\\.|\$\$?|\n|\.(?:[^\S\n]?\.)+|[.!?]+|[。！？]+"
)
_IN_DOLLARS = re.compile(r"\\.|[{$]|\n[^\S\n]*\n")
_OPENS_ONLY = re.compile(r"(?<=\s)\$[^\s.,;:!?)\]}'\"-]|\$\d")
_CLOSES_ONLY = re.compile(r"(?<=\w)\$(?=\s|$)")

_CLOSING = re.compile(r"[\"'\u201d\u2019\u00bb)\]}*_`）」』】]*")
_SPACE = re.compile(r"[^\S\n]+(?=\S)")
_OPERATOR = re.compile(r"[^\w\s$\\]+(?=\s|$)")
_WORD = re.compile(r"[\w.]*$")
_LIST_MARK = re.compile(r"[\s*_#>-]*(?:step\s+)?(?:\d+|[a-z]|[ivx]+)", re.IGNORECASE)
_DIGIT_NEXT = re.compile(r"\.\s*\d")
_ABBREVIATION = re.compile(
    r"eqn?s?|figs?|vs|cf|[djms]r|mrs|ms|prof|st|al|approx|resp|thm|lem|prop|cor|def|viz|ca", re.IGNORECASE
)
_BEFORE_A_NUMBER = re.compile(r"nos?|pp?|sec|ch|ex|art|vol", re.IGNORECASE)
_LOOK_BACK = 24  # longer than any abbreviation or list mark


def sentence_ends(text: str) -> list[int]:
    """The end positions of the sentences of `text`, in order; the last sentence may have none.

    >>> sentence_ends("Let $x = 3.5$. Then, e.g., $y > 3. $ holds.")
    [14]
    """
    pairs = _pairs(text)
    ends: list[int] = []
    position = begin = 0
    while match := _TOKEN.search(text, position):
        token, start, position = match[0], match.start(), match.end()
        end = None
        if token == "\n":
            end = position
        elif token[0] in "。！？":
            end = _CLOSING.match(text, position).end()
        elif token[0] in ".!?":
            if not _belongs_to_word(text, begin, start, token):
                end = _end(text, position)
        else:
            closed = _closing_dollar(text, start, token, pairs) if token[0] == "$" else _closer(match, pairs)
            if closed is not None:
                position = closed
                end = _end(text, closed) if _states_something(text[start:closed]) else None
        if end is not None:
            ends.append(end)
            position = begin = end
    return ends


def _pairs(text: str) -> dict[int, int]:
    r"""For each { , \( , \[ and \begin{name} that is closed: its start -> the end of its closer."""
    opened: dict[str, list[int]] = {}
    pairs = {}
    for match in _PAIR.finditer(text):
        token = match[0]
        if token in ("{", "\\(", "\\["):
            opened.setdefault(token, []).append(match.start())
            continue
        if match[1] == "begin":
            opened.setdefault(match[2], []).append(match.start())
            continue
        opener = match[2] or {"}": "{", "\\)": "\\(", "\\]": "\\["}.get(token)
        if opened.get(opener):
            pairs[opened[opener].pop()] = match.end()
    return pairs


def _closer(opener: re.Match, pairs: dict[int, int]) -> int | None:
    return pairs.get(opener.end() - 1 if opener[0].endswith("{") else opener.start())


def _closing_dollar(text: str, start: int, mark: str, pairs: dict[int, int]) -> int | None:
    """The end of the math opened at `start` with `mark` ($ or $$); None if the mark is not an opener."""
    if mark == "$" and _CLOSES_ONLY.match(text, start):
        return None
    position = start + len(mark)
    while match := _IN_DOLLARS.search(text, position):
        token, position = match[0], match.end()
        if token == "{":
            position = pairs.get(match.start(), position)
        elif token.isspace():
            return None
        elif token == "$":
            if mark == "$":
                return None if _OPENS_ONLY.match(text, match.start()) else position
            if text.startswith(mark, match.start()):
                return match.start() + len(mark)
    return None


def _states_something(math: str) -> bool:
    """Whether math ends with the full stop of the sentence: "we get $x = 3.$ Then"."""
    inside = math.rstrip("$)]\\ \n")
    return inside.endswith(".") and not inside.endswith("..")


def _belongs_to_word(text: str, begin: int, start: int, mark: str) -> bool:
    """Whether the mark at `start`, in the sentence from `begin` on, is part of the word before it."""
    before = text[max(begin, start - _LOOK_BACK) : start]
    if mark[0] == "!":
        return before[-1:].isdigit()
    if mark != ".":
        # An ellipsis, or a question.
        return mark[0] == "."
    if start - begin <= _LOOK_BACK and _LIST_MARK.fullmatch(before):
        return True
    word = _WORD.search(before)[0]
    if "." in word:
        return all(part.isalpha() and len(part) <= 2 for part in word.split("."))
    if _BEFORE_A_NUMBER.fullmatch(word) and _DIGIT_NEXT.match(text, start):
        return True
    if len(word) == 1:
        return word.isupper()
    return _ABBREVIATION.fullmatch(word) is not None


def _end(text: str, position: int) -> int | None:
    """The end of a sentence whose mark ends at `position`; None if what follows cannot begin another sentence."""
    end = _CLOSING.match(text, position).end()
    space = _SPACE.match(text, end)
    if space is None or text[space.end()].islower() or _OPERATOR.match(text, space.end()):
        return None
    return end
