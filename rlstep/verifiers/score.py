"""The `score` stage: adds a verifier's value of every step to a file of solutions; a killed run continues."""

import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Literal

from rlstep.runtime.checkpoints import checkpoint_files
from rlstep.runtime.errors import DataError, UserError
from rlstep.runtime.progress import track
from rlstep.runtime.record import RunRecord, digest
from rlstep.runtime.rows import ResumableRows
from rlstep.steps.boundaries import line_steps
from rlstep.steps.records import Solution, read_solutions
from rlstep.verifiers.scoring import RewardModel


@dataclass
class ScoreConfig:
    model: str = field(metadata={"help": "Folder or hub id of the verifier."})
    data: str = field(metadata={"help": "Solutions (JSONL), labelled or not."})
    out: str = field(metadata={"help": "Where the scored solutions go (JSONL); another file than data."})
    name: str = field(default="prm", metadata={"help": "The scores' name in every solution's `scores`."})
    batch_tokens: int = field(default=16384, metadata={"help": "Padded tokens a forward pass."})
    chunk_rows: int = field(
        default=4096, metadata={"help": "Rows written at a time; equal rows of a chunk count once."}
    )
    kind: Literal["prm", "orm"] | None = field(
        default=None, metadata={"help": "What label 1 means, for a token classifier that rlstep did not train."}
    )
    dtype: Literal["float32", "bfloat16", "float16"] | None = field(
        default=None, metadata={"help": "The weights' type; that of the checkpoint by default."}
    )
    trust_remote_code: bool = field(default=False, metadata={"help": "Run model code from the hub."})

    def __post_init__(self):
        for name in ("batch_tokens", "chunk_rows"):
            if getattr(self, name) < 1:
                raise UserError(f"{name} is {getattr(self, name)}; it must be at least 1.")
        if Path(self.out).resolve() == Path(self.data).resolve():
            raise UserError(f"out is the file that data names, {self.data}; give another one.")


def score(config: ScoreConfig) -> dict:
    """Scores every solution of `config.data` into `config.out`; steps that are null become lines."""
    solutions = read_solutions(config.data)
    for number, solution in enumerate(solutions, start=1):
        if config.name in solution.scores:
            raise DataError(config.data, number, f"scores.{config.name}", "is there already; choose another name.")
        if solution.steps is None:
            solution.steps = line_steps(solution.completion)
    out = Path(config.out)
    fingerprint = digest(asdict(config), Path(config.data), checkpoint_files(config.model))
    with (
        RunRecord("score", asdict(config), out.parent, name=out.name + ".run.json") as record,
        ResumableRows(out, fingerprint) as rows,
    ):
        done = len(rows.rows)
        record.metrics |= {"rows": len(solutions), "unique_rows": len({(s.prompt, s.completion) for s in solutions})}
        if done < len(solutions):
            verifier = RewardModel.from_pretrained(
                config.model,
                dtype=config.dtype,
                batch_tokens=config.batch_tokens,
                kind=config.kind,
                trust_remote_code=config.trust_remote_code,
            )
            start = time.perf_counter()
            chunks = _chunks(solutions, done, config.chunk_rows)
            for chunk in track(chunks, "scoring", len(solutions), done - done % config.chunk_rows, weight=len):
                _score_chunk(verifier, chunk, config.name)
                written = len(rows.rows) % config.chunk_rows
                rows.append(solution.to_row() for solution in chunk[written:])
            seconds = time.perf_counter() - start
            record.metrics["rows_per_second"] = (len(solutions) - done) / seconds
            record.metrics["tokens_per_second"] = verifier.tokens_scored / seconds
        rows.finish()
    return record.metrics


def _chunks(solutions: list[Solution], done: int, size: int) -> Iterator[list[Solution]]:
    # A chunk that a kill cut in two is scored again as a whole: the same batches give the same last digits.
    for start in range(done - done % size, len(solutions), size):
        yield solutions[start : start + size]


def _score_chunk(verifier: RewardModel, chunk: list[Solution], name: str) -> None:
    values = verifier.score([s.prompt for s in chunk], [s.completion for s in chunk], [s.steps for s in chunk])
    for solution, scores in zip(chunk, values, strict=True):
        solution.scores[name] = scores
