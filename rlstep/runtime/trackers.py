"""The experiment trackers, wandb and trackio, behind one interface; neither is imported unless a run reports to it."""

import logging
import numbers
import os
from dataclasses import dataclass
from types import ModuleType
from typing import Any, Protocol

logger = logging.getLogger(__name__)

# Seconds for which the end of a run waits for its upload; what is left by then is on disk (`wandb sync`).
FINISH_TIMEOUT = 600.0
RESULT = "result/"


@dataclass(frozen=True)
class RunInfo:
    """A tracked run.

    Attributes:
        id: by which wandb knows it.
        project, name, group, tags: where and how it is shown.
        unique_name: by which trackio knows it.
        stage: the command's name.
        config: the whole configuration, plain values.
    """

    id: str
    project: str
    name: str
    unique_name: str
    group: str
    tags: tuple[str, ...]
    stage: str
    config: dict[str, Any]


class Tracker(Protocol):
    """An experiment tracker, of which one run is open at a time."""

    def start(self, info: RunInfo) -> None:
        """Starts the run, or continues the one of the same id or name; never raises."""

    def show_config(self, info: RunInfo) -> None:
        """Shows the configuration, also after a Trainer's callback has set up the run."""

    def finish(self, metrics: dict, failed: bool) -> None:
        """Shows a stage's results and ends the run."""

    def module(self) -> ModuleType | None:
        """The tracker's module while a run is open, else None."""


class Wandb:
    """Weights & Biases. A run that the caller has opened himself is used, and left open."""

    def __init__(self):
        self._opened = False

    def start(self, info: RunInfo) -> None:
        import wandb

        if wandb.run is not None:
            return
        self._opened = True
        options = {
            "project": info.project,
            "id": info.id,
            "name": info.name,
            "group": info.group,
            "tags": info.tags,
            "job_type": info.stage,
            "config": info.config,
            "resume": "allow",
        }
        if "WANDB_FINISH_TIMEOUT" not in os.environ:
            options["settings"] = wandb.Settings(finish_timeout=FINISH_TIMEOUT)
        try:
            settings = wandb.setup().settings
            # Asked here, because `init` would wait at a terminal for a key.
            if settings.mode == "online" and not wandb.login(prompt=False):
                raise wandb.UsageError("no API key; `wandb login` stores one, or set WANDB_API_KEY")
            wandb.init(**options)
        except Exception as error:  # of its service, of the network, of a key: none may stop a training
            logger.warning("wandb cannot be reached: %s. This run is logged to disk; `wandb sync` sends it", error)
            try:
                wandb.init(**options, mode="offline")
            except Exception as second:
                logger.warning("wandb cannot log to disk either: %s. This run is not logged there", second)
                wandb.init(mode="disabled")

    def show_config(self, info: RunInfo) -> None:
        import wandb

        wandb.config.update(info.config, allow_val_change=True)

    def finish(self, metrics: dict, failed: bool) -> None:
        import wandb

        if wandb.run is None:
            return
        wandb.run.summary.update(results(metrics))
        if self._opened:
            self._opened = False
            wandb.finish(exit_code=int(failed))

    def module(self) -> ModuleType | None:
        import wandb

        return wandb if wandb.run is not None else None


class Trackio:
    """Trackio, whose dashboard is local: `trackio show`."""

    def start(self, info: RunInfo) -> None:
        self._open(info)

    def show_config(self, info: RunInfo) -> None:
        # The Trainer's callback opens the run again, without its group; and a configuration is sent with the first log.
        self._open(info)

    def _open(self, info: RunInfo) -> None:
        import trackio

        config = info.config | {"id": info.id, "tags": list(info.tags)}
        try:
            trackio.init(
                project=info.project,
                name=info.unique_name,
                group=info.group,
                config=config,
                resume="allow",
                embed=False,
            )
        except Exception as error:  # a tracker's trouble must not stop a training
            logger.warning("trackio cannot log this run: %s", error)

    def finish(self, metrics: dict, failed: bool) -> None:
        import trackio

        if self.module() is not None:
            trackio.log(results(metrics) | {"failed": int(failed)})
            trackio.finish()

    def module(self) -> ModuleType | None:
        import trackio

        return trackio if trackio.context_vars.current_run.get() is not None else None


TRACKERS: dict[str, Tracker] = {"wandb": Wandb(), "trackio": Trackio()}


def active_trackers(args) -> list[ModuleType]:
    """The trackers' modules that a run reports to and that have it open; both have `log`, `Table` and `alert`.

    Args:
        args: has `report_to`, a tracker's name or several.
    """
    places = args.report_to or ()
    names = [places] if isinstance(places, str) else places
    modules = [TRACKERS[name].module() for name in names if name in TRACKERS]
    return [module for module in modules if module is not None]


def results(metrics: dict) -> dict[str, float]:
    """The numbers among a stage's metrics, as a tracker shows them apart from what was logged on the way."""
    numeric = {name: value for name, value in metrics.items() if isinstance(value, numbers.Number)}
    return {RESULT + name: float(value) for name, value in numeric.items()}
