"""What a kill leaves of a row file, and what is read of a file of JSON objects."""

import errno
import gzip
import json

import pytest

from rlstep.runtime import rows as rows_module
from rlstep.runtime.errors import DataError, UserError
from rlstep.runtime.failure import is_resumable
from rlstep.runtime.resumable_rows import ResumableRows
from rlstep.runtime.rows import read_rows, write_json, write_rows

ROWS = [{"i": i, "text": "数é\u2028" * 3} for i in range(6)]


def on_disk(path) -> list[dict]:
    return [row for _, row in read_rows(path)]


def write_all(path, fingerprint: str = "a", kill_after: int | None = None) -> None:
    """The caller's loop: skip what is there, append the rest, two rows at a time."""
    with ResumableRows(path, fingerprint) as rows:
        for start in range(rows.count, len(ROWS), 2):
            if start == kill_after:
                return
            rows.append(ROWS[start : start + 2])
        rows.finish()


def test_an_undisturbed_run_leaves_the_complete_file_alone(tmp_path):
    write_all(tmp_path / "x.jsonl")
    assert on_disk(tmp_path / "x.jsonl") == ROWS
    assert [path.name for path in tmp_path.iterdir()] == ["x.jsonl"]


def test_the_complete_file_is_not_there_before_the_end(tmp_path):
    write_all(tmp_path / "x.jsonl", kill_after=2)
    assert [path.name for path in tmp_path.iterdir()] == ["x.jsonl.partial"]


# Every place a kill can cut the third row's line, the insides of its multi-byte characters among them.
@pytest.mark.parametrize("cut", range(1, len(json.dumps(ROWS[3], ensure_ascii=False).encode()) + 1))
def test_a_line_cut_anywhere_loses_and_repeats_no_row(tmp_path, cut):
    path = tmp_path / "x.jsonl"
    write_all(path, kill_after=4)
    partial = path.with_name("x.jsonl.partial")
    partial.write_bytes(partial.read_bytes()[:-cut])
    with ResumableRows(path, "a") as rows:
        assert (rows.count, list(rows.earlier())) == (3, ROWS[:3])
        rows.append(ROWS[3:])
        assert (rows.count, list(rows.earlier())) == (6, ROWS[:3])
        rows.finish()
    assert on_disk(path) == ROWS


def test_rows_of_another_fingerprint_are_not_continued(tmp_path):
    write_all(tmp_path / "x.jsonl", fingerprint="a", kill_after=4)
    with pytest.raises(UserError, match="x.jsonl.partial holds 4 finished parts of a run with other data or settings"):
        ResumableRows(tmp_path / "x.jsonl", "b")
    write_all(tmp_path / "x.jsonl", fingerprint="a")
    assert on_disk(tmp_path / "x.jsonl") == ROWS


def test_a_run_that_fails_before_its_first_row_leaves_nothing(tmp_path):
    write_all(tmp_path / "x.jsonl", fingerprint="a", kill_after=0)
    assert not list(tmp_path.iterdir())
    (tmp_path / "x.jsonl.partial").write_text('{"fingerprint": "b"}\n')  # killed there
    write_all(tmp_path / "x.jsonl", fingerprint="a")
    assert on_disk(tmp_path / "x.jsonl") == ROWS


@pytest.mark.parametrize("content", [b"", b'{"finger', b"\xe6\x95"])
def test_a_kill_within_the_header_starts_afresh(tmp_path, content):
    (tmp_path / "x.jsonl.partial").write_bytes(content)
    write_all(tmp_path / "x.jsonl")
    assert on_disk(tmp_path / "x.jsonl") == ROWS


def test_a_kill_between_the_rename_and_the_clean_up_is_finished(tmp_path):
    path = tmp_path / "x.jsonl"
    write_all(path, kill_after=4)
    with ResumableRows(path, "a") as rows:
        rows.append(ROWS[4:])
    write_rows(path, ROWS)
    write_all(path)
    assert on_disk(path) == ROWS
    assert [path.name for path in tmp_path.iterdir()] == ["x.jsonl"]


