"""Process against outcome-only PPO, both tuned on the same grid, at equal samples and at equal compute; and best-of-N.

Of each run folder are read: `eval.jsonl` and `metrics.jsonl` of each policy; the records of what made the PRM; and
`best_of_n/SOURCE/evaluate/best_of_n.json`, how the PRM picks among samples of the generator and of two policies.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from rlstep.core.stats import t_interval
from rlstep.evaluation.equal_compute import at_equal_compute, training_seconds
from rlstep.evaluation.learning_curves import KEYS, over_seeds
from rlstep.report.arms import OUTCOME, PROCESS
from rlstep.report.opponents_plan import ARMS, RECIPE, SOURCES, Plan, Source
from rlstep.report.opponents_text import opponents_text
from rlstep.report.over_seeds import best_of_n
from rlstep.report.policies import reached_and_lost, read_curves
from rlstep.runtime.errors import UserError
from rlstep.runtime.rows import write_json

LOG = "metrics.jsonl"
# Records of the stages that make the PRM, which an outcome-only run does without.
PRM_RECORDS = ("train/samples.jsonl.run.json", "train/labelled.jsonl.run.json", "prm/run.json")
STEP_MEASURES = ("balanced_accuracy", "first_error_exact")


@dataclass(frozen=True)
class Trained:
    """One seed's policy: its evaluations, and the processor seconds of training up to each of them."""

    rows: Sequence[dict]
    seconds: Sequence[float]

    def values(self, key: str) -> list[float]:
        return [row[key] for row in self.rows]


def report_opponents(runs: Sequence[Path], plan: Plan, out: str | Path) -> dict:
    """Writes summary.json, report.md, opponents.png and best_of_n.png over `runs` into `out`; returns the summary.

    Args:
        runs: run folders, one per seed.
        plan: what was run.
        out: where the report goes.

    Raises:
        DataError: a policy's curve or log has a row that cannot be read.
        UserError: a run lacks a curve, a log, a record or best-of-N; policies were evaluated at different points; or a
            log ends too early.
    """
    policies = {
        arm.name: {variant.name: _read(runs, variant.folder(arm), RECIPE.folder(OUTCOME)) for variant in plan.of(arm)}
        for arm in ARMS
    }
    made = [_seconds_of_prm(run) for run in runs]
    summary = {
        "seeds": [run.name for run in runs],
        "target": plan.target,
        "samples": policies[OUTCOME.name][RECIPE.name][0].rows[-1]["samples"],
        "prm_seconds": t_interval(made)._asdict(),
        "arms": {
            arm: {name: _measured(seeds, plan.target) for name, seeds in of.items()} for arm, of in policies.items()
        },
        "best": {arm: best_variant(of) for arm, of in policies.items()},
        "comparisons": _comparisons(policies, made),
        "best_of_n": {source.name: _best_of_n(runs, source) for source in SOURCES},
    }
    out = Path(out)
    out.mkdir(parents=True, exist_ok=True)
    from rlstep.report.figures import draw_before_and_after, draw_opponents  # matplotlib takes half a second

    draw_opponents(summary, out / "opponents.png")
    draw_before_and_after(summary, out / "best_of_n.png")
    write_json(out / "summary.json", summary)
    (out / "report.md").write_text(opponents_text(summary, plan), encoding="utf-8")
    return summary


def _read(runs: Sequence[Path], folder: str, first: str) -> list[Trained]:
    """A variant's policies, one per seed."""
    curves = read_curves(runs, folder, first)
    samples = [row["samples"] for row in curves[0]]
    return [
        Trained(rows, training_seconds(run / folder / LOG, samples)) for run, rows in zip(runs, curves, strict=True)
    ]


def _measured(seeds: Sequence[Trained], target: float) -> dict:
    """A variant over the seeds: what it reaches, and its curve.

    `mean_clean_accuracy` is the mean of the evaluations after the start: of two policies that end alike, the one that
    was there earlier has more.
    """
    curves = [one.rows for one in seeds]
    accuracy = {key: over_seeds([one.values(key) for one in seeds]) for key in KEYS}
    later = [clean[1:] or clean for clean in (one.values("clean_accuracy") for one in seeds)]
    return reached_and_lost(curves, target) | {
        "accuracy": t_interval([one.rows[-1]["accuracy"] for one in seeds])._asdict(),
        "mean_clean_accuracy": t_interval([sum(clean) / len(clean) for clean in later])._asdict(),
        "seconds": t_interval([one.seconds[-1] for one in seeds])._asdict(),
        "curve": {
            "samples": [row["samples"] for row in curves[0]],
            "seconds": over_seeds([one.seconds for one in seeds])["mean"],
            **accuracy,
        },
    }


