"""Readers of published data sets and of our own files: other people's rows in, `Solution` records out.

A format is a class (`FORMATS` names them) that turns one row into solutions; its fields are the format's options.
`read` takes the rows from a file, a folder of shards or the Hugging Face hub, one at a time.
"""

import dataclasses
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal

from rlstep.runtime.errors import DataError, UserError
from rlstep.steps.fields import parse_fields, rename_fields
from rlstep.steps.readers.base import Reader, ReadReport, StepReader
from rlstep.steps.readers.gsm8k import GSM8K_ANSWER, GSM8K_PROMPT, Gsm8kReader
from rlstep.steps.readers.math import MathReader
from rlstep.steps.readers.math_shepherd import MathShepherdReader
from rlstep.steps.readers.ours import OursReader
from rlstep.steps.readers.prm800k import Prm800kReader
from rlstep.steps.readers.prmbench import PrmBenchReader
from rlstep.steps.readers.processbench import ProcessBenchReader
from rlstep.steps.readers.rlhflow import RlhflowReader
from rlstep.steps.readers.stepwise import StepwiseReader
from rlstep.steps.readers.values import Field
from rlstep.steps.readers.versaprm import VersaPrmReader
from rlstep.steps.records import Solution
from rlstep.steps.sources import Row, hub_rows, is_hub_id, rows_of, shards

__all__ = [
    "FORMATS", "GSM8K_ANSWER", "GSM8K_PROMPT", "READERS", "ReadReport", "Reader", "StepReader",
    "options_of", "read", "reader_of",
]  # fmt: skip

READERS = {
    "solutions": OursReader,
    "gsm8k": Gsm8kReader,
    "math": MathReader,
    "prm800k": Prm800kReader,
    "math_shepherd": MathShepherdReader,
    "stepwise": StepwiseReader,
    "processbench": ProcessBenchReader,
    "prmbench": PrmBenchReader,
    "rlhflow": RlhflowReader,
    "versaprm": VersaPrmReader,
}
FORMATS = tuple(READERS)


def options_of(format: str) -> tuple[str, ...]:
    """The names of a format's options."""
    return tuple(option.name for option in dataclasses.fields(READERS[format]))


def reader_of(format: str, **options) -> Reader:
    """The reader of a format with these options.

    Raises:
        UserError: no such format, an option that it does not have, or an invalid value.
    """
    if format not in READERS:
        raise UserError(f"no format '{format}'; there are {', '.join(FORMATS)}.")
    if unknown := sorted(set(options) - set(options_of(format))):
        known = ", ".join(options_of(format)) or "none"
        raise UserError(f"{', '.join(unknown)}: the format '{format}' has no such option; it has {known}.")
    return READERS[format](**options)


def read(
    format: str,
    path: str | Path,
    *,
    split: str | None = None,
    config_name: str | None = None,
    revision: str | None = None,
    on_bad_row: Literal["error", "skip"] = "error",
    report: ReadReport | None = None,
    fields: Sequence[str] | None = None,
    **options,
) -> Iterator[Solution]:
    """Yields the solutions of a data set, one row at a time.

    Args:
        format: one of `FORMATS`; `solutions` is what rlstep's stages write.
        path: a file (`.jsonl`, `.json`, either with `.gz`, `.parquet`), a folder of such shards, or a hub id.
        split: the hub data set's split; for a folder, the shards with this word in their name. A second edition of the
            same problems (GSM8K's `train_socratic.jsonl`) is skipped and counted, unless `split` names it.
        config_name, revision: the hub data set's configuration and its branch, tag or commit.
        on_bad_row: whether a malformed row ends the reading or is left out and counted in `report`.
        report: is filled with the counts while the solutions are read.
        fields: the format's names of fields and the file's, `completions=steps` (`rlstep.steps.fields`).
        options: the format's own, see its class.

    Raises:
        UserError: an unknown format, option or field, nothing at `path`, a file without rows.
        DataError: a row is malformed; names file, row and field.
    """
    reader = reader_of(format, **options)
    mapping = parse_fields(fields, reader.names)
    report = ReadReport() if report is None else report
    if on_bad_row not in ("error", "skip"):
        raise UserError(f"on_bad_row is '{on_bad_row}'; choose error or skip.")
    skip = on_bad_row == "skip"
    if is_hub_id(str(path)):
        rows = hub_rows(str(path), split, config_name, revision)
    else:
        for name, value in {"config_name": config_name, "revision": revision}.items():
            if value is not None:
                raise UserError(f"{name} is '{value}', but {path} is not a data set on the hub. Leave it out.")
        files = shards(path, split, reader.editions)
        for name in sorted({file.name for file in shards(path, split)} - {file.name for file in files}):
            report.seen[f"passed over: {name}"] += 1
        rows = rows_of(files, _skipping(report)) if skip else rows_of(files)
    return _solutions(reader, rows, mapping, skip, report)


def _skipping(report: ReadReport):
    def skip(fault: DataError) -> None:
        report.rows[str(fault.path)] += 1
        report.skip(fault)

    return skip


def _solutions(
    reader: Reader, rows: Iterator[Row], mapping: dict[str, str], skip: bool, report: ReadReport
) -> Iterator[Solution]:
    samples: Counter = Counter()
    for row in rows:
        report.rows[row.source] += 1
        try:
            # Parse the whole row first: nothing is taken from a malformed one.
            row = rename_fields(row, mapping)
            solutions = reader.solutions(Field.of(row), report)
        except DataError as fault:
            if not skip:
                raise
            report.skip(fault)
            continue
        report.row = row
        for solution in solutions:
            if not isinstance(reader, OursReader):
                solution.sample = samples[solution.problem_id]
                samples[solution.problem_id] += 1
            yield solution