def test_a_failing_writer_leaves_the_old_file(tmp_path):
    def rows():
        yield {"i": 1}
        raise RuntimeError("killed")

    write_rows(tmp_path / "x.jsonl", ROWS)
    with pytest.raises(RuntimeError, match="killed"):
        write_rows(tmp_path / "x.jsonl", rows())
    assert on_disk(tmp_path / "x.jsonl") == ROWS
    assert [path.name for path in tmp_path.iterdir()] == ["x.jsonl"]


def test_documents_are_written_for_people(tmp_path):
    write_json(tmp_path / "deep" / "x.json", {"name": "数"})
    assert (tmp_path / "deep" / "x.json").read_text(encoding="utf-8") == '{\n  "name": "数"\n}\n'


def lines(rows) -> bytes:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()


LIST = json.dumps(ROWS, ensure_ascii=False, indent=2).encode()


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("x.jsonl", lines(ROWS)),
        ("x.json", lines(ROWS)),
        ("x.json", LIST),
        ("x.json", b"\n  " + LIST + b"\n"),
        ("x.jsonl.gz", gzip.compress(lines(ROWS), mtime=0)),
        ("x.json.gz", gzip.compress(LIST, mtime=0)),
    ],
)
def test_lines_and_lists_give_the_same_rows(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    assert list(read_rows(tmp_path / name)) == list(enumerate(ROWS, start=1))


@pytest.mark.parametrize("blanks", range(24))
def test_a_list_may_be_cut_anywhere_by_the_pieces_that_it_is_read_in(tmp_path, blanks):
    """Of 400 kB: wherever a piece ends, behind some number of blanks it ends in a number, a character or a bracket."""
    rows = [{"i": i, "n": -1.5e-3, "text": '数é\u2028🙂"\\'} for i in range(8_000)]
    content = json.dumps(rows, ensure_ascii=False).encode()
    assert len(content) > 400_000
    (tmp_path / "x.json").write_bytes(b" " * blanks + content)
    assert on_disk(tmp_path / "x.json") == rows


@pytest.mark.parametrize(
    ("content", "row", "reason"),
    [
        (b"[", 1, "not valid JSON"),
        (b'[{"i": 1}', 1, "expected , or ], got the end of the file"),
        (b'[{"i": 1} {"i": 2}]', 1, "expected , or ], got '{'"),
        (b'[{"i": 1},]', 2, "not valid JSON"),
        (b'[{"i": 1}, {"i": ]', 2, "not valid JSON"),
        (b'[{"i": 1}, {"i": 2', 2, "not valid JSON"),
        (b'[{"i": 1}] []', 1, "after the list, got '\\['"),
        (b'[{"i": 1}, 7]', 2, "expected a JSON object, got int"),
        (b'[{"i": "caf\xe9"}]', 1, "not UTF-8"),
        (b'[{"i": ' + b"9" * 5000 + b"}]", 1, "not readable JSON"),
    ],
)
def test_a_broken_list_is_named_by_its_row(tmp_path, content, row, reason):
    (tmp_path / "x.json").write_bytes(content)
    with pytest.raises(DataError, match=reason) as caught:
        on_disk(tmp_path / "x.json")
    assert caught.value.row == row


@pytest.mark.parametrize(
    ("name", "content"), [("x.json", b" [ ] "), ("x.jsonl.gz", gzip.compress(b"", mtime=0)), ("x.json", b"")]
)
def test_a_file_without_rows_is_an_error(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match="no rows"):
        on_disk(tmp_path / name)


@pytest.mark.parametrize("content", [b"no archive", gzip.compress(lines(ROWS * 99), mtime=0)[:-20]])
def test_a_damaged_archive_is_an_error_even_if_rows_are_skipped(tmp_path, content):
    (tmp_path / "x.jsonl.gz").write_bytes(content)
    with pytest.raises(DataError, match="not readable as gzip"):
        list(read_rows(tmp_path / "x.jsonl.gz", on_fault=lambda fault: None))


def test_malformed_lines_can_be_passed_over(tmp_path):
    (tmp_path / "x.jsonl").write_bytes(b'{"i": 1}\n{"i"\n\n7\n{"i": "\xff"}\n{"i": 2}\n')
    faults = []
    assert list(read_rows(tmp_path / "x.jsonl", faults.append)) == [(1, {"i": 1}), (6, {"i": 2})]
    assert [fault.row for fault in faults] == [2, 4, 5]


def test_items_that_are_no_objects_can_be_passed_over(tmp_path):
    (tmp_path / "x.json").write_bytes(b'[7, {"i": 1}, null]')
    faults = []
    assert list(read_rows(tmp_path / "x.json", faults.append)) == [(2, {"i": 1})]
    assert [fault.row for fault in faults] == [1, 3]


def test_an_item_without_an_end_is_not_looked_for_in_all_of_a_large_file(tmp_path, monkeypatch):
    monkeypatch.setattr(rows_module._ListParser, "chunk", 8)
    monkeypatch.setattr(rows_module._ListParser, "longest", 100)
    for length, fits in ((80, True), (400, False)):
        (tmp_path / "x.json").write_bytes(b'[{"a": "' + b"x" * length + b'"}]')
        if fits:
            assert on_disk(tmp_path / "x.json") == [{"a": "x" * length}]
        else:
            with pytest.raises(DataError, match="row 1: not valid JSON"):
                on_disk(tmp_path / "x.json")


def test_the_values_of_a_list_are_those_of_lines(tmp_path):
    """What a parser of its own might make of the same text: exact integers, NaN, half a surrogate pair."""
    text = '{"a": 123456789012345678901234567890, "b": 0.1, "c": 1E5, "d": "\\ud83d", "e": Infinity, "f": -0}'
    (tmp_path / "x.jsonl").write_text(text)
    (tmp_path / "x.json").write_text(f"[{text}]")
    (row,) = on_disk(tmp_path / "x.json")
    assert row == on_disk(tmp_path / "x.jsonl")[0]
    assert row["a"] == 123456789012345678901234567890
    assert row["d"] == "\ud83d"


@pytest.mark.usefixtures("without_gc")
def test_deep_nesting_is_an_error_of_its_row(tmp_path):
    """And takes no memory: a parser that keeps a path for each level would need gigabytes."""
    (tmp_path / "x.json").write_bytes(b'[{"a": 1}, {"a": ' + b"[" * 100_000 + b"]" * 100_000 + b"}]")
    with pytest.raises(DataError, match="row 2: not readable JSON"):
        on_disk(tmp_path / "x.json")


POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a21\nsize 12345\n"


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("x.jsonl", POINTER, "but a Git LFS pointer: .*git lfs pull"),
        ("x.json", POINTER, "but a Git LFS pointer"),
        ("x.jsonl.gz", POINTER, "but a Git LFS pointer"),
        ("x.jsonl.gz", gzip.compress(POINTER, mtime=0), "but a Git LFS pointer"),
        ("x.jsonl", b"/annex/objects/SHA256E-s12--ab.jsonl\n", "git-annex pointer.*git annex get"),
        ("x.jsonl", b"../../.git/annex/objects/x/y/SHA256E-s12--ab.jsonl", "git-annex pointer"),
        ("x.json", b"\n<!DOCTYPE html>\n<html>", "an HTML page"),
        ("x.jsonl", b"<HTML><head>", "an HTML page"),
        ("x.jsonl", b"\xef\xbb\xbf" + lines(ROWS), r"byte order mark \(BOM\).*tail -c \+4"),
        ("x.json", b"\xef\xbb\xbf" + LIST, r"byte order mark \(BOM\)"),
        ("x.jsonl.gz", gzip.compress(b"\xef\xbb\xbf" + lines(ROWS), mtime=0), r"byte order mark \(BOM\)"),
        ("x.jsonl", "\ufeff{}".encode("utf-16-le"), "UTF-16.*iconv"),
        ("x.jsonl", gzip.compress(lines(ROWS), mtime=0), "compressed with gzip.*ends in .gz"),
        ("x.jsonl.gz", gzip.compress(gzip.compress(lines(ROWS), mtime=0), mtime=0), "compressed with gzip"),
        ("x.jsonl", b"PAR1\x15\x04", "a Parquet file.*ends in .parquet"),
        ("x.json", b"PK\x03\x04\x14", "a zip archive"),
        ("x.xlsx", b"PK\x03\x04\x14", r"a zip archive.*a spreadsheet \(\.xlsx\)"),
        ("x.csv", b"question,answer\n1 + 1?,2\n", r"a table as text.*sep=','.*to_parquet"),
        ("x.tsv", b"question\tanswer\n1 + 1?\t2\n", r"a table as text.*sep='\\t'"),
        ("x.csv.gz", gzip.compress(b"question,answer\n", mtime=0), "a table as text"),
        ("x.jsonl", '{"i": 1}'.encode("utf-16-le"), "UTF-16.*iconv -f UTF-16LE"),
        ("x.json", '[{"i": 1}]'.encode("utf-16-be"), "UTF-16.*iconv -f UTF-16BE"),
        ("x.arrow", b"\xff\xff\xff\xff\x40\x01", "an Arrow file.*to_parquet"),
        ("x.jsonl", b"ARROW1\x00\x00", "an Arrow file"),
        ("x.pkl", b"\x80\x04\x95", "a pickle, which can run any code"),
        ("x.jsonl", b"\x28\xb5\x2f\xfd\x04", "compressed, but not with gzip"),
        ("x.jsonl", LIST, "one JSON list, not an object per line.*ends in .json"),
        ("x.jsonl.gz", gzip.compress(json.dumps(ROWS).encode(), mtime=0), "one JSON list"),
        ("x.jsonl", b'{\n  "i": 1\n}\n{\n  "i": 2\n}\n', "its JSON spans several lines.*jq -c"),
        ("x.json", b'{\n  "i": 1\n}\n{\n  "i": 2\n}\n', "its JSON spans several lines.*jq -c"),
        ("x.json", b'{"rows": [\n  {"i": 1}\n]}\n', "its JSON spans several lines"),
        ("x.json", b'\n{"i": 1,\n "j": 2}', "its JSON spans several lines"),
    ],
)
def test_a_file_that_is_not_what_its_name_says(tmp_path, name, content, reason):
    """Whether or not malformed rows are passed over: here all of them are, and none is the reason."""
    (tmp_path / name).write_bytes(content)
    for on_fault in (None, lambda fault: None):
        with pytest.raises(UserError, match=f"{name}: .*{reason}") as caught:
            list(read_rows(tmp_path / name, *([on_fault] if on_fault else [])))
        assert not isinstance(caught.value, DataError)


