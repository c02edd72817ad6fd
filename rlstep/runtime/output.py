"""Rows that a stage writes unit by unit, by any number of processes, so that a kill loses only the units in flight.

A unit is a batch of samples or a chunk of rows; its key stands for everything that its rows depend on. While a run is
going on, `NAME.partial/` holds the finished units (`rlstep.runtime.unit_files`). Which process wrote one does not
matter, so a run can go on with another number of processes; nor does its place, so it is kept if other rows of the
input change.

When all units are there, their files become the shards of the folder NAME, in order, with a manifest
(`rlstep.runtime.manifest`), or are joined to one file, NAME.jsonl.
"""

import logging
import os
import re
import shutil
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from rlstep.runtime.counted import counted
from rlstep.runtime.errors import UserError
from rlstep.runtime.failure import resumable
from rlstep.runtime.manifest import MANIFEST, UNFINISHED, Manifest, Shard, file_digest, read_manifest
from rlstep.runtime.processes import Processes, my_share
from rlstep.runtime.record import digest
from rlstep.runtime.rows import atomic, write_json
from rlstep.runtime.unit_files import Counts, Done, Receipt, UnitFiles, link
from rlstep.runtime.units import Unit

logger = logging.getLogger(__name__)

# Names that look like a file of another kind than is written.
NO_FOLDER = (".json", ".gz", ".parquet", ".csv", ".txt")
SHARD = re.compile(r"part-\d{5,}\.parquet")


@dataclass(frozen=True)
class Totals:
    """The totals over all units: rows written, and the sum of each count."""

    rows: int
    counts: Counter


# Is given this process's units, of which there may be none, and yields them finished, in any order.
Work = Callable[[list[Unit]], Iterator[Done]]


