"""A look at the first completions of a run: whether most of them can be paid, or scored, at all.

A prompt that is written otherwise than the model knows it, too few new tokens or an answer in an unknown form make
completions that are all the same to what comes after. A run would go on for hours and learn nothing.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass

logger = logging.getLogger(__name__)

SHOWN = 200  # characters of the example


@dataclass(frozen=True)
class Look:
    """What is looked at in one completion.

    Attributes:
        completion: its text.
        answered: whether an answer is found in it.
        steps: how many steps it has.
        finished: whether the model ended it itself.
    """

    completion: str
    answered: bool
    steps: int
    finished: bool


def warn_of_first_batch(looks: Sequence[Look], new_tokens: str) -> None:
    """Warns, in one line with an example, where more than half of the first completions lack something.

    Args:
        looks: the completions.
        new_tokens: the setting that limits their length.
    """
    kinds = {
        f"are cut off ({new_tokens} too low, or no end token is written)": [x for x in looks if not x.finished],
        "have no answer that is found": [look for look in looks if not look.answered],
        "have no step": [look for look in looks if not look.steps],
    }
    lacking = {words: cases for words, cases in kinds.items() if 2 * len(cases) > len(looks)}
    if not lacking:
        return
    counts = ", ".join(f"{len(cases)} {words}" for words, cases in lacking.items())
    example = next(iter(lacking.values()))[0].completion
    shown = repr(example[:SHOWN]) + ("..." if len(example) > SHOWN else "")
    logger.warning(
        "of the first %d completions %s. Look at prompt_format and at what the prompts ask for. One of them: %s",
        len(looks), counts, shown,
    )  # fmt: skip
