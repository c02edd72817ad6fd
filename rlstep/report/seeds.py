"""One experiment over several seeds: means and 95% t-intervals of finished runs' results, in tables and figures."""

from collections.abc import Sequence
from pathlib import Path

from rlstep.core.stats import t_interval
from rlstep.evaluation.learning_curves import KEYS, over_seeds
from rlstep.report import arms, tables
from rlstep.report.summary import summarize
from rlstep.report.tables import Cells
from rlstep.runtime.errors import UserError
from rlstep.runtime.rows import write_json

# name in the summary -> (minuend, subtrahend, table head)
GAPS = {
    "prm_minus_orm": ("prm", "orm", "PRM - ORM"),
    "prm_minus_majority": ("prm", "majority", "PRM - majority"),
    "orm_minus_majority": ("orm", "majority", "ORM - majority"),
}


def report_seeds(runs: Sequence[str | Path], out: str | Path) -> dict:
    """Writes summary.json, report.md, best_of_n.png and rl_curves.png over `runs` into `out`; returns the summary.

    Gaps and ratios are taken within a seed first, so their intervals are paired.

    Raises:
        UserError: fewer than two runs, a seed given twice, or runs whose curves are not at the same N.
    """
    if len(runs) < 2:
        raise UserError(f"{len(runs)} run given; an interval over seeds needs at least two.")
    summaries = [summarize(run)[0] for run in runs]
    seeds = [summary["seed"] for summary in summaries]
    known = [seed for seed in seeds if seed is not None]
    if len(set(known)) < len(known):
        raise UserError(f"the runs have seeds {seeds}; each must have its own, or the interval is too narrow.")
    summary = {
        "seeds": seeds,
        "best_of_n": _best_of_n(summaries, runs),
        "rl": {arm.name: _merged([summary["rl"][arm.name] for summary in summaries]) for arm in arms.ARMS},
        "rl_gap": _rl_gap(summaries),
        "rl_comparison": _comparison(summaries),
        "seconds": [one["seconds"]["total"] if one["seconds"] else None for one in summaries],
        "missing": [f"{run}: {what}" for run, one in zip(runs, summaries, strict=True) for what in one["missing"]],
    }
    out = Path(out)
    out.mkdir(parents=True, exist_ok=True)
    _draw(summary, out)
    write_json(out / "summary.json", summary)
    (out / "report.md").write_text(_text(summary), encoding="utf-8")
    return summary


def _best_of_n(summaries: list[dict], runs: Sequence) -> dict | None:
    curves = [summary["best_of_n"] for summary in summaries]
    if None in curves:
        return None
    ns = curves[0]["ns"]
    for run, curve in zip(runs, curves, strict=True):
        if curve["ns"] != ns:
            raise UserError(f"{run}: best-of-N at {curve['ns']}, {runs[0]} at {ns}; evaluate all at the same ns.")
    names = [name for name in tables.curve_names(curves[0]) if all(name in curve for curve in curves)]
    merged = {"ns": ns, **{name: over_seeds([curve[name]["mean"] for curve in curves]) for name in names}}
    for gap, (a, b) in ((gap, pair) for gap, (*pair, _) in GAPS.items() if set(pair) <= set(names)):
        differences = [[x - y for x, y in zip(c[a]["mean"], c[b]["mean"], strict=True)] for c in curves]
        merged[gap] = over_seeds(differences)
    return merged


def _rl_gap(summaries: list[dict]) -> dict | None:
    """Process arm minus outcome arm at equal samples."""
    gaps = []
    for summary in summaries:
        process, outcome = summary["rl"][arms.PROCESS.name], summary["rl"][arms.OUTCOME.name]
        if process is None or outcome is None:
            return None
        shared = sorted(set(process["samples"]) & set(outcome["samples"]))
        places = [(process["samples"].index(n), outcome["samples"].index(n)) for n in shared]
        gap = {key: [process[key][i] - outcome[key][j] for i, j in places] for key in KEYS}
        gaps.append({"samples": shared, **gap})
    return _merged(gaps)


