"""Runs stages that read one another's outputs, in parallel, skipping those whose output already exists.

A stage is skipped when its recipe, inputs, seed and code match those of its finished output; an interrupted one
resumes. The state of a stage's output is kept in FOLDER/.lab/NAME.json.

An optional stage whose data teaches nothing (`rlstep.runtime.errors.NothingToLearn`) is left out, with every optional
one that reads from it; `left_out` says why.
"""

import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from rlstep.runtime.config import load_recipe
from rlstep.runtime.errors import NothingToLearn, UserError
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
        inputs: option -> path that it reads, or several.
        output: (option, path) that it writes.
        seeded: whether the run's seed is passed.
        resumes: whether the command has `resume`, which continues from what a killed run left.
        settings: options that override the recipe's; of a list, its items.
        optional: whether the run goes on without it where its data, or that of one that it reads from, teaches nothing.
    """

    name: str
    command: str
    recipe: str
    inputs: dict[str, str | list[str]]
    output: tuple[str, str]
    seeded: bool = True
    resumes: bool = False
    settings: dict[str, str | list[str]] = field(default_factory=dict)
    optional: bool = False

    @property
    def paths(self) -> list[str]:
        """All that it reads."""
        return [path for paths in self.inputs.values() for path in ([paths] if isinstance(paths, str) else paths)]


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
            read = [Path(path) for path in stage.paths]
            needs = [name for name, out in written.items() if any(path == out or out in path.parents for path in read)]
            yield stage, tuple(needs)

    def run_stage(self, stage: Stage, folder: Path, seed: int) -> None:
        """Runs one stage unless its finished output is up to date, or it is left out.

        Raises:
            UserError: an input is missing, or the command refused it.
        """
        if (reason := self._missing_input(stage, folder)) is not None:
            _leave_out(stage, folder, {"left_out": reason})
            return
        recipe = self.recipes / f"{stage.recipe}.yaml"
        output = folder / stage.output[1]
        fingerprint = digest(
            load_recipe(recipe),
            stage.command,
            seed if stage.seeded else None,
            stage.settings,
            *(folder / path for path in stage.paths),
            self.code_digest(stage.command),
        )
        marker, state = _marker(folder, stage.name), _state(folder, stage.name)
        up_to_date = state.get("fingerprint") == fingerprint and state.get("finished")
        if up_to_date and ("left_out" in state or output.exists()):
            print("unchanged")
            return
        if state.get("fingerprint") != fingerprint or state.get("finished"):
            remove_output(output)
            write_json(marker, {"fingerprint": fingerprint, "finished": False})
        finished = {"fingerprint": fingerprint, "finished": True}
        try:
            self.run(stage.command, ["--config", str(recipe), *_options(stage, folder, seed)])
        except NothingToLearn as error:
            if not stage.optional:
                raise
            _leave_out(stage, folder, finished | {"left_out": f"{stage.name}: {error}"})
        else:
            write_json(marker, finished)

    def _missing_input(self, stage: Stage, folder: Path) -> str | None:
        """Why one of the stages that it reads from was left out; None if none was."""
        needs = dict((one.name, names) for one, names in self.with_needs())[stage.name]
        reason = next((why for name in needs if (why := left_out(folder, name)) is not None), None)
        if reason is not None and not stage.optional:
            raise UserError(f"{stage.name} cannot do without what was left out: {reason}")
        return reason


def left_out(folder: Path, name: str) -> str | None:
    """Why the stage of this name was left out of the run in a folder; None if it was not."""
    return _state(folder, name).get("left_out")


def _leave_out(stage: Stage, folder: Path, state: dict) -> None:
    """Removes what an earlier run made of a stage, and notes why there is none now."""
    unchanged = _state(folder, stage.name) == state
    remove_output(folder / stage.output[1])
    write_json(_marker(folder, stage.name), state)
    print("unchanged" if unchanged else f"left out: {state['left_out']}")


def _marker(folder: Path, name: str) -> Path:
    return folder / ".lab" / f"{name}.json"


def _state(folder: Path, name: str) -> dict:
    marker = _marker(folder, name)
    return load_recipe(marker) if marker.is_file() else {}


def _options(stage: Stage, folder: Path, seed: int) -> list[str]:
    """The stage's settings and paths, its seed and whether it resumes, as command-line arguments."""
    option, out = stage.output
    options: dict[str, str | list[str]] = {**stage.settings, option: str(folder / out)}
    for option, paths in stage.inputs.items():
        options[option] = str(folder / paths) if isinstance(paths, str) else [str(folder / path) for path in paths]
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