def best_variant(policies: Mapping[str, Sequence[Trained]], seeds: Sequence[int] | None = None) -> str:
    """The variant with the highest final clean accuracy, in the mean over these seeds; of equal ones the first."""

    def final(name: str) -> float:
        chosen = policies[name] if seeds is None else [policies[name][seed] for seed in seeds]
        return sum(one.rows[-1]["clean_accuracy"] for one in chosen) / len(chosen)

    return max(policies, key=final)


def _comparisons(policies: Mapping[str, Mapping[str, Sequence[Trained]]], made: Sequence[float]) -> dict:
    """Process against outcome: as in the recipes, the best of each arm, and the best by the other seeds alone."""
    seeds = range(len(made))
    chosen = {
        "recipe": {arm: [RECIPE.name for _ in seeds] for arm in policies},
        "best": {arm: [best_variant(of) for _ in seeds] for arm, of in policies.items()},
    }
    if len(seeds) > 1:
        others = [[other for other in seeds if other != seed] for seed in seeds]
        chosen["by_other_seeds"] = {arm: [best_variant(of, rest) for rest in others] for arm, of in policies.items()}
    comparisons = {}
    for name, variants in chosen.items():
        outcome, process = (
            [policies[arm.name][variant][seed] for seed, variant in enumerate(variants[arm.name])] for arm in ARMS
        )
        comparisons[name] = {"variants": variants, **compare(outcome, process, made)}
    return comparisons


def compare(outcome: Sequence[Trained], process: Sequence[Trained], made: Sequence[float]) -> dict:
    """Two arms at equal samples, at equal compute, and at equal compute with the PRM's making.

    Args:
        outcome, process: one policy each per seed.
        made: each seed's processor seconds of making the PRM, after which alone the process arm can begin.

    Returns:
        By measure: `seconds`, the mean at which the curves are read, None at equal samples; and by accuracy `outcome`,
        `process` and `difference`, which is taken within a seed, as means with t-intervals.
    """
    return {
        "equal_samples": _compared([_ends(*pair) for pair in zip(outcome, process, strict=True)]),
        "equal_compute": _compared([_at_equal_compute(*pair) for pair in zip(outcome, process, strict=True)]),
        "equal_compute_with_prm": _compared(
            [_at_equal_compute(*each) for each in zip(outcome, process, made, strict=True)]
        ),
    }


def _ends(outcome: Trained, process: Trained) -> dict:
    return {key: (outcome.rows[-1][key], process.rows[-1][key]) for key in KEYS}


def _at_equal_compute(outcome: Trained, process: Trained, later: float = 0.0) -> dict:
    """Both arms' accuracies at the last second that both reach, the process arm beginning `later`."""
    after = [later + seconds for seconds in process.seconds]
    read = {key: at_equal_compute(outcome.seconds, outcome.values(key), after, process.values(key)) for key in KEYS}
    return {key: (at.first, at.second) for key, at in read.items()} | {"seconds": read[KEYS[0]].seconds}


def _compared(seeds: Sequence[dict]) -> dict:
    """Over the seeds, of (outcome, process) by accuracy."""
    at = [one["seconds"] for one in seeds if "seconds" in one]
    compared: dict = {"seconds": sum(at) / len(at) if at else None}
    for key in KEYS:
        pairs = [one[key] for one in seeds]
        parts = {
            OUTCOME.name: [a for a, _ in pairs],
            PROCESS.name: [b for _, b in pairs],
            "difference": [b - a for a, b in pairs],
        }
        compared[key] = {name: t_interval(values)._asdict() for name, values in parts.items()}
    return compared


def _seconds_of_prm(run: Path) -> float:
    """Processor seconds of what made a run's PRM: samples, labels and training."""
    total = 0.0
    for path in (run / name for name in PRM_RECORDS):
        record = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
        if "processor_seconds" not in record:
            raise UserError(f"{path} has no processor_seconds: the stage has not ended, or an older version ran it.")
        total += record["processor_seconds"]
    return total


def _best_of_n(runs: Sequence[Path], source: Source) -> dict:
    """The curves of a source's samples over the seeds, and how well the PRM judges their steps."""
    paths = [run / source.folder / "evaluate" / "best_of_n.json" for run in runs]
    for path in paths:
        if not path.is_file():
            raise UserError(f"{path} is missing: best-of-N was not measured. Run the lab again; it continues.")
    curves = [json.loads(path.read_text(encoding="utf-8")) for path in paths]
    measures = [one.get("prm_steps", {}) for one in curves]
    steps = {
        # A policy may write no wrong step, or no right one; then some measures are not defined.
        name: t_interval([one[name] for one in measures])._asdict() if all(name in one for one in measures) else None
        for name in STEP_MEASURES
    }
    return best_of_n(curves, paths) | {"prm_steps": steps}
