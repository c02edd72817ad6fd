"""The `sample` stage: N solutions of every problem, written as they come; a killed run continues where it stopped.

Several processes (`torchrun`, `accelerate launch`, `deepspeed`) sample together, each every so many-th batch. A batch's
seed depends on its number alone, so the rows are the same whatever the number of processes. The output is a file or a
folder of shards (`rlstep.runtime.output`).
"""

import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

import torch

from rlstep.policy.first_batch import Look, warn_of_first_batch
from rlstep.policy.models import (
    device,
    load_policy,
    load_policy_config,
    load_policy_tokenizer,
    long_prompts,
    prompt_lengths,
)
from rlstep.policy.prompt_files import read_prompt_format
from rlstep.policy.sampling import Batch, SampledBatches, batch_seed, generate
from rlstep.runtime.checkpoints import checkpoint_files
from rlstep.runtime.config import settings
from rlstep.runtime.constraints import Range, ReadBy, check
from rlstep.runtime.errors import DataError
from rlstep.runtime.output import Counts, Done, Output
from rlstep.runtime.processes import launched_processes
from rlstep.runtime.progress import track
from rlstep.runtime.record import RunRecord, digest
from rlstep.runtime.units import Unit
from rlstep.steps.answers import extract
from rlstep.steps.boundaries import line_steps
from rlstep.steps.problems import CONFIG_NAME_HELP, FIELDS_HELP, PROBLEMS_HELP, SPLIT_HELP, fields_faults, read_problems
from rlstep.steps.prompt_options import BY_CHECKPOINT, PromptOptions
from rlstep.steps.prompts import PromptFormat
from rlstep.steps.records import Solution, write_solution_rows
from rlstep.steps.sources import Row
from rlstep.verifiers.pretrained import max_positions
from rlstep.verifiers.vocabulary import check_vocabulary

logger = logging.getLogger(__name__)

# A batch's solutions to its (problem, sample) pairs, in their order, given its seed.
Generate = Callable[[Batch, int], list[Solution]]
# Of these a batch's solutions do not depend, but for the problems in it.
NOT_OF_A_BATCH = ("problems", "out", "n", "batch_size", "fields", "split", "config_name", "on_long_row")
FINISHED, SKIPPED = "finished", "skipped_rows"


@dataclass
class SampleConfig:
    model: str = field(metadata={"help": "Hub id or folder of the policy: a causal LM or a LoRA adapter."})
    problems: str = field(metadata={"help": PROBLEMS_HELP})
    out: str = field(metadata={"help": "Where the solutions go: NAME.jsonl, or a folder of Parquet shards."})
    n: Annotated[int, Range(at_least=1)] = field(default=1, metadata={"help": "Solutions per problem."})
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
        default=512, metadata={"help": "Solutions generated and written at a time, a shard of a folder."}
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
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = field(
        default="auto", metadata={"help": "The weights' type; auto: that of the checkpoint."}
    )
    trust_remote_code: bool = field(default=False, metadata={"help": "Run model code from the hub."})

    def __post_init__(self):
        check(self, self._faults())

    def _faults(self) -> Iterator[str]:
        yield from fields_faults(self.fields)
        if self.temperature == 0 and self.n > 1:
            yield f"temperature 0 gives one solution {self.n} times over; set n to 1, or temperature above 0"


