r"""Where a completion states its final answer.

The sum is \boxed{\frac{1}{2}}.           ->  \frac{1}{2}
#### 1,250                                ->  1,250
**Answer:** yes                           ->  yes
# Answer (and on the next line) 29        ->  29
So the final answer is: $x = 5$.          ->  $x = 5$
{"answer": "1/2"}                         ->  1/2

A box, a `####`, `<answer>...</answer>`, a field "answer" in JSON and a line that begins with "Answer" state an answer
explicitly; the last of them counts. If there is none, the last "the answer is" counts.

What a thinking model writes up to its last `</think>` is thought and states no answer, because the model went on. Its
lines are steps like others. A completion that never closes its thought is read as a whole.
"""

import json
import re
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass

from rlstep.steps.boxes import last_boxes
from rlstep.steps.phrases import END_ELSEWHERE, HASHES, LABEL, SENTENCE, SENTENCE_IN_LABEL, TICKS

THOUGHT_END = "</think>"

_TAGGED = re.compile(
    r"<(?P<tag>(?:final_?)?answer)>(?P<inline>(?:(?!</?(?:final_?)?answer>)[\s\S])*)</(?P=tag)>", re.IGNORECASE
)
_IN_JSON = re.compile(
    r"([\"'])(?:final[_ ]?)?answer\1[ \t]*:[ \t]*"
    r"(?P<value>\"(?:[^\"\\\n]|\\.)*\"|'(?P<python>(?:[^'\\\n]|\\.)*)'|\[[^\[\]{}\n]*\]|-?\d[\d.eE+-]*|true\b|false\b)",
    re.IGNORECASE,
)
# A backslash of LaTeX that was not escaped again, as JSON wants it: \\frac would be a form feed and "rac".
_NOT_ESCAPED = re.compile(r'\\\\|\\(?!u[\da-fA-F]{4})(?=[a-zA-Z]{2}|[^"\\/bfnrtu])')
# What comes after the answer says why, and is no part of it.
_REASON = re.compile(
    r"(?<![*_`, \t])[*_`]*,?[ \t]+(?:\()?(?:because|since|as (?:we|required|claimed|desired|expected|shown|above)"
    r"|which (?:is|means|makes|completes|gives|follows)|i\.e\.|that is,|\((?:see|as|from|by) )(?!\w)"
)
# Yes and no say all; so does a value before its approximation.
_IS_CORRECT = re.compile(r"(?<=[A-Za-z)*_]) is (?:the )?(?:correct|right|best)(?: \w+)?[*_. !]*$", re.IGNORECASE)
_YES_OR_NO = re.compile(r"(?P<said>[*_]*(?:yes|no|true|false)[*_]*)[,;:]\s+(?P<more>.*)", re.IGNORECASE | re.DOTALL)
_OTHERWISE = re.compile(r"\b(?:yes|no|true|false|or)\b", re.IGNORECASE)
_APPROXIMATION = re.compile(
    r"(?<=\S)[ \t]*\((?:\u2248|\$?\\approx|approximately|approx\b|about|roughly)[^()\n]*\)(?=[ .]*$)"
)
_HEADING_WORD = re.compile(
    r"[*_\s]*(?:step|part|case|solution|conclusion|explanation|reasoning|summary|verification|check|answer|final|note|problem|"
    r"question|approach|method|analysis|calculation)\b",
    re.IGNORECASE,
)
_PROSE = re.compile(r"(?<![A-Za-z\\])[A-Za-z]{3,}")
_COMMANDS = re.compile(r"\\[A-Za-z]+\{[^{}]*\}|\\[A-Za-z]+")
_STARTS_WITH_NUMBER = re.compile(r"[-+]?[$€£\\]?\s?[\d.]")
# No end of a sentence: 5! = 120, and 5 p.m. before a small letter.
_SENTENCE_END = re.compile(
    r"(?:[?\uff0e]|\.(?!(?<=[A-Za-z]\.[A-Za-z]\.)\s+[a-z])|!(?!\s*[-+*/=<>^!])|\u3002$)(?:[*_`]|\$)*(?=\s|$)(?<!\d\.(?=\d))"
)
_NEXT_SENTENCE = re.compile(r"[.!?][*_`$]*\s+[A-Z][a-z]*[ ,']")
_LINE = re.compile(r"[^\n]+")
_BLANK = re.compile(r"\s*")
_BEFORE_PARAGRAPH = re.compile(r"\s*(?:```[a-z]*[ \t]*\n|>)?\s*")
_EMPHASISED = re.compile(r"\*\*([^*\n]+)\*\*")
# A box at the end of the text that was not closed.
_CUT_OFF = re.compile(r"\\(?:boxed|fbox)\s*\{(?:[^{}]|\{[^{}]*\})*$")
_OPENED = re.compile(r"\$\$|\\\[|\\begin\b|\\\]|\\end\b")


