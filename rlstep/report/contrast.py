"""One contrast of RL arms over several seeds: which reward reaches what, and after how many samples.

Read of each run folder, for each arm: `ppo_ARM/eval.jsonl` (the learning curve) and `ppo_ARM/metrics.jsonl`, whose
`alarm` is 1 while the alarm for reward hacking is raised.
"""

from collections.abc import Sequence
from pathlib import Path

from rlstep.core.stats import t_interval
from rlstep.evaluation.learning_curves import KEYS, over_seeds, read_history, samples_to_reach
from rlstep.report import tables
from rlstep.runtime.errors import UserError
from rlstep.runtime.rows import read_rows, write_json

# arm -> its name in tables and pictures
CONTRAST = {
    "outcome": "outcome only",
    "process_sum": "PRM only, sum",
    "process_clip_delta": "PRM only, clip_delta",
    "process_min_form": "PRM only, min_form",
    "process": "PRM (sum) + outcome",
}

_NOTES = """\
- **samples to {level:.0%} clean**: completions drawn for RL until, at an evaluation, the answer and every step of this
  share of the test solutions are right. Where a seed never gets there it is named as never, and no mean is taken.
- **final**, **lowest**: shares of the test solutions at the last evaluation, and at the worst one after the start.
- **alarms**: seeds in which the alarm for reward hacking was raised: process return up, verified accuracy down.
- In brackets: 95% t-intervals over seeds. What the PRM was trained on comes on top of the samples."""


def report_contrast(runs: Sequence[str | Path], out: str | Path, level: float) -> dict:
    """Writes summary.json, report.md and contrast.png over `runs` into `out`; returns the summary.

    Args:
        runs: run folders, one a seed.
        out: where the report goes.
        level: the clean accuracy to whose first evaluation samples are counted.

    Raises:
        UserError: a run lacks an arm's curve, or arms were evaluated at different places.
    """
    arms = {arm: [_read(Path(run), arm) for run in runs] for arm in CONTRAST}
    summary = {
        "seeds": [Path(run).name for run in runs],
        "level": level,
        "arms": {arm: _summary(found, level) for arm, found in arms.items()},
    }
    out = Path(out)
    out.mkdir(parents=True, exist_ok=True)
    from rlstep.report.figures import draw_contrast  # matplotlib takes half a second

    caption = f"Mean of {len(runs)} seeds, test problems, by the exact checker. Shaded: 95% t-interval over seeds."
    draw_contrast({CONTRAST[arm]: found for arm, found in summary["arms"].items()}, out / "contrast.png", caption)
    write_json(out / "summary.json", summary)
    (out / "report.md").write_text(_text(summary), encoding="utf-8")
    return summary


def _read(run: Path, arm: str) -> dict:
    folder = run / f"ppo_{arm}"
    rows = read_history(folder / "eval.jsonl")
    alarms = [row["update"] for _, row in read_rows(folder / "metrics.jsonl") if (row.get("alarm") or 0) > 0]
    return {"rows": rows, "alarm": min(alarms, default=None)}


def _summary(found: list[dict], level: float) -> dict:
    """One arm over the seeds."""
    samples = [row["samples"] for row in found[0]["rows"]]
    for one in found:
        if [row["samples"] for row in one["rows"]] != samples:
            raise UserError("the seeds were not evaluated at the same samples; run them with the same recipe.")
    curves = {key: [[row[key] for row in one["rows"]] for one in found] for key in KEYS}
    reached = [samples_to_reach(one["rows"], level, "clean_accuracy") for one in found]
    return {
        "samples": samples,
        **{key: over_seeds(curves[key]) for key in KEYS},
        "lowest_accuracy": t_interval([min(curve[1:] or curve) for curve in curves["accuracy"]])._asdict(),
        "reached": reached,
        "reached_mean": t_interval(reached)._asdict() if None not in reached else None,
        "alarms": [one["alarm"] for one in found],
    }


def _text(summary: dict) -> str:
    level = summary["level"]
    head = ["arm", f"samples to {level:.0%} clean", "final: answer", "final: clean", "lowest: answer", "alarms"]
    rows = []
    for arm, found in summary["arms"].items():
        raised = [update for update in found["alarms"] if update is not None]
        rows.append(
            [
                CONTRAST[arm],
                _reached(found),
                *(tables.at(found[key], -1) for key in KEYS),
                tables.number(*found["lowest_accuracy"].values()),
                f"{len(raised)} of {len(found['alarms'])}" + (f" (update {min(raised)})" if raised else ""),
            ]
        )
    samples = next(iter(summary["arms"].values()))["samples"][-1]
    parts = [
        f"# Contrast of rewards, {len(summary['seeds'])} seeds, {samples:,} samples",
        tables.table(head, rows),
        "![Learning curves](contrast.png)",
        _NOTES.format(level=level),
    ]
    return "\n\n".join(parts) + "\n"


def _reached(found: dict) -> str:
    if found["reached_mean"]:
        mean = found["reached_mean"]
        return tables.number(mean["mean"], mean["low"], mean["high"], digits=0)
    return ", ".join("never" if samples is None else f"{samples:,}" for samples in found["reached"])
