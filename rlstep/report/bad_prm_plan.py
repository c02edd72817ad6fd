"""What `rlstep lab --bad_prm` compares: PRMs from bad to good, and ways to reward a policy with them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Level:
    """A PRM's training data: the number of labelled steps, and the share of them that is flipped."""

    labels: int
    flip: float

    @property
    def name(self) -> str:
        return f"{self.labels}_{self.flip:g}"

    @property
    def folder(self) -> str:
        return f"prm_{self.name}"


@dataclass(frozen=True)
class Way:
    """A way to reward a policy.

    Attributes:
        name: its key in summary.json.
        recipe: the PPO stage's recipe.
        label: its name in the figure and the table.
        settings: options that override the recipe's.
    """

    name: str
    recipe: str
    label: str
    settings: Mapping[str, list[str]] = field(default_factory=dict)

    @property
    def stage(self) -> str:
        return f"ppo_{self.name}"

    def folder(self, level: Level | None) -> str:
        """Where its run lies, with the PRM of a level, or without any."""
        return f"{level.folder}/{self.stage}" if level else self.stage


@dataclass(frozen=True)
class Plan:
    """What is run: PRMs, ways, and the clean accuracy up to which samples are counted."""

    levels: Sequence[Level]
    ways: Sequence[Way]
    target: float


OUTCOME = Way("outcome", "ppo_outcome", "outcome only")
_CREDITS = ("sum", "log", "clip", "delta", "clip_delta", "progress", "min_form")
_WITH_OUTCOME = {"reward": ["prm", "outcome"]}
# In the order of the figure and the table.
WAYS = (
    *(Way(credit, f"ppo_process_{credit}", f"{credit}, PRM only") for credit in _CREDITS),
    *(Way(f"{credit}_outcome", f"ppo_process_{credit}", f"{credit} + outcome", _WITH_OUTCOME) for credit in _CREDITS),
    Way("first_error", "ppo_first_error", "first error + outcome"),
    Way("centred", "ppo_centred", "centred + outcome"),
    Way("filtered", "ppo_filtered", "outcome, filtered by PRM"),
)
