"""The `evaluate` stage: best-of-N curves of scored and labelled solutions.

From N samples of a problem one is picked; a curve gives the share of problems where the pick's answer is right:

- `prm`: the pick has the highest PRM solution score (`aggregate`: product of the step probabilities, their minimum, the
  last, or the mean);
- `orm`: the pick has the highest ORM score, its value at the solution's end;
- `majority`: the most frequent answer; `weighted`: the answer with the largest sum of PRM solution scores;
- `pass_at_n`: some sample is right: the ceiling of every way to pick;
- `prm_clean`, `orm_clean`: the picks of `prm` and `orm`, counted only where every step is labelled right as well; a
  step whose label is unknown does not count as right.

A sample without an answer (`answer` is null: the length limit cut it off, or no answer could be read in it) is drawn
like any other but never picked and has no vote, as in the published evaluation of PRM800K; where a draw holds no
answer at all, the problem counts as wrong. Intervals are 95%, over problems.

`prm_steps` says how well the PRM judges the single steps, up to and including each solution's first wrong one
(`rlstep.verifiers.metrics.step_metrics`); `reliability.png` shows its calibration.
"""

import math
import os
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np

from rlstep.core.aggregate import solution_score, vote_weight
from rlstep.core.calibration import reliability
from rlstep.core.curves import best_of_n, pass_at_n, vote_at_n
from rlstep.evaluation.learning_curves import Interval, mean_interval
from rlstep.report.reliability import reliability_figure
from rlstep.runtime.errors import DataError, UserError
from rlstep.runtime.record import RunRecord
from rlstep.runtime.rows import write_json
from rlstep.steps.labels import UNKNOWN, LabelPolicy
from rlstep.steps.records import Solution, iter_solutions
from rlstep.verifiers.metrics import RowScores, step_metrics

OUTPUT = "best_of_n.json"
# Behind the first wrong step a PRM says what it was not taught.
TAUGHT = LabelPolicy(after_first_error="mask")


@dataclass
class EvaluateConfig:
    data: str = field(metadata={"help": "Labelled solutions with scores (JSONL)."})
    out: str = field(metadata={"help": f"Folder for {OUTPUT}."})
    ns: list[int] = field(
        default_factory=lambda: [1, 2, 4, 8, 16, 32, 64, 128],
        metadata={"help": "The N of best-of-N, rising; none above the samples that each problem has."},
    )
    prm: str = field(default="prm", metadata={"help": "Name of the PRM's scores."})
    orm: str = field(default="orm", metadata={"help": "Name of the ORM's scores."})
    aggregate: Literal["product", "minimum", "last", "mean"] = field(
        default="product", metadata={"help": "How the PRM's step scores become the solution's; the ORM's is its last."}
    )
    trials: int = field(default=400, metadata={"help": "Random draws a problem and N for the two votes."})
    seed: int = field(default=0, metadata={"help": "Seed of these draws."})
    report_to: Literal["none", "wandb"] = field(default="none", metadata={"help": "Where the curves are logged too."})
    run_name: str | None = field(default=None, metadata={"help": "wandb: the run's name."})

    def __post_init__(self):
        if not self.ns or self.ns[0] < 1 or any(b <= a for a, b in zip(self.ns, self.ns[1:], strict=False)):
            raise UserError(f"ns is {self.ns}; give whole numbers from 1 on, rising, for example 1 2 4 8.")
        if self.trials < 1:
            raise UserError(f"trials is {self.trials}; it must be at least 1.")


@dataclass
class Samples:
    """The samples of one problem, field by field; only what the curves need, so that large files fit in memory."""

    answers: list[str | None] = field(default_factory=list)
    correct: list[bool] = field(default_factory=list)
    clean: list[bool] = field(default_factory=list)
    prm: list[float] = field(default_factory=list)
    orm: list[float] = field(default_factory=list)
    steps: list[RowScores] = field(default_factory=list)


def evaluate(config: EvaluateConfig) -> dict:
    """Writes `best_of_n.json` into `config.out` and returns the run's metrics (each curve at the largest N)."""
    with RunRecord("evaluate", asdict(config), config.out, config.seed) as record:
        problems = read_samples(config)
        curves = best_of_n_curves(list(problems.values()), config)
        total = sum(len(samples.answers) for samples in problems.values())
        unanswered = sum(samples.answers.count(None) for samples in problems.values())
        result = {
            "ns": config.ns,
            **curves,
            "problems": len(problems),
            "samples_per_problem": min(len(samples.answers) for samples in problems.values()),
            "unanswered": unanswered / total,
            "aggregate": config.aggregate,
            "prm_steps": step_quality(problems, Path(config.out)),
        }
        write_json(Path(config.out) / OUTPUT, result)
        record.metrics |= {"problems": len(problems), "solutions": total, "unanswered": unanswered / total}
        record.metrics |= {f"prm_step_{name}": value for name, value in result["prm_steps"].items()}
        record.metrics |= {f"{name}@{config.ns[-1]}": curve["mean"][-1] for name, curve in curves.items()}
        if config.report_to == "wandb":
            _log_to_wandb(config, curves)
    return record.metrics


