"""The `sample` stage: N solutions of every problem, written as they come; a killed run continues where it stopped.

With `search` they are not independent samples, but the beams of a search that a PRM guides
(`rlstep.policy.guided_search`). A batch then holds whole problems, at least one.

Several processes (`torchrun`, `accelerate launch`, `deepspeed`) sample together: each of R processes takes every R-th
batch. A batch's seed depends on its number alone, so the rows are the same whatever the number of processes. The output
is a file or a folder of shards (`rlstep.runtime.output`).
"""

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import torch

from rlstep.policy.engines.base import Engine, Sampling
from rlstep.policy.engines.opening import EngineOpening
from rlstep.policy.engines.options import EngineOptions
from rlstep.policy.first_batch import Look, warn_of_first_batch
from rlstep.policy.models import device
from rlstep.policy.sampling import SampledBatches, batch_seed
from rlstep.policy.search_options import SearchOptions
from rlstep.runtime.checkpoints import checkpoint_files
from rlstep.runtime.config import settings
from rlstep.runtime.constraints import Range, ReadBy, ReadUnless, check
from rlstep.runtime.counted import counted
from rlstep.runtime.errors import DataError
from rlstep.runtime.identity import run_identity
from rlstep.runtime.output import Output, Totals
from rlstep.runtime.packages import check_packages
from rlstep.runtime.processes import launched_processes
from rlstep.runtime.progress import track
from rlstep.runtime.record import RunRecord, digest
from rlstep.runtime.unit_files import Counts, Done
from rlstep.runtime.units import Unit
from rlstep.steps.answers import extract
from rlstep.steps.boundaries import line_steps
from rlstep.steps.problems import CONFIG_NAME_HELP, FIELDS_HELP, PROBLEMS_HELP, SPLIT_HELP, fields_faults, read_problems
from rlstep.steps.prompt_options import BY_CHECKPOINT, PromptOptions
from rlstep.steps.records import Problem, Solution, write_solution_rows
from rlstep.steps.sources import Row
from rlstep.verifiers.scoring.long_rows import CUT, SKIPPED
from rlstep.verifiers.serving.identity import verifier_identity

if TYPE_CHECKING:
    from rlstep.policy.guided_search import GuidedSearch

logger = logging.getLogger(__name__)

# Settings that a batch's solutions do not depend on. Its problems count, whatever file they come from, and the PRM,
# whatever its address.
NOT_OF_A_BATCH = ("problems", "out", "n", "batch_size", "fields", "split", "config_name", "on_long_row", "prm")
FINISHED = "finished"


