"""The report of the paper's experiments as Markdown, from what is in paper.json."""

from collections.abc import Iterator, Mapping, Sequence

from rlstep.report import tables
from rlstep.report.paper.measured import GAPS
from rlstep.report.paper.series import BY_HALVES, CONVINCING, EXACT, UNIFORM, Experiment, Series
from rlstep.runtime.counted import counted

NOT_MEASURED = "not measured"
_TITLES = {"synthetic": "Synthetic supervision", "active": "Active learning", "monte_carlo": "Monte-Carlo labels"}
_NOTES = """\
- **best of {best_of}**: the share of test problems where the answer of the solution that the verifier picks is right;
  *clean*: and every step of it. In brackets: 95% t-intervals over seeds; differences are taken within a seed.
- **slope ratio**, **label factor**: of best-fit lines over log10(labelled steps), against uniform choice, with
  bootstrap intervals over seeds and problems. The first is what the paper calls 2.6 times the data efficiency; the
  second how many times fewer labels reach what uniform choice reaches with all of its own.
- **agreement**: of the solutions that the tokens paid for, those whose first error is where the exact checker finds
  it. **fewer rollouts**: how many times as many rollouts per solution step by step takes to agree as often, between its
  own K; where none of them agrees as often, at least so many times."""
_WORDS = {"process": "process", "outcome_teacher": "teacher's outcome", "outcome_answer": "final answer"}


def report_text(summary: dict, plan: Mapping[Experiment, Sequence[Series]]) -> str:
    """The findings beside the paper's, then a figure and a table of each experiment, and what was not measured.

    Args:
        summary: of `rlstep.report.paper.report.report_paper`.
        plan: the series of each experiment.
    """
    seeds = len(summary["seeds"])
    parts = [f"# The paper's experiments on labels, {counted(seeds, 'seed')}", _paper_and_lab(summary)]
    for experiment, all_series in plan.items():
        parts += [f"## {_TITLES[experiment]}", f"![{_TITLES[experiment]}]({experiment}.png)"]
        parts += [_TABLES[experiment](summary, all_series), *_remarks(summary[experiment], all_series)]
    return "\n\n".join([*parts, _NOTES.format(best_of=summary["best_of"])]) + "\n"


def _paper_and_lab(summary: dict) -> str:
    """The table of each finding in the paper and here."""
    rows: list[list[str]] = []
    for experiment, findings in _FINDINGS.items():
        if experiment in summary:
            rows += findings(summary[experiment])
    return tables.table(["finding", "paper", "lab"], rows)


def _synthetic_findings(experiment: dict) -> Iterator[list[str]]:
    for gap, (a, b) in GAPS.items():
        means = [mean for mean in experiment[gap]["mean"] if mean is not None]
        above = f"above 0 at {sum(mean > 0 for mean in means)} of {len(means)} sizes"
        at_most = f"{_at(experiment[gap], -1)} at {experiment['series'][a]['sizes'][-1]} per problem"
        yield [f"{_WORDS[a]} minus {_WORDS[b]}", "above 0 at every size", f"{at_most}; {above}"]


def _active_findings(experiment: dict) -> Iterator[list[str]]:
    by_rule = experiment["series"][CONVINCING]
    yield ["active learning against uniform, slope ratio", "2.6", _interval(by_rule["slope_ratio"])]
    yield ["active learning against uniform, label factor", "not in it", _interval(by_rule["label_factor"])]


def _monte_carlo_findings(experiment: dict) -> Iterator[list[str]]:
    exact = _at(experiment["series"][EXACT.name]["accuracy"], 0)
    for name, one in experiment["series"].items():
        if name != EXACT.name:
            reached = f"{_at(one['accuracy'], -1)}, exact labels {exact}"
            yield [f"rollouts, {one['label']}, K = {one['sizes'][-1]}", "not in it", reached]
    if halves := experiment["series"].get(BY_HALVES):
        ratio = halves["fewer_rollouts"]
        times = ", ".join(f"{_at(ratio, place)} at K = {size}" for place, size in enumerate(halves["sizes"]))
        yield ["search by halves, times fewer rollouts than step by step", "not in it", times]


_FINDINGS = {"synthetic": _synthetic_findings, "active": _active_findings, "monte_carlo": _monte_carlo_findings}


