"""A finished run's numbers, gathered from the files that its stages wrote.

What is read from a run folder (at least one of the first two must exist; what is absent is listed under `missing`)::

    evaluate/best_of_n.json          curves of best-of-N
    domains/domains.json             best-of-N by domain, where other domains than the test problems were asked for
    ppo_ARM/eval.jsonl               evaluation histories of the RL arms (`rlstep.report.arms`)
    test/scored.jsonl                labelled and scored solutions of the test problems
    **/run.json, **/*.run.json       the stages' records: seconds, seed, versions, commit
"""

from pathlib import Path

from rlstep.evaluation.learning_curves import ANSWERS, KEYS, compare_arms, measured, read_history
from rlstep.report import arms
from rlstep.report.examples import StepScores, read_step_scores
from rlstep.report.run_files import read_curves, read_domains, read_record
from rlstep.runtime.counted import counted
from rlstep.runtime.errors import UserError
from rlstep.runtime.record import RECORD, is_record

BEST_OF_N = "evaluate/best_of_n.json"
BY_DOMAIN = "domains/domains.json"
SOLUTIONS = "test/scored.jsonl"
HISTORY = "eval.jsonl"
STAGES = ("prepare", "sft", "sample", "label", "prm", "orm", "score", "evaluate", "ppo", "export")


def has_results(run: Path) -> bool:
    """Whether a run folder holds what a report is made of: best-of-N curves, or an RL arm's history."""
    return any((run / name).is_file() for name in (BEST_OF_N, *(f"{arm.folder}/{HISTORY}" for arm in arms.ARMS)))


def summarize(run: str | Path) -> tuple[dict, StepScores | None]:
    """(the content of summary.json, the test solutions' step scores) of a run folder.

    Raises:
        UserError: the folder is absent, or holds neither best-of-N curves nor an RL arm's history.
    """
    run = Path(run)
    if not run.is_dir():
        raise UserError(f"{run}: no such run folder. Give the folder that `rlstep lab --out` wrote.")
    if not has_results(run):
        raise UserError(
            f"{run}: nothing to report: neither {BEST_OF_N} nor an {HISTORY} in"
            f" {', '.join(arm.folder for arm in arms.ARMS)}."
            " Run `rlstep lab`, or the stages evaluate and ppo, with outputs in this folder."
        )
    missing: list[str] = []
    best_of_n = _best_of_n(run, missing)
    rl = _learning_curves(run, missing)
    step_scores = _step_scores(run, missing)
    records = _records(run)
    root = records.pop("", {})
    if not records:
        missing.append(f"seconds, seed and versions: no {RECORD} of a stage")
    all_records = [*records.values(), *([root] if root else [])]
    seeds = [record.get("seed") for record in [root, records.get("prepare", {}), *records.values()]]
    seconds = {name: record["seconds"] for name, record in records.items() if "seconds" in record}
    summary = {
        "seed": next((seed for seed in seeds if seed is not None), None),
        "versions": _versions(all_records),
        "commits": sorted({record["commit"] for record in all_records if record.get("commit")}),
        "best_of_n": best_of_n,
        "domains": read_domains(run / BY_DOMAIN) if (run / BY_DOMAIN).is_file() else None,
        "rl": rl,
        "rl_comparison": _comparison(run),
        "step_scores": step_scores.tally if step_scores else None,
        "seconds": {**seconds, "total": round(sum(seconds.values()), 3)} if seconds else None,
        "missing": missing,
    }
    return summary, step_scores


def _best_of_n(run: Path, missing: list[str]) -> dict | None:
    path = run / BEST_OF_N
    if not path.is_file():
        missing.append(f"best-of-N curves: no {BEST_OF_N}")
        return None
    return read_curves(path)


def _learning_curves(run: Path, missing: list[str]) -> dict[str, dict | None]:
    """By arm, its evaluations as columns; None if it was not run. A run without any arm was for best-of-N alone.

    A column that some row lacks is left out.
    """
    curves: dict[str, dict | None] = {}
    begun = {arm.name for arm in arms.ARMS if (run / arm.folder).exists()}
    for arm in arms.ARMS:
        path = run / arm.folder / HISTORY
        if not path.is_file():
            # Arms that only run on request count once they have begun.
            if arm.name in begun or (begun and arm.by_default):
                missing.append(f"RL arm '{arm.name}': no {arm.folder}/{HISTORY}")
            curves[arm.name] = None
            continue
        rows = read_history(path, ANSWERS)
        keys = measured([rows])
        missing += [f"RL arm '{arm.name}', {key}: not in every row of {arm.folder}/{HISTORY}, as of a task that cannot "
                    "check every step" for key in KEYS if key not in keys]  # fmt: skip
        columns = {"updates": "update", "samples": "samples", **{key: key for key in keys}}
        curves[arm.name] = {column: [row[name] for row in rows] for column, name in columns.items()}
    return curves


def _comparison(run: Path) -> dict | None:
    """By key that both have, `compare_arms` of the process and the outcome arm; None if one of them is absent."""
    paths = [run / arm.folder / HISTORY for arm in (arms.PROCESS, arms.OUTCOME)]
    if not all(path.is_file() for path in paths):
        return None
    process, outcome = (read_history(path, ANSWERS) for path in paths)
    return {key: compare_arms(process, outcome, key) for key in measured([process, outcome])}


def _step_scores(run: Path, missing: list[str]) -> StepScores | None:
    path = run / SOLUTIONS
    if not path.is_file():
        missing.append(f"step scores: no {SOLUTIONS}")
        return None
    step_scores = read_step_scores(path)
    for lack, rows in step_scores.left_out.items():
        missing.append(
            f"step scores: {counted(rows, f'row of {SOLUTIONS} has', f'rows of {SOLUTIONS} have')} no {lack}"
        )
    return step_scores


def _records(run: Path) -> dict[str, dict]:
    """The records in the order of the stages, by what they describe: "sft", "test/scored"; "" is the whole run."""
    records = {}
    for path in sorted(run.rglob(f"*{RECORD}")):
        place = path.relative_to(run)
        if place.parts[0] == "report" or not is_record(path):
            continue
        output = place.parent if path.name == RECORD else place.with_name(path.name.removesuffix("." + RECORD))
        name = output.as_posix().removesuffix(".jsonl")
        records["" if name == "." else name] = read_record(path)

    def order(item: tuple[str, dict]) -> int:
        stage = item[1].get("stage")
        return STAGES.index(stage) if stage in STAGES else len(STAGES)

    return dict(sorted(records.items(), key=order))


def _versions(records: list[dict]) -> dict[str, str]:
    """Package versions; if stages ran with different ones, all of them."""
    by_package: dict[str, list[str]] = {}
    for record in records:
        for name, version in record.get("versions", {}).items():
            if version not in by_package.setdefault(name, []):
                by_package[name].append(version)
    return {name: " and ".join(versions) for name, versions in by_package.items()}
