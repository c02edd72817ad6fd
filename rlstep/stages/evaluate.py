"""The `evaluate` stage: best-of-N curves of scored samples (`rlstep.evaluation.best_of_n`), from any file of them.

`rlstep.evaluation.samples` describes the samples. `prm_steps` says how well the PRM scores single steps,
up to and including each solution's first wrong one (`rlstep.verifiers.metrics.step_metrics`), where steps have labels;
`reliability.png` shows its calibration. Then `errors` has the final-answer error and the trace error of what is picked,
too (`rlstep.evaluation.best_of_n.pick_errors`).

With `process_sets`, how well a problem's samples judge each other's steps (`rlstep.evaluation.group_steps`).

With `search_data`, solutions of searches for the same problems, `equal_tokens.json`, `.md` and `.png` compare them with
best-of-N at equal generated tokens (`rlstep.evaluation.equal_tokens`).

Of several files, or with `domain`, there is a table by domain at one N instead (`rlstep.evaluation.domains`).
"""

from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Literal, NamedTuple

from rlstep.core.calibration import reliability
from rlstep.evaluation.best_of_n import check_numbers, curves_of, fewest_samples, means, pick_errors, powers_of_two
from rlstep.evaluation.domains import ALL, check_samples, domain_figures, file_domains, read_domains
from rlstep.evaluation.equal_tokens import TOKENS, CountedSamples, equal_tokens, read_search, read_taken, token_axis
from rlstep.evaluation.group_steps import GROUP, group_steps
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
from rlstep.runtime.constraints import Range, ReadBy, check
from rlstep.runtime.errors import UserError
from rlstep.runtime.packages import check_packages
from rlstep.runtime.record import RunRecord
from rlstep.runtime.rows import write_json
from rlstep.runtime.tracking import PROJECT_HELP, UNTRACKED, TrackingOptions, check_tracking, default_project, track
from rlstep.runtime.visible import visible
from rlstep.steps.answers import failed_gradings
from rlstep.steps.fields import parse_fields
from rlstep.verifiers.metrics import step_metrics
from rlstep.verifiers.step_table import StepTable

DOMAINS, DOMAINS_TABLE = "domains.json", "domains.md"
TABLE_N = 100  # as in the table of Lightman et al.
OUTPUT = "best_of_n.json"
BY_PROBLEM = "by_problem.json"
EQUAL_TOKENS = "equal_tokens"
PICTURE = "best_of_n.png"
TRACKED = ReadBy("report_to", "wandb", "trackio")


