"""Half a surrogate pair, as JSON of another program may have it: kept in JSON, refused where nothing can hold it."""

import json

import pytest

from rlstep.cli import main
from rlstep.runtime.errors import UserError
from rlstep.runtime.halves import encodable
from rlstep.runtime.resumable_rows import ResumableRows
from rlstep.runtime.rows import read_rows, write_json, write_rows
from rlstep.steps.positions import encode_batch
from rlstep.steps.prompts import PromptFormat
from rlstep.steps.records import Solution, read_solutions, write_solutions

HALF = "7 + \ud83d"
ROW = {"whole": "é 😀", "half": HALF}


@pytest.mark.parametrize(("text", "holds"), [("", True), ("é 😀", True), (HALF, False), ("\udfff", False)])
def test_what_utf8_has_a_place_for(text, holds):
    assert encodable(text) == holds


def test_json_keeps_it(tmp_path):
    write_rows(tmp_path / "a.jsonl", [ROW, {"whole": "é"}])
    with ResumableRows(tmp_path / "b.jsonl", "f") as rows:
        rows.append([ROW, {"whole": "é"}])
        rows.finish()
    for name in ("a.jsonl", "b.jsonl"):
        assert [row for _, row in read_rows(tmp_path / name)] == [ROW, {"whole": "é"}]
        assert "é" in (tmp_path / name).read_text(encoding="utf-8").splitlines()[1]  # others stay readable
    write_json(tmp_path / "c.json", ROW)
    assert json.loads((tmp_path / "c.json").read_text(encoding="utf-8")) == ROW


@pytest.mark.parametrize("flip", [[], ["--flip", "1"]])
def test_labels_keep_it_in_jsonl_and_parquet_refuses_it(tmp_path, capsys, flip):
    write_solutions(tmp_path / "s.jsonl", [Solution("p", "7\n", f"{HALF}\nAnswer: 7", "7", sample=3)])
    command = ["label", "--task", "answers", "--data", str(tmp_path / "s.jsonl"), *flip, "--out"]
    assert main([*command, str(tmp_path / "l.jsonl")]) == 0
    assert read_solutions(tmp_path / "l.jsonl")[0].completion == f"{HALF}\nAnswer: 7"
    assert main([*command, str(tmp_path / "folder")]) == 2
    assert "problem 'p', sample 3: half a surrogate pair is no character" in capsys.readouterr().err


def test_no_tokenizer_is_given_it(tokenizer):
    message = r"half a surrogate pair, which is no character, at the end of '7 \+ \\ud83d'"
    for prompt in (HALF, [{"role": "user", "content": HALF}]):
        with pytest.raises(UserError, match=message if isinstance(prompt, str) else "half a surrogate pair|chat"):
            PromptFormat().encode(tokenizer, [prompt])
    with pytest.raises(UserError, match=message):
        encode_batch(tokenizer, ["7\n"], [HALF], [[(0, len(HALF))]])
