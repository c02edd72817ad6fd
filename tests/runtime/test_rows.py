"""What a kill leaves of a row file."""

import json

import pytest

from rlstep.runtime.rows import ResumableRows, read_rows, write_json, write_rows

ROWS = [{"i": i, "text": "数é\u2028" * 3} for i in range(6)]


def on_disk(path) -> list[dict]:
    return [row for _, row in read_rows(path)]


def write_all(path, fingerprint: str = "a", kill_after: int | None = None) -> None:
    """The caller's loop: skip what is there, append the rest, two rows at a time."""
    with ResumableRows(path, fingerprint) as rows:
        for start in range(len(rows.rows), len(ROWS), 2):
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
        assert rows.rows == ROWS[:3]
        rows.append(ROWS[3:])
        rows.finish()
    assert on_disk(path) == ROWS


def test_rows_of_another_fingerprint_are_not_continued(tmp_path):
    write_all(tmp_path / "x.jsonl", fingerprint="a", kill_after=4)
    with ResumableRows(tmp_path / "x.jsonl", "b") as rows:
        assert rows.rows == []


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


def test_documents_are_written_for_people(tmp_path):
    write_json(tmp_path / "deep" / "x.json", {"name": "数"})
    assert (tmp_path / "deep" / "x.json").read_text(encoding="utf-8") == '{\n  "name": "数"\n}\n'