def _merged(curves: list[dict | None]) -> dict | None:
    """Curves over seeds, at the numbers of samples where every seed was evaluated; None if a seed has no curve."""
    if None in curves:
        return None
    shared = sorted(set.intersection(*(set(curve["samples"]) for curve in curves)))
    if not shared:
        return None
    places = [[curve["samples"].index(samples) for samples in shared] for curve in curves]
    merged: dict = {"samples": shared}
    for key in KEYS:
        merged[key] = over_seeds([[curve[key][k] for k in where] for curve, where in zip(curves, places, strict=True)])
    return merged


def _comparison(summaries: list[dict]) -> dict | None:
    """By key: each seed's samples and ratio; the ratio's interval only if every seed has one."""
    comparisons = [summary["rl_comparison"] for summary in summaries]
    if None in comparisons:
        return None
    merged = {}
    for key in KEYS:
        ratios = [one[key]["ratio"] for one in comparisons]
        merged[key] = {
            "outcome_samples": [one[key]["outcome_samples"] for one in comparisons],
            "process_samples": [one[key]["process_samples"] for one in comparisons],
            "ratios": ratios,
            "ratio": t_interval(ratios)._asdict() if None not in ratios else None,
        }
    return merged


def _draw(summary: dict, out: Path) -> None:
    from rlstep.report import figures

    caption = f"Lines: mean of {len(summary['seeds'])} seeds. Shaded: 95% t-interval over seeds."
    if summary["best_of_n"]:
        figures.draw_best_of_n(without_gaps(summary["best_of_n"]), out / "best_of_n.png", caption)
    if any(summary["rl"].values()):
        figures.draw_rl_curves(summary["rl"], out / "rl_curves.png", caption)


def _text(summary: dict) -> str:
    seeds = summary["seeds"]
    parts = [f"# {len(seeds)} seeds"]
    parts += ["In brackets: 95% t-intervals over seeds. Gaps and ratios are taken within each seed."]
    if summary["missing"]:
        parts += ["## Missing", "\n".join(f"- {what}" for what in summary["missing"])]
    if curves := summary["best_of_n"]:
        parts += ["## Best of N", "![Best of N](best_of_n.png)"]
        parts += [tables.table(*tables.best_of_n(without_gaps(curves)))]
        parts += [tables.table(*gap_cells(curves))] if GAPS.keys() & curves.keys() else []
    if any(summary["rl"].values()):
        parts += [
            "## Reinforcement learning",
            "![RL curves](rl_curves.png)",
            tables.table(*tables.learning_curves(summary["rl"], summary["rl_gap"])),
        ]
    if summary["rl_comparison"]:
        parts += ["Samples to the outcome arm's last accuracy, at the first evaluation at or above it:"]
        parts += [tables.table(*comparison_cells(seeds, summary["rl_comparison"]))]
    return "\n\n".join(parts) + "\n"


def without_gaps(curves: dict) -> dict:
    """Best-of-N curves alone."""
    return {name: value for name, value in curves.items() if name not in GAPS}


def gap_cells(curves: dict) -> Cells:
    """The gaps between the ways to pick, one row per N."""
    gaps = {gap: head for gap, (_, _, head) in GAPS.items() if gap in curves}
    rows = [[str(n), *(tables.at(curves[gap], place) for gap in gaps)] for place, n in enumerate(curves["ns"])]
    return Cells(["N", *gaps.values()], rows)


def comparison_cells(seeds: Sequence, comparison: dict) -> Cells:
    """One row per accuracy and seed, and one for the mean ratio."""
    rows = []
    for key, one in comparison.items():
        each = zip(seeds, one["outcome_samples"], one["process_samples"], one["ratios"], strict=True)
        for seed, outcome, process, ratio in each:
            reached = "never" if process is None else f"{process:,}"
            rows.append([tables.KEY_HEADS[key], str(seed), f"{outcome:,}", reached, tables.number(ratio, digits=1)])
        if one["ratio"]:
            mean = tables.number(*one["ratio"].values(), digits=1)
            rows.append([tables.KEY_HEADS[key], "mean", "", "", mean])
    return Cells(["accuracy", "seed", "outcome", "process", "ratio"], rows)
