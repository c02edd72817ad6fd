"""The `plan` stage: what recipes will take, before anything is launched; no weights are loaded."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Annotated

from rlstep.planning.inference import sample_plan, score_plan
from rlstep.planning.models import Models
from rlstep.planning.parts import StagePlan
from rlstep.planning.ppo import ppo_plan
from rlstep.planning.recipes import find_recipes, sources_of
from rlstep.planning.remedies import TRAINS, remedies
from rlstep.planning.settings import Lengths, Machine
from rlstep.planning.supervised import supervised_plan
from rlstep.planning.table import as_text
from rlstep.runtime.config import StrictParser
from rlstep.runtime.constraints import Choices, Range, changed, check, faults_of_values, raise_faults
from rlstep.runtime.errors import UserError

STAGES = ("sft", "prm", "orm", "ppo", "sample", "score")
# Settings that the plans of some stages alone read.
READ_BY: dict[str, tuple[str, ...]] = {
    "completion_tokens": ("sft", "prm", "orm", "score"),
    "utilisation": ("sft", "prm", "orm", "ppo", "score"),
    "sampling_utilisation": ("sample", "ppo"),
    "deepspeed": TRAINS,
}


@dataclass
class PlanConfig:
    recipe: str = field(metadata={"help": "A recipe's file, the name of a shipped one, or a folder of recipes."})
    gpus: Annotated[int, Range(at_least=1)] = field(default=1, metadata={"help": "How many GPUs there are."})
    memory: Annotated[float, Range(above=0)] = field(default=80.0, metadata={"help": "Memory of one of them, in GiB."})
    stage: Annotated[str | None, Choices(STAGES)] = field(
        default=None,
        metadata={
            "help": "The stage of a recipe whose file's name does not begin with it.",
            "choices": list(STAGES),
        },
    )
    model: str | None = field(
        default=None,
        metadata={
            "help": "Folder or hub id whose config.json stands for models that are not there and that no recipe writes."
        },
    )
    deepspeed: str | None = field(
        default=None, metadata={"help": "DeepSpeed configuration of the launch, for recipes that name none."}
    )
    prompt_tokens: Annotated[int, Range(at_least=1)] = field(default=512, metadata={"help": "The longest prompt."})
    completion_tokens: Annotated[int, Range(at_least=1)] = field(
        default=512,
        metadata={"help": "The longest solution of sft, prm, orm and score; ppo and sample have their own limit."},
    )
    filled: Annotated[float, Range(above=0, at_most=1)] = field(
        default=0.5,
        metadata={"help": "How long rows are on average, as a share of the longest: for tokens, FLOPs and hours."},
    )
    rows: Annotated[int | None, Range(at_least=1)] = field(
        default=None,
        metadata={"help": "Rows of the data (problems, for ppo and sample) where the file is not there, for hours."},
    )
    tflops: Annotated[float, Range(above=0)] = field(
        default=312.0,
        metadata={"help": "What a GPU can do, in 10^12 operations per second: an A100 312, an H100 989, in bfloat16."},
    )
    utilisation: Annotated[float, Range(above=0, at_most=1)] = field(
        default=0.3, metadata={"help": "The share of that which training and scoring reach."}
    )
    sampling_utilisation: Annotated[float, Range(above=0, at_most=1)] = field(
        default=0.05, metadata={"help": "The share of that which sampling reaches."}
    )
    headroom: Annotated[float, Range(at_least=0, below=1)] = field(
        default=0.1,
        metadata={"help": "Share of a GPU's memory to be left free: CUDA's own, buffers of communication, gaps."},
    )
    json: bool = field(default=False, metadata={"help": "Print the plan as JSON."})

    def __post_init__(self):
        check(self)


def plan(config: PlanConfig) -> dict:
    """Prints what each recipe takes and what to change where it does not fit.

    Returns:
        `recipes`, `fitting`, and `plans`: what each takes, by recipe.

    Raises:
        UserError: no such recipe, a setting that is wrong, or a model whose configuration is not there.
    """
    recipes = find_recipes(config.recipe, config.stage)
    raise_faults(_idle(config, {recipe.stage for recipe in recipes}))
    models = Models(sources_of(recipes, settings_of), config.model)
    machine = Machine(
        config.gpus, config.memory, config.tflops, config.utilisation, config.sampling_utilisation, config.headroom
    )
    lengths = Lengths(config.prompt_tokens, config.completion_tokens, config.filled, config.rows)
    plans, chosen = [], [(recipe, settings_of(recipe.stage, recipe.path)) for recipe in recipes]
    if config.deepspeed and all(values.get("deepspeed") for recipe, values in chosen if recipe.stage in TRAINS):
        raise UserError(
            f"deepspeed is for recipes that name none, and {config.recipe} names its own; leave it out, or change the "
            "recipe."
        )
    for recipe, values in chosen:
        if recipe.stage in TRAINS and not values.get("deepspeed"):
            values = {**values, "deepspeed": config.deepspeed}
        plan_with = partial(_plan, recipe.name, recipe.stage, models, lengths, machine)
        try:
            one = plan_with(values)
            plans.append(one if one.fits else replace(one, remedies=remedies(one, values, plan_with)))
        except UserError as error:
            raise UserError(f"{recipe.path}: {error}") from error
    shown = {one.recipe: one.to_dict() for one in plans}
    print(json.dumps(shown, indent=2) if config.json else as_text(plans, machine))
    return {"recipes": len(plans), "fitting": sum(one.fits for one in plans), "plans": shown}


def _idle(config: PlanConfig, stages: set[str]) -> Iterator[str]:
    """Settings that the plans of these stages would not read."""
    for name in changed(config, READ_BY):
        if not stages & {*READ_BY[name]}:
            yield (
                f"{name} is for plans of {', '.join(READ_BY[name])}, and {config.recipe} is of "
                f"{', '.join(sorted(stages))}; leave it out"
            )


def settings_of(stage: str, path: Path) -> Mapping:
    """A recipe's settings, defaults included; they are not checked against each other, as a run does.

    Raises:
        UserError: one of them is unknown, of a wrong type or out of range, or it names no model.
    """
    from rlstep.stages import config_classes

    kinds = config_classes(stage)
    values = StrictParser(kinds, prog=f"rlstep {stage}").values(["--config", str(path)])
    faults = [fault for kind in kinds for fault in faults_of_values(kind, values)]
    if stage == "ppo" and values["max_completion_length"] is None:
        faults.append("max_completion_length is null; give the most tokens of a completion")
    if stage in TRAINS and values["model_name_or_path"] is None:
        faults.append("model_name_or_path is missing; give a folder or hub id")
    if faults:
        raise UserError(f"{path}: {'; '.join(faults)}.")
    return values


def _plan(recipe: str, stage: str, models: Models, lengths: Lengths, machine: Machine, values: Mapping) -> StagePlan:
    planners = {"sample": sample_plan, "score": score_plan, "ppo": ppo_plan}
    if stage in planners:
        return planners[stage](recipe, values, models, lengths, machine)
    return supervised_plan(recipe, stage, values, models, lengths, machine)