@dataclass
class EvaluateConfig:
    data: list[str] = field(
        metadata={
            "help": "Scored samples: a file (JSONL, Parquet), or a folder of shards. Of several there is a table with "
            "a row for each, unless domain says otherwise."
        }
    )
    out: str = field(
        metadata={"help": f"Folder for {OUTPUT}, {BY_PROBLEM} and {PICTURE}, or for {DOMAINS} and {DOMAINS_TABLE}."}
    )
    ns: list[int] | None = field(
        default=None,
        metadata={
            "help": "The N of best-of-N, rising; at most the number of samples of each problem. By default the powers "
            "of two up to the fewest samples of a problem."
        },
    )
    domain: str | None = field(
        default=None,
        metadata={
            "help": "Make a table by the domain that this field of a row names, one of its own or one in its extra; "
            "by default, of several files each is a domain."
        },
    )
    n: Annotated[int | None, Range(at_least=1)] = field(
        default=None, metadata={"help": f"Table by domain: the N of best-of-N, {TABLE_N} by default."}
    )
    scores_of: list[str] | None = field(
        default=None,
        metadata={"help": "Names of the scores to evaluate; by default every score in the file."},
    )
    prm: str | None = field(
        default=None,
        metadata={
            "help": "Name of the PRM's scores, whose curve is then called prm; by default prm. With prm "
            "or orm given, other scores are left out unless scores_of names them."
        },
    )
    orm: str | None = field(
        default=None, metadata={"help": "Name of the ORM's scores, whose curve is called orm; by default orm."}
    )
    scores: Literal["probabilities", "logits"] = field(
        default="probabilities", metadata={"help": "What the scores are; the sigmoid is applied to logits first."}
    )
    aggregate: Literal["product", "minimum", "last", "mean"] = field(
        default="product", metadata={"help": "How step scores become the solution's; the ORM's is always its last."}
    )
    fields: list[str] | None = field(
        default=None,
        metadata={"help": "The file's field names, if they differ: problem_id=id,answer=pred. The fields are "
                  + ", ".join(FIELDS) + "."},
    )  # fmt: skip
    process_sets: bool = field(
        default=False,
        metadata={
            "help": "Measure how well a problem's samples judge each other's steps without a verifier, by the right "
            "answers among those that begin alike, beside every verifier on the same steps. The rows need completion, "
            "steps as spans, and labels."
        },
    )
    search_data: list[str] | None = field(
        default=None,
        metadata={
            "help": "Files that `rlstep sample --search` wrote for the same problems: compare them with best-of-N at "
            "equal generated tokens."
        },
    )
    trials: Annotated[int, Range(at_least=1)] = field(
        default=400, metadata={"help": "Random draws per problem and N for the votes."}
    )
    seed: int = field(default=0, metadata={"help": "Seed of these draws."})
    report_to: Literal["none", "wandb", "trackio"] = field(
        default="none", metadata={"help": "Where to log the curves as well."}
    )
    run_name: Annotated[str | None, TRACKED] = field(
        default=None, metadata={"help": "wandb, trackio: the run's name; by default that of the folder out."}
    )
    project: Annotated[str, TRACKED] = field(default_factory=default_project, metadata={"help": PROJECT_HELP})

    def __post_init__(self):
        for name in ("data", "search_data"):
            if isinstance(value := getattr(self, name), str):  # one file, from Python
                setattr(self, name, [value])
        check(self, self._faults())

    @property
    def by_domain(self) -> bool:
        """Whether there is a table by domain, rather than curves."""
        return len(self.data) > 1 or self.domain is not None

    def _faults(self) -> Iterator[str]:
        yield from self._domain_faults()
        if self.ns is not None and (not self.ns or self.ns[0] < 1 or any(a >= b for a, b in pairwise(self.ns))):
            yield f"ns is {self.ns}; give whole numbers from 1 on, rising, for example 1 2 4 8"
        for role in ("prm", "orm"):
            if (name := getattr(self, role)) not in (None, role) and role in (self.scores_of or ()):
                yield f"scores_of has {role}, and {role} is '{name}': both curves would be called {role}; leave one out"
        try:
            if TOKENS in parse_fields(self.fields, FIELDS) and self.search_data is None:
                yield f"fields names {TOKENS}, which is read where searches are compared; give search_data"
        except UserError as error:
            yield str(error)

    def _domain_faults(self) -> Iterator[str]:
        if not self.data:
            yield "data is empty; name at least one file"
        if self.by_domain and self.ns is not None:
            yield "ns is of one file's curves, and a table by domain has one N; give n, and leave ns at null"
        if not self.by_domain and self.n is not None:
            yield f"n is {self.n}, which a table by domain reads: of several files, or with domain; for curves give ns"
        if self.process_sets and self.by_domain:
            yield "process_sets are measured on one file, without domain; give one, or leave it out"
        if self.search_data is not None and self.by_domain:
            yield "search_data is compared with the samples of one file, without domain; give one, or leave it out"
        if self.search_data is not None and len(set(self.search_data)) < max(1, len(self.search_data)):
            yield f"search_data is {self.search_data}; name at least one file, and none twice"
        if len(self.data) > 1 and self.domain is None:
            try:
                file_domains(self.data)
            except UserError as error:
                yield str(error)


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
    record.metrics |= row_counts(scored) | failed
    for curve, measured in measures.items():
        record.metrics |= {f"{curve}_step_{name}": value for name, value in measured.items()}
    for figures in group.values():
        record.metrics |= {f"{GROUP}_{name}": figures[name] for name in ("steps", "judged", "solutions")}
        for who, measured in figures["measures"].items():
            record.metrics |= {f"{GROUP}_{who}_{name}": value for name, value in measured.items()}
    record.metrics |= {f"{name}@{ns[-1]}": curve["mean"][-1] for name, curve in curves.items()}
    record.metrics |= {
        f"{name}_{kind}@{ns[-1]}": values[-1] for name, both in errors.items() for kind, values in both.items()
    }
    for tracker in track(record, tracking, config, config.data):
        log_best_of_n(tracker, curves, ns)
    described = [*describe(scored), *([] if config.ns else bound_on_n(scored, ns))]
    tables = [plain_best_of_n(result), *([plain_errors(ns, errors)] if errors else [])]
    tables += [part for figures in group.values() for part in _of_process_sets(figures, bool(scored.steps))]
    compared = [] if searches is None else _compare(config, searches, result, record)
    return "\n\n".join(["\n".join(described), *tables, f"{out / PICTURE}", *compared])


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
    yield f"process sets: {said}; on these, in the beginnings of {figures['solutions']:,} solutions:"
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
