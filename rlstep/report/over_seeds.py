"""One experiment over several seeds: means and 95% t-intervals of finished runs' results."""

from collections.abc import Sequence
from pathlib import Path

from rlstep.core.stats import t_interval
from rlstep.evaluation.domains import ALL
from rlstep.evaluation.learning_curves import KEYS, over_seeds
from rlstep.report import arms, tables
from rlstep.report.tables import Cells
from rlstep.runtime.errors import UserError

# name in the summary -> (minuend, subtrahend, table head)
GAPS = {
    "prm_minus_orm": ("prm", "orm", "PRM - ORM"),
    "prm_minus_majority": ("prm", "majority", "PRM - majority"),
    "orm_minus_majority": ("orm", "majority", "ORM - majority"),
}


def summarize_seeds(summaries: Sequence[dict], runs: Sequence[str | Path]) -> dict:
    """The content of summary.json over seeds.

    Gaps and ratios are taken within a seed first, so their intervals are paired.

    Args:
        summaries: one per seed (`rlstep.report.summary.summarize`).
        runs: their folders, for messages.

    Raises:
        UserError: fewer than two runs, a seed given twice, or runs whose curves are not at the same N.
    """
    if len(summaries) < 2:
        raise UserError(f"{len(summaries)} run given; an interval over seeds needs at least two.")
    seeds = [summary["seed"] for summary in summaries]
    known = [seed for seed in seeds if seed is not None]
    if len(set(known)) < len(known):
        raise UserError(f"the runs have seeds {seeds}; each must have its own, or the interval is too narrow.")
    curves = [summary["best_of_n"] for summary in summaries]
    return {
        "seeds": seeds,
        "best_of_n": None if None in curves else best_of_n(curves, runs),
        "domains": _domains(summaries, runs),
        "rl": {arm.name: _merged([summary["rl"][arm.name] for summary in summaries]) for arm in arms.ARMS},
        "rl_gap": _rl_gap(summaries),
        "rl_comparison": _comparison(summaries),
        "seconds": [one["seconds"]["total"] if one["seconds"] else None for one in summaries],
        "missing": _missing(summaries, runs),
    }


def _missing(summaries: Sequence[dict], runs: Sequence) -> list[str]:
    """What each run lacks, and the arms that others have and it has not."""
    missing = []
    of_any = [arm for arm in arms.ARMS if any(summary["rl"][arm.name] for summary in summaries)]
    for run, summary in zip(runs, summaries, strict=True):
        told = {what.split(":")[0] for what in summary["missing"]}
        absent = [f"RL arm '{arm.name}'" for arm in of_any if not summary["rl"][arm.name]]
        lacking = [*summary["missing"], *(f"{name}: not run" for name in absent if name not in told)]
        missing += [f"{run}: {what}" for what in lacking]
    return missing


def best_of_n(curves: Sequence[dict], runs: Sequence) -> dict:
    """The curves that all seeds have, over the seeds, and the gaps between them (`GAPS`).

    Args:
        curves: one seed's each, as best_of_n.json has them.
        runs: the folders that they come from, for messages.

    Raises:
        UserError: they are not at the same N.
    """
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


def _domains(summaries: Sequence[dict], runs: Sequence) -> dict | None:
    """A table by domain whose accuracies, and gaps between them, are over seeds."""
    of_seeds = [summary["domains"] for summary in summaries]
    if None in of_seeds:
        return None
    first = of_seeds[0]
    for run, one in zip(runs, of_seeds, strict=True):
        if (one["n"], [*one["domains"]]) != (first["n"], [*first["domains"]]):
            raise UserError(
                f"{run}: best of {one['n']} in the domains {', '.join(one['domains'])}, {runs[0]} best of {first['n']} "
                f"in {', '.join(first['domains'])}; evaluate all alike."
            )
    names = {name: _domain([one["domains"][name] for one in of_seeds]) for name in first["domains"]}
    return {"n": first["n"], "domains": names, ALL: _domain([one[ALL] for one in of_seeds])}


def _domain(of_seeds: Sequence[dict]) -> dict:
    """One domain: per curve and gap a t-interval; the problems of one seed."""
    means = [{name: curve["mean"] for name, curve in one["accuracy"].items()} for one in of_seeds]
    rows = {name: [one[name] for one in means] for name in means[0] if all(name in one for one in means)}
    for gap, (a, b, _) in GAPS.items():
        if a in rows and b in rows:
            rows[gap] = [x - y for x, y in zip(rows[a], rows[b], strict=True)]
    accuracy = {name: t_interval(values)._asdict() for name, values in rows.items()}
    return {"problems": of_seeds[0]["problems"], "accuracy": accuracy}


def _rl_gap(summaries: Sequence[dict]) -> dict | None:
    """Process arm minus outcome arm at equal samples."""
    gaps = []
    for summary in summaries:
        process, outcome = summary["rl"][arms.PROCESS.name], summary["rl"][arms.OUTCOME.name]
        if process is None or outcome is None:
            return None
        shared = sorted(set(process["samples"]) & set(outcome["samples"]))
        places = [(process["samples"].index(n), outcome["samples"].index(n)) for n in shared]
        keys = [key for key in KEYS if key in process and key in outcome]
        gap = {key: [process[key][i] - outcome[key][j] for i, j in places] for key in keys}
        gaps.append({"samples": shared, **gap})
    return _merged(gaps)


def _merged(curves: Sequence[dict | None]) -> dict | None:
    """Curves over seeds, at the numbers of samples where every seed was evaluated; None if a seed has no curve.

    An accuracy that a seed lacks is left out.
    """
    if None in curves:
        return None
    shared = sorted(set.intersection(*(set(curve["samples"]) for curve in curves)))
    if not shared:
        return None
    places = [[curve["samples"].index(samples) for samples in shared] for curve in curves]
    merged: dict = {"samples": shared}
    for key in (key for key in KEYS if all(key in curve for curve in curves)):
        merged[key] = over_seeds([[curve[key][k] for k in where] for curve, where in zip(curves, places, strict=True)])
    return merged


def _comparison(summaries: Sequence[dict]) -> dict | None:
    """By key that all seeds have: each seed's samples and ratio; the ratio's interval only if every seed has one."""
    comparisons = [summary["rl_comparison"] for summary in summaries]
    if None in comparisons:
        return None
    merged = {}
    for key in (key for key in KEYS if all(key in one for one in comparisons)):
        ratios = [one[key]["ratio"] for one in comparisons]
        merged[key] = {
            "outcome_samples": [one[key]["outcome_samples"] for one in comparisons],
            "process_samples": [one[key]["process_samples"] for one in comparisons],
            "ratios": ratios,
            "ratio": t_interval(ratios)._asdict() if None not in ratios else None,
        }
    return merged


def without_gaps(curves: dict) -> dict:
    """Best-of-N curves alone."""
    return {name: value for name, value in curves.items() if name not in GAPS}


def gap_cells(curves: dict) -> Cells:
    """The gaps between the ways to pick, one row per N."""
    gaps = {gap: head for gap, (_, _, head) in GAPS.items() if gap in curves}
    rows = [[str(n), *(tables.at(curves[gap], place) for gap in gaps)] for place, n in enumerate(curves["ns"])]
    return Cells(["N", *gaps.values()], rows)


def domain_cells(figures: dict) -> Cells:
    """One row per domain: the ways to pick, and the gaps between them."""
    gaps = {gap: head for gap, (_, _, head) in GAPS.items() if gap in figures[ALL]["accuracy"]}
    return tables.domains(figures, gaps)


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
