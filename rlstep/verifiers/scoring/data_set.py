"""Scores of every solution of a data set, written chunk by chunk; a killed run continues.

A path ending in `.jsonl` gets one file, from one process. Any other path is a folder of Parquet shards, which several
processes fill together: each scores every so many-th chunk, and a chunk's shard is there whole or not at all. The
folder gets its name when all of them are there.
"""

import os
import re
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import timedelta
from itertools import islice
from pathlib import Path

import torch
from accelerate import PartialState

from rlstep.runtime.errors import DataError, UserError
from rlstep.runtime.progress import track
from rlstep.runtime.record import digest
from rlstep.runtime.rows import ResumableRows, write_json
from rlstep.steps.parquet import write_parquet
from rlstep.steps.prompt_options import written_as
from rlstep.steps.records import Solution, iter_solutions
from rlstep.steps.sources import shards
from rlstep.verifiers.scoring.scorer import RowScorer, TooLong

FINGERPRINT = ".fingerprint"
SHARD = re.compile(r"part-\d{5,}\.parquet|\.fingerprint")


@dataclass(frozen=True)
class ScoringJob:
    """What is scored, by what, to where.

    Attributes:
        data: solutions, labelled or not; the verifier's boundary rule splits those without steps.
        out: NAME.jsonl, or a folder.
        name: the scores' name in every solution's `scores`.
        chunk_rows: rows written at a time; equal rows of a chunk count once.
        fingerprint: of data, verifier and settings; the rows of an unfinished run with another one are not kept.
        open_verifier: from the device, or None for the usual one, to the verifier; not called where nothing is left
            to score.
    """

    data: str
    out: Path
    name: str
    chunk_rows: int
    fingerprint: str
    open_verifier: Callable[[torch.device | None], RowScorer]

    @property
    def one_file(self) -> bool:
        return is_one_file(self.out)


def is_one_file(out: Path) -> bool:
    """Whether scores go to one file, and not to a folder of shards."""
    return out.suffix == ".jsonl"


def count_rows(job: ScoringJob) -> int:
    """How many solutions there are to score.

    A first pass over the data finds a malformed last row before hours of scoring, not after.

    Raises:
        DataError: a row is malformed, or has scores of this name.
    """
    return sum(1 for _ in _solutions(job))


def score_data_set(job: ScoringJob, total: int) -> dict:
    """Scores `job.data` into `job.out`.

    Args:
        job: what is scored.
        total: of `count_rows`.

    Returns:
        What this run computed and how fast; of shards also how many processes there were.

    Raises:
        UserError: several processes would write one file.
    """
    return (_into_file if job.one_file else _into_shards)(job, total)


def data_digest(data: Path) -> list[str] | list[list]:
    """What stands for the data in a fingerprint: a large file's contents would take long to read."""
    files = shards(data)
    if sum(file.stat().st_size for file in files if file.is_file()) < 1 << 30:
        return [digest(file) for file in files]
    return [[file.name, file.stat().st_size, file.stat().st_mtime_ns] for file in files]


def check_folder(out: Path, sources: tuple[str, str]) -> None:
    """Refuses a folder that would be replaced with more in it than an earlier run's shards.

    Args:
        out: the folder.
        sources: the paths of the data and of the verifier.

    Raises:
        UserError: it holds one of the sources or other files, or is a file.
    """
    for source in sources:
        if Path(source).resolve().is_relative_to(out.resolve()):
            raise UserError(f"out is {out}, which holds {source} and would be replaced; give a folder of its own.")
    if out.exists() and not out.is_dir():
        raise UserError(f"out is the file {out}; shards need a folder. Give another name, or NAME.jsonl.")
    if out.is_dir() and any(not SHARD.fullmatch(path.name) for path in out.iterdir()):
        raise UserError(f"{out} holds files that are no shards of an earlier run; give another folder.")


def _solutions(job: ScoringJob) -> Iterator[Solution]:
    for number, solution in enumerate(iter_solutions(job.data), start=1):
        if job.name in solution.scores:
            raise DataError(job.data, number, f"scores.{job.name}", "is there already; choose another name.")
        yield solution


def _chunks(job: ScoringJob) -> Iterator[list[Solution]]:
    solutions = _solutions(job)
    while chunk := list(islice(solutions, job.chunk_rows)):
        yield chunk


