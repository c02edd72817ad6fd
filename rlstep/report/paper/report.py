"""The paper's experiments over several seeds, in paper.json, report.md and a figure each."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from rlstep.core.stats import Interval
from rlstep.report.paper.measured import (
    Compared,
    Reached,
    accuracies,
    common_shape,
    efficiencies,
    gaps,
    labels_used,
    over_seeds,
    reached,
)
from rlstep.report.paper.rollouts import fewer_rollouts, rollout_costs, unequal_tokens
from rlstep.report.paper.series import BY_HALVES, Experiment, Series
from rlstep.report.paper.text import report_text
from rlstep.runtime.counted import counted
from rlstep.runtime.rows import write_json

Plan = Mapping[Experiment, Sequence[Series]]


def report_paper(runs: Sequence[Path], plan: Plan, out: str | Path) -> dict:
    """Writes paper.json, report.md and EXPERIMENT.png of each experiment of the plan into `out`; returns the first.

    Args:
        runs: run folders, one per seed.
        plan: the series of each experiment that was run.
        out: where the report goes.

    Raises:
        UserError: a run lacks an evaluation or a record, or no verifier was trained.
    """
    measured = {name: {one.name: reached(runs, one) for one in all_series} for name, all_series in plan.items()}
    problems, best_of = common_shape([one for by_name in measured.values() for one in by_name.values()])
    summary: dict = {"seeds": [run.name for run in runs], "best_of": best_of, "problems": problems}
    for experiment, all_series in plan.items():
        summary[experiment] = _SUMMARIES[experiment](runs, all_series, measured[experiment])
    out = Path(out)
    out.mkdir(parents=True, exist_ok=True)
    from rlstep.report.figures import draw_series  # matplotlib takes half a second

    for experiment, all_series in plan.items():
        draw_series(
            all_series, summary[experiment]["series"], out / f"{experiment}.png", best_of, _caption(summary, all_series)
        )
    write_json(out / "paper.json", summary)
    (out / "report.md").write_text(report_text(summary, plan), encoding="utf-8")
    return summary


def _synthetic(_, all_series: Sequence[Series], measured: Mapping[str, Reached]) -> dict:
    return {"series": {one.name: _sizes(one) | accuracies(measured[one.name]) for one in all_series}} | gaps(measured)


def _active(runs: Sequence[Path], all_series: Sequence[Series], measured: Mapping[str, Reached]) -> dict:
    labels = {one.name: labels_used(runs, one) for one in all_series}
    by_series = {one.name: _sizes(one) | accuracies(measured[one.name]) for one in all_series}
    for name, used in labels.items():
        by_series[name] |= {"labels_of_seeds": used}
    for name, compared in efficiencies(labels, measured).items():
        by_series[name] |= _in_json(compared)
    return {"series": by_series}


def _monte_carlo(runs: Sequence[Path], all_series: Sequence[Series], measured: Mapping[str, Reached]) -> dict:
    costs = {one.name: rollout_costs(runs, one) for one in all_series}
    by_series = {}
    for one in all_series:
        cost = costs[one.name]
        means = {name: over_seeds(cost[name]) for name in ("rollouts_per_solution", "agreement")}
        of_seeds = {f"{name}_of_seeds": values for name, values in cost.items()}
        by_series[one.name] = _sizes(one) | accuracies(measured[one.name]) | means | of_seeds
    if BY_HALVES in by_series:
        by_series[BY_HALVES]["fewer_rollouts"] = fewer_rollouts(costs)
    return {"series": by_series, "unequal_tokens": unequal_tokens(runs, costs, all_series)}


_SUMMARIES = {"synthetic": _synthetic, "active": _active, "monte_carlo": _monte_carlo}


def _sizes(series: Series) -> dict:
    return {"label": series.label, "sizes": list(series.sizes)}


def _in_json(compared: Compared) -> dict:
    """Intervals, an infinite value as the text "inf", for JSON has no infinity; None where lines cannot be fitted."""
    fitted = {"fitted_sizes": compared.sizes}
    if compared.efficiency is None:
        return fitted | {"slope_ratio": None, "label_factor": None, "at_accuracy": None}
    return fitted | {
        name: {part: "inf" if value == math.inf else value for part, value in interval._asdict().items()}
        for name, interval in vars(compared.efficiency).items()
        if isinstance(interval, Interval)
    } | {"at_accuracy": compared.efficiency.at_accuracy}  # fmt: skip


def _caption(summary: dict, all_series: Sequence[Series]) -> str:
    seeds, problems = len(summary["seeds"]), summary["problems"]
    if seeds == 1:
        return f"One seed, {counted(problems, 'test problem')}."
    of_some = "" if all(one.shaded for one in all_series) else "; those of the others are in the table"
    each = f"{counted(problems, 'test problem')} each"
    return f"Mean of {seeds} seeds, {each}. Shaded, bars: 95% t-interval over seeds{of_some}."
