"""The embedded default: the whole way on one machine, from nothing to a report.

Every stage is the command of that name with a recipe; the lab only says where each one reads and writes, and runs
those side by side that do not need each other. A stage is skipped when its recipe, options, inputs and code are those
of its finished output; one that was cut off continues.
"""

import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Annotated, NamedTuple

import rlstep
from rlstep.report.contrast import CONTRAST, report_contrast
from rlstep.report.seeds import report_seeds
from rlstep.runtime.code import reachable_files
from rlstep.runtime.config import load_recipe
from rlstep.runtime.constraints import Choices, Range, ReadBy, ReadUnless, check
from rlstep.runtime.jobs import Job, run_jobs
from rlstep.runtime.record import digest
from rlstep.runtime.rows import write_json
from rlstep.stages import COMMANDS, config_classes, run
from rlstep.stages.report import ReportConfig, report

ARMS = ("outcome", "process", "process_only")
RESUMABLE = ("sft", "prm", "orm", "ppo")


@dataclass
class LabConfig:
    out: str = field(metadata={"help": "Run folder; the report is in its folder report/."})
    recipes: str = field(default="arithmetic", metadata={"help": "Folder of recipes, or the name of a shipped one."})
    seed: int = field(default=0, metadata={"help": "The (first) seed."})
    seeds: Annotated[int | None, Range(at_least=1)] = field(
        default=None,
        metadata={"help": "Runs in OUT/seed-*, and means and intervals; by default 1 run, in OUT, or 3 with contrast."},
    )
    arms: Annotated[list[str] | None, Choices(ARMS), ReadUnless("contrast", True)] = field(
        default=None,
        metadata={"help": "RL arms (outcome, process, process_only); the first two, or all three with several seeds."},
    )
    contrast: bool = field(
        default=False,
        metadata={
            "help": "In place of the report: outcome only, a PRM alone with three credit schemes, and both, over 3 "
            "seeds."
        },
    )
    contrast_level: Annotated[float, Range(above=0, at_most=1), ReadBy("contrast")] = field(
        default=0.5, metadata={"help": "contrast: the clean accuracy until which samples are counted."}
    )
    workers: Annotated[int, Range(at_least=1)] = field(default=2, metadata={"help": "Stages run at a time."})

    def __post_init__(self):
        check(self)
        if self.seeds is None:
            self.seeds = 3 if self.contrast else 1
        if self.contrast:
            self.arms = list(CONTRAST)
        elif self.arms is None:
            self.arms = list(ARMS if self.seeds > 1 else ARMS[:2])


class Stage(NamedTuple):
    """One stage of the lab.

    Attributes:
        name: unique, the marker's and log's name.
        command: the `rlstep` command.
        recipe: its recipe's name in the folder of recipes.
        inputs: option -> path in the run folder that it reads.
        output: (option, path in the run folder) that it writes.
        seeded: whether the run's seed is passed.
    """

    name: str
    command: str
    recipe: str
    inputs: dict[str, str]
    output: tuple[str, str]
    seeded: bool = True


def stages(arms: list[str]) -> list[Stage]:
    """The way from problems to curves, each stage after those it reads from, the longest first."""
    return [
        Stage("prepare", "prepare", "prepare", {}, ("out", "prepare")),
        Stage(
            "sft", "sft", "sft",
            {"model_name_or_path": "prepare/model", "data": "prepare/demonstrations.jsonl"}, ("output_dir", "sft"),
        ),
        Stage(
            "sample_train", "sample", "sample_train",
            {"model": "sft", "problems": "prepare/problems-train.jsonl"}, ("out", "train/samples.jsonl"),
        ),
        Stage("label_train", "label", "label", {"data": "train/samples.jsonl"}, ("out", "train/labelled.jsonl"), False),
        Stage(
            "prm", "prm", "prm", {"model_name_or_path": "sft", "data": "train/labelled.jsonl"}, ("output_dir", "prm"),
        ),
        *(_ppo(arm) for arm in dict.fromkeys((*ARMS, *CONTRAST)) if arm in arms),
        Stage(
            "orm", "orm", "orm", {"model_name_or_path": "sft", "data": "train/labelled.jsonl"}, ("output_dir", "orm"),
        ),
        Stage(
            "sample_test", "sample", "sample_test",
            {"model": "sft", "problems": "prepare/problems-test.jsonl"}, ("out", "test/samples.jsonl"),
        ),
        Stage("label_test", "label", "label", {"data": "test/samples.jsonl"}, ("out", "test/labelled.jsonl"), False),
        Stage(
            "score_prm", "score", "score_prm",
            {"model": "prm", "data": "test/labelled.jsonl"}, ("out", "test/scored-prm.jsonl"), False,
        ),
        Stage(
            "score_orm", "score", "score_orm",
            {"model": "orm", "data": "test/scored-prm.jsonl"}, ("out", "test/scored.jsonl"), False,
        ),
        Stage("evaluate", "evaluate", "evaluate", {"data": "test/scored.jsonl"}, ("out", "evaluate")),
        *(
            Stage("export", "export", "export", {"policy": f"ppo_{arm}"}, ("out", "export"), False)
            for arm in arms
            if arm == "process"
        ),
    ]  # fmt: skip


