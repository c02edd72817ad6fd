"""The manifest of a folder of shards: which files it has, how many rows each, and what they came from.

A folder that a stage has filled holds `part-00000.parquet`, `part-00001.parquet`, ... and the manifest, which is
written last. Its name begins with an underscore, so that readers of whole folders (pyarrow, pandas, Spark) pass over
it. While a folder is being filled it is called `NAME.partial` and holds a mark instead, and no reader takes its rows
for a data set.
"""

import hashlib
import json
from dataclasses import asdict, dataclass, field
from pathlib import Path

from rlstep.runtime.errors import UserError
from rlstep.runtime.rows import write_json

MANIFEST = "_manifest.json"
UNFINISHED = "_unfinished.json"
FORMAT = 1


@dataclass(frozen=True)
class Shard:
    """A file of a folder.

    Attributes:
        file: its name.
        first_row: the number of its first row among those of all shards, from 0.
        rows: how many it has.
        bytes: its size.
        sha256: of its content.
        key: of everything that its rows depend on: input rows, model, settings.
        counts: what was counted while they were made, for example of solutions that the model ended itself.
    """

    file: str
    first_row: int
    rows: int
    bytes: int
    sha256: str
    key: str
    counts: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Manifest:
    """What a folder of shards holds.

    Attributes:
        stage: the command that filled it.
        fingerprint: of all shards' keys.
        settings: the command's, resolved.
        rows: of all shards.
        shards: in their order.
    """

    stage: str
    fingerprint: str
    settings: dict
    rows: int
    shards: list[Shard]

    def write(self, folder: Path) -> None:
        write_json(folder / MANIFEST, {"format": FORMAT, **asdict(self)})


def read_manifest(folder: Path) -> Manifest | None:
    """A folder's manifest, None where it has none.

    Raises:
        UserError: the manifest is half-written or of another version.
    """
    file = folder / MANIFEST
    if not file.is_file():
        return None
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        known = content.pop("format")
        shards = [Shard(**shard) for shard in content.pop("shards")]
        if outside := next((shard.file for shard in shards if Path(shard.file).name != shard.file), None):
            raise ValueError(f"{outside} is not a name in this folder")
        manifest = Manifest(**content, shards=shards)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise UserError(
            f"{file}: the manifest is not readable ({type(error).__name__}: {error}). Copy the folder again as a "
            "whole, or run the stage that wrote it again."
        ) from None
    if known != FORMAT:
        raise UserError(f"{file}: a manifest of format {known}, and this version of rlstep reads format {FORMAT}.")
    return manifest


def shards_listed(folder: Path, data_files: list[Path]) -> list[Path]:
    """A folder's shards in the manifest's order; without a manifest the files that are there.

    Args:
        folder: the folder.
        data_files: the files in it that look like shards.

    Raises:
        UserError: the folder is being filled, or is not as its manifest says: a shard is missing, has another size, or
            is not in the manifest.
    """
    if folder.name.endswith(".partial") or (folder / UNFINISHED).is_file():
        raise UserError(
            f"{folder}: its rows are not all there: the stage that fills it is running or was ended. Run it again with "
            "the same settings: it goes on where it stopped, and gives the folder its name at the end."
        )
    manifest = read_manifest(folder)
    if manifest is None:
        return data_files
    listed = [folder / shard.file for shard in manifest.shards]
    remedy = "Copy the folder again as a whole, or run the stage that wrote it again."
    for path, shard in zip(listed, manifest.shards, strict=True):
        if not path.is_file():
            raise UserError(f"{folder}: {shard.file} is missing, which the manifest names. {remedy}")
        if (size := path.stat().st_size) != shard.bytes:
            raise UserError(f"{path}: {size:,} bytes, and the manifest says {shard.bytes:,}. {remedy}")
    if foreign := sorted({path.name for path in data_files} - {path.name for path in listed}):
        raise UserError(
            f"{folder}: {', '.join(foreign[:4])} is not in the folder's manifest. Move it elsewhere; to read several "
            f"files as one data set, put them into a folder without {MANIFEST}."
        )
    return listed


def file_digest(path: Path) -> str:
    """The SHA-256 of a file's content."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
