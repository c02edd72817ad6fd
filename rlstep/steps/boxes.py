r"""Boxes, `\boxed{...}`, and what is in them."""

import re

_LABEL_IN_BOX = re.compile(
    r"(?:\\(?:text|textbf|mathrm)\{)?\s*(?:the )?(?:final |correct )?answer(?: is|(?= ?:))\s*:?\s*"
    r"\}?\s*(?=\S)",
    re.IGNORECASE,
)
_BLANK = re.compile(r"\s*")
# Escaped once more, as text in JSON is, a box has two backslashes.
_BRACE = re.compile(r"\\{1,2}(?:f?boxed|fbox|framebox)\s*(?:\{|(?=[^\s{]))|\\.|[{}]", re.DOTALL)
_BARE = re.compile(r"[-+]?[A-Za-z0-9][A-Za-z0-9.,/^]*(?<![.,])|\\[A-Za-z]+(?:\{[^{}]*\})*")
_BETWEEN_BOXES = re.compile(
    r"(?:[\s$,;&]|\\[()\[\]]|\\q?quad|\\text\{\s*(?:and|or)\s*\}|\b(?:and|or)\b|\\?[A-Za-z](?:_\{?\w\}?)?[ ]*=(?!=))*"
)
_JOIN = re.compile(r"[,;&]|\band\b|\bor\b|\{(?:and|or)|quad")


def last_boxes(text: str) -> tuple[int, int, str] | None:
    """The start and end of the last closed box that is not blank, and its content with the boxes joined to it by "and".

    None if the text has no such box.
    """
    boxes, opened = [], []  # (start, end, start and end of the content) of each
    for match in _BRACE.finditer(text):
        if match[0] == "}":
            if opened:
                boxed, start, inside = opened.pop()
                if boxed and _BLANK.match(text, inside).end() < match.start():
                    boxes.append((start, match.end(), inside, match.start()))
        elif match[0] == "{" or (match[0].endswith("{") and match[0] != "\\{"):
            opened.append((match[0] != "{", match.start(), match.end()))
        elif len(match[0]) > 2 and (bare := _BARE.match(text, match.end())):
            boxes.append((match.start(), bare.end(), *bare.span()))
    if not boxes:
        return None
    boxes.sort()
    start, last, *content = boxes.pop()
    together, begin = [content], start
    for first, end, *content in reversed(boxes):
        if end > start:  # the last one is inside it
            continue
        if begin - end > 40 or not _BETWEEN_BOXES.fullmatch(text, end, begin) or not _JOIN.search(text, end, begin):
            break
        together.append(content)
        begin = first
    answers = dict.fromkeys(_without_label(text[inside:outside].strip()) for inside, outside in reversed(together))
    return start, last, ", ".join(answers)


def _without_label(text: str) -> str:
    r"""What a box holds after a label of its own: `\boxed{\text{Answer: } 12}`."""
    label = _LABEL_IN_BOX.match(text)
    if label is None:
        return text
    # \text{Answer: 12} closes after the answer.
    still_open = label[0].startswith("\\") and "}" not in label[0]
    return text[label.end() :].removesuffix("}") if still_open else text[label.end() :]