def read_samples(config: EvaluateConfig) -> dict[str, Samples]:
    """The file's solutions by problem.

    Raises:
        DataError: a row without labels or one of the scores, scores that are no probabilities, or a sample given twice.
        UserError: a problem has fewer samples than the largest N.
    """
    problems: dict[str, Samples] = {}
    seen: dict[tuple[str, int], int] = {}
    solutions = iter_solutions(config.data, need=("steps", "labels", "correct"))
    for row, solution in enumerate(solutions, start=1):
        key = (solution.problem_id, solution.sample)
        if key in seen:
            problem = f"sample {solution.sample} of '{solution.problem_id}' stands in row {seen[key]} already."
            raise DataError(config.data, row, "sample", problem)
        seen[key] = row
        samples = problems.setdefault(solution.problem_id, Samples())
        samples.answers.append(solution.answer)
        samples.correct.append(solution.correct)
        samples.clean.append(solution.clean)
        samples.prm.append(_score(solution, config.prm, config.aggregate, config.data, row))
        samples.orm.append(_score(solution, config.orm, "last", config.data, row))
        targets = [math.nan if t == UNKNOWN else t for t in TAUGHT.targets(solution)]
        samples.steps.append(RowScores(solution.scores[config.prm], targets, solution.problem_id))
    fewest = min(problems, key=lambda name: len(problems[name].answers))
    if (n := len(problems[fewest].answers)) < config.ns[-1]:
        raise UserError(
            f"{config.data}: ns asks for best-of-{config.ns[-1]}, but problem '{fewest}' has {n} samples."
            f" Sample at least {config.ns[-1]} a problem, or give ns up to {n}."
        )
    return problems


def step_quality(problems: dict[str, Samples], out: Path) -> dict[str, float]:
    """The measures of the PRM's step scores; draws their calibration into `out`."""
    rows = [row for samples in problems.values() for row in samples.steps if len(row.probs)]
    known = [row.known for row in rows]
    if not any(k.any() for k in known):
        return {}
    probs, targets = (
        np.concatenate([values[k] for values, k in zip(column, known, strict=True)])
        for column in ([row.probs for row in rows], [row.targets for row in rows])
    )
    out.mkdir(parents=True, exist_ok=True)
    reliability_figure(reliability(probs, targets)).savefig(out / "reliability.png", dpi=150)
    return step_metrics(rows)


def _score(solution: Solution, name: str, how: str, path: str, row: int) -> float:
    if name not in solution.scores:
        present = ", ".join(sorted(solution.scores)) or "none"
        problem = f"missing (scores present: {present}); run `rlstep score --name {name}` on this file first."
        raise DataError(path, row, f"scores.{name}", problem)
    try:
        return solution_score(solution.scores[name], how)
    except (TypeError, ValueError) as error:
        raise DataError(path, row, f"scores.{name}", str(error)) from None


def best_of_n_curves(problems: list[Samples], config: EvaluateConfig) -> dict[str, dict]:
    """Every curve of the module's head as {"mean", "low", "high"}, lists along `config.ns`."""
    correct = [samples.correct for samples in problems]
    clean = [samples.clean for samples in problems]
    answers = [samples.answers for samples in problems]
    answered = [[answer is not None for answer in samples.answers] for samples in problems]
    prm = [samples.prm for samples in problems]
    orm = [samples.orm for samples in problems]
    weights = [[vote_weight(score, config.aggregate) for score in samples] for samples in prm]
    votes = {"trials": config.trials, "seed": config.seed}
    curves = {
        "prm": best_of_n(prm, correct, config.ns, answered),
        "orm": best_of_n(orm, correct, config.ns, answered),
        "majority": vote_at_n(answers, correct, config.ns, **votes),
        "weighted": vote_at_n(answers, correct, config.ns, weights=weights, **votes),
        "pass_at_n": pass_at_n(correct, config.ns),
        "prm_clean": best_of_n(prm, clean, config.ns, answered),
        "orm_clean": best_of_n(orm, clean, config.ns, answered),
    }
    return {name: {"mean": c.mean, "low": c.low, "high": c.high} for name, c in curves.items()}


def accuracy(solutions: Iterable[Solution]) -> dict[str, Interval]:
    """Shares of solutions with the right answer (`accuracy`) and with every step right too (`clean_accuracy`).

    Several samples of one problem are averaged first: the 95% interval is over problems, the independent units.

    Raises:
        ValueError: no solutions, or one that is not labelled.
    """
    right: dict[str, list[tuple[bool, bool]]] = {}
    for solution in solutions:
        if solution.correct is None:
            raise ValueError(f"sample {solution.sample} of '{solution.problem_id}' is not labelled")
        right.setdefault(solution.problem_id, []).append((solution.correct, solution.clean))
    shares = {
        name: [sum(pair[place] for pair in pairs) / len(pairs) for pairs in right.values()]
        for place, name in enumerate(("accuracy", "clean_accuracy"))
    }
    return {name: mean_interval(values) for name, values in shares.items()}


def _log_to_wandb(config: EvaluateConfig, curves: dict[str, dict]) -> None:
    """One table of all curves, and each curve as scalars over N, which wandb draws as lines by itself."""
    import wandb

    # Like transformers' own wandb callback: the project is the environment's to choose.
    project = os.environ.get("WANDB_PROJECT", "rlstep")
    with wandb.init(project=project, name=config.run_name, job_type="evaluate", config=asdict(config)) as run:
        run.define_metric("n")
        run.define_metric("best_of_n/*", step_metric="n")
        columns = ["n"] + [f"{name}_{part}" for name in curves for part in ("mean", "low", "high")]
        table = wandb.Table(columns=columns)
        for place, n in enumerate(config.ns):
            table.add_data(n, *(curve[part][place] for curve in curves.values() for part in ("mean", "low", "high")))
            run.log({"n": n, **{f"best_of_n/{name}": curve["mean"][place] for name, curve in curves.items()}})
        run.log({"best_of_n": table})
