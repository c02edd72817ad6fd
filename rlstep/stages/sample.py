"""The `sample` stage: N solutions of every problem, written as they come; a killed run continues where it stopped."""

from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Literal

import torch

from rlstep.policy.engines.base import Sampling
from rlstep.policy.engines.opening import open_engine
from rlstep.policy.engines.options import EngineOptions
from rlstep.policy.first_batch import Look, warn_of_first_batch
from rlstep.policy.sampling import batches
from rlstep.runtime.checkpoints import checkpoint_files
from rlstep.runtime.config import settings
from rlstep.runtime.constraints import Range, ReadBy, ReadUnless, check
from rlstep.runtime.identity import run_identity
from rlstep.runtime.packages import check_packages
from rlstep.runtime.progress import track
from rlstep.runtime.record import RunRecord, digest
from rlstep.runtime.rows import ResumableRows
from rlstep.steps.answers import extract
from rlstep.steps.boundaries import line_steps
from rlstep.steps.problems import CONFIG_NAME_HELP, FIELDS_HELP, PROBLEMS_HELP, SPLIT_HELP, fields_faults, read_problems
from rlstep.steps.prompt_options import BY_CHECKPOINT, PromptOptions
from rlstep.steps.records import Solution


@dataclass
class SampleConfig(EngineOptions):
    model: str = field(metadata={"help": "Hub id or folder of the policy: a causal LM or a LoRA adapter."})
    problems: str = field(metadata={"help": PROBLEMS_HELP})
    out: str = field(metadata={"help": "Where the solutions go (JSONL)."})
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
        default=512, metadata={"help": "Solutions generated at a time."}
    )
    fields: list[str] | None = field(default=None, metadata={"help": FIELDS_HELP})
    split: str | None = field(default=None, metadata={"help": SPLIT_HELP})
    config_name: str | None = field(default=None, metadata={"help": CONFIG_NAME_HELP})
    seed: int = field(default=0, metadata={"help": "Seed of the sampling."})
    dtype: Annotated[Literal["auto", "float32", "bfloat16", "float16"], ReadUnless("engine", "server")] = field(
        default="auto", metadata={"help": "The weights' type; auto: that of the checkpoint."}
    )
    trust_remote_code: bool = field(default=False, metadata={"help": "Run model code from the hub."})

    def __post_init__(self):
        check(self, self._faults())

    def _faults(self) -> Iterator[str]:
        yield from fields_faults(self.fields)
        yield from self.engine_faults(self.top_k)
        if self.temperature == 0 and self.n > 1:
            yield f"temperature 0 gives one solution {self.n} times over; set n to 1, or temperature above 0"


def sample(config: SampleConfig, prompts: PromptOptions = BY_CHECKPOINT) -> dict:
    """Samples `config.n` solutions of every problem into `config.out`."""
    check_packages(config)
    problems = read_problems(config.problems, config.fields, config.split, config.config_name)
    out, chosen = Path(config.out), settings(config) | settings(prompts)
    written_by = checkpoint_files(config.model), prompts.template_text
    identity = run_identity(config, prompts)
    fingerprint = digest(identity, [asdict(problem) for problem in problems], *written_by)
    with (
        RunRecord("sample", chosen, out.parent, config.seed, name=out.name + ".run.json") as record,
        ResumableRows(out, fingerprint) as rows,
    ):
        done, total = len(rows.rows), len(problems) * config.n
        if done < total:
            sampling = Sampling(config.max_new_tokens, config.temperature, config.top_p, config.top_k, config.seed)
            engine = open_engine(
                config, config.model, sampling, problems, prompts, config.dtype, config.trust_remote_code
            )
            jobs, whole = batches(problems, config.n, config.batch_size, done), done - done % config.batch_size
            for number, batch in track(jobs, "sampling", total, whole, weight=lambda job: len(job[1])):
                # A batch's own seed: the rows after a kill are those the uninterrupted run would have written.
                torch.manual_seed(config.seed * 1_000_003 + number)
                solutions = engine.generate(batch)
                if number == 0:
                    warn_of_first_batch([_look(solution) for solution in solutions], "max_new_tokens")
                # A kill may have cut a batch in two: then its first rows are there already.
                written = len(rows.rows) - number * config.batch_size
                rows.append(solution.to_row() for solution in solutions[written:])
        rows.finish()
        finished = sum(row["finished"] for row in rows.rows)
        record.metrics |= {"problems": len(problems), "solutions": total, "finished": finished / total}
    return record.metrics


def _look(solution: Solution) -> Look:
    completion = solution.completion
    return Look(completion, extract(completion) is not None, len(line_steps(completion)), solution.finished)
