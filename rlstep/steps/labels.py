"""Training targets from step labels: one policy for neutral steps and for steps after the first wrong one.

The policy is part of a verifier's checkpoint, because the meaning of a score depends on it.
"""

from dataclasses import asdict, dataclass
from typing import Literal, get_args

from rlstep.runtime.errors import UserError
from rlstep.steps.records import Solution

Neutral = Literal["positive", "negative", "ignore", "class"]
AfterFirstError = Literal["mask", "keep"]

# A target is a probability of "right" in [0, 1], or one of these two.
NEUTRAL = 2.0  # the third class, with the policy `neutral: class`
UNKNOWN = -1.0  # the step is scored, but has no label to train on


@dataclass(frozen=True)
class LabelPolicy:
    """How labels become targets.

    Attributes:
        neutral: what a step rated neutral counts as: right, wrong, no target, or a third class.
        after_first_error: "mask" ends supervision with the first wrong step (Lightman et al., 2305.20050, section
            2.6); "keep" also trains on the labels after it.
    """

    neutral: Neutral = "positive"
    after_first_error: AfterFirstError = "mask"

    def __post_init__(self):
        for name, choices in (("neutral", Neutral), ("after_first_error", AfterFirstError)):
            if getattr(self, name) not in get_args(choices):
                raise UserError(f"{name} is '{getattr(self, name)}'; choose one of {', '.join(get_args(choices))}.")

    @property
    def classes(self) -> int:
        """The number of classes of a verifier with this policy: wrong, right and perhaps neutral."""
        return 3 if self.neutral == "class" else 2

    def targets(self, solution: Solution) -> list[float]:
        """One target per step: in [0, 1] (soft labels are kept), `NEUTRAL`, or `UNKNOWN`.

        A step is wrong if its target is exactly 0: with soft labels, if no rollout reached the answer. Steps that
        are shared with other solutions of the tree have targets here; training counts them once (`rlstep.steps.trees`).
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
