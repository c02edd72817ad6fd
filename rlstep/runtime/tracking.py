"""The run of an experiment tracker (wandb, trackio) that a stage reports to, one place for all stages.

A tracked run has a name, a project, a group (its pipeline) and tags; the whole resolved configuration, the commit and
versions, as `run.json` has them; the metrics that the Trainer logs; and at its end the results of `run.json`. Its id is
kept in every checkpoint, so that a resumed run goes on in it. Trackers never stop a run: what fails is warned of, and a
wandb run that cannot reach its server is written to disk instead (`wandb sync` sends it later).
"""

import json
import logging
import os
import re
import secrets
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Annotated, Protocol

from rlstep.runtime.constraints import Choices, check, raise_faults
from rlstep.runtime.failure import within
from rlstep.runtime.ranks import is_one_of_several
from rlstep.runtime.record import RunRecord
from rlstep.runtime.rows import write_json
from rlstep.runtime.trackers import TRACKERS, RunInfo, active_trackers
from rlstep.runtime.trainer_settings import SHOWN

logger = logging.getLogger(__name__)

TRACKING = "tracking.json"
GROUP = "WANDB_RUN_GROUP"
# What an artifact's name may consist of.
_FOREIGN = re.compile(r"[^A-Za-z0-9._-]+")
# What a run leaves in its output folder that is a trained model.
_OF_A_MODEL = re.compile(r".*\.safetensors|.*\.(json|txt|jinja|model)")
# How long a failed rank keeps the others for its trackers; what is not sent by then is on disk (`wandb sync`).
FAILED_S = 20.0
KINDS = ("data", "checkpoints", "model")  # of artifacts
PROJECT_HELP = "wandb, trackio: the project; by default WANDB_PROJECT, or rlstep."


def default_project() -> str:
    """The project of runs that name none; wandb's variable counts for every tracker."""
    return os.environ.get("WANDB_PROJECT") or "rlstep"


@dataclass
class TrackingOptions:
    """What is shown of a run where `report_to` names a tracker, beside `project` and `run_name`."""

    run_group: Annotated[str | None, SHOWN] = field(
        default=None,
        metadata={
            "help": "wandb, trackio: the group, for the stages of one pipeline. By default WANDB_RUN_GROUP, or the "
            "folder that the output folder is in."
        },
    )
    run_tags: Annotated[list[str] | None, SHOWN] = field(
        default=None, metadata={"help": "wandb, trackio: tags, in addition to the stage's name."}
    )
    artifacts: Annotated[list[str] | None, Choices(KINDS), SHOWN] = field(
        default=None,
        metadata={
            "choices": [*KINDS],
            "help": "wandb, trackio: what is uploaded: data, checkpoints (each one), model (the weights or adapter "
            "that training ends with). By default nothing.",
        },
    )

    def __post_init__(self):
        check(self)


UNTRACKED = TrackingOptions()


class Reporting(Protocol):
    """Where a run is reported to: a stage's arguments."""

    report_to: Sequence[str] | str
    project: str
    run_name: str | None


def check_tracking(options: TrackingOptions, args: Reporting, offered: Sequence[str] = ("data",)) -> None:
    """Refuses tracking options that nothing would read.

    Args:
        options: the options.
        args: where the run is reported to.
        offered: the artifacts that this stage has.

    Raises:
        UserError: options without a tracker, or artifacts that the stage does not have.
    """
    raise_faults(_faults(options, args, offered))


def _faults(options: TrackingOptions, args: Reporting, offered: Sequence[str]) -> Iterator[str]:
    given = [name for name in ("run_group", "run_tags", "artifacts") if getattr(options, name) is not None]
    if given and not reported_to(args):
        names = ", ".join(given)
        yield f"report_to names neither wandb nor trackio, so {names} would do nothing; set one, or leave it out"
    for kind in options.artifacts or ():
        if kind not in offered:
            yield f"artifacts has {kind}, and this stage has none; it has {', '.join(offered)}"


def track(record: RunRecord, options: TrackingOptions, args: Reporting, data: Sequence[str] = ()) -> list[ModuleType]:
    """Starts the tracked run of a stage that trains nothing; it ends with the record.

    Args:
        record, options, data: as for `track_training`.
        args: where the run is reported to.

    Returns:
        The trackers (`active_trackers`); none where it is not reported.
    """
    if reported_to(args):
        run = TrackedRun(record, options, args)
        run.start()
        run.upload_data(data)
    return active_trackers(args)


