"""Detects files whose content is not what their name says, by their first bytes, and says what to do.

A JSON parser would only complain about column 1, and the user would look for the fault in the rows.
"""

import re
from pathlib import Path
from typing import BinaryIO, NamedTuple

from rlstep.runtime.errors import UserError

HEAD = 1024  # bytes that are inspected


class Kind(NamedTuple):
    begins: bytes  # a pattern
    what: str
    remedy: str
    ending: str = ""  # that the names of such files should have


POINTERS = (
    Kind(
        rb"version https://git-lfs\.github\.com/spec/",
        "a Git LFS pointer: it stands for data that was not downloaded",
        "Run `git lfs install` and `git lfs pull` in the clone, or download the file itself",
    ),
    Kind(
        rb"(\.\./)*(\.git)?/annex/objects/",
        "a git-annex pointer: it stands for data that was not downloaded",
        "Run `git annex get` on it",
    ),
)
KINDS = (
    *POINTERS,
    Kind(rb"(?i)\s*(<!doctype html|<html)", "an HTML page, perhaps an error or a login", "Download the file again"),
    Kind(rb"\xef\xbb\xbf", "text that begins with a byte order mark (BOM)", "Cut it off: `tail -c +4 FILE > NEW`"),
    Kind(rb"\xff\xfe|\xfe\xff", "text in UTF-16", "Convert it: `iconv -f UTF-16 -t UTF-8 FILE > NEW`"),
    Kind(rb"([^\x00]\x00){4}", "text in UTF-16", "Convert it: `iconv -f UTF-16LE -t UTF-8 FILE > NEW`"),
    Kind(rb"(\x00[^\x00]){4}", "text in UTF-16", "Convert it: `iconv -f UTF-16BE -t UTF-8 FILE > NEW`"),
    Kind(rb"\x1f\x8b", "compressed with gzip", "Give it a name that ends in .gz", ".gz"),
    Kind(rb"PAR1", "a Parquet file", "Give it a name that ends in .parquet", ".parquet"),
    Kind(
        rb"ARROW1|\xff\xff\xff\xff",
        "an Arrow file, as the library datasets keeps them",
        "Load it there, and write it with to_parquet or to_json",
    ),
    Kind(
        rb"\x80[\x02-\x05]",
        "a pickle, which can run any code when it is read",
        "If you trust it, load it where it was written, and write its rows as JSON lines or Parquet",
    ),
    Kind(
        rb"PK\x03\x04",
        "a zip archive",
        "Unpack it; of a spreadsheet (.xlsx) write the rows as JSON lines or Parquet",
    ),
    Kind(rb"\x28\xb5\x2f\xfd|BZh|\xfd7zXZ", "compressed, but not with gzip", "Unpack it"),
)
# Tables as text, which no first bytes tell from other text, and what stands between their columns.
TABLES = {".csv": ",", ".tsv": "\\t"}


def refuse_pointer(path: Path) -> None:
    """Refuses a file that stands for data that was not downloaded.

    Raises:
        UserError: it is one; says what to do.
    """
    with path.open("rb") as file:
        head = file.read(HEAD)
    for kind in POINTERS:
        if re.match(kind.begins, head):
            raise UserError(f"{path} is {kind.what}. {kind.remedy}.")


def refuse_other_kind(path: Path, file: BinaryIO, ending: str) -> None:
    """Refuses content that is evidently not what a name with this ending says; rewinds the file.

    Args:
        path: the file, for the message.
        file: its content, decompressed where it was compressed.
        ending: what the content's name ends in: for `x.jsonl.gz`, .gz, and once decompressed .jsonl.

    Raises:
        UserError: says what it is and what to do.
    """
    head = file.read(HEAD)
    file.seek(0)
    for kind in KINDS:
        if (not kind.ending or kind.ending != ending) and re.match(kind.begins, head):
            raise UserError(f"{path}: its content is not what its name says, but {kind.what}. {kind.remedy}.")
    if ending in TABLES:
        table = f"pandas.read_csv('FILE', sep='{TABLES[ending]}', dtype=str)"
        raise UserError(
            f'{path}: a table as text, and not rows of JSON or Parquet. Convert it: `python -c "import pandas; '
            f"{table}.to_parquet('NEW.parquet')\"`."
        )
