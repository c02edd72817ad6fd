"""The `evaluate` stage: best-of-N curves of scored samples (`rlstep.evaluation.best_of_n`), from any file of them.

`rlstep.evaluation.samples` describes the samples. Where steps have labels, `prm_steps` says how well the PRM scores
single steps, up to and including each solution's first wrong one (`rlstep.verifiers.metrics.step_metrics`),
`reliability.png` shows its calibration, and `errors` has the final-answer error and the trace error of what is picked
(`rlstep.evaluation.best_of_n.pick_errors`).

`process_sets` adds how well a problem's samples judge each other's steps (`rlstep.evaluation.group_steps`).

With `search_data`, solutions of searches for the same problems, `equal_tokens.json`, `.md` and `.png` compare them with
best-of-N at equal generated tokens (`rlstep.evaluation.equal_tokens`).

Several files, or `domain`, give a table by domain at one N instead (`rlstep.evaluation.domains`).
"""

from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import NamedTuple

from rlstep.core.calibration import reliability
from rlstep.evaluation.best_of_n import check_numbers, curves_of, fewest_samples, means, pick_errors, powers_of_two
from rlstep.evaluation.domains import ALL, check_samples, domain_figures, file_domains, read_domains
from rlstep.evaluation.equal_tokens import CountedSamples, equal_tokens, read_search, read_taken, token_axis
from rlstep.evaluation.group_steps import GROUP, group_steps
from rlstep.evaluation.options import (
    BY_PROBLEM,
    DOMAINS,
    DOMAINS_TABLE,
    EQUAL_TOKENS,
    OUTPUT,
    PICTURE,
    TABLE_N,
    EvaluateConfig,
)
from rlstep.evaluation.sample_columns import ScoredSamples
from rlstep.evaluation.sample_summary import bound_on_n, caption, describe, row_counts, size_facts
from rlstep.evaluation.samples import FIELDS, ScoreChoice, read_samples
from rlstep.report.figures import draw_best_of_n, draw_equal_tokens
from rlstep.report.reliability import file_name, reliability_figure
from rlstep.report.tables import domains as domain_cells
from rlstep.report.tables import equal_tokens as equal_token_cells
from rlstep.report.tables import one_line, plain_best_of_n, plain_errors, table
from rlstep.report.tables import process_sets as process_set_cells
from rlstep.report.tracked_curves import log_best_of_n, log_domains
from rlstep.runtime.counted import counted
from rlstep.runtime.packages import check_packages
from rlstep.runtime.record import RunRecord
from rlstep.runtime.rows import write_json
from rlstep.runtime.tracking import UNTRACKED, TrackingOptions, check_tracking, track
from rlstep.runtime.visible import visible
from rlstep.steps.answers import failed_gradings
from rlstep.steps.fields import parse_fields
from rlstep.verifiers.metrics import step_metrics
from rlstep.verifiers.step_table import StepTable


def evaluate(config: EvaluateConfig, tracking: TrackingOptions = UNTRACKED) -> dict:
    """Writes the curves or the table by domain into `config.out`, prints them, and returns the run's metrics.

    The metrics hold each curve at the largest N, or at the table's N for all domains and for each.

    Raises:
        DataError: a row of the data cannot be used (`rlstep.evaluation.samples.read_samples`), or names no domain.
        UserError: a problem has fewer samples than the largest N; domains have different scores.
    """
    check_packages(config)
    check_tracking(tracking, config)
    with RunRecord("evaluate", asdict(config) | asdict(tracking), Path(config.out), config.seed) as record:
        text = (_domains if config.by_domain else _curves)(config, tracking, record)
    print(visible(text))
    return record.metrics