class TrackedRun:
    """One run, at every tracker that `report_to` names.

    Args:
        record: the stage's record.
        options: group, tags, artifacts.
        args: where the run is reported to.
        checkpoint: what is resumed, None for a new run.
    """

    def __init__(self, record: RunRecord, options: TrackingOptions, args: Reporting, checkpoint: str | None = None):
        self.record, self.options, self.args = record, options, args
        before = _read(checkpoint)
        self.id = before.get("id") or os.environ.get("WANDB_RUN_ID") or secrets.token_hex(4)
        self.info = self._info(before)

    def _info(self, before: dict) -> RunInfo:
        folder, stage = self.record.path.parent.resolve(), self.record.stage
        if before.get("project", self.args.project) != self.args.project:
            logger.warning(
                "project is '%s', and the run that is resumed was reported to '%s': it does not go on in that one",
                self.args.project,
                before["project"],
            )
        tags = [stage, *(tag for tag in os.environ.get("WANDB_TAGS", "").split(",") if tag)]
        name = self.args.run_name or before.get("name") or os.environ.get("WANDB_NAME") or folder.name
        return RunInfo(
            id=self.id,
            project=self.args.project,
            name=name,
            # trackio knows runs by their names: one that was not given must not continue an older run's.
            unique_name=self.args.run_name or f"{name}-{self.id}",
            group=self.options.run_group or os.environ.get(GROUP) or folder.parent.name,
            tags=tuple(dict.fromkeys([*tags, *(self.options.run_tags or ())])),
            stage=stage,
            config=self.record.about(),
        )

    def start(self) -> None:
        """Starts or continues the run; the main process only."""
        for name in reported_to(self.args):
            TRACKERS[name].start(self.info)
        self.record.at_end.append(self._finish)

    def show_config(self) -> None:
        """Shows the stage's configuration, over what the Trainer's callbacks show under the same names."""
        for name in reported_to(self.args):
            with unharmed(f"{name}: the configuration"):
                TRACKERS[name].show_config(self.info)

    def keep(self, checkpoint: Path) -> None:
        """Writes which run this is into a checkpoint."""
        write_json(checkpoint / TRACKING, {"id": self.id, "name": self.info.name, "project": self.info.project})

    def upload_checkpoint(self, checkpoint: Path) -> None:
        """Uploads a checkpoint if asked to."""
        if "checkpoints" in (self.options.artifacts or ()):
            self._upload(f"{self.info.name}-checkpoints", "model", [checkpoint], [checkpoint.name])

    def upload_data(self, paths: Sequence[str | None]) -> None:
        """Uploads the files that the stage reads, if asked to."""
        if "data" in (self.options.artifacts or ()):
            for path in paths:
                if path and Path(path).exists():
                    self._upload(Path(path).stem, "dataset", [Path(path)])

    def _finish(self, metrics: dict, failed: bool) -> None:
        if not failed and "model" in (self.options.artifacts or ()):
            folder = self.record.path.parent
            files = [file for file in sorted(folder.iterdir()) if file.is_file() and _OF_A_MODEL.fullmatch(file.name)]
            self._upload(f"{self.info.name}-model", "model", files)
        for name in reported_to(self.args):
            end = partial(self._end, name, metrics, failed)
            if not (failed and is_one_of_several()):
                end()
            elif not within(FAILED_S, end):  # the other processes are waiting for this one to end
                logger.warning("%s: the end of the run was not sent within %.0f s, and is left out", name, FAILED_S)

    @staticmethod
    def _end(name: str, metrics: dict, failed: bool) -> None:
        with unharmed(f"{name}: the end of the run"):
            TRACKERS[name].finish(metrics, failed)

    def _upload(self, name: str, kind: str, paths: Sequence[Path], aliases: Sequence[str] = ()) -> None:
        for tracker in active_trackers(self.args):
            with unharmed(f"{tracker.__name__}: the upload of {name}"):
                artifact = tracker.Artifact(_FOREIGN.sub("-", name), type=kind, metadata={"stage": self.info.stage})
                for path in paths:
                    if path.is_dir():
                        artifact.add_dir(str(path))
                    else:
                        artifact.add_file(str(path))
                tracker.log_artifact(artifact, aliases=[*aliases, "latest"])


@contextmanager
def grouped(name: str) -> Iterator[None]:
    """Within it tracked runs, those of forked processes included, have this group by default; the user's own stays."""
    before = os.environ.get(GROUP)
    os.environ[GROUP] = before or name
    try:
        yield
    finally:
        if before is None:
            del os.environ[GROUP]


@contextmanager
def unharmed(what: str) -> Iterator[None]:
    """Warns of an error instead of raising it: a tracker's trouble, of whatever kind, must not end a training."""
    try:
        yield
    except Exception as error:
        logger.warning("%s failed, and the run goes on without it: %s", what, error)


def reported_to(args: Reporting) -> list[str]:
    """The trackers among the places that a run is reported to."""
    places = args.report_to or ()
    return [name for name in ([places] if isinstance(places, str) else places) if name in TRACKERS]


def _read(checkpoint: str | None) -> dict:
    """What `TrackedRun.keep` wrote into a checkpoint; empty if the run was not tracked."""
    file = Path(checkpoint) / TRACKING if checkpoint else None
    return json.loads(file.read_text(encoding="utf-8")) if file is not None and file.is_file() else {}
