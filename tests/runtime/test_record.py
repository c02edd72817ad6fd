"""Run records and content digests."""

import json
import re
import shutil
import subprocess
import time
from importlib import metadata

import pytest

import rlstep
from rlstep.runtime.errors import UserError
from rlstep.runtime.record import RunRecord, digest, git_commit


def test_record_holds_what_a_run_was(tmp_path):
    with RunRecord("label", {"task": "arithmetic"}, tmp_path, seed=7) as record:
        record.metrics["rows"] = 12
    actual = json.loads((tmp_path / "run.json").read_text())
    times = {"seconds", "processor_seconds"}
    assert actual.keys() == {"stage", "seed", "commit", "versions", "metrics", "config"} | times
    assert (actual["stage"], actual["seed"], actual["metrics"]) == ("label", 7, {"rows": 12})
    assert actual["config"] == {"task": "arithmetic"}
    assert actual["versions"]["rlstep"] == rlstep.__version__
    assert actual["versions"]["trl"] == metadata.version("trl")
    assert actual["seconds"] >= 0


def test_a_record_has_the_processor_seconds_of_its_process(tmp_path, monkeypatch):
    monkeypatch.setattr(time, "process_time", iter([5.0, 7.25]).__next__)
    with RunRecord("sample", {}, tmp_path):
        pass
    assert json.loads((tmp_path / "run.json").read_text())["processor_seconds"] == 2.25


def test_two_files_of_a_folder_have_a_record_each(tmp_path):
    for name in ("a.jsonl", "b.jsonl"):
        with RunRecord("sample", {"out": name}, tmp_path, name=f"{name}.run.json"):
            pass
    assert json.loads((tmp_path / "a.jsonl.run.json").read_text())["config"] == {"out": "a.jsonl"}
    assert json.loads((tmp_path / "b.jsonl.run.json").read_text())["config"] == {"out": "b.jsonl"}


def test_record_name_must_show_that_it_is_one(tmp_path):
    with pytest.raises(ValueError, match=r"must end in run\.json"):
        RunRecord("sample", {}, tmp_path, name="a.jsonl")


def test_failed_run_leaves_no_record(tmp_path):
    with pytest.raises(KeyError), RunRecord("label", {}, tmp_path):
        raise KeyError
    assert not list(tmp_path.iterdir())


def test_only_the_first_process_writes(tmp_path, monkeypatch):
    monkeypatch.setenv("RANK", "1")
    with RunRecord("ppo", {}, tmp_path):
        pass
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(shutil.which("git") is None, reason="git is not installed")
def test_commit_is_that_of_the_code_and_shows_changes(tmp_path, monkeypatch):
    def git(*command):
        who = ["-c", "user.name=a", "-c", "user.email=a@b.c"]
        return subprocess.run(
            ["git", "-C", tmp_path, *who, *command], check=True, capture_output=True, text=True
        ).stdout

    (tmp_path / "rlstep").mkdir()
    code = tmp_path / "rlstep" / "__init__.py"
    code.write_text("")
    monkeypatch.setattr(rlstep, "__file__", str(code))
    assert git_commit() is None
    git("init")
    git("add", ".")
    git("commit", "--message", "first")
    commit = git("rev-parse", "HEAD").strip()
    assert re.fullmatch("[0-9a-f]{40}", commit)
    assert git_commit() == commit
    code.write_text("x = 1")
    assert git_commit() == f"{commit}-dirty"


def test_digest_changes_with_values_and_their_order():
    assert digest({"a": 1, "b": 2}) == digest({"b": 2, "a": 1})
    assert len({digest({"a": 1}), digest({"a": 2}), digest({"a": 1}, None), digest(1, 2), digest(12)}) == 5


def test_digest_changes_with_content_and_name(tmp_path):
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "a").write_text("one")
    seen = {digest(folder)}
    (folder / "a").write_text("two")
    seen.add(digest(folder))
    (folder / "a").rename(folder / "b")
    seen.add(digest(folder))
    (folder / "c").write_text("")
    seen.add(digest(folder))
    assert len(seen) == 4


def test_digest_tells_a_file_from_the_text_of_one(tmp_path):
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
    (tmp_path / "one" / "1").write_text("a2\nb")
    (tmp_path / "two" / "1").write_text("a")
    (tmp_path / "two" / "2").write_text("b")
    assert digest(tmp_path / "one") != digest(tmp_path / "two")


def test_digest_passes_over_records(tmp_path):
    (tmp_path / "a.jsonl").write_text("{}")
    before = digest(tmp_path)
    (tmp_path / "run.json").write_text("{}")
    (tmp_path / "a.jsonl.run.json").write_text("{}")
    assert digest(tmp_path) == before
    (tmp_path / "rerun.json").write_text("{}")
    assert digest(tmp_path) != before


def test_digest_of_what_is_not_there(tmp_path):
    with pytest.raises(UserError, match="no such file or folder"):
        digest(tmp_path / "none")
