"""The report of process against outcome-only PPO as Markdown, from what is in summary.json."""

from collections.abc import Mapping, Sequence

from rlstep.report import tables
from rlstep.report.arms import OUTCOME, PROCESS
from rlstep.report.opponents_plan import ARMS, SOURCES, Plan
from rlstep.runtime.counted import counted

_NOTES = """\
- **samples to {target:.0%} clean**: completions drawn for RL until, at an evaluation, the answer and every step of this
  share of the test solutions are right. Where some seed never gets there, the number is a lower bound: for these seeds
  the whole run's samples count.
- **mean clean** is over all evaluations after the start. **lost**: runs whose clean accuracy is never above its start,
  or is below it at the last evaluation.
- **seconds**: of the processor, for sampling, scoring by the PRM and updates; evaluations are not counted.
- **best of each arm**: by the mean clean accuracy at the end, over the same seeds that are shown, so that both arms'
  numbers are too high by what luck gave them; they were chosen among {variants}. **best by the other seeds**: each
  seed's variant is chosen without it, which takes that away; the variant may then differ from seed to seed.
- **equal compute**: both curves at the last second that both arms reach, between evaluations on a straight line.
  **with the PRM's making**: the process arm begins when its PRM is there, {made} processor seconds later:
  sampling, labelling by the exact checker, and training. A PRM that is there already costs nothing more. Of a stage
  that was interrupted only its last part counts.
- **best of N**: one PRM, trained on samples from before RL, picks among N samples of a test problem. The policies are
  those of the recipes. *PRM, clean*: its pick has no wrong step either. **steps judged right**: the mean of the shares
  of right and of wrong steps that the PRM calls so. **first error located**: the share of solutions in which the first
  step that the PRM calls wrong is the first wrong one, or in which it calls none wrong and none is.
- In square brackets: 95% intervals over seeds (Student's t), of shares of runs Wilson's; differences are taken within
  a seed. *Not separated*: the interval of the difference holds 0, or there is one seed alone."""

_PAIRS = {
    "recipe": "both as in the recipe",
    "best": "best of each arm",
    "by_other_seeds": "best by the other seeds",
}
_MEASURES = {
    "equal_samples": "equal samples",
    "equal_compute": "equal compute",
    "equal_compute_with_prm": "equal compute, with the PRM's making",
}


def verdict(difference: Mapping) -> str:
    """What an interval says of a difference.

    >>> verdict({"mean": 0.2, "low": 0.1, "high": 0.3}), verdict({"mean": -0.2, "low": -0.3, "high": -0.1})
    ('higher', 'lower')
    >>> verdict({"mean": 0.2, "low": -0.1, "high": 0.5}), verdict({"mean": 0.2, "low": None, "high": None})
    ('not separated', 'not separated')
    """
    low, high = difference["low"], difference["high"]
    if low is None or high is None or low <= 0 <= high:
        return "not separated"
    return "higher" if low > 0 else "lower"


def opponents_text(summary: dict, plan: Plan) -> str:
    """The findings in sentences, then each variant, each comparison, and best-of-N before and after RL.

    Args:
        summary: of `rlstep.report.opponents.report_opponents`.
        plan: what was run.
    """
    seeds = len(summary["seeds"])
    notes = _NOTES.format(
        target=summary["target"],
        variants=_numbers(plan),
        made=tables.number(*summary["prm_seconds"].values(), digits=0),
    )
    parts = [
        f"# Process against outcome-only PPO, {counted(seeds, 'seed')}, {counted(summary['samples'], 'sample')}",
        "\n".join(f"- {sentence}" for sentence in _findings(summary, plan)),
        "![Learning curves against samples and against processor seconds](opponents.png)",
        "## Each variant",
        tables.table(*_variants(summary, plan)),
        "## Process against outcome",
        tables.table(*_comparisons(summary, plan)),
        "## Best of N, before and after RL",
        "![Best of N before and after RL](best_of_n.png)",
        tables.table(*_best_of_n(summary)),
        tables.table(*_steps(summary)),
        notes,
    ]
    return "\n\n".join(parts) + "\n"


