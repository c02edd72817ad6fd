"""What `rlstep lab --opponents` compares: two arms, the same variants of each, and what best-of-N is drawn from.

The outcome arm may have one more, which process rewards do not admit: the implicit PRM of its groups.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from rlstep.report.arms import OUTCOME, PROCESS, Arm

ARMS = (OUTCOME, PROCESS)


@dataclass(frozen=True)
class Variant:
    """A change of one setting.

    Attributes:
        name: its key in summary.json, and its policies' folder in that of the arm.
        label: its name in tables.
        settings: options that override those of the arm's recipe.
    """

    name: str
    label: str
    settings: Mapping[str, str] = field(default_factory=dict)

    def folder(self, arm: Arm) -> str:
        return f"{arm.folder}/{self.name}"


RECIPE = Variant("recipe", "as in the recipe")
# lambda-GRPO (2509.21154): of outcome rewards alone.
PROCESS_SETS = Variant(
    "process_sets", "implicit PRM weights (token_weights process_set)", {"token_weights": "process_set"}
)


def changed(setting: str, value: float | str) -> Variant:
    """The variant with another value of a setting.

    >>> changed("learning_rate", 4e-3)
    Variant(name='learning_rate_0.004', label='learning_rate 0.004', settings={'learning_rate': '0.004'})
    """
    text = value if isinstance(value, str) else f"{value:g}"
    return Variant(f"{setting}_{text}", f"{setting} {text}", {setting: text})


@dataclass(frozen=True)
class Source:
    """What samples of the test problems are drawn from, for best-of-N.

    Attributes:
        name: its key in summary.json.
        label: its name in the figure and the table.
        model: its folder.
    """

    name: str
    label: str
    model: str

    @property
    def folder(self) -> str:
        return f"best_of_n/{self.name}"


SOURCES = (
    Source("generator", "before RL", "sft"),
    *(Source(arm.name, f"after RL, {arm.label}", RECIPE.folder(arm)) for arm in ARMS),
)


@dataclass(frozen=True)
class Plan:
    """What is run.

    Attributes:
        variants: of each arm, that of the recipe first.
        target: the clean accuracy up to which samples are counted.
        outcome_alone: further variants of the outcome arm.
    """

    variants: Sequence[Variant]
    target: float
    outcome_alone: Sequence[Variant] = ()

    def of(self, arm: Arm) -> list[Variant]:
        """An arm's variants."""
        return [*self.variants, *(self.outcome_alone if arm == OUTCOME else ())]

    @property
    def labels(self) -> dict[str, str]:
        """Each variant's label by its name."""
        return {variant.name: variant.label for arm in ARMS for variant in self.of(arm)}
