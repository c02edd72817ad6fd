"""The embedded default: the whole pipeline on one machine, from scratch to a report.

Every stage is the command of that name with a recipe; the lab only says where each one reads and writes. Those that do
not need each other run side by side, and what is finished and unchanged is not run again (`rlstep.runtime.pipeline`).
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated

from rlstep.report import arms
from rlstep.report.arms import Arm
from rlstep.report.bad_prm import report_bad_prm
from rlstep.report.contrast import report_contrast
from rlstep.report.opponents import report_opponents
from rlstep.report.paper.report import report_paper
from rlstep.report.seeds import report_seeds
from rlstep.runtime.code import code_digest
from rlstep.runtime.constraints import Range, ReadBy, ReadUnless, check
from rlstep.runtime.errors import UserError
from rlstep.runtime.paths import recipe
from rlstep.runtime.pipeline import Pipeline, Stage
from rlstep.runtime.recipes import load_recipe
from rlstep.runtime.tracking import grouped
from rlstep.stages import COMMANDS, config_classes, run
from rlstep.stages.bad_prm_lab import BadPRMOptions, bad_prm_stages
from rlstep.stages.opponents_lab import OpponentsOptions, opponents_stages
from rlstep.stages.paper_lab import PaperOptions, paper_stages
from rlstep.stages.report import ReportConfig, report
from rlstep.tasks import get

# Run instead of the pipeline from problems to a report; each is a switch of that name.
EXPERIMENTS = ("contrast", "paper", "bad_prm", "opponents")
IN_NO_EXPERIMENT = [ReadUnless(name, True) for name in EXPERIMENTS]

_NAMES = ", ".join(arm.name for arm in arms.ARMS)
_DEFAULT = " and ".join(arm.name for arm in arms.ARMS if arm.by_default)


@dataclass
class LabConfig(PaperOptions, BadPRMOptions, OpponentsOptions):
    out: str = field(metadata={"help": "Run folder; the report is in its folder report/."})
    recipes: str | None = field(
        default=None,
        metadata={
            "help": "Folder of recipes, or the name of a shipped one; by default arithmetic, or paper with paper."
        },
    )
    pretrained: Annotated[
        str | None, ReadUnless("paper", True), ReadUnless("bad_prm", True), ReadUnless("opponents", True)
    ] = field(
        default=None,
        metadata={"help": "Model to start from, instead of the recipe's: a folder, a hub id, or smollm2."},
    )
    needs: str | None = field(
        default=None, metadata={"help": "Printed before the first stage: the time and memory that the run takes."}
    )
    seed: int = field(default=0, metadata={"help": "The (first) seed."})
    seeds: Annotated[int | None, Range(at_least=1)] = field(
        default=None,
        metadata={
            "help": "Runs in OUT/seed-*, and means and intervals; by default 1 run, in OUT, or 3 with contrast, "
            "paper, bad_prm or opponents."
        },
    )
    arms: Annotated[list[str] | None, *IN_NO_EXPERIMENT] = field(
        default=None,
        metadata={"help": f"RL arms ({_NAMES}); by default {_DEFAULT}, or all of them with several seeds."},
    )
    domains: Annotated[list[str], *IN_NO_EXPERIMENT] = field(
        default_factory=list,
        metadata={
            "help": "Splits of other problems, for example ood_long: best of N on these and on the test problems, in a "
            "table by domain. The recipe prepare sets ood, and evaluate_domains the N."
        },
    )
    contrast: bool = field(
        default=False,
        metadata={"help": "Instead of the report: a comparison of rewards and credit schemes, over 3 seeds."},
    )
    contrast_level: Annotated[float, Range(above=0, at_most=1), ReadBy("contrast")] = field(
        default=0.5, metadata={"help": "contrast: the clean accuracy up to which samples are counted."}
    )
    workers: Annotated[int, Range(at_least=1)] = field(default=2, metadata={"help": "Stages run in parallel."})

    def __post_init__(self):
        check(self, self._faults())
        self.in_out = self.seeds is None and self.experiment is None
        if self.seeds is None:
            self.seeds = 1 if self.in_out else 3
        if self.recipes is None:
            self.recipes = "paper" if self.paper else "arithmetic"
        if self.arms is None:
            several = self.seeds > 1 or self.contrast
            self.arms = [arm.name for arm in _known_arms(self) if arm.by_default or several]

    def _faults(self) -> Iterator[str]:
        yield from self.paper_faults()
        yield from self.bad_prm_faults()
        yield from self.opponents_faults()
        if len(chosen := self._experiments) > 1:
            yield f"{' and '.join(chosen)} are experiments of their own; run one after the other"
        if len({*self.domains, "test"}) <= len(self.domains):
            yield f"domains is {self.domains}; name each split once, and not test, which is always one of them"
        names = [arm.name for arm in arms.ARMS]
        for name in self.arms or ():
            if name not in names:
                yield f"no RL arm '{name}'; there are {', '.join(names)}"

    @property
    def _experiments(self) -> list[str]:
        return [name for name in EXPERIMENTS if getattr(self, name)]

    @property
    def experiment(self) -> str | None:
        """What is run instead of the pipeline from problems to a report."""
        return next(iter(self._experiments), None)


def _known_arms(config: LabConfig) -> tuple[Arm, ...]:
    return arms.CONTRAST if config.contrast else arms.ARMS


def lab(config: LabConfig) -> dict:
    """Runs every stage for every seed; returns the summary."""
    if config.needs:
        print(config.needs)
    recipes = _folder_of(config.recipes)
    wanted = _stages(config, recipes)
    # Forked stages share these imports, which take longer than the smallest stages.
    for name in {stage.command for stage in wanted}:
        config_classes(name)
    pipeline = Pipeline(wanted, recipes, run, code_of)
    out, seeds = Path(config.out), range(config.seed, config.seed + config.seeds)
    folders = [out] if config.in_out else [out / f"seed-{seed}" for seed in seeds]
    for seed, folder in zip(seeds, folders, strict=True):
        if not config.in_out:
            print(f"seed {seed}: {folder}")
        with grouped("/".join(folder.resolve().parts[-1 if config.in_out else -2 :])):
            pipeline.run_all(folder, seed, config.workers)
        if config.experiment is None:
            summary = report(ReportConfig(str(folder)))
    if config.paper:
        summary = report_paper(folders, config.plan, out / "report")
    elif config.bad_prm:
        summary = report_bad_prm(folders, config.plan_of_bad_prm, out / "report")
    elif config.opponents:
        summary = report_opponents(folders, config.plan_of_opponents, out / "report")
    elif config.contrast:
        summary = report_contrast(folders, out / "report", config.contrast_level)
    elif len(folders) > 1:
        summary = report_seeds(folders, out / "report")
    many = config.experiment is not None or len(folders) > 1
    print(f"report: {(out if many else folders[0]) / 'report' / 'report.md'}")
    return summary


def _stages(config: LabConfig, recipes: Path) -> list[Stage]:
    if config.paper:
        return paper_stages(config.plan)
    if config.opponents:
        return opponents_stages(config, recipes)
    return bad_prm_stages(config) if config.bad_prm else stages(config, recipes)


def code_of(command: str) -> str:
    """Hash of the code that a command can reach by its imports."""
    return code_digest(COMMANDS[command].module)


def _folder_of(recipes: str) -> Path:
    """A folder of recipes, or that of a shipped one's name."""
    return Path(recipes) if Path(recipes).is_dir() else recipe(f"{recipes}/prepare").parent


