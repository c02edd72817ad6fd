"""Where rows come from: a file, a folder of shards, or a data set of the Hugging Face hub.

By its name, a file is JSON lines (`.jsonl`, or any unknown ending), one JSON list (`.json`), either of them compressed
(`.gz`), or Parquet (`.parquet`). A folder's shards are its files of these kinds, in the order of their names; other
files (a README, run records, unfinished files, the hub's descriptions) are skipped. All shards must belong to one data
set. The manifest of a folder that a stage has filled names its shards (`rlstep.runtime.manifest`).
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

from rlstep.runtime.errors import DataError, UserError
from rlstep.runtime.manifest import MANIFEST, UNFINISHED, shards_listed
from rlstep.runtime.record import is_record
from rlstep.runtime.rows import OnFault, read_rows, refuse
from rlstep.steps.columns import from_columns

SHARDS = (".jsonl", ".json", ".parquet", ".jsonl.gz", ".json.gz")
# `rlstep data` lists the malformed rows that it skipped in a file next to its output, OUT + this.
BAD_ROWS = ".bad_rows.jsonl"
# What the `datasets` library and the hub put next to shards.
DESCRIPTIONS = ("dataset_info.json", "dataset_infos.json", "dataset_dict.json", "state.json")
NO_ROWS = (*DESCRIPTIONS, MANIFEST, UNFINISHED)

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")


class Row(NamedTuple):
    """A row and its place.

    Attributes:
        source: the file, or the hub's id and split.
        number: its number there, from 1.
        values: its fields.
        renamed: our name -> the file's, of the fields that have ours in place of the file's (`rlstep.steps.fields`).
    """

    source: str
    number: int
    values: dict
    renamed: Mapping[str, str] = MappingProxyType({})

    @property
    def names(self) -> list[str]:
        """The fields' names, as the file has them."""
        names = []
        for name in map(str, self.values):
            inside = [theirs for ours, theirs in self.renamed.items() if ours.startswith(f"{name}.")]
            names += inside or [self.renamed.get(name, name)]
        return names

    def name_of(self, field: str) -> str:
        """A field's name as the file has it: with labels=rating, `labels[2]` is its `rating[2]`."""
        ours = self._renamed_part(field)
        return field if ours is None else self.renamed[ours] + field[len(ours) :]

    def fault(self, field: str | None, problem: str) -> DataError:
        """The error that a field of this row is wrong, under its name in the file.

        Args:
            field: its name here; None when the whole row is wrong.
            problem: what is wrong and what was expected.
        """
        if field is not None and (theirs := self.name_of(field)) != field:
            field, problem = theirs, f"{problem} It is read as {self._renamed_part(field)}."
        return DataError(self.source, self.number, field, problem)

    def _renamed_part(self, field: str) -> str | None:
        """Our name of the field, or of the one that it is in; None if it has its name in the file."""
        within = [ours for ours in self.renamed if field == ours or field.startswith((f"{ours}.", f"{ours}["))]
        return max(within, key=len, default=None)


def stem(source: str) -> str:
    """A source's name without folders and endings: `data/phase1_train.jsonl.gz` -> `phase1_train`."""
    name = source.rsplit("/", 1)[-1]
    for ending in (".gz", ".jsonl", ".json", ".parquet"):
        name = name.removesuffix(ending)
    return name


def iter_rows(path: str | Path, split: str | None = None, on_fault: OnFault = refuse) -> Iterator[Row]:
    """Yields the rows of a file, or of a folder's shards in order.

    Args:
        path: the file or folder.
        split: for a folder, read the shards with this word in their name: `train` reads `train-00000-of-00002.parquet`
            and `phase1_train.jsonl`.
        on_fault: see `rlstep.runtime.rows.read_rows`.

    Raises:
        UserError: nothing is there, a split was given for a single file, or a folder holds two data sets.
        DataError: a row is unreadable.
    """
    yield from rows_of(shards(path, split), on_fault)


def rows_of(files: Sequence[Path], on_fault: OnFault = refuse) -> Iterator[Row]:
    """Yields the rows of files of one data set, in order; see `iter_rows`."""
    _refuse_two_data_sets(files)
    for file in files:
        for number, values in _read(file, on_fault):
            yield Row(str(file), number, values)


def _refuse_two_data_sets(files: Sequence[Path]) -> None:
    """Refuses files whose first rows each have a field that the other lacks; one may have more than the other."""
    seen: list[tuple[Path, set[str]]] = []
    # A manifest's files were written by one run.
    several = len(files) > 1 and not (files[0].parent / MANIFEST).is_file()
    for file in files if several else ():
        # Anything that is not a row is reported when it is read.
        first = next((values for _, values in _read(file, lambda _: None)), None)
        if first is None:
            continue
        names = set(first)
        for other, others in seen:
            if names - others and others - names:
                raise UserError(
                    f"{file.parent}: its files belong to two data sets. The rows of {other.name} have"
                    f" {_few(sorted(others))}; those of {file.name} have {_few(sorted(names))}. Give one of the files,"
                    " or choose among them with split."
                )
        if all(names != others for _, others in seen):
            seen.append((file, names))