@dataclass(frozen=True)
class Stated:
    """An answer and the span of its statement in the completion, from `start` to before `end`."""

    start: int
    end: int
    answer: str


def extract(completion: str) -> str | None:
    r"""The final answer that a completion states, as written there; None if it states none.

    >>> extract("Answer: 3\nNo, wait.\nAnswer: 4")
    '4'
    >>> extract(r"so $x = \boxed{1}$ or $x = \boxed{2}$")
    '1, 2'
    """
    final = stated(completion)
    return final.answer if final else None


def stated(completion: str, sentences: bool = True) -> Stated | None:
    """The final answer and where it is stated.

    Args:
        sentences: whether "the answer is" counts if nothing else states an answer.
    """
    begin = thought_end(completion)
    said = completion[begin:]
    answers = [*_labelled(said), *_after_hashes(said), *_boxes(said), *_tagged(said), *_in_json(said)]
    if not answers and sentences:
        answers = list(_sentences(said))
    final = max(answers, key=lambda answer: answer.start, default=None)
    return final and Stated(begin + final.start, begin + final.end, final.answer)


def thought_end(completion: str) -> int:
    """Where the thought of a thinking model is over and the answer begins; 0 where it closes none."""
    place = completion.rfind(THOUGHT_END)
    return 0 if place < 0 else place + len(THOUGHT_END)


def _labelled(text: str) -> Iterator[Stated]:
    """The rest of each line that begins with "Answer", or the next line if there is nothing more on that line."""
    for match in LABEL.finditer(text):
        inline, end = _plain(_without_style(match)), match.end()
        if repeated := SENTENCE_IN_LABEL.match(inline):
            inline = inline[repeated.end() :]
            inline = inline[: _end_of_sentence(inline)]
        answer = _plain(_without_reason(_before_next_sentence(inline)))
        heading = match["colon"] or match["final"] or match[0].lstrip(" \t")[:1] in ("#", "*", "_")
        if not answer and heading:
            below, end = _next_paragraph(text, end)
            answer = _of_sentence(below)
        if answer:
            yield Stated(match.start(), end, _emphasised(answer))


def _emphasised(text: str) -> str:
    """The one value that is set in bold in a sentence, She has **12** apples; all of the text if there is none."""
    bold = [] if _is_value(text) else _EMPHASISED.findall(text)
    return bold[0].strip() if len(bold) == 1 and _is_value(bold[0]) else text


def _before_next_sentence(text: str) -> str:
    """A value without the sentences after it; `B. Paris is large` is a choice with its text."""
    stop = _end_of_sentence(text)
    if stop is None or not _NEXT_SENTENCE.match(text, stop) or re.fullmatch(r"\W*[A-Za-z]\W*", text[:stop]):
        return text
    return text[:stop] if _is_value(text[:stop]) else text


def _without_style(label: re.Match) -> str:
    r"""What a label states, without the ends of a formula and of `\textbf{` that began before the label."""
    # The end of the label's emphasis, **Answer:** She has **12**.
    inline = re.sub(r"^[*_]{1,3}[ \t]+", "", label["inline"] or label["value"] or "")
    if label["styled"]:
        inline = inline.replace("}", "", 1)
    if label["math"]:
        inline = inline.rstrip(" .").removesuffix({"\\[": "\\]", "\\(": "\\)"}.get(label["math"], label["math"]))
    return inline


def _of_sentence(text: str) -> str:
    """The answer that a text states in a sentence; all of the text if there is no such sentence."""
    said = list(_sentences(text))
    return said[-1].answer if said else _plain(text)


def _after_hashes(text: str) -> Iterator[Stated]:
    """What follows each `####` that is not a section heading."""
    end = len(text.rstrip())
    for match in HASHES.finditer(text):
        inline = match["inline"].strip()
        if repeated := SENTENCE_IN_LABEL.match(inline):
            inline = inline[repeated.end() :]
            inline = inline[: _end_of_sentence(inline)]
        answers = _is_value(inline) or match.end() >= end
        if answers and not _HEADING_WORD.match(inline) and (answer := _plain(inline)):
            yield Stated(match.start(), match.end(), answer)


