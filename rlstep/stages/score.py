"""The `score` stage: adds a verifier's value of every step to solutions; a killed run continues.

A path ending in `.jsonl` gets one file, from one process. Any other path is a folder of Parquet shards, which several
processes (`accelerate launch -m rlstep score ...`) fill together: each scores every so many-th chunk, and a chunk's
shard is there whole or not at all. The folder gets its name when all of them are there.
"""

import os
import re
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import timedelta
from itertools import islice
from pathlib import Path
from typing import Annotated, Literal

from rlstep.runtime.checkpoints import checkpoint_files
from rlstep.runtime.config import settings
from rlstep.runtime.constraints import Choices, Range, ReadBy, check
from rlstep.runtime.errors import DataError, UserError
from rlstep.runtime.progress import track
from rlstep.runtime.record import RunRecord, digest
from rlstep.runtime.rows import ResumableRows, write_json
from rlstep.steps.boundaries import Boundary
from rlstep.steps.parquet import write_parquet
from rlstep.steps.records import Solution, iter_solutions
from rlstep.steps.sources import shards
from rlstep.verifiers.published import FAMILIES
from rlstep.verifiers.scoring.reward_model import RewardModel


@dataclass
class ScoreConfig:
    model: str = field(metadata={"help": "Folder or hub id of the verifier: rlstep's own, or a published PRM."})
    data: str = field(metadata={"help": "Solutions (JSONL, Parquet or a folder of them), labelled or not."})
    out: str = field(metadata={"help": "Where the scored solutions go: NAME.jsonl, or a folder of Parquet shards."})
    name: str = field(default="prm", metadata={"help": "The scores' name in every solution's `scores`."})
    batch_tokens: Annotated[int, Range(at_least=1)] = field(
        default=16384, metadata={"help": "Tokens per forward pass."}
    )
    chunk_rows: Annotated[int, Range(at_least=1)] = field(
        default=4096, metadata={"help": "Rows written at a time; equal rows of a chunk count once."}
    )
    kind: Literal["prm", "orm"] | None = field(
        default=None, metadata={"help": "What label 1 means, for a token classifier that rlstep did not train."}
    )
    layout: Annotated[str | None, Choices((*FAMILIES,))] = field(
        default=None,
        metadata={"help": "A published PRM's family, where the checkpoint does not tell.", "choices": [*FAMILIES]},
    )
    neutral: Literal["positive", "negative", "ignore"] | None = field(
        default=None, metadata={"help": "What a neutral class counts as; must fit what the verifier was taught."}
    )
    boundary: Literal["line", "blank_line", "tag", "heading", "sentence"] | None = field(
        default=None, metadata={"help": "What a step is, for solutions without spans; the verifier's own by default."}
    )
    boundary_tag: Annotated[str | None, ReadBy("boundary", "tag")] = field(
        default=None, metadata={"help": "boundary tag: the tag that ends a step."}
    )
    packing: bool = field(
        default=True, metadata={"help": "Rows without padding, shared prefixes once, where the model admits it."}
    )
    dtype: Literal["float32", "bfloat16", "float16"] | None = field(
        default=None, metadata={"help": "The weights' type; that of the checkpoint by default."}
    )
    trust_remote_code: bool = field(default=False, metadata={"help": "Run model code from the hub."})

    def __post_init__(self):
        check(self, self._faults())
        self.steps = None if self.boundary is None else Boundary(self.boundary, self.boundary_tag)

    def _faults(self) -> Iterator[str]:
        if Path(self.out).resolve() == Path(self.data).resolve():
            yield f"out is the path that data names, {self.data}; give another one"


def score(config: ScoreConfig) -> dict:
    """Scores every solution of `config.data` into `config.out`; steps that are null are found by the boundary rule."""
    out = Path(config.out)
    if out.suffix != ".jsonl":
        _check_folder(config, out)
    fingerprint = digest(settings(config), _data_digest(Path(config.data)), checkpoint_files(config.model))
    with RunRecord("score", settings(config), out.parent, name=out.name + ".run.json") as record:
        # A first pass over the data finds a malformed last row before hours of scoring, not after.
        total = sum(1 for _ in _solutions(config))
        record.metrics["rows"] = total
        write = _into_file if out.suffix == ".jsonl" else _into_shards
        record.metrics |= write(config, out, fingerprint, total)
    return record.metrics


def _check_folder(config: ScoreConfig, out: Path) -> None:
    """Refuses a folder that would be replaced with more in it than an earlier run's shards."""
    for what in (config.data, config.model):
        if Path(what).resolve().is_relative_to(out.resolve()):
            raise UserError(f"out is {out}, which holds {what} and would be replaced; give a folder of its own.")
    if out.exists() and not out.is_dir():
        raise UserError(f"out is the file {out}; shards need a folder. Give another name, or NAME.jsonl.")
    if out.is_dir() and any(not SHARD.fullmatch(path.name) for path in out.iterdir()):
        raise UserError(f"{out} holds files that are no shards of an earlier run; give another folder.")