def contrast_stages() -> list[Stage]:
    """The way to the contrast's curves: no best-of-N, and no ORM, which no arm of it asks."""
    wanted = {"prepare", "sft", "sample_train", "label_train", "prm", *(f"ppo_{arm}" for arm in CONTRAST)}
    return [stage for stage in stages(list(CONTRAST)) if stage.name in wanted]


def _ppo(arm: str) -> Stage:
    inputs = {
        "model_name_or_path": "sft",
        "problems": "prepare/problems-rl.jsonl",
        "eval_problems": "prepare/problems-test.jsonl",
    }
    if arm != "outcome":
        inputs["prm"] = "prm"
    return Stage(f"ppo_{arm}", "ppo", f"ppo_{arm}", inputs, ("output_dir", f"ppo_{arm}"))


def lab(config: LabConfig) -> dict:
    """Runs every stage for every seed; returns the summary."""
    recipes = _recipe_folder(config.recipes)
    # Forked stages share these imports, which take longer than the smallest stages.
    for name in {stage.command for stage in _wanted(config)}:
        config_classes(name)
    out = Path(config.out)
    alone = config.seeds == 1 and not config.contrast
    folders = [out] if alone else [out / f"seed-{config.seed + i}" for i in range(config.seeds)]
    for index, folder in enumerate(folders):
        if len(folders) > 1:
            print(f"seed {config.seed + index}: {folder}")
        _run_all(folder, recipes, config, config.seed + index)
        if not config.contrast:
            summary = report(ReportConfig(str(folder)))
    if config.contrast:
        summary = report_contrast(folders, out / "report", config.contrast_level)
    elif len(folders) > 1:
        summary = report_seeds(folders, out / "report")
    print(f"report: {out / 'report' / 'report.md'}")
    return summary


def _wanted(config: LabConfig) -> list[Stage]:
    return contrast_stages() if config.contrast else stages(config.arms)


def _recipe_folder(name: str) -> Path:
    from rlstep.runtime.paths import recipe

    if Path(name).is_dir():
        return Path(name)
    return recipe(f"{name}/prepare").parent


def _run_all(folder: Path, recipes: Path, config: LabConfig, seed: int) -> None:
    jobs = []
    for stage, needs in _with_needs(_wanted(config)):
        jobs.append(Job(stage.name, needs, partial(_run_stage, stage, folder, recipes, seed)))
    run_jobs(jobs, folder / "logs", config.workers, on_end=lambda name, seconds: None)


def _with_needs(wanted: list[Stage]) -> Iterator[tuple[Stage, tuple[str, ...]]]:
    """Each stage with the names of those whose output it reads."""
    for stage in wanted:
        read = [Path(path) for path in stage.inputs.values()]
        written = {other.name: Path(other.output[1]) for other in wanted}
        needs = [name for name, out in written.items() if any(path == out or out in path.parents for path in read)]
        yield stage, tuple(needs)


def _run_stage(stage: Stage, folder: Path, recipes: Path, seed: int) -> None:
    """Runs one stage unless its finished output is what it would write again."""
    recipe = recipes / f"{stage.recipe}.yaml"
    output = folder / stage.output[1]
    options = {option: str(folder / path) for option, path in stage.inputs.items()} | {stage.output[0]: str(output)}
    if stage.seeded:
        options["seed"] = str(seed)
    fingerprint = digest(
        load_recipe(recipe),
        stage.command,
        seed if stage.seeded else None,
        *(folder / path for path in stage.inputs.values()),
        code_digest(stage.command),
    )
    marker = folder / ".lab" / f"{stage.name}.json"
    state = load_recipe(marker) if marker.is_file() else {}
    if state == {"fingerprint": fingerprint, "finished": True} and output.exists():
        print("unchanged")
        return
    if state.get("fingerprint") != fingerprint or state.get("finished"):
        _remove(output)
        write_json(marker, {"fingerprint": fingerprint, "finished": False})
    if stage.command in RESUMABLE:
        options["resume"] = "true"
    run(stage.command, ["--config", str(recipe), *(word for o, v in options.items() for word in (f"--{o}", v))])
    write_json(marker, {"fingerprint": fingerprint, "finished": True})


def _remove(output: Path) -> None:
    """Removes what another configuration left, checkpoints and partial rows too."""
    if output.is_dir():
        shutil.rmtree(output)
    else:
        for path in (output, output.with_name(output.name + ".partial")):
            path.unlink(missing_ok=True)


def code_digest(command: str) -> str:
    """Hash of the code that a command can reach by its imports."""
    root = Path(rlstep.__file__).parent
    files = reachable_files(COMMANDS[command].module)
    return digest(*(path.relative_to(root).as_posix() for path in files), *files)