def _curves(config: EvaluateConfig, tracking: TrackingOptions, record: RunRecord) -> str:
    """Writes `best_of_n.json`, `by_problem.json` and `best_of_n.png`; returns what is printed.

    `by_problem.json` has what each problem expects, {"problems": ids, "ns": [...], "curves": {name: rows of problems}}:
    for paired comparisons, such as `rlstep.core.data_efficiency`.
    """
    out, (data,) = Path(config.out), config.data
    with failed_gradings() as failed:
        scored = read_samples(data, _choice(config), parse_fields(config.fields, FIELDS))
        ns = config.ns or powers_of_two(fewest_samples(scored)[1])
        check_numbers(scored, ns, data)
        searches = _read_searches(config, scored)
        by_problem = curves_of(scored, ns, config.trials, config.seed)
    errors, curves = pick_errors(scored, by_problem), means(by_problem)
    about = {**size_facts(scored), "aggregate": config.aggregate} | ({"errors": errors} if errors else {})
    result = {"ns": ns, **curves, **about}
    measures = {curve: _measure_steps(rows, out, curve) for curve, rows in scored.steps.items()}
    measures = {curve: measured for curve, measured in measures.items() if measured}
    group = {}
    if config.process_sets:
        group = {GROUP: group_steps(data, scored, _choice(config), parse_fields(config.fields, FIELDS))}
    write_json(out / OUTPUT, result | {f"{curve}_steps": measured for curve, measured in measures.items()} | group)
    each = {name: curve.problems_PN.tolist() for name, curve in by_problem.items()}
    write_json(out / BY_PROBLEM, {"problems": scored.ids, "ns": ns, "curves": each}, indent=None)
    draw_best_of_n(result, out / PICTURE, caption(scored))
    record.metrics |= row_counts(scored) | failed | _curve_metrics(ns[-1], curves, errors, measures, group)
    for tracker in track(record, tracking, config, config.data):
        log_best_of_n(tracker, curves, ns)
    described = [*describe(scored), *([] if config.ns else bound_on_n(scored, ns))]
    tables = [plain_best_of_n(result), *([plain_errors(ns, errors)] if errors else [])]
    tables += [part for figures in group.values() for part in _of_process_sets(figures, bool(scored.steps))]
    compared = [] if searches is None else _compare(config, searches, result, record)
    return "\n\n".join(["\n".join(described), *tables, f"{out / PICTURE}", *compared])


def _curve_metrics(n: int, curves: dict, errors: dict, measures: dict, group: dict) -> dict[str, float]:
    """The run's metrics: each curve and error at the largest N, and the measures of steps.

    Args:
        n: the largest N.
        curves: of `means`, by name.
        errors: of `pick_errors`, by name.
        measures: of `_measure_steps`, by curve.
        group: of `group_steps`, if it was asked for.
    """
    metrics = {}
    for curve, measured in measures.items():
        metrics |= {f"{curve}_step_{name}": value for name, value in measured.items()}
    for figures in group.values():
        metrics |= {f"{GROUP}_{name}": figures[name] for name in ("steps", "judged", "solutions")}
        for who, measured in figures["measures"].items():
            metrics |= {f"{GROUP}_{who}_{name}": value for name, value in measured.items()}
    metrics |= {f"{name}@{n}": curve["mean"][-1] for name, curve in curves.items()}
    return metrics | {
        f"{name}_{kind}@{n}": values[-1] for name, both in errors.items() for kind, values in both.items()
    }


def _of_process_sets(figures: dict, verifiers: bool) -> Iterator[str]:
    """What is printed of them; without a score there is no measure.

    Args:
        figures: of `group_steps`.
        verifiers: whether there are some beside them, which may have scores of fewer steps.
    """
    whose = " and ".join(["the problem's other samples", *(["every verifier"] if verifiers else [])])
    said = f"{figures['judged']:.1%} of {figures['steps']:,} labelled steps have a score of {whose}"
    if not figures["measures"]:
        yield f"process sets: {said}, so there is nothing to measure"
        return
    yield f"process sets: {said}; on these, in the beginnings of {counted(figures['solutions'], 'solution')}:"
    yield table(*process_set_cells(figures["measures"]))


