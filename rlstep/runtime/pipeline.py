"""Runs stages that read one another's outputs, in parallel, skipping those whose output already exists.

A stage is skipped when its recipe, inputs, seed and code match those of its finished output; an interrupted one
resumes. The state of a stage's output is kept in FOLDER/.lab/NAME.json.
"""

import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from rlstep.runtime.config import load_recipe
from rlstep.runtime.jobs import Job, run_jobs
from rlstep.runtime.record import digest
from rlstep.runtime.rows import write_json


@dataclass(frozen=True)
class Stage:
    """One stage of a pipeline; paths are relative to the run folder.

    Attributes:
        name: unique; also names its marker and its log.
        command: the `rlstep` command.
        recipe: its recipe's name in the folder of recipes.
        inputs: option -> path that it reads.
        output: (option, path) that it writes.
        seeded: whether the run's seed is passed.
        resumes: whether the command has `resume`, which continues from what a killed run left.
        settings: options that override the recipe's; of a list, its items.
    """

    name: str
    command: str
    recipe: str
    inputs: dict[str, str]
    output: tuple[str, str]
    seeded: bool = True
    resumes: bool = False
    settings: dict[str, str | list[str]] = field(default_factory=dict)


@dataclass(frozen=True)
class Pipeline:
    """Stages and how they are run; its functions must be importable by name, because each job has its own process.

    Attributes:
        stages: ordered so that each comes after those it reads from.
        recipes: the folder of recipes.
        run: runs a command with its options.
        code_digest: gives a digest of a command's code, so that changed code runs again.
    """

    stages: Sequence[Stage]
    recipes: Path
    run: Callable[[str, list[str]], object]
    code_digest: Callable[[str], str]

    def run_all(self, folder: Path, seed: int, workers: int) -> None:
        """Runs every stage in a run folder, at most `workers` at a time.

        Raises:
            UserError: a stage refused its input, or failed.
        """
        jobs = [
            Job(stage.name, needs, partial(self.run_stage, stage, folder, seed)) for stage, needs in self.with_needs()
        ]
        run_jobs(jobs, folder / "logs", workers)

    def with_needs(self) -> Iterator[tuple[Stage, tuple[str, ...]]]:
        """Each stage with the names of those whose output it reads."""
        written = {stage.name: Path(stage.output[1]) for stage in self.stages}
        for stage in self.stages:
            read = [Path(path) for path in stage.inputs.values()]
            needs = [name for name, out in written.items() if any(path == out or out in path.parents for path in read)]
            yield stage, tuple(needs)

    def run_stage(self, stage: Stage, folder: Path, seed: int) -> None:
        """Runs one stage unless its finished output is up to date.

        Raises:
            UserError: an input is missing, or the command refused it.
        """
        recipe = self.recipes / f"{stage.recipe}.yaml"
        output = folder / stage.output[1]
        fingerprint = digest(
            load_recipe(recipe),
            stage.command,
            seed if stage.seeded else None,
            stage.settings,
            *(folder / path for path in stage.inputs.values()),
            self.code_digest(stage.command),
        )
        marker = folder / ".lab" / f"{stage.name}.json"
        state = load_recipe(marker) if marker.is_file() else {}
        if state == {"fingerprint": fingerprint, "finished": True} and output.exists():
            print("unchanged")
            return
        if state.get("fingerprint") != fingerprint or state.get("finished"):
            remove_output(output)
            write_json(marker, {"fingerprint": fingerprint, "finished": False})
        self.run(stage.command, ["--config", str(recipe), *_options(stage, folder, seed)])
        write_json(marker, {"fingerprint": fingerprint, "finished": True})


def _options(stage: Stage, folder: Path, seed: int) -> list[str]:
    """The stage's settings and paths, its seed and whether it resumes, as command-line arguments."""
    options = stage.settings | {option: str(folder / path) for option, path in (*stage.inputs.items(), stage.output)}
    if stage.seeded:
        options["seed"] = str(seed)
    if stage.resumes:
        options["resume"] = "true"
    words = ((f"--{option}", *([value] if isinstance(value, str) else value)) for option, value in options.items())
    return [word for of_option in words for word in of_option]


def remove_output(output: Path) -> None:
    """Removes what another configuration left, including checkpoints and partial rows."""
    for path in (output, output.with_name(output.name + ".partial")):
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