def sample(config: SampleConfig, prompts: PromptOptions = BY_CHECKPOINT) -> dict:
    """Samples `config.n` solutions of every problem into `config.out`.

    Metrics: `problems`, `solutions`, the share `finished` of them that the model ended itself, `processes`, and where
    problems were left out `skipped_rows`, the number of solutions that they would have had.
    """
    places: dict[str, Row] = {}
    problems = read_problems(config.problems, config.fields, config.split, config.config_name, places)
    out, chosen, processes = Path(config.out), settings(config) | settings(prompts), launched_processes()
    of_a_batch = {name: value for name, value in chosen.items() if name not in NOT_OF_A_BATCH}
    made_by = digest(of_a_batch, checkpoint_files(config.model), prompts.template_text)
    batches = SampledBatches(problems, config.n, config.batch_size)

    def accepts(counts: Counts) -> bool:
        return config.on_long_row == "skip" or not counts.get(SKIPPED)

    output = Output(out, "sample", chosen, write_solution_rows, processes, accepts)
    output.check_place(sources=(config.problems, config.model))
    with RunRecord("sample", chosen, out.parent, config.seed, name=out.name + ".run.json") as record:
        units = batches.units(made_by, config.seed)
        totals = output.fill(units, lambda mine: _sampled(config, prompts, batches, places, mine))
        counts = {"problems": len(problems), "solutions": totals.rows}
        record.metrics |= counts | {FINISHED: totals.counts[FINISHED] / totals.rows, "processes": processes.number}
        if skipped := totals.counts[SKIPPED]:
            record.metrics[SKIPPED] = skipped
            logger.warning(
                "%s: the prompts of %d problems are too long for the model; they have no solutions in %s",
                config.problems, skipped // config.n, config.out,
            )  # fmt: skip
    return record.metrics


def _sampled(
    config: SampleConfig, prompts: PromptOptions, batches: SampledBatches, places: dict[str, Row], mine: list[Unit]
) -> Iterator[Done]:
    """This process's batches, sampled."""
    tokenizer = load_policy_tokenizer(config.model, config.trust_remote_code)
    policy_config = load_policy_config(config.model, config.trust_remote_code)
    check_vocabulary(tokenizer, policy_config, generates=True)
    texts = [problem.prompt for problem in batches.problems]
    prompt_format = prompts.for_model(tokenizer, texts, read_prompt_format(config.model), config.model)
    lengths = prompt_lengths(batches.problems, tokenizer, prompt_format, policy_config)
    limit = max_positions(policy_config)
    long = set(long_prompts(lengths, config.max_new_tokens, limit))
    if long and config.on_long_row == "error":
        raise _too_long(long, lengths, places, config.max_new_tokens, limit)
    if not mine:
        return
    generate_batch = open_generator(config, tokenizer, prompt_format)
    for unit in track(mine, "sampling", sum(unit.rows for unit in mine), weight=lambda unit: unit.rows):
        whole = batches[unit.number]
        batch = [(problem, index) for problem, index in whole if problem.id not in long]
        solutions = generate_batch(batch, batch_seed(config.seed, unit.number)) if batch else []
        if unit.number == 0 and solutions:
            warn_of_first_batch([_look(solution) for solution in solutions], "max_new_tokens")
        counts = {FINISHED: sum(solution.finished for solution in solutions)}
        if len(batch) < len(whole):
            counts[SKIPPED] = len(whole) - len(batch)
        yield Done(unit, (solution.to_row() for solution in solutions), counts)


def open_generator(config: SampleConfig, tokenizer, prompt_format: PromptFormat) -> Generate:
    """Loads the policy; what is returned samples a batch.

    Args:
        config: the model and how it is sampled.
        tokenizer: the model's, padding on the left.
        prompt_format: how problems become what the policy reads.
    """
    model = load_policy(config.model, config.dtype, config.trust_remote_code).to(device()).eval()
    sampling = {name: getattr(config, name) for name in ("max_new_tokens", "temperature", "top_p", "top_k")}

    def generate_batch(batch: Batch, seed: int) -> list[Solution]:
        torch.manual_seed(seed)
        return generate(model, tokenizer, batch, prompt_format, **sampling)

    return generate_batch


def _too_long(
    long: set[str], lengths: dict[str, int], places: dict[str, Row], new_tokens: int, limit: int
) -> DataError:
    """The error of the first problem whose prompt is too long."""
    first = next(name for name in lengths if name in long)
    return DataError(
        places[first].source,
        places[first].number,
        "prompt",
        f"{lengths[first]} tokens (problem '{first}') and {new_tokens} new ones exceed the model's {limit} positions. "
        f"Problems that are too long: {len(long):,}. With on_long_row: skip they have no solutions; or lower "
        "max_new_tokens, or take a model with a longer context.",
    )


def _look(solution: Solution) -> Look:
    completion = solution.completion
    return Look(completion, extract(completion) is not None, len(line_steps(completion)), solution.finished)
