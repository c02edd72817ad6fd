"""What differs between the folders of two runs that should have ended alike, to the last bit."""

import json
import math
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from transformers.trainer_pt_utils import safe_globals

from rlstep.runtime.record import is_record
from rlstep.runtime.resume import WALL_CLOCK

# What holds nothing but times and settings, pictures of numbers that are compared, and logs.
IGNORED = {"training_args.bin", "report.md"}
IGNORED_KINDS = {".png", ".log", ".md"}
CLOCK = ("seconds", "tokens_per_second", "rows_per_second", "created", "different_rows", "fingerprint", *WALL_CLOCK)


def differences(whole: Path, killed: Path) -> Iterator[str]:
    """Files that one of two folders lacks, and values that differ; what a clock gave is not compared."""
    names = [{str(file.relative_to(root)) for file in _files(root)} for root in (whole, killed)]
    yield from (f"{name} is missing" for name in sorted(names[0] - names[1]))
    yield from (f"{name} should not be there" for name in sorted(names[1] - names[0]))
    for name in sorted(names[0] & names[1]):
        yield from _of_files(whole / name, killed / name, name)


def _files(root: Path) -> Iterator[Path]:
    for file in root.rglob("*"):
        if file.is_file() and file.name not in IGNORED and file.suffix not in IGNORED_KINDS:
            yield file


def _of_files(first: Path, second: Path, name: str) -> Iterator[str]:
    if first.suffix in (".pt", ".pth"):
        yield from _of_values(*(_load(file) for file in (first, second)), name)
    elif first.suffix == ".json":
        yield from _of_values(*(_document(file) for file in (first, second)), name)
    elif first.name in ("metrics.jsonl",):
        yield from _of_values(*([json.loads(row) for row in file.open()] for file in (first, second)), name)
    elif first.suffix == ".html":
        if _page(first) != _page(second):
            yield f"{name}: another page"
    elif first.read_bytes() != second.read_bytes():
        yield f"{name}: other bytes"


def _page(file: Path) -> str:
    """A report's page without what its stages took."""
    return re.sub(r"<details><summary>Time of .*?</details>", "", file.read_text(encoding="utf-8"), flags=re.DOTALL)


def _load(file: Path):
    with safe_globals():
        return torch.load(file, weights_only=True)


def _document(file: Path):
    document = json.loads(file.read_text())
    return document["metrics"] if is_record(file) else document


def _of_values(first, second, place: str) -> Iterator[str]:
    if isinstance(first, dict) and isinstance(second, dict):
        for key in sorted(first.keys() | second.keys(), key=str):
            if not str(key).endswith(CLOCK):
                yield from _of_values(first.get(key, "nothing"), second.get(key, "nothing"), f"{place}/{key}")
    elif isinstance(first, list | tuple) and isinstance(second, list | tuple) and len(first) == len(second):
        for number, pair in enumerate(zip(first, second, strict=True)):
            yield from _of_values(*pair, f"{place}/{number}")
    elif isinstance(first, torch.Tensor) and isinstance(second, torch.Tensor):
        if first.dtype != second.dtype or not torch.equal(first, second):
            yield f"{place}: other numbers"
    elif isinstance(first, np.ndarray) and isinstance(second, np.ndarray):
        if not np.array_equal(first, second):
            yield f"{place}: other numbers"
    elif first != second and not (_is_nan(first) and _is_nan(second)):
        yield f"{place}: {str(first)[:80]!r}, and {str(second)[:80]!r} after kills"


def _is_nan(value) -> bool:
    return isinstance(value, float) and math.isnan(value)
