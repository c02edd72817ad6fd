"""The `report` stage: a run folder in; `summary.json`, `report.md`, `report.html` and the figures out."""

from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated

from rlstep.report.finished import open_run, seed_folders
from rlstep.report.html.page import MOST, PAGE
from rlstep.report.one_run import report_run
from rlstep.report.seeds import report_seeds
from rlstep.runtime.constraints import Range, check
from rlstep.runtime.record import RECORD, RunRecord, is_stage


@dataclass
class ReportConfig:
    run: str = field(metadata={"help": "Run folder, as `rlstep lab` writes it; with several seeds the folder of all."})
    out: str | None = field(default=None, metadata={"help": "Where the report goes; RUN/report when not given."})
    beside: str | None = field(
        default=None, metadata={"help": "Another run folder of the same task: report.html sets the two side by side."}
    )
    solutions: Annotated[int, Range(at_least=0)] = field(
        default=MOST,
        metadata={
            "help": "The most solutions of each set in report.html (the test problems, what each RL arm wrote); fewer "
            "where it would grow beyond 5 MB."
        },
    )

    def __post_init__(self):
        check(self, self._faults())

    def _faults(self) -> Iterator[str]:
        if self.beside is not None and Path(self.beside).resolve() == Path(self.run).resolve():
            yield f"beside is {self.beside}, the run itself; give another one"
        record = None if self.out is None else Path(self.out) / RECORD
        if record is not None and record.exists() and not is_stage(record, "report"):
            yield (
                f"out is {self.out}, where another stage has its {RECORD}, which the report's would replace; give a "
                "folder of its own"
            )


def report(config: ReportConfig) -> dict:
    """Writes the report of what the run folder holds, naming what is missing; returns the summary."""
    beside = open_run(config.beside) if config.beside else None
    folders, missing = seed_folders(config.run)
    out = Path(config.out) if config.out else Path(config.run) / "report"
    with RunRecord("report", asdict(config), out) as record:
        if len(folders) > 1:
            summary = report_seeds(folders, out, beside, config.solutions, missing)
        else:
            summary, pictures = report_run(folders[0], out, beside, config.solutions, missing)
            record.metrics["pictures"] = pictures
        record.metrics["missing"] = summary["missing"]
    print(f"page: {out / PAGE}")
    return summary
