"""The `bench` stage: verifiers side by side on ProcessBench, PRMBench and best-of-N, in one table with intervals.

Scores are kept in OUT/scores, one file per verifier and benchmark: a run that was killed, or that is given one more
verifier or benchmark, computes what is not there yet.
"""

import json
import logging
import re
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Literal

from rlstep.evaluation.best_of_n import curves_of, fewest_samples, means, powers_of_two
from rlstep.evaluation.samples import ORM, ScoreChoice, read_samples
from rlstep.evaluation.verifier_bench import (
    BEST_OF_N,
    PRMBENCH,
    PROCESSBENCH,
    JudgedSolution,
    Measure,
    check_threshold,
    class_of,
    prmbench,
    processbench,
    subset_of,
)
from rlstep.report.verifier_table import headline, verifier_table
from rlstep.runtime.checkpoints import checkpoint_files
from rlstep.runtime.constraints import Choices, Range, ReadBy, check
from rlstep.runtime.counted import counted
from rlstep.runtime.errors import UserError
from rlstep.runtime.packages import check_packages
from rlstep.runtime.record import RunRecord, digest
from rlstep.runtime.rows import write_json
from rlstep.stages.score import ScoreConfig, as_in_score, model_faults, score
from rlstep.steps.prompt_options import BY_CHECKPOINT, PromptOptions
from rlstep.steps.prompts import prompt_key
from rlstep.steps.readers import read
from rlstep.steps.records import Solution, iter_solutions, write_solutions
from rlstep.steps.sources import is_hub_id
from rlstep.verifiers.pretrained import load_config
from rlstep.verifiers.published import FAMILIES
from rlstep.verifiers.serving.addresses import checkpoint_of
from rlstep.verifiers.spec import config_entry

logger = logging.getLogger(__name__)

OUTPUT, TABLE = "bench.json", "bench.md"
NAME = "bench"  # of the scores, in the files of scores
SOURCES_HELP = "Files or folders of its rows, or its hub id with a split, ID:SPLIT."
READING = ("batch_tokens", "kind", "layout", "neutral", "packing", "dtype", "attn_implementation", "trust_remote_code")


@dataclass
class BenchConfig:
    models: list[str] = field(metadata={"help": "Folders or hub ids of the verifiers."})
    out: str = field(metadata={"help": f"Folder for {OUTPUT}, {TABLE} and the scores."})
    processbench: list[str] | None = field(default=None, metadata={"help": f"ProcessBench: {SOURCES_HELP}"})
    processbench_threshold: Annotated[str, ReadBy("processbench")] = field(
        default="0.5",
        metadata={
            "help": "Steps below it are called wrong: a number, cross_fitted (the best of the other half of the "
            "problems), or a subset on which it is chosen for all, as its authors do with gsm8k."
        },
    )
    prmbench: list[str] | None = field(default=None, metadata={"help": f"PRMBench: {SOURCES_HELP}"})
    prmbench_threshold: Annotated[float, Range(at_least=0, at_most=1), ReadBy("prmbench")] = field(
        default=0.5, metadata={"help": "Steps below it are called wrong."}
    )
    best_of_n: list[str] | None = field(
        default=None, metadata={"help": "Files or folders of samples, N of each problem, that rlstep sample wrote."}
    )
    aggregate: Annotated[Literal["product", "minimum", "last", "mean"], ReadBy("best_of_n")] = field(
        default="product", metadata={"help": "How step scores become the solution's; an ORM's is always its last."}
    )
    batch_tokens: Annotated[int, Range(at_least=1)] = as_in_score("batch_tokens")
    kind: Literal["prm", "orm"] | None = as_in_score("kind")
    layout: Annotated[str | None, Choices((*FAMILIES,))] = as_in_score("layout")
    neutral: Literal["positive", "negative", "ignore"] | None = as_in_score("neutral")
    packing: bool = as_in_score("packing")
    dtype: Literal["float32", "bfloat16", "float16"] | None = as_in_score("dtype")
    attn_implementation: str | None = as_in_score("attn_implementation")
    trust_remote_code: bool = as_in_score("trust_remote_code")

    def __post_init__(self):
        check(self, self._faults())

    def _faults(self) -> Iterator[str]:
        for model in self.models:
            yield from model_faults(model)
        if not self.models:
            yield "models is empty; name at least one verifier"
        for name in ("models", PROCESSBENCH, PRMBENCH, BEST_OF_N):
            given = getattr(self, name) or []
            if repeated := sorted({one for one in given if given.count(one) > 1}):
                yield f"{name} names {', '.join(repeated)} more than once"
        if not (self.processbench or self.prmbench or self.best_of_n):
            yield f"there is nothing to measure: give {PROCESSBENCH}, {PRMBENCH} or {BEST_OF_N}"
        if not isinstance(self.threshold, str) and not 0 <= self.threshold <= 1:
            yield f"processbench_threshold is {self.processbench_threshold}; a number must be from 0 to 1"

    @property
    def threshold(self) -> float | str:
        try:
            return float(self.processbench_threshold)
        except ValueError:
            return self.processbench_threshold


