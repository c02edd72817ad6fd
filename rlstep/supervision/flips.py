"""Labels of a labeller that errs: a share of exact step labels flipped, to see what a bad verifier does."""

import hashlib
from dataclasses import replace

from rlstep.steps.prompts import problem_text
from rlstep.steps.records import Solution


def flip_labels(solution: Solution, share: float) -> Solution:
    """The solution with about `share` of its step labels flipped, 1 to 0 and 0 to 1; unknown ones stay unknown.

    Whether a label is flipped follows from the problem and the completion up to the step's end alone. So the labeller
    errs in the same way wherever it sees the same beginning, and repeats of a solution do not outvote it.

    Args:
        share: in [0, 1].
    """
    labels = [
        label if label is None or _chance(solution, end) >= share else 1 - label
        for label, (_, end) in zip(solution.labels, solution.steps, strict=True)
    ]
    return replace(solution, labels=labels)


def _chance(solution: Solution, end: int) -> float:
    """A number in [0, 1) that looks drawn at random, the same whenever it is asked for."""
    text = f"{problem_text(solution.prompt)}\0{solution.completion[:end]}"
    return int.from_bytes(hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()[:8], "big") / 2**64