def _findings(summary: dict, plan: Plan) -> list[str]:
    """Sentences that say what the intervals say, and no more."""
    labels = plan.labels
    chosen = " and ".join(f"{arm.label}: {labels[summary['best'][arm.name]]}" for arm in ARMS)
    sentences = [f"Of {_numbers(plan)}, the best on these seeds by clean accuracy at the end are {chosen}."]
    best, by_others = (summary["comparisons"].get(name) for name in ("best", "by_other_seeds"))
    for measure, words in _MEASURES.items():
        difference = best[measure]["clean_accuracy"]["difference"]
        sentence = (
            f"At {words}, the best of each arm: clean accuracy with process rewards is {_than(difference)} "
            f"outcome-only ({tables.number(*difference.values())})"
        )
        if by_others:
            difference = by_others[measure]["clean_accuracy"]["difference"]
            sentence += f"; chosen by the other seeds: {verdict(difference)} ({tables.number(*difference.values())})"
        sentences.append(f"{sentence}.")
    for source in SOURCES:
        curves = summary["best_of_n"][source.name]
        gap = {part: curves["prm_minus_majority"][part][-1] for part in ("mean", "low", "high")}
        sentences.append(
            f"Best of {curves['ns'][-1]}, {source.label}: the PRM's picks are {_than(gap)} majority voting "
            f"({tables.number(*gap.values())})."
        )
    return sentences


def _numbers(plan: Plan) -> str:
    """How many variants the arms chose among."""
    if not plan.outcome_alone:
        return f"{len(plan.variants)} variant{'s' * (len(plan.variants) > 1)} each"
    more = " and ".join(variant.label for variant in plan.outcome_alone)
    return (
        f"{len(plan.of(OUTCOME))} variants of {OUTCOME.label}, among them {more}, and {len(plan.variants)} of the other"
    )


def _than(difference: Mapping) -> str:
    word = verdict(difference)
    return f"{word} from" if word == "not separated" else f"{word} than"


def _variants(summary: dict, plan: Plan) -> tables.Cells:
    head = ["arm", "variant", f"samples to {summary['target']:.0%} clean", "final: answer", "final: clean"]
    rows = []
    for arm in ARMS:
        for variant in plan.of(arm):
            one = summary["arms"][arm.name][variant.name]
            best = " (best)" if summary["best"][arm.name] == variant.name else ""
            samples = tables.number(*(one["samples"][part] for part in ("mean", "low", "high")), digits=0)
            numbers = [tables.number(*one[name].values()) for name in ("accuracy", "clean_accuracy")]
            numbers += [tables.number(*one["mean_clean_accuracy"].values())]
            numbers += [tables.number(*one["seconds"].values(), digits=0), tables.number(*one["lost"].values())]
            bound = ">= " if one["samples"]["bound"] else ""
            rows.append([arm.label, f"{variant.label}{best}", bound + samples, *numbers])
    return tables.Cells([*head, "mean clean", "seconds", "lost"], rows)


def _comparisons(summary: dict, plan: Plan) -> tables.Cells:
    labels = plan.labels
    head = ["variants", "at", "outcome: clean", "process: clean", "process - outcome: clean", "process is"]
    rows = []
    for name, words in _PAIRS.items():
        if (pair := summary["comparisons"].get(name)) is None:
            continue
        which = "; ".join(f"{arm.name}: {_named(pair['variants'][arm.name], labels)}" for arm in ARMS)
        who = words if name == "recipe" else f"{words} ({which})"
        for measure, at in _MEASURES.items():
            one = pair[measure]
            clean = one["clean_accuracy"]
            where = at if one["seconds"] is None else f"{at} ({one['seconds']:,.0f} s)"
            answer = one["accuracy"]["difference"]
            cells = [tables.number(*clean[part].values()) for part in (OUTCOME.name, PROCESS.name, "difference")]
            cells += [verdict(clean["difference"]), tables.number(*answer.values())]
            rows.append([who, where, *cells])
    return tables.Cells([*head, "process - outcome: answer"], rows)


def _named(variants: Sequence[str], labels: Mapping[str, str]) -> str:
    """One label where it is the same in every seed, or each seed's."""
    return ", ".join(labels[name] for name in (variants if len(set(variants)) > 1 else variants[:1]))


def _best_of_n(summary: dict) -> tables.Cells:
    shown = ("majority", "prm", "prm_minus_majority", "prm_clean", "pass_at_n")
    heads = ["majority", "PRM", "PRM - majority", "PRM, clean", "pass@N"]
    rows = []
    for source in SOURCES:
        curves = summary["best_of_n"][source.name]
        for place, n in enumerate(curves["ns"]):
            gap = {part: values[place] for part, values in curves["prm_minus_majority"].items()}
            cells = [tables.at(curves[name], place) if name in curves else "-" for name in shown]
            rows.append([source.label, str(n), *cells, verdict(gap)])
    return tables.Cells(["samples of", "N", *heads, "PRM is"], rows)


def _steps(summary: dict) -> tables.Cells:
    """How well the PRM judges the steps of each source."""
    rows = []
    for source in SOURCES:
        measured = summary["best_of_n"][source.name]["prm_steps"].values()
        rows.append([source.label, *(tables.number(*one.values()) if one else "-" for one in measured)])
    return tables.Cells(["the PRM on samples of", "steps judged right", "first error located"], rows)