@pytest.mark.parametrize("content", [b'{"i": 1}{"i": 2}\n', b'{"i": 1},\n{"i": 2}\n', b'{"i": 1} {"i": 2}\n'])
def test_several_values_on_a_line(tmp_path, content):
    (tmp_path / "x.jsonl").write_bytes(content)
    with pytest.raises(DataError, match=r"row 1: more follows the JSON value at column (9|10); put each object on a"):
        on_disk(tmp_path / "x.jsonl")


@pytest.mark.parametrize("rows", [0, 2])
def test_rows_that_are_kept_can_be_gone_on_from(tmp_path, rows):
    def interrupted():
        with ResumableRows(tmp_path / "out.jsonl", "f") as out:
            out.append({"n": n} for n in range(rows))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt) as interrupt:
        interrupted()
    assert is_resumable(interrupt.value) == bool(rows)


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "No space left"), OSError(errno.ECONNRESET, "Reset")])
def test_a_full_disk_is_said_with_the_file_and_other_errors_are_left_as_they_are(tmp_path, error):
    def rows():
        yield {"n": 1}
        raise error

    with pytest.raises(OSError, match=error.strerror):
        write_rows(tmp_path / "out.jsonl", rows())
    assert error.filename == (str(tmp_path / "out.jsonl") if error.errno == errno.ENOSPC else None)
