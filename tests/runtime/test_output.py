"""Units of work that several processes write: whatever is killed, the output is that of an undisturbed run."""

import errno
import json
import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from rlstep.runtime.errors import UserError
from rlstep.runtime.failure import is_resumable
from rlstep.runtime.manifest import MANIFEST, UNFINISHED, read_manifest
from rlstep.runtime.output import Output
from rlstep.runtime.processes import Alone
from rlstep.runtime.unit_files import Done
from rlstep.runtime.units import Unit
from rlstep.steps.records import Solution, read_solutions, write_solution_rows
from rlstep.steps.sources import iter_rows

UNITS = [Unit(number, f"key{number}", 3) for number in range(7)]
OUTS = ["out.jsonl", "out"]


class Killed(BaseException):
    pass


class Peer:
    """One of several processes, here threads."""

    def __init__(self, index: int, number: int, barrier: threading.Barrier):
        self.index, self.number, self._barrier = index, number, barrier

    def wait(self) -> None:
        self._barrier.wait(timeout=20)


def solutions(unit: Unit) -> list[Solution]:
    return [Solution(f"p{unit.number}", "數?", f"{unit.key} {k}\u2028", "1", sample=k) for k in range(unit.rows)]


class Worker:
    """Makes units, counts them, and dies before one of them."""

    def __init__(self, dies_before: int | None = None, odd: int = 1):
        self.dies_before, self.odd, self.made = dies_before, odd, []

    def __call__(self, mine: list[Unit]) -> Iterator[Done]:
        for unit in mine:
            if unit.number == self.dies_before:
                raise Killed
            self.made.append(unit.number)
            rows = (solution.to_row() for solution in solutions(unit))
            yield Done(unit, rows, {"seen": unit.rows, "odd": self.odd * (unit.number % 2)})