class Output:
    """A file or folder that is filled unit by unit.

    Args:
        path: NAME.jsonl, or a folder.
        stage: the command's name, for the manifest.
        settings: the command's, for the manifest.
        write: writes rows to a file whose name ends in .jsonl or .parquet, and returns their number.
        processes: those that fill it.
        accepts: whether a finished unit with these counts is what the settings ask for; it is made again if not.
    """

    def __init__(
        self,
        path: str | Path,
        stage: str,
        settings: dict,
        write: Callable[[Path, Iterable[dict]], int],
        processes: Processes,
        accepts: Callable[[Counts], bool] = lambda counts: True,
    ):
        self.path, self.stage, self.settings = Path(path), stage, settings
        self.processes, self.accepts = processes, accepts
        self.one_file = is_one_file(self.path)
        self.partial = self.path.with_name(self.path.name + ".partial")
        self.files = UnitFiles(self.partial, ".jsonl" if self.one_file else ".parquet", write, accepts)

    def fill(self, units: Sequence[Unit], work: Work) -> Totals:
        """Makes the units that are not there yet and completes the output. All processes call it with the same units.

        Args:
            units: all of them, in order.
            work: called in every process if any has something to do.

        Returns:
            The totals over all units, those of earlier runs included.

        Raises:
            UserError: the output's place is taken by something else, or another process's units are not in sight.
        """
        with resumable(lambda: bool(self.files.keys())):
            return self._fill(units, work)

    def _fill(self, units: Sequence[Unit], work: Work) -> Totals:
        self.check_place()
        units = _distinct(units)
        if self.processes.index == 0:
            self._prepare(units)
        self.processes.wait()
        missing = [unit for unit in units if self.files.receipt(unit) is None]
        self.processes.wait()  # all have looked before any of them writes
        if missing:
            for done in work(list(my_share(self.processes, missing))):
                self.files.keep(done)
        self.processes.wait()
        receipts = [self.files.expected_receipt(unit) for unit in units]
        totals = _totals(receipts)
        if not totals.rows:
            left_out = counted(sum(unit.rows for unit in units), "row was", "rows were")
            whose = "its" if left_out.startswith("1 ") else "all"
            raise UserError(f"nothing is left to write to {self.path}: {whose} {left_out} left out.")
        self.processes.wait()  # all have read before the files are moved
        if self.processes.index == 0:
            (self._join if self.one_file else self._move)(units, receipts)
        self.processes.wait()
        return totals

    def check_place(self, sources: Iterable[str] = ()) -> None:
        """Refuses to replace what is no earlier output.

        Args:
            sources: paths that the run reads.

        Raises:
            UserError: one of the sources or something else is at the output's path or at that of its unfinished part,
                or a folder there holds one of the sources.
        """
        for source in sources:
            if Path(source).resolve() == self.path.resolve():
                raise UserError(f"out is {self.path}, which this run reads and would be replaced; give another one.")
            if Path(source).resolve().is_relative_to(self.path.resolve()):
                raise UserError(
                    f"out is {self.path}, which holds {source} and would be replaced; give a folder of its own."
                )
        if self.path.suffix in NO_FOLDER:
            raise UserError(f"out is {self.path}; give NAME.jsonl for one file, or a folder's name for Parquet shards.")
        if self.one_file:
            if self.path.is_dir():
                raise UserError(f"out is the folder {self.path}; give a file in it, or a folder's name without .jsonl.")
        elif self.path.exists() and not self.path.is_dir():
            raise UserError(f"out is the file {self.path}; shards need a folder. Give another name, or NAME.jsonl.")
        elif self.path.is_dir():
            _refuse_foreign(self.path, lambda name: SHARD.fullmatch(name) or name == MANIFEST)
        if self.partial.is_dir():
            # A kill right at the start leaves no more than the mark's beginning.
            begun = all(path.name.startswith(UNFINISHED) for path in self.partial.iterdir())
            if not (begun or (self.partial / UNFINISHED).is_file()):
                raise UserError(
                    f"{self.partial} is not of an earlier run, and would be written into. Move it elsewhere."
                )
        elif self.partial.is_file():  # another process may make the folder right now
            raise UserError(
                f"{self.partial} is a file; a folder of this name takes the unfinished rows. Remove it, or choose "
                "another out."
            )

    def _prepare(self, units: Sequence[Unit]) -> None:
        """Makes the folder of unfinished units, with those that an earlier output has already."""
        self.partial.mkdir(parents=True, exist_ok=True)
        about = {"stage": self.stage, "out": str(self.path), "settings": self.settings}
        write_json(self.partial / UNFINISHED, about)
        if self.one_file and self.path.exists():
            logger.warning(
                "%s is of an earlier run, and is replaced once all rows are made again; a folder, a name without "
                ".jsonl, keeps the rows that are the same", self.path,
            )  # fmt: skip
        for left in (self._replaced, self._used):
            shutil.rmtree(left, ignore_errors=True)
        shard_of = {shard.key: shard for shard in self._earlier_shards()}
        begun = self.files.keys()
        kept = sum(self.files.receipt(unit) is not None for unit in units)
        for unit in units:
            shard = shard_of.get(unit.key)
            if shard is None or self.files.receipt(unit) is not None or not self.accepts(shard.counts):
                continue
            old = self.path / shard.file
            if old.is_file() and file_digest(old) == shard.sha256:
                self.files.take(unit, old, Receipt(shard.rows, shard.bytes, shard.sha256, shard.counts))
                kept += 1
        if kept:
            logger.warning(
                "%s: of %s, %s kept, as the rows that were read, the model and the settings are the same; remove the "
                "folder to have everything made again",
                self.path, counted(len(units), "shard"), counted(kept, "is", "are"),
            )  # fmt: skip
        if unused := (begun | shard_of.keys()) - {unit.key for unit in units}:
            logger.warning(
                "%s: %s replaced, as the rows that were read, the model or the settings are others now; to keep what "
                "is there, stop here and give another out",
                self.path, counted(len(unused), "shard of an earlier run is", "shards of an earlier run are"),
            )  # fmt: skip

    def _earlier_shards(self) -> list[Shard]:
        """Those of an earlier output; none if its manifest is damaged, as the output is about to be replaced."""
        try:
            manifest = None if self.one_file else read_manifest(self.path)
        except UserError:
            return []
        return [] if manifest is None else manifest.shards

    # --- The complete output.

    @property
    def _replaced(self) -> Path:
        """Where an earlier output is while this one takes its place."""
        return self.path.with_name(f".{self.path.name}.replaced")

    @property
    def _used(self) -> Path:
        """Where the unfinished folder is while it is removed."""
        return self.path.with_name(f".{self.path.name}.used")

    def _join(self, units: Sequence[Unit], receipts: Sequence[Receipt]) -> None:
        with atomic(self.path) as temporary, temporary.open("wb") as joined:
            for unit in units:
                with self.files.file(unit).open("rb") as part:
                    shutil.copyfileobj(part, joined, 1 << 20)
        self._clear()

    def _move(self, units: Sequence[Unit], receipts: Sequence[Receipt]) -> None:
        """Makes the folder of shards beside the unfinished one, which stays as it is until the other has its name."""
        complete = self.path.with_name(f".{self.path.name}.complete")
        shutil.rmtree(complete, ignore_errors=True)
        complete.mkdir()
        shards, first_row = [], 0
        for unit, receipt in zip(units, receipts, strict=True):
            if receipt.rows:
                name = f"part-{len(shards):05d}.parquet"
                link(self.files.file(unit), complete / name)
                shards.append(Shard(name, first_row, key=unit.key, **asdict(receipt)))
                first_row += receipt.rows
        fingerprint = digest([unit.key for unit in units])
        Manifest(self.stage, fingerprint, self.settings, first_row, shards).write(complete)
        if self.path.is_dir():
            os.replace(self.path, self._replaced)
        os.replace(complete, self.path)
        self._clear()
        shutil.rmtree(self._replaced, ignore_errors=True)

    def _clear(self) -> None:
        """Removes the unfinished folder, which is all there until it has another name."""
        shutil.rmtree(self._used, ignore_errors=True)
        os.replace(self.partial, self._used)
        shutil.rmtree(self._used)


def is_one_file(path: str | Path) -> bool:
    """Whether rows go to one file, and not to a folder of shards."""
    return Path(path).suffix == ".jsonl"


def _totals(receipts: Sequence[Receipt]) -> Totals:
    counts: Counter[str] = Counter()
    for receipt in receipts:
        counts.update(receipt.counts)
    return Totals(sum(receipt.rows for receipt in receipts), counts)


def _distinct(units: Sequence[Unit]) -> list[Unit]:
    """The units with keys that differ: the second of two that are alike but for their place has a file of its own."""
    times: Counter[str] = Counter()
    distinct = []
    for unit in units:
        again = times[unit.key]
        times[unit.key] += 1
        distinct.append(Unit(unit.number, f"{unit.key}-{again}" if again else unit.key, unit.rows))
    return distinct


def _refuse_foreign(folder: Path, is_ours: Callable[[str], object]) -> None:
    if foreign := sorted(path.name for path in folder.iterdir() if not is_ours(path.name)):
        raise UserError(
            f"{folder} holds files that are no shards of an earlier run ({', '.join(foreign[:4])}); give another "
            "folder."
        )