class Searches(NamedTuple):
    """The samples of `data` and the solutions of searches, with the tokens that each took."""

    data: CountedSamples
    by_name: dict[str, CountedSamples]


def _read_searches(config: EvaluateConfig, scored: ScoredSamples) -> Searches | None:
    if config.search_data is None:
        return None
    data = config.data[0]
    counted = CountedSamples(data, scored, read_taken(data, parse_fields(config.fields, FIELDS)))
    # A search's scores are called as it calls them, and are probabilities.
    choice = ScoreChoice(aggregate=config.aggregate)
    names = file_domains(config.search_data)
    return Searches(counted, {name: read_search(path, choice, counted) for name, path in names.items()})


def _compare(config: EvaluateConfig, searches: Searches, curves: dict, record: RunRecord) -> list[str]:
    """Writes the comparison at equal tokens; returns what is printed."""
    out = Path(config.out)
    figures = equal_tokens(*searches, config.trials, config.seed)
    write_json(out / f"{EQUAL_TOKENS}.json", figures | {"aggregate": config.aggregate})
    text = table(*equal_token_cells(figures))
    (out / f"{EQUAL_TOKENS}.md").write_text(text + "\n", encoding="utf-8")
    tokens, picture = token_axis(searches.data, curves["ns"]), out / f"{EQUAL_TOKENS}.png"
    draw_equal_tokens(curves, tokens, figures, picture, caption(searches.data.scored))
    for name, one in figures["searches"].items():
        record.metrics[f"{name}/tokens"] = one["tokens"]
        for curve, accuracy in one["accuracy"].items():
            parts = {part: accuracy[part]["mean"] for part in ("search", "difference") if accuracy[part]}
            record.metrics |= {f"{name}/{curve}_{part}": mean for part, mean in parts.items()}
    return [text, f"{picture}"]


def _domains(config: EvaluateConfig, tracking: TrackingOptions, record: RunRecord) -> str:
    """Writes `domains.json` and `domains.md`; returns what is printed."""
    out, n = Path(config.out), TABLE_N if config.n is None else config.n
    with failed_gradings() as failed:
        domains = read_domains(config.data, _choice(config), parse_fields(config.fields, FIELDS), config.domain)
        check_samples(domains, n)
        figures = domain_figures(domains, n, config.trials, config.seed)
    write_json(out / DOMAINS, figures | {"aggregate": config.aggregate})
    text = table(*domain_cells(figures))
    (out / DOMAINS_TABLE).write_text(text + "\n", encoding="utf-8")
    for scored in domains.values():
        counts = {name: count for name, count in row_counts(scored).items() if name != "unanswered"}
        record.metrics |= {name: record.metrics.get(name, 0) + count for name, count in counts.items()}
    record.metrics |= failed
    for prefix, one in [("", figures[ALL]), *((f"{name}/", one) for name, one in figures["domains"].items())]:
        record.metrics |= {f"{prefix}{name}@{n}": curve["mean"] for name, curve in one["accuracy"].items()}
    for tracker in track(record, tracking, config, config.data):
        log_domains(tracker, figures)
    described = (f"{one_line(name)}: {'; '.join(describe(scored))}" for name, scored in domains.items())
    return "\n\n".join(["\n".join(described), text, f"{out / DOMAINS}"])


def _choice(config: EvaluateConfig) -> ScoreChoice:
    return ScoreChoice(config.prm, config.orm, config.scores_of, config.aggregate, config.scores == "logits")


def _measure_steps(table: StepTable, out: Path, curve: str) -> dict[str, float]:
    """The measures of a verifier's step scores, whose calibration is drawn; empty if no step has a label."""
    probs, targets = table.labelled()
    if not len(probs):
        return {}
    out.mkdir(parents=True, exist_ok=True)
    reliability_figure(reliability(probs, targets)).savefig(out / file_name(curve), dpi=150)
    return step_metrics(table)
