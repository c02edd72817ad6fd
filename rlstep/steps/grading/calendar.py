r"""Dates: `March 3, 2020`, `3rd of March 2020` and `2020-03-03` are one.

`3/4/2020` is the third of April or the fourth of March, and is read as neither.
"""

import re
from dataclasses import dataclass

_MONTHS = ("january", "february", "march", "april", "may", "june", "july", "august", "september", "october", "november",
           "december")  # fmt: skip
_NUMBERS = {name: k for k, name in enumerate(_MONTHS, 1)} | {name[:3]: k for k, name in enumerate(_MONTHS, 1)}
_NUMBERS["sept"] = 9
_LENGTHS = (31, 29, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31)

_MONTH = rf"(?P<month>{'|'.join(sorted(_NUMBERS, key=len, reverse=True))})\.?"
_DAY = r"(?:the )?(?P<day>\d{1,2})(?:st|nd|rd|th)?"
_YEAR = r"(?:,? (?P<year>\d{4}))?"
_FORMS = tuple(
    re.compile(form, re.ASCII)
    for form in (
        rf"{_MONTH} {_DAY}{_YEAR}",
        rf"{_DAY} (?:of )?{_MONTH}{_YEAR}",
        r"(?P<year>[12]\d{3})-(?P<month>\d\d)-(?P<day>\d\d)",
        r"(?P<year>[12]\d{3})/(?P<month>\d\d)/(?P<day>\d\d)",
        r"(?P<year>\d{4}) ?年 ?(?P<month>\d{1,2}) ?月 ?(?P<day>\d{1,2}) ?日",
    )
)
_DECORATION = re.compile(r"\\text\{([^{}]*)\}|\^|[{}]")


@dataclass(frozen=True)
class Date:
    """A day, of any year if none is named."""

    year: int | None
    month: int
    day: int


def date(text: str) -> Date | None:
    r"""The date of a text in the spelling of `tidy`; None for other text, and for a day that its month does not have.

    >>> date("March 3, 2020") == date(r"3^{\text{rd}} \text{ of March } 2020") == date("2020-03-03")
    True
    """
    text = _DECORATION.sub(lambda match: match[1] or "", text)
    text = " ".join(text.replace(",", ", ").replace(" ,", ",").casefold().split()).removesuffix(".")
    match = next(filter(None, (form.fullmatch(text) for form in _FORMS)), None)
    if match is None:
        return None
    month, day = _NUMBERS.get(match["month"]) or int(match["month"]), int(match["day"])
    if not 1 <= month <= 12 or not 1 <= day <= _LENGTHS[month - 1]:
        return None
    return Date(int(match["year"]) if match["year"] else None, month, day)
