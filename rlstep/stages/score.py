"""The `score` stage: adds a verifier's value of every step to solutions; a killed run continues.

Several processes (`torchrun`, `accelerate launch`, `deepspeed`) score one data set together: each of R processes takes
every R-th chunk of it. The output is a file or a folder of shards (`rlstep.runtime.output`).
"""

import logging
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

from rlstep.runtime.checkpoints import checkpoint_files
from rlstep.runtime.config import settings
from rlstep.runtime.constraints import Choices, Range, ReadBy, check
from rlstep.runtime.counted import counted
from rlstep.runtime.output import Output
from rlstep.runtime.packages import check_packages
from rlstep.runtime.processes import launched_processes
from rlstep.runtime.record import RunRecord, digest
from rlstep.steps.boundaries import Boundary, Rule
from rlstep.steps.prompt_options import BY_CHECKPOINT, PromptOptions
from rlstep.steps.records import write_solution_rows
from rlstep.verifiers.load import load_verifier
from rlstep.verifiers.published import FAMILIES
from rlstep.verifiers.scoring.data_set import ScoringJob
from rlstep.verifiers.scoring.long_rows import CUT, SKIPPED
from rlstep.verifiers.scoring.scorer import RowScorer
from rlstep.verifiers.serving.addresses import checkpoint_of, is_pooling_address, is_url

logger = logging.getLogger(__name__)

# Settings that a row's scores do not depend on. The rows count, whatever file they come from.
NOT_OF_A_ROW = ("data", "out", "chunk_rows", "on_long_row")

LONG_ROWS = "rows are longer than the verifier"


@dataclass
class ScoreConfig:
    model: str = field(
        metadata={
            "help": "Folder or hub id of the verifier: rlstep's own, or a published PRM; or vllm+http://HOST:PORT/NAME "
            "of one that a vLLM server holds."
        }
    )
    data: str = field(metadata={"help": "Solutions (JSONL, Parquet or a folder of them), labelled or not."})
    out: str = field(metadata={"help": "Where the scored solutions go: NAME.jsonl, or a folder of Parquet shards."})
    name: str = field(default="prm", metadata={"help": "The scores' name in every solution's `scores`."})
    batch_tokens: Annotated[int, Range(at_least=1)] = field(
        default=16384, metadata={"help": "Tokens per forward pass."}
    )
    chunk_rows: Annotated[int, Range(at_least=1)] = field(
        default=4096,
        metadata={
            "help": "Rows written at a time at most, a shard of a folder; equal rows of a chunk count once. What they "
            "hold decides where a chunk ends, so that a row that is dropped or mended leaves other chunks as they are."
        },
    )
    on_long_row: Literal["error", "skip", "cut"] = field(
        default="error",
        metadata={
            "help": "A row with more tokens than the verifier has positions: error: ends the run before anything is "
            "scored, named by file and row; skip: is left out; cut: is scored up to the last step that fits, as if it "
            "ended there, and its other steps have null for a score."
        },
    )
    kind: Literal["prm", "orm"] | None = field(
        default=None, metadata={"help": "What label 1 means, for a token classifier that rlstep did not train."}
    )
    layout: Annotated[str | None, Choices((*FAMILIES,))] = field(
        default=None,
        metadata={"help": "A published PRM's family, if the checkpoint does not tell.", "choices": [*FAMILIES]},
    )
    neutral: Literal["positive", "negative", "ignore"] | None = field(
        default=None, metadata={"help": "What a neutral class counts as; must match the verifier's training."}
    )
    boundary: Rule | None = field(
        default=None, metadata={"help": "What a step is, for solutions without spans; the verifier's own by default."}
    )
    boundary_tag: Annotated[str | None, ReadBy("boundary", "tag")] = field(
        default=None, metadata={"help": "boundary tag: the tag that ends a step."}
    )
    packing: bool = field(
        default=True, metadata={"help": "Rows without padding, shared prefixes once, if the model supports it."}
    )
    dtype: Literal["float32", "bfloat16", "float16"] | None = field(
        default=None, metadata={"help": "The weights' type; that of the checkpoint by default."}
    )
    attn_implementation: str | None = field(
        default=None,
        metadata={
            "help": "How attention is computed: sdpa, eager, flex_attention, flash_attention_2, a kernel of the hub; "
            "transformers' choice by default, mostly sdpa. Flash attention packs rows without sharing prefixes."
        },
    )
    trust_remote_code: bool = field(default=False, metadata={"help": "Run model code from the hub."})

    def __post_init__(self):
        check(self, self._faults())
        self.steps = None if self.boundary is None else Boundary(self.boundary, self.boundary_tag)

    def _faults(self) -> Iterator[str]:
        yield from model_faults(self.model)
        if Path(self.out).resolve() == Path(self.data).resolve():
            yield f"out is the path that data names, {self.data}; give another one"