def bench(config: BenchConfig, prompts: PromptOptions = BY_CHECKPOINT) -> dict:
    """Scores the benchmarks with every verifier, prints one table, and writes it and all figures to `config.out`.

    Returns:
        By verifier, a benchmark's figure by name.

    Raises:
        UserError: a verifier cannot be opened, a row is too long for it, a subset or a sample is missing.
        DataError: a malformed row.
    """
    check_packages(config)
    out = Path(config.out)
    with RunRecord("bench", asdict(config) | asdict(prompts), out) as record:
        data = _data(config, out / "data")
        # Before the scores, which may take hours: samples are missing here as there, and so are subsets.
        votes = _votes(config, data)
        if PROCESSBENCH in data:
            check_threshold(config.threshold, map(subset_of, iter_solutions(data[PROCESSBENCH])))
        figures: dict[str, dict[str, dict]] = {}
        for model in config.models:
            figures[model] = {}
            for benchmark, path in data.items():
                scored = _scored(config, prompts, model, benchmark, path)
                figures[model][benchmark] = _measure(config, model, benchmark, scored)
        _tell_replaced(out / OUTPUT, figures)
        write_json(out / OUTPUT, {"verifiers": figures, "without_a_verifier": votes, "settings": asdict(config)})
        text = verifier_table(figures, votes)
        (out / TABLE).write_text(text + "\n", encoding="utf-8")
        record.metrics |= {model: {name: headline(name, of)[0] for name, of in figures[model].items()}
                           for model in figures}  # fmt: skip
    print(text, "", out / OUTPUT, sep="\n")
    return record.metrics


def _data(config: BenchConfig, folder: Path) -> dict[str, str]:
    """The path of each benchmark's solutions, by its name; the published ones are read into files of their own."""
    data = {}
    for benchmark in (PROCESSBENCH, PRMBENCH):
        if sources := getattr(config, benchmark):
            data[benchmark] = str(folder / f"{benchmark}.jsonl")
            write_solutions(data[benchmark], _read(benchmark, sources))
    for path in config.best_of_n or ():
        data[f"{BEST_OF_N}: {path}"] = path
    return data


def _read(benchmark: str, sources: list[str]) -> Iterator[Solution]:
    """The solutions of all sources; of one that is given twice, as in a file and in its folder, the first."""
    samples: dict[str, int] = {}
    read_before: set[str] = set()
    repeated = 0
    for source in sources:
        path, _, split = source.rpartition(":")
        of_the_hub = not Path(source).exists() and is_hub_id(path)
        for solution in read(benchmark, path if of_the_hub else source, split=split if of_the_hub else None):
            if (key := digest(solution.to_row() | {"sample": 0})) in read_before:
                repeated += 1
                continue
            read_before.add(key)
            # Over all sources: a problem may be in several.
            solution.sample = samples.get(solution.problem_id, 0)
            samples[solution.problem_id] = solution.sample + 1
            yield solution
    if repeated:
        logger.warning(
            "%s: %s given more than once, and each counts once",
            benchmark,
            counted(repeated, "solution is", "solutions are"),
        )


