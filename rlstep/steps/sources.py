"""Where rows come from: a file, a folder of shards, or a data set of the Hugging Face hub.

By its name a file is JSON lines (`.jsonl`, and whatever has no other known ending), one JSON list (`.json`), either of
them compressed (`.gz`), or Parquet (`.parquet`). A folder's shards are its files of these kinds, in the order of their
names; other files (a README, run records, unfinished files) are passed over.
"""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from rlstep.runtime.errors import UserError
from rlstep.runtime.record import is_record
from rlstep.runtime.rows import OnFault, read_rows, refuse

SHARDS = (".jsonl", ".json", ".parquet", ".jsonl.gz", ".json.gz")
# What `rlstep data` writes beside its output, OUT + this: the malformed rows that it skipped.
BAD_ROWS = ".bad_rows.jsonl"

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")


class Row(NamedTuple):
    """A row and its place: the file (or the hub's id and split), and its number there from 1."""

    source: str
    number: int
    values: dict


def stem(source: str) -> str:
    """A source's name without folders and endings: `data/phase1_train.jsonl.gz` -> `phase1_train`."""
    name = source.rsplit("/", 1)[-1]
    for ending in (".gz", ".jsonl", ".json", ".parquet"):
        name = name.removesuffix(ending)
    return name


def iter_rows(path: str | Path, split: str | None = None, on_fault: OnFault = refuse) -> Iterator[Row]:
    """Yields the rows of a file, or of a folder's shards one after the other.

    Args:
        path: the file or folder.
        split: of a folder, take the shards with this word in their name: `train` takes `train-00000-of-00002.parquet`
            and `phase1_train.jsonl`.
        on_fault: see `rlstep.runtime.rows.read_rows`.

    Raises:
        UserError: nothing is there, or a split was asked of a single file.
        DataError: a row is unreadable.
    """
    for shard in shards(path, split):
        rows = _parquet(shard) if shard.suffix == ".parquet" else read_rows(shard, on_fault)
        for number, values in rows:
            yield Row(str(shard), number, values)


def _parquet(path: Path) -> Iterator[tuple[int, dict]]:
    # Only here: most files are JSONL, and this keeps pyarrow out of their way.
    from rlstep.steps.parquet import read_parquet

    return read_parquet(path)


def shards(path: str | Path, split: str | None = None) -> list[Path]:
    """The files that a path stands for; see `iter_rows`."""
    path = Path(path)
    if not path.is_dir():
        if split is not None and path.is_file():
            raise UserError(f"split is '{split}', but {path} is one file. Leave split out, or give its folder.")
        return [path]
    there = sorted(p for p in path.iterdir() if p.is_file() and _is_shard(p))
    if not there:
        raise UserError(f"{path}: no file in this folder ends in {', '.join(SHARDS)}. Give a file, or another folder.")
    if split is None:
        return there
    word = re.compile(rf"(?<![a-z0-9]){re.escape(split)}(?![a-z0-9])", re.IGNORECASE)
    if chosen := [p for p in there if word.search(p.name)]:
        return chosen
    raise UserError(f"{path}: no file has the split '{split}' in its name; there are {_few(p.name for p in there)}.")


def _is_shard(path: Path) -> bool:
    return path.name.endswith(SHARDS) and not path.name.endswith(BAD_ROWS) and not is_record(path)


def _few(names) -> str:
    names = list(names)
    return ", ".join(names[:8]) + (", ..." if len(names) > 8 else "")


def is_hub_id(path: str) -> bool:
    """Whether a path that names nothing on this machine has the form of a hub id, `owner/name`."""
    return bool(_HUB_ID.fullmatch(path)) and not path.endswith(SHARDS) and not Path(path).exists()


def hub_rows(name: str, split: str | None, config_name: str | None, revision: str | None) -> Iterator[Row]:
    """Yields the rows of a data set of the Hugging Face hub as they arrive; no code of it is run.

    Args:
        name: its id, `owner/name`.
        split: its split; needed.
        config_name: its configuration, where it has several.
        revision: a branch, tag or commit; the newest by default.

    Raises:
        UserError: no split was given, or the hub does not have or does not give it.
    """
    if split is None:
        raise UserError(f"{name} is no file here, so it is taken from the hub, and that needs a split: --split train.")
    from datasets import load_dataset
    from datasets.exceptions import DatasetNotFoundError

    try:
        rows = load_dataset(name, config_name, split=split, revision=revision, streaming=True)
    except (DatasetNotFoundError, ConnectionError, ValueError, OSError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(
            f"{name}: no such file or folder here, and the hub does not give it: {reason} Where there is no network,"
            " give a downloaded file or folder."
        ) from None
    where = " ".join(filter(None, (name, config_name, split)))
    return (Row(where, number, values) for number, values in enumerate(rows, start=1))
