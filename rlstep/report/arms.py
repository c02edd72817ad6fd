"""The RL arms that the lab runs and the report compares: one entry each, which everything else reads."""

from dataclasses import dataclass, replace

from rlstep.report.style import BLACK, BLUE, GREEN, GREY, ORANGE, PINK, SKY, VERMILION

SOLID = "-"
DASHED = (0, (4, 2))
DOTTED = (0, (1, 1))
DASH_DOTTED = (0, (5, 1.5, 1, 1.5))


@dataclass(frozen=True)
class Style:
    """How a line is drawn: a colour of `rlstep.report.style`, and matplotlib's dashes."""

    colour: str
    dashes: str | tuple = SOLID


@dataclass(frozen=True)
class Arm:
    """One way to reward the policy, compared with others.

    Attributes:
        name: its key in summary.json; the run lies in the folder `ppo_NAME`.
        recipe: the PPO stage's recipe, in the folder of recipes.
        label: its name in figures and in the table of the contrast.
        style: the style of its line.
        uses_prm: whether it gets the trained PRM.
        by_default: whether a lab with one seed runs it by default.
    """

    name: str
    recipe: str
    label: str
    style: Style
    uses_prm: bool = True
    by_default: bool = False

    @property
    def folder(self) -> str:
        return f"ppo_{self.name}"

    @property
    def words(self) -> str:
        """The name as tables show it."""
        return self.name.replace("_", " ")


# The report compares these two by the samples they need.
PROCESS = Arm("process", "ppo_process", "process + outcome", Style(BLUE), by_default=True)
OUTCOME = Arm("outcome", "ppo_outcome", "outcome only", Style(VERMILION), uses_prm=False, by_default=True)

# In the order of tables and figures.
ARMS = (
    PROCESS,
    OUTCOME,
    Arm("process_only", "ppo_process_only", "process only", Style(PINK, DASHED)),
)

# `rlstep lab --contrast`: which rewards are given, and by which credit scheme.
CONTRAST = (
    OUTCOME,
    Arm("process_sum", "ppo_process_sum", "PRM only, sum", Style(PINK, DASHED)),
    Arm("process_clip_delta", "ppo_process_clip_delta", "PRM only, clip_delta", Style(GREY, DOTTED)),
    Arm("process_min_form", "ppo_process_min_form", "PRM only, min_form", Style(GREEN, DASH_DOTTED)),
    replace(PROCESS, label="PRM (sum) + outcome"),
    Arm("first_error", "ppo_first_error", "first error + outcome", Style(ORANGE)),
    Arm("centred", "ppo_centred", "centred + outcome", Style(SKY, DASHED)),
    Arm("filtered", "ppo_filtered", "outcome, filtered by PRM", Style(BLACK, DASH_DOTTED)),
)
