"""The map of bad PRMs: ways to reward a policy against the PRM's step accuracy, over several seeds.

Of each run folder are read: `prm_LEVEL/evaluate/best_of_n.json`, how well a PRM judges labelled steps that it was not
trained on; and `eval.jsonl` of each policy, its learning curve.
"""

import json
from collections.abc import Sequence
from pathlib import Path

from rlstep.core.stats import t_interval
from rlstep.report import tables
from rlstep.report.bad_prm_plan import OUTCOME, Level, Plan, Way
from rlstep.report.policies import clean_minus, reached_and_lost, read_curves
from rlstep.runtime.counted import counted
from rlstep.runtime.errors import UserError
from rlstep.runtime.rows import write_json

QUALITIES = ("balanced_accuracy", "accuracy", "first_error_exact")


_NOTES = """\
- **samples to {target:.0%} clean**: completions drawn for RL until, at an evaluation, the answer and every step of this
  share of the test solutions are right. Where some seed never gets there, the number is a lower bound: for these seeds
  the whole run's samples count.
- **lost**: runs whose clean accuracy is never above its start, or is below it at the last evaluation.
- **steps judged right**: the mean of two shares, of right steps and of wrong ones, that the PRM calls so at one half. A
  PRM that calls every step right has 0.50, however many are; its plain accuracy, in round brackets, is their share.
  Measured on labelled solutions of the test problems, up to each one's first error.
- In square brackets: 95% intervals over seeds (Student's t), of shares of runs Wilson's."""


def report_bad_prm(runs: Sequence[Path], plan: Plan, out: str | Path) -> dict:
    """Writes summary.json, report.md and map.png over `runs` into `out`; returns the summary.

    Args:
        runs: run folders, one per seed.
        plan: what was run.
        out: where the report goes.

    Raises:
        UserError: a run lacks a curve or a PRM's measures, or policies were evaluated at different points.
    """

    def curves(way: Way, level: Level | None) -> list[list[dict]]:
        return read_curves(runs, way.folder(level), OUTCOME.folder(None))

    outcome = curves(OUTCOME, None)

    def cell(of_seeds: list[list[dict]]) -> dict:
        return reached_and_lost(of_seeds, plan.target) | {"minus_outcome": clean_minus(of_seeds, outcome)}

    cells = {way.name: {level.name: cell(curves(way, level)) for level in plan.levels} for way in plan.ways}
    summary = {
        "seeds": [run.name for run in runs],
        "target": plan.target,
        "samples": outcome[0][-1]["samples"],
        "prms": {level.name: _prm(runs, level) for level in plan.levels},
        "outcome": reached_and_lost(outcome, plan.target),
        "ways": cells,
    }
    out = Path(out)
    out.mkdir(parents=True, exist_ok=True)
    from rlstep.report.figures import draw_bad_prm_map  # matplotlib takes half a second

    draw_bad_prm_map(summary, plan, out / "map.png")
    write_json(out / "summary.json", summary)
    (out / "report.md").write_text(_text(summary, plan), encoding="utf-8")
    return summary


def _prm(runs: Sequence[Path], level: Level) -> dict:
    """How well the PRMs of a level judge steps, over the seeds."""
    paths = [run / level.folder / "evaluate" / "best_of_n.json" for run in runs]
    for path in paths:
        if not path.is_file():
            raise UserError(f"{path} is missing: the PRM was not measured. Run the lab again; it continues.")
    measured = [json.loads(path.read_text(encoding="utf-8")).get("prm_steps") or {} for path in paths]
    for path, of_seed in zip(paths, measured, strict=True):
        if absent := [name for name in QUALITIES if name not in of_seed]:
            raise UserError(
                f"{path} has no {absent[0]}: the test solutions need right steps and wrong ones. Raise test_samples, "
                "or prepare's test problems."
            )
    return {name: t_interval([of_seed[name] for of_seed in measured])._asdict() for name in QUALITIES}


def _text(summary: dict, plan: Plan) -> str:
    head = ["way", *(f"{counted(level.labels, 'label')}, {level.flip:.0%} flipped" for level in plan.levels)]
    judged = [_judged(summary["prms"][level.name]) for level in plan.levels]
    rows = [["*steps judged right*", *judged], [OUTCOME.label, *[_shown(summary["outcome"])] * len(plan.levels)]]
    rows += [
        [way.label, *(_shown(summary["ways"][way.name][level.name]) for level in plan.levels)] for way in plan.ways
    ]
    seeds = len(summary["seeds"])
    parts = [
        f"# Process rewards from a bad PRM, {counted(seeds, 'seed')}, {counted(summary['samples'], 'sample')}",
        f"In each cell: samples to {plan.target:.0%} clean; runs lost.",
        tables.table(head, rows),
        "Clean accuracy minus outcome-only's on the same seed: over all evaluations after the start; at the last one.",
        tables.table(
            head,
            [[way.label, *(_lead(summary["ways"][way.name][one.name]) for one in plan.levels)] for way in plan.ways],
        ),
        "![Samples and lost runs, by way and PRM](map.png)",
        _NOTES.format(target=plan.target),
    ]
    return "\n\n".join(parts) + "\n"


def _judged(prm: dict) -> str:
    return f"{tables.number(*prm['balanced_accuracy'].values())} ({prm['accuracy']['mean']:.2f})"


def _lead(cell: dict) -> str:
    return "; ".join(tables.number(*cell["minus_outcome"][when].values()) for when in ("mean", "last"))


def _shown(cell: dict) -> str:
    samples, lost = cell["samples"], cell["lost"]
    bound = ">= " if samples["bound"] else ""
    number = tables.number(samples["mean"], samples["low"], samples["high"], digits=0)
    return f"{bound}{number}; {tables.number(*lost.values())}"