def stages(config: LabConfig, recipes: Path) -> list[Stage]:
    """The stages from problems to curves, each after those it reads from, the longest first.

    A generator that is an adapter is merged first, so that the adapters of verifiers and policies have one plain base.
    A contrast has no best-of-N, and so needs neither an ORM nor samples of the test problems.
    """
    _check_domains(config.domains, recipes)
    wanted = [arm for arm in _known_arms(config) if arm.name in config.arms]
    start = {"pretrained": config.pretrained} if config.pretrained else {}
    sft_inputs = {"model_name_or_path": "prepare/model", "data": "prepare/demonstrations.jsonl"}
    merge, generator = [], "sft"
    if load_recipe(recipes / "sft.yaml").get("use_peft"):
        merge = [_export("merge", "sft", "generator")]
        generator = "generator/merged"
    verifier_inputs = {"model_name_or_path": generator, "data": "train/labelled.jsonl"}
    to_rl = [
        Stage("prepare", "prepare", "prepare", {}, ("out", "prepare"), settings=start),
        Stage("sft", "sft", "sft", sft_inputs, ("output_dir", "sft"), resumes=True),
        *merge,
        _sample("train", generator),
        _label("train"),
        Stage("prm", "prm", "prm", verifier_inputs, ("output_dir", "prm"), resumes=True),
        *(_ppo(arm, generator) for arm in wanted),
    ]
    if config.contrast:
        return to_rl
    export = _export("export", arms.PROCESS.folder, "export")
    return [
        *to_rl,
        # Sampled while policies train: what follows it is left for last, and is short beside an ORM that trains then.
        _sample("test", generator),
        Stage("orm", "orm", "orm", verifier_inputs, ("output_dir", "orm"), resumes=True),
        _label("test"),
        _score("prm", "test/labelled.jsonl", "test/scored-prm.jsonl"),
        _score("orm", "test/scored-prm.jsonl", "test/scored.jsonl"),
        Stage("evaluate", "evaluate", "evaluate", {"data": "test/scored.jsonl"}, ("out", "evaluate")),
        *_other_domains(config.domains, generator),
        *([export] if arms.PROCESS in wanted else []),
    ]