def _boxes(text: str) -> Iterator[Stated]:
    """The content of the last box, with the boxes joined to it."""
    if (boxed := last_boxes(text)) is not None:
        yield Stated(*boxed)


def _tagged(text: str) -> Iterator[Stated]:
    """What stands between `<answer>` and `</answer>`, unless it states its answer in one of the other ways."""
    for match in _TAGGED.finditer(text):
        inline = match["inline"]
        if not any((*_labelled(inline), *_after_hashes(inline), *_boxes(inline))) and (answer := _of_sentence(inline)):
            yield Stated(match.start(), match.end(), answer)


def _in_json(text: str) -> Iterator[Stated]:
    """The value of each field "answer" of an object in JSON."""
    for match in _IN_JSON.finditer(text):
        with suppress(ValueError):
            if answer := _plain(_of_json(match)):
                yield Stated(match.start(), match.end(), answer)


def _of_json(match: re.Match) -> str:
    r"""The value of a field, also one with the single backslashes of LaTeX; the items of a list side by side."""
    if match["python"] is not None:
        return match["python"]
    escaped = _NOT_ESCAPED.sub(r"\\\\", match["value"])
    value = json.loads(escaped, parse_float=str, parse_int=str)
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def _without_reason(text: str) -> str:
    if reason := _REASON.search(text):
        text = text[: reason.start()]
    if (said := _YES_OR_NO.match(text)) and not _OTHERWISE.search(said["more"]):
        return said["said"]
    return _IS_CORRECT.sub("", _APPROXIMATION.sub("", text))


def _sentences(text: str) -> Iterator[Stated]:
    """What follows each "the answer is", up to the end of its sentence or to its reason."""
    for start, begin, until, end in _stating(text):
        inline = text[begin:until]
        if not _plain(inline):
            inline, end = _next_paragraph(text, end)
        answer = _plain(_without_reason(inline[: _end_of_sentence(inline)]))
        if answer and not _CUT_OFF.search(answer.rstrip("$")):
            yield Stated(start, end, answer)


def _stating(text: str) -> list[tuple[int, int, int, int]]:
    """(start, end) of each "the answer is" that is the first of its sentence, the end of its text and of its line."""
    sentences, line_end, last = [], -1, 0
    for match in SENTENCE.finditer(text):
        if match.start() >= line_end:
            line_end = text.find("\n", match.end())
            line_end = len(text) if line_end < 0 else line_end
        elif not _SENTENCE_END.search(text, last, match.start()):
            last = match.end()
            continue
        else:
            sentences[-1][2] = match.start()
        last = match.end()
        sentences.append([match.start(), last, line_end, line_end])
    return [tuple(sentence) for sentence in sentences]


def _is_value(text: str) -> bool:
    return bool(_STARTS_WITH_NUMBER.match(text.lstrip("*_ $("))) or not _PROSE.search(_COMMANDS.sub("", text))


def _plain(text: str) -> str:
    """The text without surrounding white space, markdown and tick marks."""
    text = END_ELSEWHERE.sub("", text.strip().rstrip(TICKS).rstrip())
    for mark in ("***", "**", "__", "`", "*"):
        if text.startswith(mark) and text.endswith(mark) and len(text) > 2 * len(mark):
            text = text[len(mark) : -len(mark)].strip()
        elif text.startswith(mark) and text.count(mark) == 1:  # its end is missing, or it closes the label's emphasis
            text = text[len(mark) :].strip()
        elif text.endswith(mark) and text.count(mark) == 1:
            text = text[: -len(mark)].strip()
    return text if re.search(r"\w|\\", text) else ""


def _next_paragraph(text: str, at: int) -> tuple[str, int]:
    """The next non-blank line, with the following lines of a formula that it opens, and where they end."""
    lines, depth = [], 0
    for line in _LINE.finditer(text, _BEFORE_PARAGRAPH.match(text, at).end()):
        lines.append(line[0])
        at = line.end()
        for mark in _OPENED.findall(line[0]):
            depth += -1 if mark in ("\\]", "\\end") or (mark == "$$" and depth) else 1
        if depth <= 0 or len(lines) == 20:
            break
    return " ".join(lines), at


def _end_of_sentence(text: str) -> int | None:
    """The position of the first full stop outside `$...$` that ends a sentence."""
    dollars = seen = 0
    for match in _SENTENCE_END.finditer(text):
        dollars += text.count("$", seen, match.start())
        seen = match.start()
        if dollars % 2 == 0:
            return match.start()
    return None
