"""A contrast of RL arms over several seeds: which reward reaches which accuracy, after how many samples.

For each run folder and arm (`rlstep.report.arms.CONTRAST`), two files are read: `ppo_ARM/eval.jsonl`, the learning
curve, and `ppo_ARM/metrics.jsonl`, whose `alarm` is 1 while the alarm for reward hacking is raised.
"""

from collections.abc import Sequence
from pathlib import Path

from rlstep.core.stats import t_interval
from rlstep.evaluation.learning_curves import KEYS, over_seeds, read_history, samples_to_reach
from rlstep.report import arms, tables
from rlstep.report.arms import Arm
from rlstep.runtime.counted import counted
from rlstep.runtime.errors import UserError
from rlstep.runtime.rows import read_rows, write_json

_NOTES = """\
- **samples to {level:.0%} clean**: completions drawn for RL until, at an evaluation, the answer and every step of this
  share of the test solutions are right. A seed that never gets there is shown as never, and then there is no mean.
- **final**, **lowest**: shares of the test solutions at the last evaluation, and at the worst one after the start.
- **alarms**: seeds in which the alarm for reward hacking was raised: process return up, verified accuracy down.
- In brackets: 95% t-intervals over seeds. What the PRM was trained on comes on top of the samples."""


def report_contrast(runs: Sequence[str | Path], out: str | Path, level: float) -> dict:
    """Writes summary.json, report.md and contrast.png over `runs` into `out`; returns the summary.

    Args:
        runs: run folders, one per seed.
        out: where the report goes.
        level: the clean accuracy; samples are counted up to the first evaluation that reaches it.

    Raises:
        UserError: a run lacks an arm's curve, or arms were evaluated at different points.
    """
    seeds_by_arm = {arm.name: [_read(Path(run), arm) for run in runs] for arm in arms.CONTRAST}
    summary = {
        "seeds": [Path(run).name for run in runs],
        "level": level,
        "arms": {name: _summary(seeds, level) for name, seeds in seeds_by_arm.items()},
    }
    out = Path(out)
    out.mkdir(parents=True, exist_ok=True)
    from rlstep.report.figures import draw_contrast  # matplotlib takes half a second

    caption = (
        f"Mean of {counted(len(runs), 'seed')}, test problems, by the exact checker. Shaded: 95% t-interval over seeds."
    )
    draw_contrast(summary["arms"], out / "contrast.png", caption)
    write_json(out / "summary.json", summary)
    (out / "report.md").write_text(_text(summary), encoding="utf-8")
    return summary


def _read(run: Path, arm: Arm) -> dict:
    """One seed of an arm: its evaluations, and the first update with an alarm."""
    folder = run / arm.folder
    rows = read_history(folder / "eval.jsonl")
    alarms = [row["update"] for _, row in read_rows(folder / "metrics.jsonl") if (row.get("alarm") or 0) > 0]
    return {"rows": rows, "alarm": min(alarms, default=None)}


def _summary(seeds: list[dict], level: float) -> dict:
    """One arm over the seeds."""
    samples = [row["samples"] for row in seeds[0]["rows"]]
    for seed in seeds:
        if [row["samples"] for row in seed["rows"]] != samples:
            raise UserError("the seeds were not evaluated at the same samples; run them with the same recipe.")
    curves = {key: [[row[key] for row in seed["rows"]] for seed in seeds] for key in KEYS}
    reached = [samples_to_reach(seed["rows"], level, "clean_accuracy") for seed in seeds]
    return {
        "samples": samples,
        **{key: over_seeds(curves[key]) for key in KEYS},
        "lowest_accuracy": t_interval([min(curve[1:] or curve) for curve in curves["accuracy"]])._asdict(),
        "reached": reached,
        "reached_mean": t_interval(reached)._asdict() if None not in reached else None,
        "alarms": [seed["alarm"] for seed in seeds],
    }


def _text(summary: dict) -> str:
    level = summary["level"]
    head = ["arm", f"samples to {level:.0%} clean", "final: answer", "final: clean", "lowest: answer", "alarms"]
    rows = []
    for arm in arms.CONTRAST:
        measured = summary["arms"][arm.name]
        raised = [update for update in measured["alarms"] if update is not None]
        rows.append(
            [
                arm.label,
                _reached(measured),
                *(tables.at(measured[key], -1) for key in KEYS),
                tables.number(*measured["lowest_accuracy"].values()),
                f"{len(raised)} of {len(measured['alarms'])}" + (f" (update {min(raised)})" if raised else ""),
            ]
        )
    samples = next(iter(summary["arms"].values()))["samples"][-1]
    parts = [
        f"# Contrast of rewards, {counted(len(summary['seeds']), 'seed')}, {counted(samples, 'sample')}",
        tables.table(head, rows),
        "![Learning curves](contrast.png)",
        _NOTES.format(level=level),
    ]
    return "\n\n".join(parts) + "\n"


def _reached(measured: dict) -> str:
    if mean := measured["reached_mean"]:
        return tables.number(mean["mean"], mean["low"], mean["high"], digits=0)
    return ", ".join("never" if samples is None else f"{samples:,}" for samples in measured["reached"])