def _scored(config: BenchConfig, prompts: PromptOptions, model: str, benchmark: str, data: str) -> Path:
    """The file of a benchmark's solutions with a verifier's scores."""
    folder = Path(config.out) / "scores" / _file_name(model)
    out = folder / f"{_file_name(benchmark)}.jsonl"
    reading = {name: getattr(config, name) for name in READING}
    files = checkpoint_files(checkpoint_of(model))
    key = digest(reading, asdict(prompts), prompts.template_text, Path(data), model, files)
    finished = out.with_suffix(".key")
    if not (out.is_file() and finished.is_file() and finished.read_text(encoding="utf-8") == key):
        print(f"{model}: {benchmark}", flush=True)
        score(ScoreConfig(model, data, str(out), name=NAME, **reading), prompts)
        finished.write_text(key, encoding="utf-8")
    return out


def _file_name(name: str) -> str:
    return f"{re.sub(r'[^A-Za-z0-9._-]+', '-', name).strip('-')[-60:]}-{digest(name)[:6]}"


def _measure(config: BenchConfig, model: str, benchmark: str, scored: Path) -> dict:
    if benchmark == PROCESSBENCH:
        return _as_dicts(processbench(_judged(scored, subset_of), config.threshold))
    if benchmark == PRMBENCH:
        return _as_dicts(prmbench(_judged(scored, class_of), config.prmbench_threshold))
    if _is_orm(config, model):
        choice, curve = ScoreChoice(orm=NAME, names=()), ORM
    else:
        choice, curve = ScoreChoice(names=(NAME,), aggregate=config.aggregate), NAME
    curves = _curves(scored, choice)
    return {"ns": curves["ns"], "best_of_n": curves[curve], "aggregate": choice.how(curve)}


def _is_orm(config: BenchConfig, model: str) -> bool:
    """Whether a verifier's values are of the text up to a step, of which the last is the solution's, not of steps."""
    said = config_entry(load_config(checkpoint_of(model), config.trust_remote_code)).get("kind")
    return (said or config.kind) == "orm"


def _tell_replaced(file: Path, figures: dict[str, dict]) -> None:
    """Warns of what an earlier run's table has and this one's has not."""
    try:
        earlier = json.loads(file.read_text(encoding="utf-8"))["verifiers"]
        measured = {name for of in earlier.values() for name in of}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):  # none, or a file of another kind
        return
    gone = set(earlier) - set(figures) | measured - {name for of in figures.values() for name in of}
    if gone:
        logger.warning(
            "%s: an earlier run's figures of %s are replaced, as this one does not name them; their scores are kept, "
            "so a run that names all of them is quick", file, ", ".join(sorted(gone)),
        )  # fmt: skip


def _as_dicts(measures: dict[str, Measure]) -> dict[str, dict]:
    return {name: measure.to_dict() for name, measure in measures.items()}


def _judged(scored: Path, part_of: Callable[[Solution], str]) -> list[JudgedSolution]:
    return [
        JudgedSolution(part_of(solution), prompt_key(solution.prompt), solution.scores[NAME], solution.labels)
        for solution in iter_solutions(scored)
    ]


def _curves(path: str | Path, choice: ScoreChoice) -> dict:
    scored = read_samples(path, choice)
    problem, fewest = fewest_samples(scored)
    if fewest < 2:
        raise UserError(f"{path}: problem '{problem}' has one sample; best-of-N needs several of each problem.")
    ns = powers_of_two(fewest)
    return {"ns": ns} | means(curves_of(scored, ns, trials=400, seed=0))


def _votes(config: BenchConfig, data: dict[str, str]) -> dict[str, dict]:
    """What the samples of best-of-N give without a verifier."""
    votes = {}
    for benchmark, path in data.items():
        if benchmark.startswith(BEST_OF_N):
            curves = _curves(path, ScoreChoice(names=()))
            votes[benchmark] = {name: curves[name] for name in ("ns", "majority", "pass_at_n") if name in curves}
    return votes
