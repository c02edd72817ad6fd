"""Where a page's solutions come from: files of the test problems, and what the policies wrote during PPO."""

import hashlib
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from rlstep.core.aggregate import Aggregate
from rlstep.policy.monitoring.completions import COMPLETIONS, Paid, completion_of
from rlstep.policy.rewards.guards import Guards
from rlstep.report import arms
from rlstep.report.html.choice import Withheld, kinds_of, kinds_told, withheld
from rlstep.report.run_files import Faults, read_curves, read_record
from rlstep.report.summary import BEST_OF_N
from rlstep.runtime.errors import DataError, UserError
from rlstep.runtime.record import RECORD
from rlstep.runtime.rows import OnFault, refuse
from rlstep.steps.prompts import problem_text
from rlstep.steps.records import Solution, solution_of
from rlstep.steps.sources import Row, iter_rows

# What a run has of the test problems, the most complete first: one that is not finished has but the later ones.
FILES = ("test/scored.jsonl", "test/scored-prm.jsonl", "test/labelled.jsonl", "test/samples.jsonl")


@dataclass(frozen=True)
class Shown:
    """A solution that a page may show.

    Attributes:
        solution: labelled and scored, or not.
        held: what the guards withhold of it.
        paid: what PPO paid for it, where it was sampled in training.
    """

    solution: Solution
    held: Withheld
    paid: Paid | None = None


@dataclass(frozen=True)
class Source:
    """The solutions of one file.

    Attributes:
        folder: the run's.
        file: its path in that folder.
        guards: in words, what the marks of guards say.
        parse: makes of a row what is shown.
        numbers: the row of each solution; rows that cannot be read have none.
        keys: of each solution, what makes it comparable with another run's: problem, its text, number of the sample.
        kinds: of each solution (`choice.kinds_of`).
        told: which kinds the file can tell, as bits: those that any solution can (`choice.kinds_told`).
        aggregate: how the run's evaluation makes a PRM's values the solution's score.
    """

    folder: Path
    file: str
    guards: str
    parse: Callable[[Row], Shown]
    numbers: list[int]
    keys: list[tuple[str, str, int]]
    kinds: list[int]
    told: int
    aggregate: Aggregate

    def read(self, places: Collection[int]) -> dict[int, Shown]:
        """The solutions at these places, by them; other rows, which were read before, are passed over."""
        wanted = {self.numbers[place]: place for place in places}
        rows = iter_rows(self.folder / self.file, on_fault=lambda _: None)
        return {wanted[row.number]: self.parse(row) for row in rows if row.number in wanted}


def open_source(folder: Path) -> Source | None:
    """Reads which solutions of the test problems a run folder has, and of which kinds; None if it has none.

    Raises:
        UserError: the file has no rows, or one of them is malformed.
    """
    file = next((name for name in FILES if (folder / name).is_file()), None)
    if file is None:
        return None
    settings = _guard_settings(folder)
    guards = Guards(**settings)

    def parse(row: Row) -> Shown:
        solution = solution_of(row)
        return Shown(solution, withheld(solution, guards))

    whose = "as the process arm had them" if settings else "with their default settings"
    return _opened(folder, file, f"what PPO's guards would withhold, {whose}", parse)


def policy_sources(folders: Mapping[str, Path]) -> tuple[list[tuple[str, Source]], list[str]]:
    """(what the policies wrote during PPO, each with its seed and arm in words; what is missing) of the seeds' folders.

    A run that is still writing may leave half a row: what is missing names rows that cannot be read, and the others are
    read.
    """
    sources, missing = [], []
    for seed, folder in folders.items():
        for arm in arms.ARMS:
            file = f"{arm.folder}/{COMPLETIONS}"
            path, place = folder / file, f"{seed}/{file}"
            if not path.is_file():
                if path.parent.is_dir():
                    missing.append(f"what the policy wrote: no {place} (PPO writes it with completion_table_every)")
                continue
            if path.stat().st_size == 0:
                missing.append(f"what the policy wrote: {place} is empty")
                continue
            faults = Faults()
            try:
                source = _opened(folder, file, "as PPO applied them", _sampled, faults.add)
                missing += faults.words(path)
            except UserError as error:  # it is no file of rows at all
                missing.append(str(error))
                continue
            sources += [(f"{seed}: {arm.label}, during PPO", source)] if source.kinds else []
    return sources, missing


def _sampled(row: Row) -> Shown:
    solution, paid = completion_of(row)
    return Shown(solution, Withheld(paid.guards, paid.withheld_by), paid)


def _opened(folder: Path, file: str, guards: str, parse: Callable[[Row], Shown], on_fault: OnFault = refuse) -> Source:
    numbers, keys, kinds, told = [], [], [], 0
    for row, shown in _parsed(folder / file, parse, on_fault):
        numbers.append(row.number)
        keys.append(_key(shown.solution))
        kinds.append(kinds_of(shown.solution, bool(shown.held)))
        told |= kinds_told(shown.solution)
    path = folder / BEST_OF_N
    aggregate = read_curves(path)["aggregate"] if path.is_file() else "product"
    return Source(folder, file, guards, parse, numbers, keys, kinds, told, aggregate)


def _parsed(path: Path, parse: Callable[[Row], Shown], on_fault: OnFault) -> Iterator[tuple[Row, Shown]]:
    for row in iter_rows(path, on_fault=on_fault):
        try:
            shown = parse(row)
        except DataError as fault:
            on_fault(fault)
        else:
            yield row, shown


def _guard_settings(folder: Path) -> dict:
    """The process arm's settings of the guards, from its record; empty if it left none."""
    path = folder / arms.PROCESS.folder / RECORD
    if not path.is_file():
        return {}
    config = read_record(path).get("config", {})
    settings = {name: config[name] for name in Guards.__dataclass_fields__ if name in config}
    for name, value in settings.items():
        if not isinstance(value, int | float | None):
            raise UserError(f"{path}: its setting {name} is {value!r}, no number. Run the stage that writes it again.")
    return settings


def _key(solution: Solution) -> tuple[str, str, int]:
    text = hashlib.sha256(problem_text(solution.prompt).encode("utf-8", "backslashreplace")).hexdigest()
    return solution.problem_id, text, solution.sample
