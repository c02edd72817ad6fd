r"""Where steps begin and end in a text, as character spans.

    line        the rule of "Let's Verify Step by Step" (section 2.4): one step per line
    math_line   one step per line; a display formula stays with its sentence (`rlstep.steps.formulas`)
    blank_line  one step per paragraph
    tag         a step ends with a tag that the model writes, such as "ки" or "<extra_0>"
    heading     a step begins with a line such as "Step 3:", "**Step 3**" or "### Step 3"
    sentence    one step per sentence, without splitting LaTeX (`rlstep.steps.sentences`)

Under every rule, steps are in order, none is blank, and together they cover the text from its first visible line on.
What closes a step belongs to it, newlines and tags: only they show that the step is over ("1" may still become "12"),
so its last token is where a reward model scores it and where the policy gets its reward. The space between two
sentences belongs to the second one, because most tokenizers make it a part of the next word.
"""

import re
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Literal, get_args

from rlstep.runtime.errors import UserError
from rlstep.steps.formulas import formula_line_ends
from rlstep.steps.records import Span
from rlstep.steps.sentences import sentence_ends

Rule = Literal["line", "math_line", "blank_line", "tag", "heading", "sentence"]

# A visible character that is part of no tag: what is written next, whatever it is.
_NEXT = "\ue000"
_LINE_END = re.compile(r"\n")
_BLANK_LINES = re.compile(r"\n(?:[^\S\n]*\n)+")
# "Step 3 of the proof" is prose: in a heading, a mark, the end of the emphasis or the end of the line follows the
# number. After "###", any word may follow.
_HEADING = re.compile(
    r"""^[^\S\n]*(?:[-*+>][^\S\n]+)?
    (?: \#{1,6}[^\S\n]*[*_]{0,3}step[^\S\n]+\d+\b
      | [*_]{0,3}step[^\S\n]+\d+(?:[.\u2013-]\d+)*[^\S\n]*
        (?: [:)*_] | \.(?!\d) | [-\u2013\u2014](?=\s|$) | $ )
    )""",
    re.MULTILINE | re.IGNORECASE | re.VERBOSE,
)


@dataclass(frozen=True)
class Boundary:
    r"""The rule that defines a step. Stored in a verifier's checkpoint, because the meaning of a score depends on it.

    Attributes:
        rule: line, math_line, blank_line, tag, heading or sentence.
        tag: the text that ends a step, only for the rule "tag".

    Raises:
        UserError: an unknown rule, the rule "tag" without a tag, or a tag with another rule.

    >>> Boundary("tag", "ки").split("7 + 3 = 10 ки\nSo 10 ки")
    [(0, 13), (13, 22)]
    """

    rule: Rule = "line"
    tag: str | None = None

    def __post_init__(self):
        if self.rule not in get_args(Rule):
            raise UserError(f"boundary rule is {self.rule!r}; choose one of {', '.join(get_args(Rule))}.")
        if self.rule == "tag" and not (isinstance(self.tag, str) and self.tag):
            raise UserError(f'boundary rule "tag" needs the text that ends a step, got {self.tag!r}; for example "ки".')
        if self.rule != "tag" and self.tag is not None:
            raise UserError(
                f"boundary tag is {self.tag!r}, but rule '{self.rule}' has none; leave it out, or set rule to tag."
            )

    def split(self, text: str) -> list[Span]:
        """The spans of the steps of `text`; empty if it has no visible character."""
        match self.rule:
            case "line":
                return line_steps(text)
            case "math_line":
                ends = formula_line_ends(text)
            case "blank_line":
                ends = [gap.end() for gap in _BLANK_LINES.finditer(text)]
            case "tag":
                ends = _tag_ends(text, self.tag)
            case "heading":
                ends = [heading.start() for heading in _HEADING.finditer(text)]
            case "sentence":
                ends = sentence_ends(text)
        return _cover(text, ends)

    @property
    def closing(self) -> str | None:
        """Text without which no step ends that another follows; None where only what follows shows that one is over."""
        return {"line": "\n", "blank_line": "\n", "tag": self.tag}.get(self.rule)

    def whole_steps(self, text: str) -> int:
        r"""How many steps of a text that goes on are over: what is written next begins a new one.

        For rules that have `closing`.

        >>> Boundary("line").whole_steps("7 + 3 = 10\n10 * "), Boundary("blank_line").whole_steps("7 + 3 = 10\n")
        (1, 0)
        """
        return len(self.split(text + _NEXT)) - 1

    def __str__(self) -> str:
        return self.rule if self.tag is None else f"{self.rule} {self.tag!r}"

    def to_dict(self) -> dict[str, str | None]:
        return asdict(self)

    @classmethod
    def from_dict(cls, stored: dict) -> "Boundary":
        """The boundary that `to_dict` described.

        Args:
            stored: `rule` and `tag`.

        Raises:
            UserError: not such a dictionary, or one that `Boundary` does not accept.
        """
        if not isinstance(stored, dict) or not set(stored) <= {"rule", "tag"}:
            raise UserError(f"a step boundary is stored as {{'rule': ..., 'tag': ...}}, got {stored!r}.")
        return cls(**stored)


def line_steps(text: str) -> list[Span]:
    """Spans of the non-blank lines of `text`; together with blank lines before the first they cover it.

    >>> line_steps("7 + 3 = 10\\n\\nAnswer: 10")
    [(0, 12), (12, 22)]
    >>> line_steps(" \\n")
    []
    """
    return _cover(text, (line_end.end() for line_end in _LINE_END.finditer(text)))


def _cover(text: str, ends: Iterable[int]) -> list[Span]:
    """Spans that end at `ends`, in order, and at the text's end; a blank one is merged into the step before it."""
    visible = len(text) - len(text.lstrip())
    if visible == len(text):
        return []
    begin = text.rfind("\n", 0, visible) + 1
    spans: list[Span] = []
    for end in (*ends, len(text)):
        if text[begin:end].strip():
            spans.append((begin, end))
        elif spans and end > begin:
            spans[-1] = (spans[-1][0], end)
        else:
            continue
        begin = end
    return spans


def _tag_ends(text: str, tag: str) -> list[int]:
    """Where tags end steps. Consecutive tags end only one step: repeating a tag does not add steps."""
    ends: list[int] = []
    begin, tag_start = 0, text.find(tag)
    while tag_start >= 0:
        end = tag_start + len(tag)
        if text[begin:tag_start].strip():
            ends.append(end)
        elif ends:
            ends[-1] = end
        begin, tag_start = end, text.find(tag, end)
    return ends
