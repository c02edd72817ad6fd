"""The folder of a run's finished units: a file each, and a receipt beside it.

A unit's file is called by its key. The receipt is written last: a unit is there whole, with its receipt, or not at all.
"""

import json
import os
import shutil
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path

from rlstep.runtime.errors import UserError
from rlstep.runtime.manifest import file_digest
from rlstep.runtime.rows import naming, write_json
from rlstep.runtime.units import Unit

Counts = dict[str, float]


@dataclass(frozen=True)
class Receipt:
    """What is known of a finished unit; the attributes are those of `rlstep.runtime.manifest.Shard`."""

    rows: int
    bytes: int
    sha256: str
    counts: Counts


@dataclass(frozen=True)
class Done:
    """What a process has made of a unit."""

    unit: Unit
    rows: Iterable[dict]
    counts: Counts = field(default_factory=dict)


class UnitFiles:
    """The files of finished units and their receipts.

    Args:
        folder: where they are.
        ending: of their names, .jsonl or .parquet.
        write: writes rows to a file, and returns their number.
        accepts: whether a unit with these counts is what the settings ask for; others count as still to be made.
    """

    def __init__(
        self,
        folder: Path,
        ending: str,
        write: Callable[[Path, Iterable[dict]], int],
        accepts: Callable[[Counts], bool],
    ):
        self.folder, self.ending, self.write, self.accepts = folder, ending, write, accepts

    def keys(self) -> set[str]:
        """The keys of the units that are there, accepted or not."""
        files = self.folder.glob(f"*{self.ending}")
        return {path.stem for path in files if path.with_suffix(".json").is_file()}

    def file(self, unit: Unit) -> Path:
        return self.folder / (unit.key + self.ending)

    def receipt(self, unit: Unit) -> Receipt | None:
        """The receipt of a unit that is there; None for one that is still to be made."""
        try:
            receipt = Receipt(**json.loads(self._receipt_file(unit).read_text(encoding="utf-8")))
            whole = self.file(unit).stat().st_size == receipt.bytes
        except (OSError, ValueError, TypeError):
            return None
        return receipt if whole and self.accepts(receipt.counts) else None

    def expected_receipt(self, unit: Unit) -> Receipt:
        """The receipt of a unit that some process has made.

        Raises:
            UserError: it is not there.
        """
        receipt = self.receipt(unit)
        if receipt is None:
            raise UserError(
                f"{self.folder}: the rows of unit {unit.number} are not there, though all processes are done. Is out "
                "on a file system that all machines share?"
            )
        return receipt

    def keep(self, done: Done) -> None:
        """Writes a unit's rows, then its receipt, each of them whole or not at all."""
        file = self.file(done.unit)
        # Two runs that are started at the same time by mistake write the same rows, but not into one file.
        temporary = file.with_name(f"{done.unit.key}.{os.getpid()}{self.ending}")
        with naming(file):
            rows = self.write(temporary, done.rows)
            with temporary.open("rb") as content:
                os.fsync(content.fileno())
        receipt = Receipt(rows, temporary.stat().st_size, file_digest(temporary), dict(done.counts))
        os.replace(temporary, file)
        self._sign(done.unit, receipt)

    def take(self, unit: Unit, file: Path, receipt: Receipt) -> None:
        """Takes a file of an earlier output for a unit's."""
        link(file, self.file(unit))
        self._sign(unit, receipt)

    def _receipt_file(self, unit: Unit) -> Path:
        return self.folder / (unit.key + ".json")

    def _sign(self, unit: Unit, receipt: Receipt) -> None:
        write_json(self._receipt_file(unit), asdict(receipt))


def link(source: Path, target: Path) -> None:
    """Gives a file a second name; a copy where the file system has no such names."""
    target.unlink(missing_ok=True)
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)
