"""The `report` stage: a run folder in; `summary.json`, `report.md` and the figures out."""

from dataclasses import asdict, dataclass, field
from pathlib import Path

from rlstep.report.one_run import report_run
from rlstep.runtime.record import RunRecord


@dataclass
class ReportConfig:
    run: str = field(metadata={"help": "Run folder, as `rlstep lab` writes it."})
    out: str | None = field(default=None, metadata={"help": "Where the report goes; RUN/report when not given."})


def report(config: ReportConfig) -> dict:
    """Writes the report of what the run folder holds, naming what is missing; returns the summary."""
    out = Path(config.out) if config.out else Path(config.run) / "report"
    with RunRecord("report", asdict(config), out) as record:
        summary, pictures = report_run(config.run, out)
        record.metrics |= {"pictures": pictures, "missing": summary["missing"]}
    return summary