def model_faults(model: str) -> Iterator[str]:
    """What is wrong with a verifier's path where verifiers are loaded."""
    if not model:
        yield "model is empty; give a verifier's folder or hub id"
    if is_url(model) and not is_pooling_address(model):
        yield f"model is {model}; give a verifier's folder or hub id, or a vLLM server: vllm+http://HOST:PORT/NAME"


def as_in_score(name: str):
    """An option of `rlstep score` for another stage, with its default and its help."""
    option = ScoreConfig.__dataclass_fields__[name]
    return field(default=option.default, metadata=option.metadata)


def score(config: ScoreConfig, prompts: PromptOptions = BY_CHECKPOINT) -> dict:
    """Scores every solution of `config.data` into `config.out`; steps that are null are found by the boundary rule."""
    check_packages(config)
    out, chosen = Path(config.out), settings(config) | settings(prompts)
    processes = launched_processes()
    # A verifier on a server goes by its name, which stays the same if the address changes.
    checkpoint = checkpoint_of(config.model)
    of_a_row = {name: value for name, value in chosen.items() if name not in NOT_OF_A_ROW} | {"model": checkpoint}
    job = ScoringJob(
        data=config.data,
        name=config.name,
        chunk_rows=config.chunk_rows,
        made_by=digest(of_a_row, prompts.template_text, checkpoint_files(checkpoint)),
        open_verifier=lambda: open_verifier(config, prompts=prompts),
        on_long_row=config.on_long_row,
        processes=processes,
    )
    output = Output(out, "score", chosen, write_solution_rows, processes, job.accepts)
    output.check_place(sources=(config.data, checkpoint))
    with RunRecord("score", chosen, out.parent, name=out.name + ".run.json") as record:
        totals = output.fill(job.units(), job.work)
        long = {name: int(totals.counts[name]) for name in (SKIPPED, CUT) if totals.counts[name]}
        record.metrics |= {"rows": totals.rows, "processes": processes.number, **job.speed, **long}
    _tell_long_rows(config, long)
    return record.metrics


def _tell_long_rows(config: ScoreConfig, long: dict[str, int]) -> None:
    if skipped := long.get(SKIPPED):
        logger.warning(
            "%s: %s left out of %s",
            config.data,
            counted(skipped, "row is longer than the verifier and is", LONG_ROWS + " and are"),
            config.out,
        )
    if cut := long.get(CUT):
        logger.warning(
            "%s: %s; steps that do not fit have null for a score in %s",
            config.data, counted(cut, "row is longer than the verifier", LONG_ROWS), config.out,
        )  # fmt: skip


def open_verifier(config: ScoreConfig, device=None, prompts: PromptOptions = BY_CHECKPOINT) -> RowScorer:
    """The verifier that the options name."""
    return load_verifier(
        config.model,
        device=device,
        dtype=config.dtype,
        batch_tokens=config.batch_tokens,
        kind=config.kind,
        layout=config.layout,
        neutral=config.neutral,
        boundary=config.steps,
        packing=config.packing,
        trust_remote_code=config.trust_remote_code,
        attn_implementation=config.attn_implementation,
        prompts=prompts,
    )
