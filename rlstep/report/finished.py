"""What a report is of: one run, or one experiment over several seeds, with its numbers."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from rlstep.report import arms
from rlstep.report.examples import StepScores
from rlstep.report.over_seeds import summarize_seeds
from rlstep.report.run_files import read_record
from rlstep.report.summary import has_results, summarize
from rlstep.runtime.errors import UserError
from rlstep.runtime.record import RECORD

SEEDS = "seed-*"  # folders of the seeds, as `rlstep lab --seeds` names them


@dataclass(frozen=True)
class FinishedRun:
    """A run, or several that differ by their seeds.

    Attributes:
        name: the last two parts of the folder's path: who gets the page need not know more.
        folders: run folders by what the page calls them ("seed 0").
        summaries: the content of each one's summary.json, in that order.
        summary: of the only one, or over seeds (`summarize_seeds`).
    """

    name: str
    folders: Mapping[str, Path]
    summaries: Sequence[dict]
    summary: dict

    @property
    def over_seeds(self) -> bool:
        return len(self.summaries) > 1


def open_one(run: str | Path, missing: Sequence[str] = ()) -> tuple[FinishedRun, StepScores | None]:
    """One run, and its test solutions' step scores.

    Args:
        run: its folder.
        missing: what else is missing, in words.

    Raises:
        UserError: as in `summarize`.
    """
    summary, step_scores = summarize(run)
    summary["missing"] += missing
    return FinishedRun(_name(run), {_label(summary, run): Path(run)}, [summary], summary), step_scores


def open_seeds(runs: Sequence[str | Path], missing: Sequence[str] = ()) -> FinishedRun:
    """One experiment over seeds.

    Args:
        runs: the run folders.
        missing: what else is missing, in words.

    Raises:
        UserError: as in `summarize` and `summarize_seeds`.
    """
    summaries = [summarize(run)[0] for run in runs]
    summary = summarize_seeds(summaries, runs)
    summary["missing"] += missing
    folders = {_label(one, run): Path(run) for one, run in zip(summaries, runs, strict=True)}
    return FinishedRun(_name(Path(runs[0]).parent), folders, summaries, summary)


def _name(run: str | Path) -> str:
    return "/".join(Path(run).resolve().parts[-2:])


def _label(summary: dict, run: str | Path) -> str:
    return Path(run).name if summary["seed"] is None else f"seed {summary['seed']}"


def open_run(run: str | Path) -> FinishedRun:
    """The run, or the runs of several seeds, that a folder holds.

    Raises:
        UserError: as in `open_one` and `open_seeds`.
    """
    folders, missing = seed_folders(run)
    return open_seeds(folders, missing) if len(folders) > 1 else open_one(folders[0], missing)[0]


def seed_folders(run: str | Path) -> tuple[list[Path], list[str]]:
    """(the run folders in a folder of several seeds, those that hold nothing yet in words), or the folder itself."""
    folders = sorted(path for path in Path(run).glob(SEEDS) if path.is_dir())
    ready = [folder for folder in folders if has_results(folder)]
    missing = [f"{folder}: nothing to report yet" for folder in folders if folder not in ready]
    return (ready, missing) if ready else ([Path(run)], [])


def side_by_side(run: FinishedRun, other: FinishedRun | None) -> list[FinishedRun]:
    """The runs of a page: one, or two.

    Raises:
        UserError: they are of different tasks.
    """
    runs = [run] if other is None else [run, other]
    tasks = [{task for folder in one.folders.values() if (task := _task_of(folder))} for one in runs]
    if len(set().union(*tasks)) > 1:
        each = [
            f"{one.name} is of {' and '.join(sorted(of)) or 'unknown'}" for one, of in zip(runs, tasks, strict=True)
        ]
        raise UserError(
            f"{', '.join(each)}: runs of different tasks cannot be compared. Give --beside a run of the same task."
        )
    return runs


def _task_of(folder: Path) -> str | None:
    """A run's task, by the record of `prepare` or of an RL arm; None if neither says it."""
    for place in ("prepare", *(arm.folder for arm in arms.ARMS)):
        path = folder / place / RECORD
        if path.is_file() and (task := read_record(path).get("config", {}).get("task")):
            return str(task)
    return None
