"""What the paper's experiments compare: series of verifiers, each trained on labels of one kind at several sizes.

    synthetic     who labels (section 4.1): process by a teacher, outcome by the teacher, outcome by the final answer
    active        which solutions are labelled (section 4.2): the rule of `rlstep select` and what it is made of
    monte_carlo   labels by rollouts (Math-Shepherd, 2312.08935), as many as the same tokens pay for

One entry each, which the lab, the tables and the figures read.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from rlstep.report.arms import DASH_DOTTED, DASHED, DOTTED, Style
from rlstep.report.style import BLACK, BLUE, GREEN, GREY, ORANGE, PINK, SKY, VERMILION

Experiment = Literal["synthetic", "active", "monte_carlo"]
EXPERIMENTS: tuple[Experiment, ...] = ("synthetic", "active", "monte_carlo")


@dataclass(frozen=True)
class Series:
    """Verifiers that differ in the number of their labels alone.

    Attributes:
        experiment: that it belongs to.
        name: its key in paper.json.
        label: its name in figures and tables.
        style: of its line.
        sizes: one verifier each: solutions per problem, labelled steps, or rollouts; None where there is but one.
        settings: options of the stage that makes its labels, or selects what is labelled.
        kind: what is trained.
        shaded: whether figures show its intervals, which hide one another where there are many.
    """

    experiment: Experiment
    name: str
    label: str
    style: Style
    sizes: tuple[int | None, ...]
    settings: Mapping[str, str] = field(default_factory=dict)
    kind: Literal["prm", "orm"] = "prm"
    shaded: bool = True

    def folder(self, size: int | None) -> str:
        """Where a verifier, its labels and its evaluation lie; no two share one."""
        return "_".join([self.experiment, self.name, *([] if size is None else [str(size)])])

    def selection(self, size: int | None) -> str:
        """The stage that selects what is labelled, where each verifier has a selection of its own."""
        return f"select_{self.folder(size)}"

    def evaluation(self, size: int | None) -> str:
        """The stage that evaluates a verifier."""
        return f"evaluate_{self.folder(size)}"

    def in_words(self, size: int | None) -> str:
        """
        >>> EXACT.in_words(None), Series("active", "uniform", "uniform", Style(BLUE), (1800,)).in_words(1800)
        ('exact labels', 'uniform, 1,800 labelled steps')
        """
        units = {"synthetic": "{:,} per problem", "active": "{:,} labelled steps", "monte_carlo": "K = {:,}"}
        return self.label if size is None else f"{self.label}, {units[self.experiment].format(size)}"


def synthetic(samples: Sequence[int]) -> list[Series]:
    """The three series of section 4.1, on the same solutions.

    Args:
        samples: of each problem.
    """
    sizes = tuple(samples)
    return [
        Series("synthetic", "process", "process, by the teacher", Style(BLUE), sizes),
        Series("synthetic", "outcome_teacher", "outcome, by the teacher", Style(GREEN, DASHED), sizes, kind="orm"),
        Series(
            "synthetic", "outcome_answer", "outcome, by the answer", Style(VERMILION, DASH_DOTTED), sizes, kind="orm"
        ),
    ]


CONVINCING, UNIFORM, WORSE = "convincing", "uniform", "worse"
SHARE_STYLES = (Style(SKY, DASHED), Style(GREEN, DASHED), Style(PINK, DASHED), Style(ORANGE, DASHED))


def active(budgets: Sequence[int], wrong_shares: Sequence[float]) -> list[Series]:
    """The paper's rule and uniform choice, and the rule with one of its parts exchanged.

    Args:
        budgets: in labelled steps.
        wrong_shares: other shares of wrong answers than the recipe's, at most as many as there are styles.
    """
    sizes = tuple(budgets)
    exchanged = [
        *((f"share_{share:g}", f"wrong share {share:g}", style, {"wrong_share": f"{share:g}"})
          for share, style in zip(wrong_shares, SHARE_STYLES, strict=False)),
        (WORSE, "worse selector", Style(GREY, DOTTED), {"score": "worse"}),
        ("uncertainty", "uncertainty", Style(BLACK, DOTTED), {"strategy": "uncertainty"}),
    ]  # fmt: skip
    return [
        Series("active", CONVINCING, "the paper's rule", Style(BLUE), sizes),
        Series("active", UNIFORM, "uniform", Style(VERMILION), sizes, {"strategy": "uniform"}),
        *(Series("active", name, label, style, sizes, how, shaded=False) for name, label, style, how in exchanged),
    ]


HARD, BY_HALVES = "hard", "binary"
# What labels by rollouts are compared with, on the same solutions: it costs no rollout, and there is one size of it.
EXACT = Series("monte_carlo", "exact", "exact labels", Style(BLACK, DASHED), (None,))


def monte_carlo(rollouts: Sequence[int]) -> list[Series]:
    """Labels by rollouts of each kind, and the exact checker's.

    One rollout gives the same label hard and soft. The search by halves relies on what the rollouts of a step say, and
    has several.

    Args:
        rollouts: K, of a step at most.
    """
    several = tuple(k for k in rollouts if k > 1)
    soft, halves = {"labels": "soft"}, {"search": "binary"}
    return [
        EXACT,
        Series("monte_carlo", HARD, "hard, step by step", Style(BLUE), tuple(rollouts)),
        *(
            [
                Series("monte_carlo", "soft", "soft, step by step", Style(VERMILION, DASHED), several, soft),
                Series("monte_carlo", BY_HALVES, "hard, by halves", Style(GREEN, DASH_DOTTED), several, halves),
            ]
            if several
            else []
        ),
    ]
