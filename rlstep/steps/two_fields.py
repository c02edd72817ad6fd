"""Problems whose text is in two fields: what a question is about, and the question.

    context, passage, body    before `question` or `problem`: OlympiadBench, DROP, ASDiv
    input                     after `instruction`: Alpaca's form

They are joined by a line break, as OlympiadBench's own evaluation does it.
"""

from collections.abc import Iterable
from math import isnan

from rlstep.steps.records import shown
from rlstep.steps.sources import Row

ABOUT = ("context", "passage", "body")
QUESTIONS = ("question", "problem")
INSTRUCTION, INPUT = "instruction", "input"


def fields_of_problem(field: str, names: Iterable[str]) -> list[str]:
    """Which of a row's fields hold the problem's text, in order; capitals make no difference.

    Args:
        field: the one with the question.
        names: those of the row.

    >>> fields_of_problem("Question", ["ID", "Body", "Question", "Answer"])
    ['Body', 'Question']
    """
    spelled = {name.casefold(): name for name in names}
    before = ABOUT if field.casefold() in QUESTIONS else ()
    after = (INPUT,) if field.casefold() == INSTRUCTION else ()
    named = [[spelled[name] for name in some if name in spelled] for some in (before, after)]
    return [*named[0], field, *named[1]]


def whole_problem(row: Row, field: str, text: str) -> tuple[str, list[str]]:
    """The problem's whole text, and the fields that it is in.

    Args:
        row: the row.
        field: the one with the question.
        text: its text.

    Raises:
        DataError: what the question is about is no text.
    """
    parts = {}
    for name in fields_of_problem(field, map(str, row.values)):
        value = text if name == field else row.values[name]
        if not value or (isinstance(value, float) and isnan(value)):
            continue
        if not isinstance(value, str):
            problem = (
                f"expected text, as it belongs to the problem beside '{field}', got {shown(value)}. Write it into "
            )
            raise row.fault(name, problem + f"'{field}'; or take that alone: --fields prompt={field}.")
        # Some sets give the whole text as the question, and what it is about once more.
        if name == field or (value.strip() and value.strip() not in text):
            parts[name] = value
    return "\n".join(parts.values()), [*parts]