def _read(file: Path, on_fault: OnFault) -> Iterator[tuple[int, dict]]:
    rows = _parquet(file) if file.suffix == ".parquet" else read_rows(file, on_fault)
    for number, values in rows:
        try:
            yield number, _recorded(file, number, values)
        except DataError as fault:
            on_fault(fault)


def _recorded(source: Path | str, number: int, values: dict) -> dict:
    """The row, and if it is one of our own as records have it."""
    try:
        return from_columns(values)
    except ValueError as error:
        raise DataError(source, number, "scores", str(error)) from None


def _parquet(path: Path) -> Iterator[tuple[int, dict]]:
    # Imported here because most files are JSONL and do not need pyarrow.
    from rlstep.steps.parquet import read_parquet

    return read_parquet(path)


def shards(path: str | Path, split: str | None = None, editions: Sequence[str] = ()) -> list[Path]:
    """The files that a path stands for; see `iter_rows`.

    Args:
        path, split: see `iter_rows`.
        editions: files with such a word in their name are skipped if there are others, unless `split` has it.
    """
    path = Path(path)
    if not path.is_dir():
        if split is not None and path.is_file():
            raise UserError(f"split is '{split}', but {path} is one file. Leave split out, or give its folder.")
        return [path]
    there = shards_listed(path, _shards_in(path))
    if not there:
        raise UserError(_no_shard(path))
    chosen = [p for p in there if split is None or has_word(split, p.name)]
    if not chosen:
        there = _few(p.name for p in there)
        raise UserError(f"{path}: no file has the split '{split}' in its name; there are {there}.")
    others = [word for word in editions if not has_word(word, split or "")]
    return [p for p in chosen if not any(has_word(word, p.name) for word in others)] or chosen


def has_word(word: str, text: str) -> bool:
    """Whether a text has a word that neither letters nor digits go on from: `train` is in `train-00000-of-00002`."""
    return bool(re.search(rf"(?<![a-z0-9]){re.escape(word)}(?![a-z0-9])", text, re.IGNORECASE))


def _shards_in(folder: Path) -> list[Path]:
    return sorted(p for p in folder.iterdir() if p.is_file() and _is_shard(p))


def _is_shard(path: Path) -> bool:
    name = path.name
    # Names that start with a dot are hidden: macOS puts `._train.jsonl` next to a file.
    passed_over = name.startswith(".") or name.endswith(BAD_ROWS) or name in NO_ROWS or is_record(path)
    return name.endswith(SHARDS) and not passed_over


def _no_shard(folder: Path) -> str:
    """The error for a folder without shards: names subfolders that have some, as in a clone of a hub data set."""
    below = [p for pattern in ("*", "*/*") for p in sorted(folder.glob(pattern)) if p.is_dir()]
    if inside := [p for p in below if not p.relative_to(folder).as_posix().startswith(".") and _shards_in(p)]:
        return f"{folder}: its rows are in a subfolder. Give {' or '.join(map(str, inside[:4]))}."
    arrow = any(folder.glob("*.arrow"))
    if arrow or (folder / "dataset_dict.json").is_file():
        rows = f"datasets.load_from_disk('{folder}')" + ("" if arrow else "['train']")
        return (
            f"{folder}: the library datasets wrote it with save_to_disk, as Arrow files, which are not read. Write a "
            f"file: `python -c \"import datasets; {rows}.to_parquet('NEW.parquet')\"`."
        )
    there = _few(sorted(p.name for p in folder.iterdir())) or "nothing"
    return (
        f"{folder}: no file in this folder ends in {', '.join(SHARDS)}; it has {there}. Give a file or another folder."
    )


def _few(names) -> str:
    names = list(names)
    return ", ".join(names[:8]) + (", ..." if len(names) > 8 else "")


def is_hub_id(path: str) -> bool:
    """Whether a path that does not exist locally has the form of a hub id, `owner/name`."""
    return bool(_HUB_ID.fullmatch(path)) and not path.endswith(SHARDS) and not Path(path).exists()


def hub_rows(name: str, split: str | None, config_name: str | None, revision: str | None) -> Iterator[Row]:
    """Yields the rows of a Hugging Face hub data set as they arrive; none of its code is run.

    Args:
        name: its id, `owner/name`.
        split: its split; required.
        config_name: its configuration, if it has several.
        revision: a branch, tag or commit; the newest by default.

    Raises:
        UserError: no split was given, or the hub does not have or does not serve it.
    """
    if split is None:
        raise UserError(f"{name} is not a local file, so it is read from the hub, which needs a split: --split train.")
    from datasets import load_dataset
    from datasets.exceptions import DatasetNotFoundError

    try:
        rows = load_dataset(name, config_name, split=split, revision=revision, streaming=True)
    except (DatasetNotFoundError, ConnectionError, ValueError, OSError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(
            f"{name}: no such file or folder here, and the hub does not serve it: {reason} Without a network,"
            " give a downloaded file or folder."
        ) from None
    where = " ".join(filter(None, (name, config_name, split)))
    return (Row(where, number, _recorded(where, number, values)) for number, values in enumerate(rows, start=1))