@dataclass
class SampleConfig(SearchOptions, EngineOptions):
    model: str = field(metadata={"help": "Hub id or folder of the policy: a causal LM or a LoRA adapter."})
    problems: str = field(metadata={"help": PROBLEMS_HELP})
    out: str = field(metadata={"help": "Where the solutions go: NAME.jsonl, or a folder of Parquet shards."})
    n: Annotated[int, Range(at_least=1)] = field(
        default=1,
        metadata={
            "aliases": ["--samples_per_problem"],
            "help": "Solutions per problem; with search, its beams. Launchers take --n for an option of their own; "
            "--samples_per_problem is the same.",
        },
    )
    temperature: Annotated[float, Range(at_least=0)] = field(
        default=1.0, metadata={"help": "Sampling temperature; 0 is greedy."}
    )
    top_p: Annotated[float, Range(above=0, at_most=1), ReadBy("temperature")] = field(
        default=1.0, metadata={"help": "Nucleus: sample from the smallest set with this mass."}
    )
    top_k: Annotated[int, Range(at_least=0), ReadBy("temperature")] = field(
        default=0, metadata={"help": "Sample from the k likeliest tokens; 0 is all."}
    )
    max_new_tokens: Annotated[int, Range(at_least=1)] = field(
        default=512, metadata={"help": "Longest completion, in tokens."}
    )
    batch_size: Annotated[int, Range(at_least=1)] = field(
        default=512,
        metadata={
            "help": "Solutions generated and written at a time, a shard of a folder; with search those of as many "
            "whole problems as fit, of one at least."
        },
    )
    on_long_row: Literal["error", "skip"] = field(
        default="error",
        metadata={
            "help": "A problem that leaves no room for max_new_tokens in the model's context: error: ends the run "
            "before anything is sampled, named by file and row; skip: has no solutions."
        },
    )
    fields: list[str] | None = field(default=None, metadata={"help": FIELDS_HELP})
    split: str | None = field(default=None, metadata={"help": SPLIT_HELP})
    config_name: str | None = field(default=None, metadata={"help": CONFIG_NAME_HELP})
    seed: int = field(default=0, metadata={"help": "Seed of the sampling."})
    dtype: Annotated[Literal["auto", "float32", "bfloat16", "float16"], ReadUnless("engine", "server")] = field(
        default="auto", metadata={"help": "The weights' type; auto: that of the checkpoint."}
    )
    trust_remote_code: bool = field(default=False, metadata={"help": "Run model code from the hub."})

    @property
    def rows_at_a_time(self) -> int:
        """Solutions of a batch: all of a problem's where they are searched for together."""
        return self.batch_size if self.search is None else max(1, self.batch_size // self.n) * self.n

    def __post_init__(self):
        check(self, self._faults())

    def _faults(self) -> Iterator[str]:
        yield from fields_faults(self.fields)
        yield from self.engine_faults(self.top_k)
        yield from self.search_faults(self.n, self.prompts_as)
        if self.temperature == 0 and self.n > 1:
            yield f"temperature 0 gives one solution {self.n} times over; set n to 1, or temperature above 0"


def sample(config: SampleConfig, prompts: PromptOptions = BY_CHECKPOINT) -> dict:
    """Samples `config.n` solutions of every problem into `config.out`.

    Metrics: `problems`, `solutions`, the share `finished` of them that the model ended itself, `processes`; where
    problems were left out `skipped_rows`, the number of solutions that they would have had; and `cut_rows`, the
    solutions of a search that are too long for its PRM.
    """
    check_packages(config)
    places: dict[str, Row] = {}
    problems = read_problems(config.problems, config.fields, config.split, config.config_name, places)
    out, chosen, processes = Path(config.out), settings(config) | settings(prompts), launched_processes()
    identity = run_identity(config, prompts)
    of_a_batch = {name: value for name, value in identity.items() if name not in NOT_OF_A_BATCH}
    guide = None if config.prm is None else verifier_identity(config.prm)
    made_by = digest(of_a_batch, checkpoint_files(config.model), prompts.template_text, guide)
    batches = SampledBatches(problems, config.n, config.rows_at_a_time)

    def accepts(counts: Counts) -> bool:
        return config.on_long_row == "skip" or not counts.get(SKIPPED)

    output = Output(out, "sample", chosen, write_solution_rows, processes, accepts)
    output.check_place(sources=(config.problems, config.model, *([config.prm] if config.prm else [])))
    with RunRecord("sample", chosen, out.parent, config.seed, name=out.name + ".run.json") as record:
        units = batches.units(made_by, config.seed)
        totals = output.fill(units, lambda mine: _sampled(config, prompts, batches, places, mine))
        counts = {"problems": len(problems), "solutions": totals.rows}
        record.metrics |= counts | {FINISHED: totals.counts[FINISHED] / totals.rows, "processes": processes.number}
        record.metrics |= {name: totals.counts[name] for name in (SKIPPED, CUT) if totals.counts[name]}
    _tell_long_rows(config, totals)
    return record.metrics


def _sampled(
    config: SampleConfig, prompts: PromptOptions, batches: SampledBatches, places: dict[str, Row], mine: list[Unit]
) -> Iterator[Done]:
    """This process's batches, sampled."""
    sampling = Sampling(config.max_new_tokens, config.temperature, config.top_p, config.top_k, config.seed)
    opening = EngineOpening(
        config, config.model, sampling, batches.problems, prompts, config.dtype, config.trust_remote_code
    )
    long = set(opening.long)
    if long and config.on_long_row == "error":
        raise _too_long(opening, places)
    if not mine:
        return
    all_long = all(problem.id in long for problem in batches.problems)
    sampler = None if all_long else _sampler(config, opening, sampling, batches.problems)
    for unit in track(mine, "sampling", sum(unit.rows for unit in mine), weight=lambda unit: unit.rows):
        whole = batches[unit.number]
        batch = [(problem, index) for problem, index in whole if problem.id not in long]
        # A batch's own seed, for an engine that draws from torch's generator.
        torch.manual_seed(batch_seed(config.seed, unit.number))
        solutions = sampler.generate(batch) if batch else []
        if unit.number == 0 and solutions:
            warn_of_first_batch([_look(solution) for solution in solutions], "max_new_tokens")
        counts = {FINISHED: sum(solution.finished for solution in solutions)}
        if len(batch) < len(whole):
            counts[SKIPPED] = len(whole) - len(batch)
        if cut := sum(None in scores for solution in solutions for scores in solution.scores.values()):
            counts[CUT] = cut
        yield Done(unit, (solution.to_row() for solution in solutions), counts)


def _tell_long_rows(config: SampleConfig, totals: Totals) -> None:
    if skipped := totals.counts[SKIPPED]:
        logger.warning(
            "%s: the prompts of %s are too long for the model; they have no solutions in %s",
            config.problems, counted(skipped // config.n, "problem"), config.out,
        )  # fmt: skip
    if cut := totals.counts[CUT]:
        logger.warning(
            "%s: too long for %s, in its own tokens: %d of %s. What is too long ranked below what is not, and steps "
            "that do not fit have null for a score. Lower max_new_tokens, or take a PRM with a longer context.",
            config.out, config.prm, cut, counted(totals.rows, "solution"),
        )  # fmt: skip


def _sampler(
    config: SampleConfig, opening: EngineOpening, sampling: Sampling, problems: Sequence[Problem]
) -> "Engine | GuidedSearch":
    """The engine, or the search that the settings describe.

    A search's PRM is opened, and refused, before the policy's weights are loaded.
    """
    if config.search is None:
        return opening.open()
    # TRL comes with what checks that a verifier fits a policy, and takes a second to import.
    from rlstep.policy.guided_search import GuidedSearch, check_guide
    from rlstep.verifiers.load import load_verifier

    verifier = load_verifier(config.prm, device=device(), trust_remote_code=config.trust_remote_code)
    long = set(opening.long)
    prompts = [problem.prompt for problem in problems if problem.id not in long]
    check_guide(config.prm, verifier, opening.tokenizer, prompts, opening.prompt_format, sampling.max_new_tokens)
    return GuidedSearch(
        opening.open(), verifier, config, sampling, opening.tokenizer, opening.prompt_format, opening.stops
    )


def _too_long(opening: EngineOpening, places: dict[str, Row]) -> DataError:
    """The error of the first problem whose prompt is too long."""
    first = opening.long[0]
    return places[first].fault(
        "prompt",
        f"{opening.lengths[first]} tokens (problem '{first}') and {opening.sampling.max_new_tokens} new ones exceed "
        f"{opening.whose} {opening.limit} positions. Problems that are too long: {len(opening.long):,}. With "
        "on_long_row: skip they have no solutions; or lower max_new_tokens, or take a model with a longer context.",
    )


def _look(solution: Solution) -> Look:
    completion = solution.completion
    return Look(completion, extract(completion) is not None, len(line_steps(completion)), solution.finished)
