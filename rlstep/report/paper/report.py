"""The paper's experiments over several seeds, in paper.json, report.md and a figure each."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from rlstep.core.data_efficiency import Efficiency
from rlstep.core.stats import Interval, t_interval
from rlstep.report import tables
from rlstep.report.paper.measured import (
    GAPS,
    Reached,
    accuracies,
    efficiencies,
    gaps,
    labels_used,
    reached,
    rollout_labels,
)
from rlstep.report.paper.series import CONVINCING, UNIFORM, Experiment, Series
from rlstep.runtime.rows import write_json

Plan = Mapping[Experiment, Sequence[Series]]

_NOTES = """\
- **best of {best_of}**: the share of test problems where the answer of the solution that the verifier picks is right;
  *clean*: and every step of it. In brackets: 95% t-intervals over seeds; differences are taken within a seed.
- **slope ratio**, **label factor**: of best-fit lines over log10(labelled steps), against uniform choice, with
  bootstrap intervals over seeds and problems. The first is what the paper calls 2.6 times the data efficiency; the
  second how many times fewer labels reach what uniform choice reaches with all of its own.
- **agreement**: of the solutions that the tokens paid for, those whose first error is where the exact checker finds
  it."""
_TITLES = {"synthetic": "Synthetic supervision", "active": "Active learning", "monte_carlo": "Monte-Carlo labels"}


def report_paper(runs: Sequence[Path], plan: Plan, out: str | Path) -> dict:
    """Writes paper.json, report.md and EXPERIMENT.png of each experiment of the plan into `out`; returns the first.

    Args:
        runs: run folders, one per seed.
        plan: the series of each experiment that was run.
        out: where the report goes.

    Raises:
        UserError: a run lacks an evaluation or a record.
    """
    summary: dict = {"seeds": [run.name for run in runs]}
    for experiment, all_series in plan.items():
        measured = {series.name: reached(runs, series) for series in all_series}
        summary["best_of"] = next(iter(measured.values())).best_of
        summary["problems"] = next(iter(measured.values())).accuracy_RPK.shape[1]
        summary[experiment] = _SUMMARIES[experiment](runs, all_series, measured)
    out = Path(out)
    out.mkdir(parents=True, exist_ok=True)
    from rlstep.report.figures import draw_series  # matplotlib takes half a second

    for experiment, all_series in plan.items():
        draw_series(all_series, summary[experiment]["series"], out / f"{experiment}.png", _caption(summary))
    write_json(out / "paper.json", summary)
    (out / "report.md").write_text(_text(summary, plan), encoding="utf-8")
    return summary


def _synthetic(_, all_series: Sequence[Series], measured: Mapping[str, Reached]) -> dict:
    return {"series": {one.name: _sizes(one) | accuracies(measured[one.name]) for one in all_series}} | gaps(measured)


def _active(runs: Sequence[Path], all_series: Sequence[Series], measured: Mapping[str, Reached]) -> dict:
    labels = {one.name: labels_used(runs, one) for one in all_series}
    found = {one.name: _sizes(one) | accuracies(measured[one.name]) for one in all_series}
    for name, used in labels.items():
        found[name] |= {"labels_of_seeds": used.tolist()}
    for name, efficiency in efficiencies(labels, measured).items():
        found[name] |= _in_json(efficiency)
    return {"series": found}


def _monte_carlo(runs: Sequence[Path], all_series: Sequence[Series], measured: Mapping[str, Reached]) -> dict:
    found = {}
    for one in all_series:
        cost = {f"{name}_of_seeds": values for name, values in rollout_labels(runs, one).items()}
        found[one.name] = _sizes(one) | accuracies(measured[one.name]) | cost
    return {"series": found}


_SUMMARIES = {"synthetic": _synthetic, "active": _active, "monte_carlo": _monte_carlo}


def _sizes(series: Series) -> dict:
    return {"sizes": list(series.sizes)}


def _in_json(efficiency: Efficiency) -> dict:
    """Its intervals, an infinite value as the text "inf", for JSON has no infinity."""
    return {
        name: {part: "inf" if value == math.inf else value for part, value in interval._asdict().items()}
        for name, interval in vars(efficiency).items()
        if isinstance(interval, Interval)
    } | {"at_accuracy": efficiency.at_accuracy}


def _caption(summary: dict) -> str:
    seeds = len(summary["seeds"])
    return f"Mean of {seeds} seeds, {summary['problems']} test problems each. Shaded, bars: 95% t-interval over seeds."


def _text(summary: dict, plan: Plan) -> str:
    parts = [f"# The paper's experiments on labels, {len(summary['seeds'])} seeds", _paper_and_lab(summary)]
    for experiment, all_series in plan.items():
        parts += [f"## {_TITLES[experiment]}", f"![{_TITLES[experiment]}]({experiment}.png)"]
        parts += [_TABLES[experiment](summary, all_series)]
    return "\n\n".join([*parts, _NOTES.format(best_of=summary["best_of"])]) + "\n"


def _paper_and_lab(summary: dict) -> str:
    """The table of each finding in the paper and here."""
    rows = []
    if found := summary.get("synthetic"):
        words = {"process": "process", "outcome_teacher": "teacher's outcome", "outcome_answer": "final answer"}
        for gap, (a, b) in GAPS.items():
            at_most = f"{tables.at(found[gap], -1)} at {found['series'][a]['sizes'][-1]} per problem"
            above = sum(mean > 0 for mean in found[gap]["mean"])
            rows.append(
                [f"{words[a]} minus {words[b]}", "above 0 at every size", f"{at_most}; above 0 at {above} of "
                 f"{len(found[gap]['mean'])} sizes"]
            )  # fmt: skip
    if found := summary.get("active"):
        ratio = found["series"][CONVINCING]["slope_ratio"]
        rows.append(["active learning against uniform, slope ratio", "2.6", _interval(ratio)])
    if found := summary.get("monte_carlo"):
        exact = found["series"]["exact"]["accuracy"]
        for name, one in found["series"].items():
            if name != "exact":
                mean = f"{tables.at(one['accuracy'], -1)}, exact labels {tables.at(exact, 0)}"
                rows.append([f"rollouts, {name}, K = {one['sizes'][-1]}", "not in it", mean])
    return tables.table(["finding", "paper", "lab"], rows)


def _synthetic_table(summary: dict, all_series: Sequence[Series]) -> str:
    found = summary["synthetic"]
    sizes = all_series[0].sizes
    head = ["solutions per problem", *(one.label for one in all_series), *(gap.replace("_", " ") for gap in GAPS)]
    rows = [
        [
            str(size),
            *(tables.at(found["series"][one.name]["accuracy"], place) for one in all_series),
            *(tables.at(found[gap], place) for gap in GAPS),
        ]
        for place, size in enumerate(sizes)
    ]
    return tables.table(head, rows)


def _active_table(summary: dict, all_series: Sequence[Series]) -> str:
    found = summary["active"]["series"]
    budgets = all_series[0].sizes
    head = ["selection", *(f"{size:,} labels" for size in budgets), "slope ratio", "label factor"]
    rows = []
    for one in all_series:
        measured = found[one.name]
        compared = ["1", "1"] if one.name == UNIFORM else [
            _interval(measured[name]) for name in ("slope_ratio", "label_factor")
        ]  # fmt: skip
        rows.append([one.label, *(tables.at(measured["accuracy"], place) for place in range(len(budgets))), *compared])
    return tables.table(head, rows)


def _monte_carlo_table(summary: dict, all_series: Sequence[Series]) -> str:
    found = summary["monte_carlo"]["series"]
    digits = {"solutions": 0, "tokens": 0, "rollouts_per_solution": 1, "agreement": 2}
    head = ["labels", "K", "best of N", "clean", *(name.replace("_", " ") for name in digits)]
    rows = []
    for one in all_series:
        measured = found[one.name]
        for place, size in enumerate(one.sizes):
            costs = [
                tables.number(t_interval([seed[place] for seed in measured[f"{name}_of_seeds"]]).mean, digits=places)
                for name, places in digits.items()
            ]
            reached_here = [tables.at(measured[key], place) for key in ("accuracy", "clean")]
            rows.append([one.label, "-" if size is None else str(size), *reached_here, *costs])
    return tables.table(head, rows)


_TABLES = {"synthetic": _synthetic_table, "active": _active_table, "monte_carlo": _monte_carlo_table}


def _interval(values: Mapping[str, float | str | None]) -> str:
    """
    >>> _interval({"mean": 2.61, "low": 1.2, "high": "inf"}), _interval({"mean": 2.0, "low": None, "high": None})
    ('2.6 [1.2, inf]', '2.0')
    """
    mean, low, high = (_one(value) for value in values.values())
    return mean if low is None or high is None else f"{mean} [{low}, {high}]"


def _one(value: float | str | None) -> str | None:
    """One decimal, and of what is too large to be known well the power of ten alone."""
    if value is None or isinstance(value, str):
        return value
    return f"{value:.1f}" if abs(value) < 1e4 else f"{value:.0e}"
