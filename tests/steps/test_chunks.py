"""Chunks of solutions, whose ends depend on what the rows hold."""

from itertools import accumulate

import pytest

from rlstep.runtime.errors import DataError
from rlstep.runtime.rows import write_rows
from rlstep.steps.chunks import chunk_units, chunks_of
from rlstep.steps.records import Solution, read_solutions, write_solutions
from rlstep.steps.sources import iter_rows


def solutions(n: int) -> list[Solution]:
    return [Solution(f"p{i // 7}", "p?", f"completion {i}", "1", sample=i % 7) for i in range(n)]


@pytest.mark.parametrize("most", [1, 2, 3, 8, 20, 64, 1000])
def test_chunks_have_from_half_to_all_of_the_rows_asked_for(most):
    sizes = [unit.rows for unit in chunk_units(solutions(500), most, "")]
    assert sum(sizes) == 500
    assert all((most + 1) // 2 <= size <= most for size in sizes[:-1])
    assert 0 < sizes[-1] <= most


def test_a_changed_row_changes_the_chunks_around_it_alone():
    rows = solutions(4000)
    keys = {unit.key for unit in chunk_units(rows, 64, "")}
    assert len(keys) > 60
    for changed in (rows[1:], rows[:1000] + rows[1001:], [*rows[:20], rows[3], *rows[20:]], rows[1000:]):
        new = [unit for unit in chunk_units(changed, 64, "") if unit.key not in keys]
        assert sum(unit.rows for unit in new) <= 4 * 64


def test_a_chunks_key_is_of_every_field_and_of_what_made_it():
    def keys(rows, made_by=""):
        return [unit.key for unit in chunk_units(rows, 4, made_by)]

    rows = solutions(4)
    assert keys(rows) == keys(solutions(4))
    assert keys(rows) != keys(rows, "other")
    for name, value in {"completion": "x", "labels": [1], "reference": "2", "extra": {"a": 1}, "sample": 9}.items():
        other = solutions(4)
        setattr(other[2], name, value)
        assert keys(other) != keys(rows), name


def test_a_files_form_does_not_change_its_chunks(tmp_path):
    write_solutions(tmp_path / "a.jsonl", solutions(100))
    write_solutions(tmp_path / "a.parquet", solutions(100))
    a, b = (list(chunk_units(read_solutions(tmp_path / name), 16, "")) for name in ("a.jsonl", "a.parquet"))
    assert a == b


@pytest.mark.parametrize("wanted", [[], [0], [3], [1, 2, 6], range(40)])
def test_chunks_are_read_with_the_places_of_their_rows(tmp_path, wanted):
    (tmp_path / "data").mkdir()
    rows = solutions(300)
    write_rows(tmp_path / "data" / "a.jsonl", (row.to_row() for row in rows[:90]))
    write_rows(tmp_path / "data" / "b.jsonl", (row.to_row() for row in rows[90:]))
    units = list(chunk_units(rows, 20, ""))
    starts = [0, *accumulate(unit.rows for unit in units)]
    read = list(chunks_of(iter_rows(tmp_path / "data"), units, wanted))
    assert [unit for unit, _ in read] == [unit for unit in units if unit.number in wanted]
    for unit, chunk in read:
        for index, placed in enumerate(chunk, start=starts[unit.number]):
            assert placed.solution == rows[index]
            file, number = ("a.jsonl", index + 1) if index < 90 else ("b.jsonl", index - 89)
            assert placed.name.endswith(f"{file}, row {number} (problem 'p{index // 7}', sample {index % 7})")


def test_a_row_that_was_spoiled_since_is_named(tmp_path):
    write_rows(tmp_path / "a.jsonl", (row.to_row() for row in solutions(10)))
    units = list(chunk_units(read_solutions(tmp_path / "a.jsonl"), 10, ""))
    lines = (tmp_path / "a.jsonl").read_text().splitlines(keepends=True)
    lines[4] = '{"problem_id": 3}\n'
    (tmp_path / "a.jsonl").write_text("".join(lines))
    with pytest.raises(DataError, match="row 5, field 'problem_id'"):
        list(chunks_of(iter_rows(tmp_path / "a.jsonl"), units, range(99)))
