"""Halves of surrogate pairs: JSON can write them, but they are no characters, and UTF-8 has no place for them."""

import re
from collections.abc import Iterable

from rlstep.runtime.errors import UserError

HALF = re.compile("[\ud800-\udfff]")
SHOWN = 30  # characters before it, in a message


def encodable(text: str) -> bool:
    """Whether UTF-8 has a place for all of a text."""
    return text.isascii() or HALF.search(text) is None


def refuse_halves(texts: Iterable[str]) -> None:
    """Refuses texts that no tokenizer reads.

    Raises:
        UserError: a text has half a surrogate pair; the message shows what comes before it.
    """
    for text in texts:
        if not encodable(text):
            place = HALF.search(text).start()
            before = ascii(text[max(0, place - SHOWN) : place + 1])
            raise UserError(
                f"a text has half a surrogate pair, which is no character, at the end of {before}. Replace it in the "
                "data, or drop the row."
            )
