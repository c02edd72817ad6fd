"""The stages of `rlstep lab --opponents`: process against outcome-only PPO, both tuned alike, and best-of-N.

A variant changes one setting of an arm's recipe, and every variant is run in both arms, but for `process_sets`, which
outcome rewards alone admit. Best-of-N picks among samples of the generator and of each arm's policy as its recipe has
it, with one PRM, which saw samples of the generator alone.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Annotated

from rlstep.report.arms import Arm
from rlstep.report.opponents_plan import ARMS, PROCESS_SETS, RECIPE, SOURCES, Plan, Source, Variant, changed
from rlstep.runtime.constraints import Choices, Range, ReadBy
from rlstep.runtime.errors import UserError
from rlstep.runtime.pipeline import Stage
from rlstep.runtime.recipes import load_recipe
from rlstep.stages import config_classes

OPPONENTS = ReadBy("opponents")
# List of values -> the setting of `rlstep ppo` that takes them.
TUNED = {"learning_rates": "learning_rate", "betas": "beta", "estimators": "advantage"}


@dataclass(kw_only=True)
class OpponentsOptions:
    """What `rlstep lab --opponents` runs."""

    opponents: bool = field(
        default=False,
        metadata={
            "help": "Instead of the report: process against outcome-only PPO, both tuned as hard, at equal samples and "
            "at equal compute, and best-of-N before and after RL, over 3 seeds."
        },
    )
    learning_rates: Annotated[list[float], OPPONENTS] = field(
        default_factory=lambda: [4e-3],
        metadata={"help": "opponents: learning rates that both arms try beside the recipe's own."},
    )
    betas: Annotated[list[float], OPPONENTS] = field(
        default_factory=lambda: [0.03],
        metadata={"help": "opponents: weights of the KL that both arms try beside the recipe's own."},
    )
    estimators: Annotated[list[str], Choices(("group", "rloo", "gae", "mean_return")), OPPONENTS] = field(
        default_factory=lambda: ["rloo", "gae"],
        metadata={"help": "opponents: advantages that both arms try beside the recipe's own."},
    )
    process_sets: Annotated[bool, OPPONENTS] = field(
        default=False,
        metadata={
            "help": "opponents: one more variant of the outcome arm, weighted by the implicit PRM of its groups "
            "(token_weights process_set: lambda-GRPO), which process rewards do not admit."
        },
    )
    policy_samples: Annotated[int, Range(at_least=2), OPPONENTS] = field(
        default=32, metadata={"help": "opponents: samples of each test problem for best-of-N, before and after RL."}
    )
    opponents_level: Annotated[float, Range(above=0, at_most=1), OPPONENTS] = field(
        default=0.5, metadata={"help": "opponents: the clean accuracy up to which samples are counted."}
    )

    def opponents_faults(self) -> Iterator[str]:
        for name in TUNED:
            values = getattr(self, name)
            if len(set(values)) < len(values):
                yield f"{name} is {values}; name each once"
        if not all(rate > 0 and math.isfinite(rate) for rate in self.learning_rates):
            yield f"learning_rates is {self.learning_rates}; give numbers above 0"
        if not all(beta >= 0 and math.isfinite(beta) for beta in self.betas):
            yield f"betas is {self.betas}; give numbers from 0 on"

    @property
    def plan_of_opponents(self) -> Plan:
        variants = [changed(setting, value) for name, setting in TUNED.items() for value in getattr(self, name)]
        return Plan([RECIPE, *variants], self.opponents_level, [PROCESS_SETS] if self.process_sets else [])


def opponents_stages(options: OpponentsOptions, recipes: Path) -> list[Stage]:
    """The stages from problems to curves, each after those it reads from.

    Args:
        options: which.
        recipes: the folder of recipes.

    Raises:
        UserError: a value to try is that of an arm's recipe.
    """
    plan = options.plan_of_opponents
    for arm in ARMS:
        _check_new(plan.of(arm), recipes / f"{arm.recipe}.yaml")
    start = {"model_name_or_path": "prepare/model", "data": "prepare/demonstrations.jsonl"}
    prm = {"model_name_or_path": "sft", "data": "train/labelled.jsonl"}
    problems = {"model": "sft", "problems": "prepare/problems-train.jsonl"}
    shared = [
        Stage("prepare", "prepare", "prepare", {}, ("out", "prepare")),
        Stage("sft", "sft", "sft", start, ("output_dir", "sft"), resumes=True),
        Stage("sample_train", "sample", "sample_train", problems, ("out", "train/samples.jsonl")),
        _label("train", "train"),
        Stage("prm", "prm", "prm", prm, ("output_dir", "prm"), resumes=True),
    ]
    policies = [_ppo(arm, variant) for arm in ARMS for variant in plan.of(arm)]
    best_of_n = [stage for source in SOURCES for stage in _best_of_n(source, options.policy_samples)]
    return [*shared, *policies, *best_of_n]


def _check_new(variants: Sequence[Variant], recipe: Path) -> None:
    """Each variant is to differ from the recipe, or it would be run twice under two names."""
    own = {one.name: one.default for part in config_classes("ppo") for one in fields(part)} | load_recipe(recipe)
    for variant in variants:
        for setting, value in variant.settings.items():
            if _same(own[setting], value):
                raise UserError(
                    f"{recipe} has {setting} {value}, which is run in any case; {_how_to_leave_out(setting)}."
                )


def _how_to_leave_out(setting: str) -> str:
    if (name := next((name for name, tuned in TUNED.items() if tuned == setting), None)) is None:
        return "leave out process_sets"
    return f"{name} are values beside it: leave it out there"


def _same(one: float | str, other: float | str) -> bool:
    """Whether two values are the same number, or the same word."""
    try:
        return float(one) == float(other)
    except ValueError:
        return one == other


def _ppo(arm: Arm, variant: Variant) -> Stage:
    problems = {"problems": "prepare/problems-rl.jsonl", "eval_problems": "prepare/problems-test.jsonl"}
    read = {"model_name_or_path": "sft", **problems, **({"prm": "prm"} if arm.uses_prm else {})}
    output = ("output_dir", variant.folder(arm))
    name = f"{arm.folder}_{variant.name}"
    return Stage(name, "ppo", arm.recipe, read, output, resumes=True, settings=dict(variant.settings))


def _best_of_n(source: Source, samples: int) -> Iterator[Stage]:
    """Samples of the test problems, their labels, the PRM's scores of them, and its curves."""
    name, folder = source.name, source.folder
    read = {"model": source.model, "problems": "prepare/problems-test.jsonl"}
    output = ("out", f"{folder}/samples.jsonl")
    yield Stage(f"sample_{name}", "sample", "sample_test", read, output, settings={"n": str(samples)})
    yield _label(name, folder)
    scored = f"{folder}/scored.jsonl"
    read = {"model": "prm", "data": f"{folder}/labelled.jsonl"}
    yield Stage(f"score_{name}", "score", "score_prm", read, ("out", scored), seeded=False)
    yield Stage(
        f"evaluate_{name}", "evaluate", "evaluate", {"data": scored}, ("out", f"{folder}/evaluate"),
        settings={"ns": "null"},
    )  # fmt: skip


def _label(name: str, folder: str) -> Stage:
    output = ("out", f"{folder}/labelled.jsonl")
    return Stage(f"label_{name}", "label", "label", {"data": f"{folder}/samples.jsonl"}, output, seeded=False)