def _synthetic_table(summary: dict, all_series: Sequence[Series]) -> str:
    experiment = summary["synthetic"]
    gap_heads = [f"{_WORDS[a]} minus {_WORDS[b]}" for a, b in GAPS.values()]
    head = ["solutions per problem", *(one.label for one in all_series), *gap_heads]
    rows = [
        [
            str(size),
            *(_at(experiment["series"][one.name]["accuracy"], place) for one in all_series),
            *(_at(experiment[gap], place) for gap in GAPS),
        ]
        for place, size in enumerate(all_series[0].sizes)
    ]
    return tables.table(head, rows)


def _active_table(summary: dict, all_series: Sequence[Series]) -> str:
    by_series = summary["active"]["series"]
    budgets = all_series[0].sizes
    head = ["selection", *(f"{counted(size, 'label')}" for size in budgets), "slope ratio", "label factor"]
    rows = []
    for one in all_series:
        measured = by_series[one.name]
        compared = ["1", "1"] if one.name == UNIFORM else [
            _interval(measured[name]) for name in ("slope_ratio", "label_factor")
        ]  # fmt: skip
        rows.append([one.label, *(_at(measured["accuracy"], place) for place in range(len(budgets))), *compared])
    return tables.table(head, rows)


def _monte_carlo_table(summary: dict, all_series: Sequence[Series]) -> str:
    by_series = summary["monte_carlo"]["series"]
    head = ["labels", "K", f"best of {summary['best_of']}", "clean", "solutions labelled", "tokens",
            "rollouts per solution", "agreement", "fewer rollouts"]  # fmt: skip
    rows = []
    for one in all_series:
        measured = by_series[one.name]
        for place, size in enumerate(one.sizes):
            of_all = f"{_mean(measured, 'solutions', place)} of {_mean(measured, 'selected', place)}"
            rows.append(
                [
                    one.label, "-" if size is None else str(size), _at(measured["accuracy"], place),
                    _at(measured["clean"], place), of_all, _mean(measured, "tokens", place),
                    tables.number(measured["rollouts_per_solution"]["mean"][place], digits=1),
                    _at(measured["agreement"], place),
                    _at(measured["fewer_rollouts"], place) if "fewer_rollouts" in measured else "",
                ]
            )  # fmt: skip
    return tables.table(head, rows)


_TABLES = {"synthetic": _synthetic_table, "active": _active_table, "monte_carlo": _monte_carlo_table}


def _remarks(experiment: dict, all_series: Sequence[Series]) -> Iterator[str]:
    """What was not measured and why, and where tokens are not equal."""
    of_name = {one.name: one for one in all_series}
    lines = [
        f"- {NOT_MEASURED}: {of_name[name].in_words(one['size'])}, {one['seed']}: {one['reason']}"
        for name, measured in experiment["series"].items()
        for one in measured.get("not_measured", ())
    ]
    for name, measured in experiment["series"].items():
        if lines and "fitted_sizes" in measured and len(measured["fitted_sizes"]) < len(measured["sizes"]):
            fitted = ", ".join(f"{size:,}" for size in measured["fitted_sizes"]) or "none"
            lines.append(f"- {of_name[name].label}, slope ratio and label factor: of the budgets {fitted}.")
    for one in experiment.get("unequal_tokens", ()):
        lines.append(
            f"- {of_name[one['series']].in_words(one['size'])}, {one['seed']}: {one['tokens']:,} tokens, not "
            f"{one['of']:,}, as all solutions were labelled by then: here it is not at equal tokens."
        )
    if lines:
        yield "\n".join(lines)


def _at(values: dict, place: int) -> str:
    """The value at an index of a curve, with its interval, or that there is none."""
    return NOT_MEASURED if values["mean"][place] is None else tables.at(values, place)


def _mean(measured: dict, name: str, place: int) -> str:
    """A number averaged over the seeds, all of which have it."""
    values = [seed[place] for seed in measured[f"{name}_of_seeds"]]
    return f"{sum(values) / len(values):,.0f}"


def _interval(values: Mapping[str, float | str | None] | None) -> str:
    """
    >>> _interval({"mean": 2.61, "low": 1.2, "high": "inf"}), _interval({"mean": 2.0, "low": None, "high": None})
    ('2.6 [1.2, inf]', '2.0')
    """
    if values is None:
        return NOT_MEASURED
    mean, low, high = (_one(value) for value in values.values())
    return mean if low is None or high is None else f"{mean} [{low}, {high}]"


def _one(value: float | str | None) -> str | None:
    """One decimal, and of what is too large to be known well the power of ten alone."""
    if value is None or isinstance(value, str):
        return value
    return f"{value:.1f}" if abs(value) < 1e4 else f"{value:.0e}"
