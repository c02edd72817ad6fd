"""The `evaluate` stage: best-of-N curves of scored and labelled solutions (`rlstep.evaluation.best_of_n`).

`prm_steps` says how well the PRM judges single steps, up to and including each solution's first wrong one
(`rlstep.verifiers.metrics.step_metrics`); `reliability.png` shows its calibration.
"""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Literal

from rlstep.core.calibration import reliability
from rlstep.evaluation.best_of_n import Samples, best_of_n_curves, read_samples
from rlstep.report.reliability import reliability_figure
from rlstep.report.wandb_curves import log_best_of_n
from rlstep.runtime.constraints import Range, ReadBy, check
from rlstep.runtime.errors import UserError
from rlstep.runtime.record import RunRecord
from rlstep.runtime.rows import write_json
from rlstep.verifiers.metrics import RowScores, labelled_steps, step_metrics

OUTPUT = "best_of_n.json"
PICTURE = "reliability.png"


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
    trials: Annotated[int, Range(at_least=1)] = field(
        default=400, metadata={"help": "Random draws per problem and N for the two votes."}
    )
    seed: int = field(default=0, metadata={"help": "Seed of these draws."})
    report_to: Literal["none", "wandb"] = field(default="none", metadata={"help": "Where the curves are logged too."})
    run_name: Annotated[str | None, ReadBy("report_to", "wandb")] = field(
        default=None, metadata={"help": "wandb: the run's name."}
    )

    def __post_init__(self):
        check(self, self._faults())

    def _faults(self) -> Iterator[str]:
        if not self.ns or self.ns[0] < 1 or any(a >= b for a, b in pairwise(self.ns)):
            yield f"ns is {self.ns}; give whole numbers from 1 on, rising, for example 1 2 4 8"


def evaluate(config: EvaluateConfig) -> dict:
    """Writes `best_of_n.json` into `config.out` and returns the run's metrics (each curve at the largest N).

    Raises:
        DataError: a row of the data does not serve (`rlstep.evaluation.best_of_n.read_samples`).
        UserError: a problem has fewer samples than the largest N.
    """
    out = Path(config.out)
    with RunRecord("evaluate", asdict(config), out, config.seed) as record:
        problems = read_samples(config.data, config.prm, config.orm, config.aggregate)
        _check_numbers(problems, config)
        samples = list(problems.values())
        curves = best_of_n_curves(samples, config.ns, config.aggregate, config.trials, config.seed)
        total = sum(len(one.answers) for one in samples)
        unanswered = sum(one.answers.count(None) for one in samples) / total
        result = {
            "ns": config.ns,
            **curves,
            "problems": len(samples),
            "samples_per_problem": min(len(one.answers) for one in samples),
            "unanswered": unanswered,
            "aggregate": config.aggregate,
            "prm_steps": _measure_steps([row for one in samples for row in one.steps if len(row.probs)], out),
        }
        write_json(out / OUTPUT, result)
        record.metrics |= {"problems": len(samples), "solutions": total, "unanswered": unanswered}
        record.metrics |= {f"prm_step_{name}": value for name, value in result["prm_steps"].items()}
        record.metrics |= {f"{name}@{config.ns[-1]}": curve["mean"][-1] for name, curve in curves.items()}
        if config.report_to == "wandb":
            log_best_of_n(curves, config.ns, config.run_name, asdict(config))
    return record.metrics


def _check_numbers(problems: dict[str, Samples], config: EvaluateConfig) -> None:
    fewest = min(problems, key=lambda name: len(problems[name].answers))
    if (n := len(problems[fewest].answers)) < config.ns[-1]:
        raise UserError(
            f"{config.data}: ns asks for best-of-{config.ns[-1]}, but problem '{fewest}' has {n} samples."
            f" Sample at least {config.ns[-1]} per problem, or give ns up to {n}."
        )


def _measure_steps(rows: Sequence[RowScores], out: Path) -> dict[str, float]:
    """The measures of the PRM's step scores, whose calibration is drawn; nothing where no step has a label."""
    probs, targets = labelled_steps(rows)
    if not len(probs):
        return {}
    out.mkdir(parents=True, exist_ok=True)
    reliability_figure(reliability(probs, targets)).savefig(out / PICTURE, dpi=150)
    return step_metrics(rows)
