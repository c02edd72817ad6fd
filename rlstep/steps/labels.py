"""What a step's label teaches: one policy for neutral steps and for steps behind the first wrong one.

The policy is part of a verifier's checkpoint: what a score means depends on it.
"""

from dataclasses import asdict, dataclass
from typing import Literal, get_args

from rlstep.runtime.errors import UserError
from rlstep.steps.records import Solution

Neutral = Literal["positive", "negative", "ignore", "class"]
AfterFirstError = Literal["mask", "keep"]

# A target is a probability of "right" in [0, 1], or one of these two.
NEUTRAL = 2.0  # the third class, with the policy `neutral: class`
UNKNOWN = -1.0  # asked at this step, but nothing is known to compare the answer with


@dataclass(frozen=True)
class LabelPolicy:
    """How labels become targets.

    Attributes:
        neutral: what a step rated neutral counts as: right, wrong, nothing, or a class of its own.
        after_first_error: "mask" ends supervision with the first wrong step (Lightman et al., 2305.20050, section
            2.6); "keep" teaches the labels behind it, too.
    """

    neutral: Neutral = "positive"
    after_first_error: AfterFirstError = "mask"

    def __post_init__(self):
        for name, choices in (("neutral", Neutral), ("after_first_error", AfterFirstError)):
            if getattr(self, name) not in get_args(choices):
                raise UserError(f"{name} is '{getattr(self, name)}'; choose one of {', '.join(get_args(choices))}.")

    @property
    def classes(self) -> int:
        """How many classes a verifier of this policy tells apart: wrong, right and perhaps neutral."""
        return 3 if self.neutral == "class" else 2

    def targets(self, solution: Solution) -> list[float]:
        """One target a step: in [0, 1] (soft labels stay what they are), `NEUTRAL`, or `UNKNOWN`.

        A step is wrong when its target is exactly 0: of a soft label, when no rollout reached the answer. The steps
        that others of its tree have, too, have theirs here; training counts them once (`rlstep.steps.trees`).
        """
        of_neutral = {"positive": 1.0, "negative": 0.0, "ignore": UNKNOWN, "class": NEUTRAL}[self.neutral]
        neutral = set(solution.neutral or ())
        targets = [
            of_neutral if step in neutral else UNKNOWN if label is None else float(label)
            for step, label in enumerate(solution.labels)
        ]
        if self.after_first_error == "mask" and 0.0 in targets:
            first = targets.index(0.0)
            targets[first + 1 :] = [UNKNOWN] * (len(targets) - first - 1)
        return targets

    def to_dict(self) -> dict[str, str]:
        return asdict(self)
