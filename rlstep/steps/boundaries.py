"""Where steps begin and end in a text, as character spans.

The line rule of "Let's Verify Step by Step" (section 2.4: one step a line). A step's closing newlines belong to it:
only they show that the step is over ("1" may still become "12"), so its last token is the place where a reward model
is asked and where the policy is paid.
"""

from rlstep.steps.records import Span


def line_steps(text: str) -> list[Span]:
    """Spans of the non-blank lines of `text`; together with blank stretches before the first they cover it.

    >>> line_steps("7 + 3 = 10\\n\\nAnswer: 10")
    [(0, 12), (12, 22)]
    >>> line_steps(" \\n")
    []
    """
    spans: list[Span] = []
    position = 0
    while position < len(text):
        end = text.find("\n", position)
        end = len(text) if end < 0 else end + 1
        if text[position:end].strip():
            spans.append((position, end))
        elif spans:
            # A blank line closes the step before it: its characters belong to that step.
            spans[-1] = (spans[-1][0], end)
        position = end
    return spans
