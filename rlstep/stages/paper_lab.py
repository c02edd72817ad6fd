"""The stages of `rlstep lab --paper`: the paper's experiments on labels (`rlstep.report.paper.series`).

All verifiers of an experiment start from one generator, and pick from the same samples of the test problems. Synthetic
supervision and labels by rollouts share theirs, with a pool of many samples of a few problems, from which is selected
what they train on, and a larger model, the teacher, which is trained on exact labels of other problems. Active learning
has its own: a generator that is mostly right, so that there is something to choose.

A small selection may hold labels of one kind alone, which teach nothing: that verifier is left out, and the report says
so. What the experiments share cannot be left out.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Annotated

from rlstep.report.paper import series
from rlstep.report.paper.report import Plan
from rlstep.report.paper.series import EXPERIMENTS, SHARE_STYLES, UNIFORM, WORSE, Experiment, Series
from rlstep.runtime.constraints import Choices, ReadBy, differs
from rlstep.runtime.pipeline import Stage

PAPER = ReadBy("paper")
# The sizes that each experiment reads.
OF_EXPERIMENT: dict[str, Experiment] = {
    "samples_per_problem": "synthetic", "label_budgets": "active", "wrong_shares": "active", "rollouts": "monte_carlo",
}  # fmt: skip
DISTINCT = "pool/distinct.jsonl"  # the pool, each solution of a problem once, without labels


@dataclass(frozen=True)
class Ground:
    """What an experiment's verifiers have in common: the model they start from, the solutions they pick from."""

    generator: str
    test: str


SHARED = Ground("sft", "test/labelled.jsonl")
ACTIVE = Ground("active/sft", "active/test/labelled.jsonl")


@dataclass(kw_only=True)
class PaperOptions:
    """What `rlstep lab --paper` runs, and at which sizes."""

    paper: bool = field(
        default=False,
        metadata={"help": "Instead of the report: the paper's experiments on labels, over 3 seeds."},
    )
    experiments: Annotated[list[str], Choices(EXPERIMENTS), PAPER] = field(
        default_factory=lambda: [*EXPERIMENTS],
        metadata={
            "help": "paper: which: synthetic: process and outcome labels by a teacher, outcome labels by the final "
            "answer; active: the choice of what is labelled; monte_carlo: labels by rollouts."
        },
    )
    samples_per_problem: Annotated[list[int], PAPER] = field(
        default_factory=lambda: [1, 5, 30, 200], metadata={"help": "paper, synthetic: solutions labelled, rising."}
    )
    label_budgets: Annotated[list[int], PAPER] = field(
        default_factory=lambda: [300, 900, 2700, 8100],
        metadata={"help": "paper, active: labelled steps in all, rising, two sizes at least."},
    )
    wrong_shares: Annotated[list[float], PAPER] = field(
        default_factory=lambda: [0.0, 1.0],
        metadata={"help": "paper, active: further shares of wrong answers beside that of the recipe `select`."},
    )
    rollouts: Annotated[list[int], PAPER] = field(
        default_factory=lambda: [1, 4, 16], metadata={"help": "paper, monte_carlo: rollouts of a step, rising."}
    )

    def paper_faults(self) -> Iterator[str]:
        if not self.experiments or len(set(self.experiments)) < len(self.experiments):
            yield f"experiments is {self.experiments}; name each of {', '.join(EXPERIMENTS)} once, or some of them"
        for name, experiment in OF_EXPERIMENT.items():
            if experiment not in self.experiments and differs(self, name):
                yield f"experiments is {self.experiments}, so {name} would do nothing; add {experiment}"
        for name, fewest in (("samples_per_problem", 1), ("label_budgets", 2), ("rollouts", 1)):
            sizes = getattr(self, name)
            if len(sizes) < fewest or min(sizes) < 1 or any(a >= b for a, b in pairwise(sizes)):
                yield f"{name} is {sizes}; give at least {fewest} whole numbers from 1 on, rising"
        shares = self.wrong_shares
        if len(set(shares)) < len(shares) or len(shares) > len(SHARE_STYLES) or not all(0 <= s <= 1 for s in shares):
            yield f"wrong_shares is {shares}; give up to {len(SHARE_STYLES)} different numbers from 0 to 1"

    @property
    def plan(self) -> Plan:
        """The series of each experiment that is asked for, in a fixed order."""
        every: dict[Experiment, list[Series]] = {
            "synthetic": series.synthetic(self.samples_per_problem),
            "active": series.active(self.label_budgets, self.wrong_shares),
            "monte_carlo": series.monte_carlo(self.rollouts),
        }
        return {name: every[name] for name in EXPERIMENTS if name in self.experiments}