def fill(out: Path, worker: Worker, processes: int = 1, units=UNITS, **options):
    """What each process gets, of those that do not die."""
    barrier, results = threading.Barrier(processes), []

    def run(index: int) -> None:
        peer = Peer(index, processes, barrier)
        try:
            output = Output(out, "sample", {"seed": 0}, write_solution_rows, peer, **options)
            results.append(output.fill(units, worker))
        except Killed:
            barrier.abort()  # a launcher ends the others
        except threading.BrokenBarrierError:
            pass

    threads = [threading.Thread(target=run, args=(index,)) for index in range(processes)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return results


WHOLE = [solution for unit in UNITS for solution in solutions(unit)]


@pytest.mark.parametrize("name", OUTS)
@pytest.mark.parametrize("processes", [1, 2, 3, 9])
def test_any_number_of_processes_write_the_same_rows_in_order(tmp_path, name, processes):
    worker = Worker()
    totals = fill(tmp_path / name, worker, processes)
    assert sorted(worker.made) == list(range(7))
    assert read_solutions(tmp_path / name) == WHOLE
    assert [(t.rows, t.counts) for t in totals] == [(21, {"seen": 21, "odd": 3})] * processes
    assert [path.name for path in tmp_path.iterdir()] == [name]


@pytest.mark.parametrize("name", OUTS)
@pytest.mark.parametrize(("before", "after"), [(1, 1), (1, 3), (3, 1), (2, 5)])
@pytest.mark.parametrize("dies_before", range(7))
def test_a_killed_run_goes_on_with_another_number_of_processes(tmp_path, name, before, after, dies_before):
    first, second = Worker(dies_before), Worker()
    assert fill(tmp_path / name, first, before) == []
    assert not (tmp_path / name).exists()
    (totals, *_) = fill(tmp_path / name, second, after)
    assert sorted(first.made + second.made) == list(range(7))
    assert read_solutions(tmp_path / name) == WHOLE
    assert totals.counts == {"seen": 21, "odd": 3}
    assert [path.name for path in tmp_path.iterdir()] == [name]


@pytest.mark.parametrize("earlier", [False, True])
@pytest.mark.parametrize("name", OUTS)
def test_a_kill_while_the_output_is_completed_loses_nothing(tmp_path, monkeypatch, name, earlier):
    """At every change of the file system; with an earlier output in its place, and without."""
    changes = ("replace", "link", "mkdir", "rmdir", "unlink", "rename")

    def run(folder: Path, dies_at: int | None, worker: Worker) -> int:
        count = 0
        with monkeypatch.context() as patch:
            for change in changes:
                real = getattr(os, change)

                def mortal(*args, real=real, **options):
                    nonlocal count
                    if count == dies_at:
                        raise Killed
                    count += 1
                    return real(*args, **options)

                patch.setattr(os, change, mortal)
            fill(folder / name, worker, units=UNITS[:3])
        return count

    def prepare(folder: Path) -> None:
        folder.mkdir()
        if earlier:
            fill(folder / name, Worker(), units=[Unit(0, "earlier", 2)])

    prepare(tmp_path / "whole")
    total = run(tmp_path / "whole", None, Worker())
    assert total > 20
    for dies_at in range(total):
        folder = tmp_path / f"at{dies_at}"
        prepare(folder)
        first, second = Worker(), Worker()
        run(folder, dies_at, first)
        # A file that is complete, down to what was left of the run, is made again if it is asked for again.
        over = name == "out.jsonl" and len(first.made) == 3 and not (folder / "out.jsonl.partial").exists()
        fill(folder / name, second, units=UNITS[:3])
        # The one unit in flight may be made twice.
        assert over or len(first.made) + len(second.made) <= 4, dies_at
        assert read_solutions(folder / name) == WHOLE[:9], dies_at
        assert [path.name for path in folder.iterdir()] == [name], dies_at


@pytest.mark.parametrize(
    ("file", "change"),
    [
        ("key1.parquet", lambda content: content[:-10]),
        ("key1.parquet", None),
        ("key1.json", lambda content: content[:20]),
        ("key1.json", lambda content: b"[]"),
        ("key1.json", None),
    ],
)
def test_what_is_not_whole_is_made_again(tmp_path, file, change):
    fill(tmp_path / "out", Worker(4))
    path = tmp_path / "out.partial" / file
    if change is None:
        path.unlink()
    else:
        path.write_bytes(change(path.read_bytes()))
    second = Worker()
    fill(tmp_path / "out", second)
    assert second.made == [1, 4, 5, 6]
    assert read_solutions(tmp_path / "out") == WHOLE


def test_the_manifest_says_what_there_is(tmp_path):
    units = [UNITS[0], Unit(1, "empty", 0), UNITS[2]]
    fill(tmp_path / "out", Worker(), units=units)
    content = json.loads((tmp_path / "out" / MANIFEST).read_text())
    assert (content["format"], content["stage"], content["settings"], content["rows"]) == (1, "sample", {"seed": 0}, 6)
    shards = content["shards"]
    assert [(s["file"], s["first_row"], s["rows"], s["key"]) for s in shards] == [
        ("part-00000.parquet", 0, 3, "key0"),
        ("part-00001.parquet", 3, 3, "key2"),
    ]
    assert [s["bytes"] for s in shards] == [(tmp_path / "out" / s["file"]).stat().st_size for s in shards]
    assert shards[1]["counts"] == {"seen": 3, "odd": 0}
    assert len({s["sha256"] for s in shards}) == 2
    other = fingerprint(tmp_path / "b", units=UNITS[:3])
    assert content["fingerprint"] != other == fingerprint(tmp_path / "c", units=UNITS[:3])


def fingerprint(out: Path, units) -> str:
    fill(out, Worker(), units=units)
    return read_manifest(out).fingerprint


def test_units_of_an_earlier_output_are_kept_if_they_are_asked_for_again(tmp_path, caplog):
    fill(tmp_path / "out", Worker())
    changed = [Unit(0, "new", 3), *(Unit(number, UNITS[number + 1].key, 3) for number in range(1, 6))]
    worker = Worker()
    fill(tmp_path / "out", worker, processes=2, units=changed)
    assert worker.made == [0]
    rows = read_solutions(tmp_path / "out")
    assert [row.completion.split()[0] for row in rows[::3]] == ["new", "key2", "key3", "key4", "key5", "key6"]
    assert "of 6 shards, 5 are kept" in caplog.text
    assert "2 shards of an earlier run are replaced" in caplog.text


def test_a_restart_says_what_it_keeps_of_an_unfinished_run_and_what_it_replaces(tmp_path, caplog):
    # What a killed run leaves: a mark, and finished units, of which the first is asked for again.
    fill(tmp_path / "out", Worker())
    partial = tmp_path / "again.partial"
    partial.mkdir()
    (partial / "_unfinished.json").write_text("{}")
    for shard in read_manifest(tmp_path / "out").shards[:3]:
        (partial / f"{shard.key}.parquet").write_bytes((tmp_path / "out" / shard.file).read_bytes())
        receipt = {"rows": shard.rows, "bytes": shard.bytes, "sha256": shard.sha256, "counts": shard.counts}
        (partial / f"{shard.key}.json").write_text(json.dumps(receipt))
    fill(tmp_path / "again", Worker(), units=[UNITS[0], Unit(1, "new", 3)])
    assert "of 2 shards, 1 is kept" in caplog.text
    assert "2 shards of an earlier run are replaced" in caplog.text


def test_one_file_is_replaced_as_a_whole_and_says_so(tmp_path, caplog):
    fill(tmp_path / "out.jsonl", Worker())
    assert not caplog.messages
    worker = Worker()
    fill(tmp_path / "out.jsonl", worker, processes=2)
    assert len(worker.made) == len(UNITS)
    (told,) = caplog.messages
    assert f"{tmp_path / 'out.jsonl'} is of an earlier run" in told


def test_a_shard_that_somebody_has_changed_is_not_kept(tmp_path):
    fill(tmp_path / "out", Worker())
    path = tmp_path / "out" / "part-00003.parquet"
    content = path.read_bytes()
    path.unlink()
    path.write_bytes(content[:40] + bytes([content[40] ^ 1]) + content[41:])
    worker = Worker()
    fill(tmp_path / "out", worker)
    assert worker.made == [3]
    assert read_solutions(tmp_path / "out") == WHOLE


@pytest.mark.parametrize("content", ["", '{"format": 1, "shards": [{"fi', '{"format": 1}', "[]", '{"format": 9}'])
def test_a_half_written_manifest_is_no_data_set_but_may_be_replaced(tmp_path, content):
    fill(tmp_path / "out", Worker())
    (tmp_path / "out" / MANIFEST).write_text(content)
    with pytest.raises(UserError, match=f"{MANIFEST}: "):
        list(iter_rows(tmp_path / "out"))
    worker = Worker()
    fill(tmp_path / "out", worker)
    assert len(worker.made) == 7
    assert read_solutions(tmp_path / "out") == WHOLE


@pytest.mark.parametrize("name", OUTS)
def test_units_that_are_alike_are_written_each(tmp_path, name):
    units = [UNITS[0], Unit(1, "key0", 3), Unit(2, "key0", 3)]
    fill(tmp_path / name, Worker(), units=units)
    assert [row.problem_id for row in read_solutions(tmp_path / name)[::3]] == ["p0", "p1", "p2"]


def test_a_unit_that_is_not_what_the_settings_ask_for_is_made_again(tmp_path):
    fill(tmp_path / "out", Worker(5))
    worker = Worker(odd=0)
    (totals,) = fill(tmp_path / "out", worker, accepts=lambda counts: not counts["odd"])
    assert worker.made == [1, 3, 5, 6]
    assert totals.counts == {"seen": 21, "odd": 0}


def test_a_unit_that_is_made_again_in_vain_is_missed(tmp_path):
    output = out(tmp_path / "out", accepts=lambda counts: not counts["odd"])
    with pytest.raises(UserError, match="the rows of unit 1 are not there"):
        output.fill(UNITS, Worker())
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", OUTS)
def test_an_output_without_rows_is_an_error(tmp_path, name):
    output = Output(tmp_path / name, "score", {}, write_solution_rows, Alone())
    with pytest.raises(UserError, match="nothing is left to write to .*out"):
        output.fill([Unit(0, "a", 3)], lambda mine: (Done(unit, ()) for unit in mine))
    assert not (tmp_path / name).exists()


def out(path: Path, **options) -> Output:
    return Output(path, "score", {}, write_solution_rows, Alone(), **options)


def test_nothing_of_anybody_else_is_replaced(tmp_path):
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "thesis.txt").write_text("years of work")
    with pytest.raises(UserError, match=r"home holds files that are no shards of an earlier run \(thesis.txt\)"):
        out(tmp_path / "home").fill(UNITS, Worker())
    (tmp_path / "x.partial").mkdir()
    (tmp_path / "x.partial" / "thesis.txt").write_text("years of work")
    with pytest.raises(UserError, match="x.partial is not of an earlier run"):
        out(tmp_path / "x").fill(UNITS, Worker())
    (tmp_path / "y.jsonl.partial").write_text('{"fingerprint": "0"}\n')
    with pytest.raises(UserError, match="y.jsonl.partial is a file"):
        out(tmp_path / "y.jsonl").fill(UNITS, Worker())
    (tmp_path / "z.jsonl").mkdir()
    with pytest.raises(UserError, match=r"out is the folder .*z.jsonl"):
        out(tmp_path / "z.jsonl").fill(UNITS, Worker())
    with pytest.raises(UserError, match="which holds .*thesis.txt and would be replaced"):
        out(tmp_path / "home").check_place([str(tmp_path / "home" / "thesis.txt")])
    with pytest.raises(UserError, match="which this run reads and would be replaced"):
        out(tmp_path / "w.jsonl").check_place([str(tmp_path / "home" / ".." / "w.jsonl")])
    with pytest.raises(UserError, match="rows.parquet; give NAME.jsonl for one file"):
        out(tmp_path / "rows.parquet").fill(UNITS, Worker())
    assert (tmp_path / "home" / "thesis.txt").read_text() == "years of work"