def _data_digest(data: Path) -> list[str] | list[list]:
    """What stands for the data in the fingerprint: a large file's contents would take long to read."""
    files = shards(data)
    if sum(file.stat().st_size for file in files if file.is_file()) < 1 << 30:
        return [digest(file) for file in files]
    return [[file.name, file.stat().st_size, file.stat().st_mtime_ns] for file in files]


def _solutions(config: ScoreConfig) -> Iterator[Solution]:
    for number, solution in enumerate(iter_solutions(config.data), start=1):
        if config.name in solution.scores:
            raise DataError(config.data, number, f"scores.{config.name}", "is there already; choose another name.")
        yield solution


def _chunks(config: ScoreConfig) -> Iterator[list[Solution]]:
    solutions = _solutions(config)
    while chunk := list(islice(solutions, config.chunk_rows)):
        yield chunk


def _verifier(config: ScoreConfig, device=None) -> RewardModel:
    return RewardModel.from_pretrained(
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
    )


def _into_file(config: ScoreConfig, out: Path, fingerprint: str, total: int) -> dict:
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise UserError(f"out is one file, {out}, and several processes cannot share it: give a folder, for shards.")
    with ResumableRows(out, fingerprint) as rows:
        done = len(rows.rows)
        metrics = {}
        if done < total:
            # A chunk that a kill cut in two is scored again as a whole: the same batches give the same last digits.
            whole = done - done % config.chunk_rows
            todo = islice(_chunks(config), whole // config.chunk_rows, None)
            scorer = _Scorer(_verifier(config), config.name)
            for chunk in track(todo, "scoring", total, whole, weight=len):
                scorer.add(chunk)
                written = len(rows.rows) % config.chunk_rows
                rows.append(solution.to_row() for solution in chunk[written:])
            metrics = scorer.speed()
        rows.finish()
    return metrics


def _into_shards(config: ScoreConfig, out: Path, fingerprint: str, total: int) -> dict:
    import torch
    from accelerate import PartialState

    # Processes wait for the slowest at the end, for as long as its last chunks take.
    state = PartialState(cpu=not torch.cuda.is_available(), timeout=timedelta(days=30))
    unfinished = out.with_name(out.name + ".partial")
    if state.is_main_process:
        _prepare(unfinished, fingerprint)
    state.wait_for_everyone()
    scorer = None
    mine = ((i, chunk) for i, chunk in enumerate(_chunks(config)) if i % state.num_processes == state.process_index)
    share = -(-total // state.num_processes)
    for index, chunk in track(mine, "scoring", share, 0, weight=lambda pair: len(pair[1])):
        shard = unfinished / f"part-{index:05d}.parquet"
        if not shard.is_file():
            scorer = scorer or _Scorer(_verifier(config, state.device), config.name)
            scorer.add(chunk)
            write_parquet(shard, (solution.to_row() for solution in chunk))
    state.wait_for_everyone()
    if state.is_main_process:
        if out.is_dir():
            shutil.rmtree(out)
        os.replace(unfinished, out)
        # Last: a kill before it leaves what the next run recognises.
        (out / FINGERPRINT).unlink()
    state.wait_for_everyone()
    return {"processes": state.num_processes} | (scorer.speed() if scorer else {})


FINGERPRINT = ".fingerprint"
SHARD = re.compile(r"part-\d{5,}\.parquet|\.fingerprint")


def _prepare(folder: Path, fingerprint: str) -> None:
    """Keeps the shards of an interrupted run with the same inputs and settings; removes others."""
    state = folder / FINGERPRINT
    if not (state.is_file() and state.read_text(encoding="utf-8").strip() == f'"{fingerprint}"'):
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        write_json(state, fingerprint)


class _Scorer:
    """Adds scores chunk by chunk and keeps the time."""

    def __init__(self, verifier: RewardModel, name: str):
        self.verifier, self.name = verifier, name
        self.rows = 0
        self.start = time.perf_counter()

    def add(self, chunk: list[Solution]) -> None:
        for solution in chunk:
            if solution.steps is None:
                solution.steps = self.verifier.boundary.split(solution.completion)
        values = self.verifier.score([s.prompt for s in chunk], [s.completion for s in chunk], [s.steps for s in chunk])
        for solution, scores in zip(chunk, values, strict=True):
            solution.scores[self.name] = scores
        self.rows += len(chunk)

    def speed(self) -> dict[str, float]:
        seconds = time.perf_counter() - self.start
        return {
            "scored_rows": self.verifier.rows_scored,
            "rows_per_second": self.rows / seconds,
            "tokens_per_second": self.verifier.tokens_scored / seconds,
        }
