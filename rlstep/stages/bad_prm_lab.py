"""The stages of `rlstep lab --bad_prm`: PRMs of several qualities, and policies that are trained with each of them.

A PRM is made bad by few labels and by flipped ones. How bad it is, is measured on labelled solutions of the test
problems, which are the same for all of them. Every way to reward a policy is run with every PRM, and outcome-only once.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Annotated

from rlstep.report.bad_prm_plan import OUTCOME, WAYS, Level, Plan, Way
from rlstep.runtime.constraints import Choices, Range, ReadBy
from rlstep.runtime.pipeline import Stage

BAD_PRM = ReadBy("bad_prm")


@dataclass(kw_only=True)
class BadPRMOptions:
    """What `rlstep lab --bad_prm` runs, and at which sizes."""

    bad_prm: bool = field(
        default=False,
        metadata={
            "help": "Instead of the report: a map of what PRMs from bad to good do to policies, under every way to "
            "reward with them, over 3 seeds."
        },
    )
    prm_labels: Annotated[list[int], BAD_PRM] = field(
        default_factory=lambda: [200, 450, 1000, 2500, 20000],
        metadata={"help": "bad_prm: labelled steps that each PRM is trained on, at most."},
    )
    prm_flips: Annotated[list[float], BAD_PRM] = field(
        default_factory=lambda: [0.0] * 5,
        metadata={"help": "bad_prm: the share of these labels that is flipped, one number for each of prm_labels."},
    )
    prm_steps: Annotated[int, Range(at_least=1), BAD_PRM] = field(
        default=100, metadata={"help": "bad_prm: training steps of each PRM, as many for few labels as for many."}
    )
    ways: Annotated[list[str], Choices(tuple(way.name for way in WAYS)), BAD_PRM] = field(
        default_factory=lambda: [way.name for way in WAYS],
        metadata={"help": "bad_prm: how policies are rewarded; a credit scheme alone is the PRM without the outcome."},
    )
    ppo_steps: Annotated[int | None, Range(at_least=1), BAD_PRM] = field(
        default=None, metadata={"help": "bad_prm: max_steps of every policy; by default that of its recipe."}
    )
    map_level: Annotated[float, Range(above=0, at_most=1), BAD_PRM] = field(
        default=0.5, metadata={"help": "bad_prm: the clean accuracy up to which samples are counted."}
    )
    test_samples: Annotated[int, Range(at_least=1), BAD_PRM] = field(
        default=8, metadata={"help": "bad_prm: solutions of each test problem on whose steps the PRMs are measured."}
    )

    def bad_prm_faults(self) -> Iterator[str]:
        for name in ("prm_labels", "ways"):
            if not getattr(self, name):
                yield f"{name} is empty; give at least one"
        if len(self.prm_labels) != len(self.prm_flips):
            yield (
                f"prm_labels has {len(self.prm_labels)} entries and prm_flips {len(self.prm_flips)}; each PRM has one "
                "of both"
            )
        if min(self.prm_labels, default=1) < 1 or not all(0 <= share <= 1 for share in self.prm_flips):
            yield "prm_labels are whole numbers from 1 on, prm_flips shares from 0 to 1"
        levels = list(zip(self.prm_labels, self.prm_flips, strict=False))
        if len(set(levels)) < len(levels) or len(set(self.ways)) < len(self.ways):
            yield "two PRMs have the same prm_labels and prm_flips, or ways names one twice; name each once"

    @property
    def plan_of_bad_prm(self) -> Plan:
        levels = [Level(labels, flip) for labels, flip in zip(self.prm_labels, self.prm_flips, strict=True)]
        return Plan(levels, [way for way in WAYS if way.name in self.ways], self.map_level)


def bad_prm_stages(options: BadPRMOptions) -> list[Stage]:
    """The stages from problems to curves, each after those it reads from."""
    plan = options.plan_of_bad_prm
    start = {"model_name_or_path": "prepare/model", "data": "prepare/demonstrations.jsonl"}
    shared = [
        Stage("prepare", "prepare", "prepare", {}, ("out", "prepare")),
        Stage("sft", "sft", "sft", start, ("output_dir", "sft"), resumes=True),
        _sample("train"),
        _sample("test", {"n": str(options.test_samples)}),
        _label("label_test", "test/samples.jsonl", "test/labelled.jsonl"),
    ]
    prms = [stage for level in plan.levels for stage in _prm(level, options.prm_steps)]
    policies = [(OUTCOME, None), *((way, level) for level in plan.levels for way in plan.ways)]
    return [*shared, *prms, *(_ppo(way, level, options.ppo_steps) for way, level in policies)]


def _prm(level: Level, steps: int) -> Iterator[Stage]:
    """A PRM of a level, and how well it judges the steps of the test solutions."""
    name, folder = level.name, level.folder
    labelled, selected, scored = (f"{folder}/{part}.jsonl" for part in ("labelled", "selected", "scored"))
    yield _label(f"label_{name}", "train/samples.jsonl", labelled, {"flip": str(level.flip)})
    yield Stage(
        f"select_{name}", "select", "select_uniform", {"data": labelled}, ("out", selected),
        settings={"budget": str(level.labels)},
    )  # fmt: skip
    yield Stage(
        f"prm_{name}", "prm", "prm", {"model_name_or_path": "sft", "data": selected}, ("output_dir", f"{folder}/prm"),
        resumes=True, settings={"max_steps": str(steps)},
    )  # fmt: skip
    read = {"model": f"{folder}/prm", "data": "test/labelled.jsonl"}
    yield Stage(f"score_{name}", "score", "score_prm", read, ("out", scored), seeded=False)
    yield Stage(
        f"evaluate_{name}", "evaluate", "evaluate", {"data": scored}, ("out", f"{folder}/evaluate"),
        settings={"ns": ["1"]},
    )  # fmt: skip


def _sample(split: str, settings: dict | None = None) -> Stage:
    read = {"model": "sft", "problems": f"prepare/problems-{split}.jsonl"}
    output = ("out", f"{split}/samples.jsonl")
    return Stage(f"sample_{split}", "sample", f"sample_{split}", read, output, settings=settings or {})


def _label(name: str, data: str, out: str, settings: dict | None = None) -> Stage:
    return Stage(name, "label", "label", {"data": data}, ("out", out), seeded=False, settings=settings or {})


def _ppo(way: Way, level: Level | None, steps: int | None) -> Stage:
    problems = {"problems": "prepare/problems-rl.jsonl", "eval_problems": "prepare/problems-test.jsonl"}
    read = {"model_name_or_path": "sft", **problems, **({"prm": f"{level.folder}/prm"} if level else {})}
    out, name = way.folder(level), f"{way.stage}_{level.name}" if level else way.stage
    settings = dict(way.settings) | ({"max_steps": str(steps)} if steps else {})
    return Stage(name, "ppo", way.recipe, read, ("output_dir", out), resumes=True, settings=settings)
