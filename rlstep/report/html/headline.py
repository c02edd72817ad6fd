"""The figures that a report begins with, each with its interval where there is one."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from rlstep.core.stats import t_interval
from rlstep.report import arms, tables
from rlstep.report.finished import FinishedRun
from rlstep.report.html.training import Training
from rlstep.report.over_seeds import GAPS

# By seed, what an arm logged; by arm.
Trainings = Mapping[str, Mapping[str, Training]]
# ((card, label), text)
Figure = tuple[tuple[str, str], str]

RIGHT = {"accuracy": "answer right", "clean_accuracy": "answer and every step right"}
STEP_MEASURES = {
    "first_error_exact": "first error located exactly",
    "processbench_f1": "ProcessBench F1",
    "balanced_accuracy": "balanced accuracy of single steps",
}


@dataclass(frozen=True)
class Card:
    """Figures that belong together.

    Attributes:
        title: what they are.
        rows: (label, one text per run).
    """

    title: str
    rows: list[tuple[str, list[str]]]


def cards(runs: Sequence[FinishedRun], trainings: Sequence[Trainings]) -> list[Card]:
    """The headline figures of the runs, side by side; a figure that a run lacks is a dash."""
    figures = [dict(_figures(run, training)) for run, training in zip(runs, trainings, strict=True)]
    keys = dict.fromkeys(key for one in figures for key in one)
    made: dict[str, Card] = {}
    for title, label in keys:
        texts = [one.get((title, label), "-") for one in figures]
        made.setdefault(title, Card(title, [])).rows.append((label, texts))
    return list(made.values())


def _figures(run: FinishedRun, training: Trainings) -> Iterator[Figure]:
    """The figures of one run."""
    yield from _best_of_n(run.summary["best_of_n"])
    yield from _after_rl(run.summary["rl"])
    yield from _samples_needed(run)
    yield from _prm_steps(run.summaries)
    yield from _hacking(training)


def _best_of_n(curves: dict | None) -> Iterator[Figure]:
    if curves:
        names = tables.curve_names(curves)
        for name in names:
            if not name.endswith(tables.CLEAN):
                label = GAPS[name][-1] if name in GAPS else tables.curve_head(name, names)
                yield (f"Best of {curves['ns'][-1]}: answer right", label), tables.at(curves[name], -1)


def _after_rl(curves: dict) -> Iterator[Figure]:
    for key, right in RIGHT.items():
        for arm in arms.ARMS:
            if (curve := curves.get(arm.name)) and key in curve:
                title = f"After {curve['samples'][-1]:,} RL samples: {right}"
                yield (title, arm.label), tables.at(curve[key], -1)


def _samples_needed(run: FinishedRun) -> Iterator[Figure]:
    comparison = run.summary["rl_comparison"] or {}
    for key, one in comparison.items():
        ratio, needed = one["ratio"], one["process_samples"]
        if ratio is not None:
            text = tables.number(*ratio.values() if isinstance(ratio, dict) else [ratio], digits=1)
        elif needed is None or isinstance(needed, list) and None in needed:
            text = "not reached"
        else:
            continue  # it was there before any training
        yield ("Times fewer samples than outcome-only RL, to its end", RIGHT[key]), text


def _prm_steps(summaries: Sequence[dict]) -> Iterator[Figure]:
    measured = [(summary["best_of_n"] or {}).get("prm_steps") for summary in summaries]
    for name, label in STEP_MEASURES.items():
        values = [measures[name] for measures in measured if measures and measures.get(name) is not None]
        if values and len(values) == len(measured):
            yield ("The PRM on single steps", label), tables.number(*t_interval(values), digits=3)


def _hacking(training: Trainings) -> Iterator[Figure]:
    for arm in arms.ARMS:
        seeds = training.get(arm.name)
        if not seeds:
            continue
        raised = {seed: f"update {one.alarms[0][0]}" for seed, one in seeds.items() if one.alarms}
        each = raised.values() if len(seeds) == 1 else [f"{seed}, {update}" for seed, update in raised.items()]
        yield ("Alarm for reward hacking", arm.label), "; ".join(each) or "never"
        if shares := [share for one in seeds.values() for share in one.values.get("steps/withheld", {}).values()]:
            yield ("Largest share of a batch's steps that guards withheld", arm.label), f"{max(shares):.1%}"