def paper_stages(plan: Plan) -> list[Stage]:
    """The stages from problems to the evaluation of every verifier, each after those it reads from."""
    of_experiment = {"synthetic": _synthetic, "active": _active, "monte_carlo": _monte_carlo}
    wanted = _shared() if {"synthetic", "monte_carlo"} & plan.keys() else []
    for experiment, all_series in plan.items():
        wanted += of_experiment[experiment](all_series)
    return wanted


def _shared() -> list[Stage]:
    """Generator, teacher, pool and test samples."""
    model = "model_name_or_path"
    teacher_start = {model: "teacher/prepare/model", "data": "teacher/prepare/demonstrations.jsonl"}
    start = {model: "prepare/model", "data": "prepare/demonstrations.jsonl"}
    return [
        Stage("prepare", "prepare", "prepare", {}, ("out", "prepare")),
        Stage("prepare_teacher", "prepare", "prepare_teacher", {}, ("out", "teacher/prepare")),
        Stage("sft_teacher", "sft", "sft_teacher", teacher_start, ("output_dir", "teacher/sft"), resumes=True),
        Stage("sft", "sft", "sft", start, ("output_dir", "sft"), resumes=True),
        _sample("sample_teacher", "prepare/problems-rl.jsonl", "teacher/samples.jsonl"),
        _label("label", "label_taught", "teacher/samples.jsonl", "teacher/labelled.jsonl"),
        Stage(
            "prm_teacher", "prm", "prm_teacher", {model: "teacher/sft", "data": "teacher/labelled.jsonl"},
            ("output_dir", "teacher/prm"), resumes=True,
        ),
        _sample("sample_pool", "prepare/problems-train.jsonl", "pool/samples.jsonl"),
        _sample("sample_test", "prepare/problems-test.jsonl", "test/samples.jsonl"),
        _label("label", "label_test", "test/samples.jsonl", "test/labelled.jsonl"),
        _score("score_teacher", "score_teacher", "teacher/prm", "pool/samples.jsonl", "pool/scored_teacher.jsonl"),
        _select("select_distinct", "select_distinct", "pool/scored_teacher.jsonl", DISTINCT),
    ]  # fmt: skip


def _synthetic(all_series: Sequence[Series]) -> Iterator[Stage]:
    """The same solutions for each series: uniform samples of every problem, repeats included, as they came."""
    yield _label("label_teacher", "label_pool", "pool/scored_teacher.jsonl", "pool/labelled.jsonl")
    for size in all_series[0].sizes:
        chosen, by_teacher = f"synthetic_{size}/selected.jsonl", f"synthetic_{size}/outcome_teacher.jsonl"
        yield _select("select_uniform", f"select_synthetic_{size}", "pool/labelled.jsonl", chosen,
                      {"per_problem": str(size)})  # fmt: skip
        yield _label("label_outcome", f"label_synthetic_{size}", chosen, by_teacher)
        for one in all_series:
            data = by_teacher if one.name == "outcome_teacher" else chosen
            yield from _verifier(one, size, data, {"prm": "prm_synthetic", "orm": "orm"}[one.kind])