def _check_domains(domains: Sequence[str], recipes: Path) -> None:
    """
    Raises:
        UserError: the recipes' task has no such problems, or `prepare` writes none of them.
    """
    if not domains:
        return
    prepare = load_recipe(recipes / "prepare.yaml")
    splits = [split for split in get(prepare["task"], need=()).splits if split.startswith("ood")]
    if unknown := [domain for domain in domains if domain not in splits]:
        there = f"there are {', '.join(splits)}" if splits else "it has none but its test problems"
        raise UserError(f"domains has {unknown[0]}, which the task {prepare['task']} does not have; {there}.")
    if not prepare.get("ood"):
        raise UserError(f"{recipes / 'prepare.yaml'} writes no problems of {', '.join(domains)}: set ood, to 200 say.")


def _other_domains(domains: Sequence[str], generator: str) -> Iterator[Stage]:
    """The way of the test problems for each other domain, and the table of all."""
    for domain in domains:
        yield _sample(domain, generator, "sample_test")
        yield _label(domain)
        for verifier, before, after in (("prm", "labelled", "scored-prm"), ("orm", "scored-prm", "scored")):
            scored = _score(verifier, f"{domain}/{before}.jsonl", f"{domain}/{after}.jsonl")
            yield replace(scored, name=f"{scored.name}_{domain}")
    if domains:
        data = {"data": [f"{domain}/scored.jsonl" for domain in ("test", *domains)]}
        yield Stage("evaluate_domains", "evaluate", "evaluate_domains", data, ("out", "domains"))


def _sample(split: str, generator: str, recipe: str | None = None) -> Stage:
    inputs = {"model": generator, "problems": f"prepare/problems-{split}.jsonl"}
    return Stage(f"sample_{split}", "sample", recipe or f"sample_{split}", inputs, ("out", f"{split}/samples.jsonl"))


def _label(split: str) -> Stage:
    output = ("out", f"{split}/labelled.jsonl")
    return Stage(f"label_{split}", "label", "label", {"data": f"{split}/samples.jsonl"}, output, seeded=False)


def _score(verifier: str, data: str, out: str) -> Stage:
    inputs = {"model": verifier, "data": data}
    return Stage(f"score_{verifier}", "score", f"score_{verifier}", inputs, ("out", out), seeded=False)


def _export(name: str, policy: str, out: str) -> Stage:
    # A stage that was killed right after it had written its output runs again, and then replaces that.
    return Stage(name, "export", name, {"policy": policy}, ("out", out), seeded=False, settings={"force": "true"})


def _ppo(arm: Arm, generator: str) -> Stage:
    problems = {"problems": "prepare/problems-rl.jsonl", "eval_problems": "prepare/problems-test.jsonl"}
    inputs = {"model_name_or_path": generator, **problems, **({"prm": "prm"} if arm.uses_prm else {})}
    return Stage(arm.folder, "ppo", arm.recipe, inputs, ("output_dir", arm.folder), resumes=True)
