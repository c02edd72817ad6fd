"""Parquet: the fixed schema, batches, and other people's files."""

from dataclasses import replace

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from rlstep.runtime.errors import DataError, UserError
from rlstep.steps import parquet
from rlstep.steps.parquet import read_parquet, solution_schema, write_parquet
from rlstep.steps.readers import read
from rlstep.steps.records import Solution, read_solutions, write_solutions


def test_the_schema_has_every_field_of_a_solution():
    names = solution_schema().names
    names.remove("messages")  # the prompt's other form
    assert names == list(Solution.__dataclass_fields__)


def test_prompts_of_both_forms_come_back_as_they_were(tmp_path):
    chat = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "1 + 1?"}]
    solutions = [Solution("p", "1 + 1?", "2", "2"), Solution("q", chat, "2", "2"), Solution("r", "", "2", "2")]
    write_parquet(tmp_path / "x.parquet", (s.to_row() for s in solutions))
    assert read_solutions(tmp_path / "x.parquet") == solutions


def test_how_prompts_were_written_comes_back_too(tmp_path):
    written = {"form": "chat", "template_arguments": {"thinking": False, "tools": [1, None]}}
    solutions = [Solution("p", "?", "2", "2", prompt_format=written), Solution("q", "?", "2", "2")]
    write_parquet(tmp_path / "x.parquet", (s.to_row() for s in solutions))
    assert read_solutions(tmp_path / "x.parquet") == solutions


def test_files_of_before_there_was_a_prompt_format_are_read(tmp_path):
    solution = Solution("p", [{"role": "user", "content": "?"}], "2", "2")
    write_parquet(tmp_path / "x.parquet", [solution.to_row()])
    table = pq.read_table(tmp_path / "x.parquet").drop_columns("prompt_format")
    pq.write_table(table, tmp_path / "old.parquet")
    assert read_solutions(tmp_path / "old.parquet") == [solution]


def test_batches_neither_lose_nor_repeat_rows(tmp_path, monkeypatch):
    monkeypatch.setattr(parquet, "WRITE_ROWS", 4)
    monkeypatch.setattr(parquet, "READ_ROWS", 3)
    # Nulls and whole numbers come first, which would mislead an inferred schema.
    solutions = [Solution("p", "?", "ab", "1", sample=k) for k in range(5)]
    solutions += [Solution("p", "?", "ab", "1", sample=k, steps=[(0, 2)], labels=[k / 8]) for k in range(5, 9)]
    assert write_parquet(tmp_path / "x.parquet", (s.to_row() for s in solutions)) == 9
    assert read_solutions(tmp_path / "x.parquet") == solutions
    assert [number for number, _ in read_parquet(tmp_path / "x.parquet")] == list(range(1, 10))
    assert pq.ParquetFile(tmp_path / "x.parquet").num_row_groups == 3


def test_rows_are_written_as_they_come(tmp_path, monkeypatch):
    monkeypatch.setattr(parquet, "WRITE_ROWS", 2)
    held = []

    def rows():
        for k in range(6):
            held.append(k)
            if k == 4:
                assert (tmp_path / "x.parquet.tmp").stat().st_size > 0
            yield Solution("p", "?", "", "1", sample=k).to_row()

    write_parquet(tmp_path / "x.parquet", rows())
    assert held == [0, 1, 2, 3, 4, 5]


def test_a_failing_writer_leaves_the_old_file(tmp_path):
    def rows():
        yield Solution("p", "?", "", "2").to_row()
        raise RuntimeError("killed")

    old = Solution("p", "?", "", "1")
    write_parquet(tmp_path / "x.parquet", [old.to_row()])
    with pytest.raises(RuntimeError, match="killed"):
        write_parquet(tmp_path / "x.parquet", rows())
    assert read_solutions(tmp_path / "x.parquet") == [old]
    assert [path.name for path in tmp_path.iterdir()] == ["x.parquet"]


def test_a_published_parquet_file_is_read_with_its_types(tmp_path):
    rows = {"prompt": ["a", "b"], "completions": [["x", "y"], ["z"]], "labels": [[True, False], [None]]}
    pq.write_table(pa.table(rows), tmp_path / "train.parquet")
    assert [s.labels for s in read("stepwise", tmp_path / "train.parquet")] == [[1, 0], [None]]