def _into_file(job: ScoringJob, total: int) -> dict:
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise UserError(
            f"out is one file, {job.out}, and several processes cannot share it: give a folder, for shards."
        )
    with ResumableRows(job.out, job.fingerprint) as rows:
        done = len(rows.rows)
        metrics = {}
        if done < total:
            # A chunk that a kill cut in two is scored again as a whole: the same batches give the same last digits.
            whole = done - done % job.chunk_rows
            todo = islice(_chunks(job), whole // job.chunk_rows, None)
            scorer = _ChunkScorer(job.open_verifier(None), job)
            for chunk in track(todo, "scoring", total, whole, weight=len):
                scorer.add_scores(chunk)
                written = len(rows.rows) % job.chunk_rows
                rows.append(solution.to_row() for solution in chunk[written:])
            metrics = scorer.speed()
        rows.finish()
    return metrics


def _into_shards(job: ScoringJob, total: int) -> dict:
    # Processes wait for the slowest at the end, for as long as its last chunks take.
    state = PartialState(cpu=not torch.cuda.is_available(), timeout=timedelta(days=30))
    unfinished = job.out.with_name(job.out.name + ".partial")
    if state.is_main_process:
        _prepare(unfinished, job.fingerprint)
    state.wait_for_everyone()
    scorer = None
    mine = ((i, chunk) for i, chunk in enumerate(_chunks(job)) if i % state.num_processes == state.process_index)
    share = -(-total // state.num_processes)
    for index, chunk in track(mine, "scoring", share, 0, weight=lambda pair: len(pair[1])):
        shard = unfinished / f"part-{index:05d}.parquet"
        if not shard.is_file():
            scorer = scorer or _ChunkScorer(job.open_verifier(state.device), job)
            scorer.add_scores(chunk)
            write_parquet(shard, (solution.to_row() for solution in chunk))
    state.wait_for_everyone()
    if state.is_main_process:
        if job.out.is_dir():
            shutil.rmtree(job.out)
        os.replace(unfinished, job.out)
        # Last: a kill before it leaves what the next run recognises.
        (job.out / FINGERPRINT).unlink()
    state.wait_for_everyone()
    return {"processes": state.num_processes} | (scorer.speed() if scorer else {})


def _prepare(folder: Path, fingerprint: str) -> None:
    """Keeps the shards of an interrupted run with the same inputs and settings; removes others."""
    file = folder / FINGERPRINT
    if not (file.is_file() and file.read_text(encoding="utf-8").strip() == f'"{fingerprint}"'):
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        write_json(file, fingerprint)


class _ChunkScorer:
    """Adds scores chunk by chunk and keeps the time."""

    def __init__(self, verifier: RowScorer, job: ScoringJob):
        self.verifier, self.job = verifier, job
        self.rows = 0
        self.start = time.perf_counter()

    def add_scores(self, chunk: list[Solution]) -> None:
        for solution in chunk:
            if solution.steps is None:
                solution.steps = self.verifier.boundary.split(solution.completion)
        self._check_prompts(chunk)
        asked = [s.prompt for s in chunk], [s.completion for s in chunk], [s.steps for s in chunk]
        try:
            values = self.verifier.score(*asked)
        except TooLong as error:
            long = chunk[error.row]
            where = f"{self.job.data}, problem '{long.problem_id}', sample {long.sample}"
            raise UserError(f"{where}: {error.problem}") from None
        for solution, scores in zip(chunk, values, strict=True):
            solution.scores[self.job.name] = scores
        self.rows += len(chunk)

    def _check_prompts(self, chunk: list[Solution]) -> None:
        """Refuses solutions whose prompts were written for the policy in another way than the verifier reads them."""
        taught, written = self.verifier.prompt_format, written_as(chunk)
        if taught is not None and written is not None and (difference := taught.difference(written)):
            raise UserError(
                f"the verifier was taught {difference}, with which solutions of this file were sampled (problem "
                f"'{chunk[0].problem_id}' and others). Train one on samples of this kind."
            )

    def speed(self) -> dict[str, float]:
        seconds = time.perf_counter() - self.start
        return {
            "scored_rows": self.verifier.rows_scored,
            "rows_per_second": self.rows / seconds,
            "tokens_per_second": self.verifier.tokens_scored / seconds,
        }