def _active(all_series: Sequence[Series]) -> Iterator[Stage]:
    """A generator, two selectors, which are taught on samples of other problems, and what they select.

    Labels are the exact checker's: what convinces a selector convinces a teacher as well, who starts from the same
    demonstrations. Each solution of a problem counts once, however often it was sampled: a selection has no repeats.
    """
    model, data = "model_name_or_path", "active/prepare/demonstrations.jsonl"
    yield Stage("prepare_active", "prepare", "prepare_active", {}, ("out", "active/prepare"))
    start = {model: "active/prepare/model", "data": data}
    yield Stage("sft_active", "sft", "sft_active", start, ("output_dir", "active/sft"), resumes=True)
    samples_of = {"selector": ("sample_selector", "rl"), "pool": ("sample_active", "train")}
    for folder, (name, split) in (samples_of | {"test": ("sample_test_active", "test")}).items():
        samples = f"active/{folder}/samples.jsonl"
        yield _sample(name, f"active/prepare/problems-{split}.jsonl", samples, ACTIVE.generator)
        yield _label("label_active", name.replace("sample", "label"), samples, f"active/{folder}/labelled.jsonl")
    taught, few = "active/selector/labelled.jsonl", "active/selector/few.jsonl"
    yield _select("select_few", "select_few", taught, few)
    yield _trained("prm", "prm", "selector", taught, "active/selector/prm", ACTIVE.generator)
    yield _trained("prm", "prm", "selector_worse", few, "active/selector/worse", ACTIVE.generator)
    pool = "active/pool/labelled.jsonl"
    scored, worse = "active/pool/scored_selector.jsonl", "active/pool/scored_worse.jsonl"
    for name, judge, out in (("selector", "prm", scored), ("worse", "worse", worse)):
        stage = _score(f"score_{name}", f"score_{name}", f"active/selector/{judge}", pool, out)
        yield replace(stage, optional=True)
    for one in all_series:
        for size in one.sizes:
            chosen = f"{one.folder(size)}/selected.jsonl"
            settings = {"budget": str(size)} | dict(one.settings)
            data = {WORSE: worse, UNIFORM: pool}.get(one.name, scored)
            yield replace(_select("select", one.selection(size), data, chosen, settings), optional=True)
            yield from _verifier(one, size, chosen, ground=ACTIVE)


def _monte_carlo(all_series: Sequence[Series]) -> Iterator[Stage]:
    """The same solutions for each series, in the same order; rollouts end where the tokens of the recipe are spent."""
    for one in all_series:
        for size in one.sizes:
            labelled = f"{one.folder(size)}/labelled.jsonl"
            if size is None:
                yield _label("label", f"label_{one.folder(size)}", DISTINCT, labelled)
            else:
                inputs = {"data": DISTINCT, "policy": "sft"}
                settings = {"rollouts": str(size)} | dict(one.settings)
                yield Stage(
                    f"label_{one.folder(size)}", "label", "label_monte_carlo", inputs, ("out", labelled),
                    settings=settings,
                )  # fmt: skip
            yield from _verifier(one, size, labelled)


def _verifier(
    one: Series, size: int | None, data: str, recipe: str = "prm", ground: Ground = SHARED
) -> Iterator[Stage]:
    """Trains one verifier of a series, scores the test samples, evaluates it."""
    folder = one.folder(size)
    model, scored = f"{folder}/{one.kind}", f"{folder}/scored"
    yield _trained(recipe, one.kind, folder, data, model, ground.generator)
    # A folder: Parquet takes a tenth of the disk.
    yield replace(_score(f"score_{one.kind}", f"score_{folder}", model, ground.test, scored), optional=True)
    yield Stage(
        one.evaluation(size), "evaluate", "evaluate", {"data": scored}, ("out", f"{folder}/evaluate"), optional=True
    )


def _trained(recipe: str, kind: str, name: str, data: str, out: str, generator: str) -> Stage:
    inputs = {"model_name_or_path": generator, "data": data}
    return Stage(f"{kind}_{name}", kind, recipe, inputs, ("output_dir", out), resumes=True, optional=True)


def _sample(name: str, problems: str, out: str, generator: str = SHARED.generator) -> Stage:
    return Stage(name, "sample", name, {"model": generator, "problems": problems}, ("out", out))


def _label(recipe: str, name: str, data: str, out: str) -> Stage:
    return Stage(name, "label", recipe, {"data": data}, ("out", out), seeded=False)


def _score(recipe: str, name: str, model: str, data: str, out: str) -> Stage:
    return Stage(name, "score", recipe, {"model": model, "data": data}, ("out", out), seeded=False)


def _select(recipe: str, name: str, data: str, out: str, settings: Mapping[str, str] | None = None) -> Stage:
    return Stage(name, "select", recipe, {"data": data}, ("out", out), settings=dict(settings or {}))