def test_shards_that_are_not_in_sight_of_the_first_process_are_missed(tmp_path):
    """As with folders of two machines, which share no file system."""

    class Elsewhere(Alone):
        number = 2

    with pytest.raises(UserError, match="the rows of unit 1 are not there, .* that all machines share"):
        Output(tmp_path / "out", "score", {}, write_solution_rows, Elsewhere()).fill(UNITS, Worker())


def test_an_unfinished_folder_is_no_data_set(tmp_path):
    fill(tmp_path / "out", Worker(5))
    assert (tmp_path / "out.partial" / UNFINISHED).is_file()
    for rename in (None, "renamed"):
        folder = tmp_path / "out.partial"
        if rename:
            folder = folder.rename(tmp_path / rename)
        with pytest.raises(UserError, match="its rows are not all there: .* Run it again with"):
            list(iter_rows(folder))


@pytest.mark.parametrize(("dies_before", "goes_on"), [(0, False), (3, True)])
def test_what_ends_a_run_early_says_whether_it_can_go_on(tmp_path, dies_before, goes_on):
    output = Output(tmp_path / "out.jsonl", "sample", {}, write_solution_rows, Alone())
    with pytest.raises(Killed) as killed:
        output.fill(UNITS, Worker(dies_before))
    assert is_resumable(killed.value) == goes_on


def test_a_full_disk_is_said_with_the_file(tmp_path):
    def write(path, rows):
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(OSError, match=r"No space left on device: '.*out.partial/key0.parquet'"):
        Output(tmp_path / "out", "sample", {}, write, Alone()).fill(UNITS, Worker())
