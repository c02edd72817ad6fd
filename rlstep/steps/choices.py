"""Problems of multiple choice, whose rows keep what there is to choose from in a field of its own."""

import re

from rlstep.steps.messages import Prompt
from rlstep.steps.sources import Row

FIELDS = ("options", "choices")


def refuse_choices_unseen(row: Row, prompt: Prompt, reference: object) -> None:
    """Refuses a row whose reference is one of its choices, by letter or number, when its prompt shows none of them."""
    field = next((name for name in FIELDS if row.values.get(name)), None)
    texts, chosen = _texts_of(row.values.get(field)), str(reference).strip()
    is_number = chosen.isdecimal() and int(chosen) <= len(texts) and chosen not in texts
    if not (is_number or re.fullmatch(r"\(?[A-Z]\)?", chosen)):
        return
    said = prompt if isinstance(prompt, str) else "\n".join(message["content"] for message in prompt)
    if texts and not any(text in said for text in texts):
        raise row.fault(
            field,
            f"the prompt holds none of these choices, and the reference, {reference!r}, names one of them. Write"
            " them into the prompt, each with its letter, and give the letter as the reference.",
        )


def _texts_of(choices: object) -> list[str]:
    """The texts of choices: a list of them, letters with texts, or as ARC has them, {"text": [...], "label": [...]}."""
    if isinstance(choices, dict):
        choices = choices["text"] if isinstance(choices.get("text"), list) else list(choices.values())
    return [str(text).strip() for text in choices if str(text).strip()] if isinstance(choices, list) else []