def test_a_malformed_row_of_parquet_is_named(tmp_path):
    rows = {"prompt": ["a", "b"], "completions": [["x"], ["z"]], "labels": [[1.0], [float("nan")]]}
    pq.write_table(pa.table(rows), tmp_path / "train.parquet")
    with pytest.raises(DataError) as caught:
        list(read("stepwise", tmp_path / "train.parquet"))
    assert (caught.value.row, caught.value.field) == (2, "labels[0]")


def test_a_pointer_in_the_place_of_a_parquet_file_is_named(tmp_path):
    (tmp_path / "train.parquet").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:4d7a21\nsize 9\n")
    with pytest.raises(UserError, match=r"train.parquet: .*a Git LFS pointer.*git lfs pull"):
        list(read("stepwise", tmp_path / "train.parquet"))


def test_what_is_no_parquet_file_is_a_user_error(tmp_path):
    (tmp_path / "x.parquet").write_text("no Parquet")
    for path, match in ((tmp_path / "x.parquet", "not readable as Parquet"), (tmp_path / "y.parquet", "no such file")):
        with pytest.raises(UserError, match=match):
            list(read_parquet(path))


MAP = pa.field("scores", pa.map_(pa.string(), pa.list_(pa.float64())))


def with_a_map() -> pa.Schema:
    """The schema of files whose scores are a map."""
    schema = solution_schema()
    return schema.set(schema.get_field_index("scores"), MAP)


@pytest.mark.parametrize(
    ("schema", "scores"),
    [(solution_schema(), [{"name": "prm", "values": []}] * 2), (with_a_map(), [("prm", []), ("prm", [])])],
)
def test_a_name_that_stands_twice_among_scores_is_an_error(tmp_path, schema, scores):
    row = {**Solution("p", "?", "", "1").to_row(), "extra": None, "scores": scores}
    pq.write_table(pa.Table.from_pylist([row], schema), tmp_path / "x.parquet")
    with pytest.raises(DataError, match=r"row 1.*prm"):
        read_solutions(tmp_path / "x.parquet")


def scored() -> list[Solution]:
    return [
        Solution("p", "?", "ab", "1", steps=[(0, 1), (1, 2)], scores={"prm": [0.25, None], "orm": [1.0, 0.5]}),
        Solution("q", "?", "ab", "1"),
    ]


def test_scores_that_are_a_map_are_read(tmp_path):
    rows = [{**one.to_row(), "extra": None, "scores": list(one.scores.items())} for one in scored()]
    pq.write_table(pa.Table.from_pylist(rows, with_a_map()), tmp_path / "x.parquet")
    assert read_solutions(tmp_path / "x.parquet") == scored()


def test_other_libraries_read_the_file(tmp_path):
    import datasets

    write_parquet(tmp_path / "x.parquet", (one.to_row() for one in scored()))
    assert read_solutions(tmp_path / "x.parquet") == scored()
    files, cache = str(tmp_path / "x.parquet"), str(tmp_path / "cache")
    first, second = datasets.load_dataset("parquet", data_files=files, cache_dir=cache, split="train")
    assert (first["problem_id"], first["completion"]) == ("p", "ab")
    assert first["scores"] == [{"name": "prm", "values": [0.25, None]}, {"name": "orm", "values": [1.0, 0.5]}]
    assert second["scores"] == []


@pytest.mark.parametrize("ours", ["jsonl", "parquet"])
@pytest.mark.parametrize("theirs", ["jsonl", "parquet"])
def test_what_other_libraries_made_of_a_file_is_read(ours, theirs, tmp_path):
    import datasets

    chat = [{"role": "user", "content": "1 + 1?"}]
    one, other = scored()
    solutions = [
        replace(one, prompt=chat, prompt_format={"form": "chat"}, extra={"level": 1}),
        replace(other, prompt=chat, prompt_format={"form": "chat", "system_prompt": "S"}),
    ]
    write_solutions(tmp_path / f"ours.{ours}", solutions)
    made = {"jsonl": datasets.Dataset.from_json, "parquet": datasets.Dataset.from_parquet}[ours](
        str(tmp_path / f"ours.{ours}"), cache_dir=str(tmp_path / "cache")
    )
    {"jsonl": made.to_json, "parquet": made.to_parquet}[theirs](tmp_path / f"theirs.{theirs}")
    assert read_solutions(tmp_path / f"theirs.{theirs}") == solutions


def test_an_empty_parquet_file_is_an_error(tmp_path):
    write_parquet(tmp_path / "x.parquet", [])
    with pytest.raises(UserError, match="no rows"):
        read_solutions(tmp_path / "x.parquet")
