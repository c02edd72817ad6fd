"""`rlstep annotate` as a process: what it prints, what it refuses, and what a kill leaves."""

import errno
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
from contextlib import contextmanager
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import pytest

from rlstep.runtime.errors import UserError
from rlstep.stages import run
from rlstep.stages.annotate import AnnotateConfig
from rlstep.steps.readers import read
from rlstep.steps.records import Solution, write_solutions

VISIT = {"labeller": "ada", "browser": "tab"}


@pytest.fixture
def data(tmp_path) -> Path:
    path = tmp_path / "solutions.jsonl"
    write_solutions(path, [Solution(f"p{k}", f"What is {k} + 1?", f"It is:\n{k + 1}\n", str(k + 1)) for k in range(3)])
    return path


@contextmanager
def running(data, out, *options, labellers=("ada",), environment=None):
    """The command on a free port; yields (process, the pages' addresses)."""
    command = [sys.executable, "-m", "rlstep", "annotate", "--data", data, "--out", out, "--port", "0"]
    command += ["--labeller", *labellers, *options]
    with subprocess.Popen(
        list(map(str, command)), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env=os.environ | (environment or {}),
    ) as process:  # fmt: skip
        watchdog = threading.Timer(120, process.kill)
        watchdog.start()
        try:
            yield process, [process.stdout.readline().strip() for _ in range(1 + len(labellers))][1:]
        finally:
            watchdog.cancel()
            process.kill()


def post(page: str, path: str, body: dict, **headers) -> dict:
    url = page.partition("/?")[0] + path
    request = Request(url, json.dumps(body).encode(), {"Content-Type": "application/json"} | headers)
    with urlopen(request, timeout=60) as reply:
        return json.load(reply)


def mark(page: str, screen: dict, ratings: list[int], reason: str | None) -> dict:
    item = screen["item"]
    marks = {"item": item["id"], "revision": item["revision"] + 1, "ratings": ratings, "finish_reason": reason}
    return post(page, "/api/save", VISIT | marks | {"milliseconds": 10})


def test_a_kill_loses_nothing_and_the_next_run_goes_on(data, tmp_path):
    out = tmp_path / "labels" / "ada.jsonl"
    with running(data, out) as (process, (page,)):
        screen = mark(page, post(page, "/api/open", VISIT), [1, 1], "solution")
        mark(page, screen, [0], None)
        process.send_signal(signal.SIGKILL)
        process.wait()
    with running(data, out) as (process, (page,)):
        screen = post(page, "/api/open", VISIT)
        assert (screen["item"]["number"], screen["item"]["ratings"], screen["progress"]["done"]) == (2, [0], 1)
        mark(page, screen, [0, -1], "found_error")
        process.send_signal(signal.SIGINT)
        said, complained = process.communicate()
    assert said == "annotate: solutions 3, finished 2, needed 3, left_out 0\n"
    assert complained == ""
    assert [solution.labels for solution in read("prm800k", out)] == [[1, 1], [None, 0]]
    record = json.loads((tmp_path / "labels" / "ada.jsonl.run.json").read_text())
    assert record["metrics"]["finished"] == 2


def test_every_labeller_gets_an_address_and_the_token_stands_after_the_hash(data, tmp_path):
    secret = {"RLSTEP_ANNOTATE_TOKEN": "to/ken"}
    labellers = ("ada", "Ben Bo")
    with running(data, tmp_path / "o.jsonl", labellers=labellers, environment=secret) as (_, pages):
        actual = [re.fullmatch(r"http://127\.0\.0\.1:\d+/\?labeller=(.*)#token=(.*)", page).groups() for page in pages]
        assert actual == [("ada", "to%2Fken"), ("Ben%20Bo", "to%2Fken")]
        with pytest.raises(HTTPError, match="401"):
            post(pages[0], "/api/open", VISIT)
        assert post(pages[0], "/api/open", VISIT, Authorization="Bearer to/ken")["item"]["number"] == 1


def test_the_reference_can_be_hidden_and_steps_split_by_another_rule(data, tmp_path):
    options = ("--show_reference", "false", "--boundary", "blank_line")
    with running(data, tmp_path / "o.jsonl", *options) as (_, (page,)):
        item = post(page, "/api/open", VISIT)["item"]
    assert item["reference"] is None
    assert item["steps"] == ["It is:\n1"]


def test_a_second_server_on_the_same_file_is_refused(data, tmp_path):
    out = tmp_path / "o.jsonl"
    with running(data, out) as (_, (page,)):
        with pytest.raises(UserError, match="another `rlstep annotate` has this file open"):
            run("annotate", ["--data", str(data), "--out", str(out), "--labeller", "ben", "--port", "0"])
        assert post(page, "/api/open", VISIT)["item"]["number"] == 1


def refused(data, out, *options) -> str:
    with pytest.raises(UserError) as error:
        run("annotate", ["--data", str(data), "--out", str(out), "--labeller", "ada", "--port", "0", *options])
    return str(error.value)


def test_a_port_in_use(data, tmp_path):
    out = tmp_path / "o.jsonl"
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        assert f"cannot listen at 127.0.0.1, port {port}" in refused(data, out, "--port", str(port))
    assert not out.exists()


def test_a_name_that_no_host_has(data, tmp_path):
    assert "cannot listen at ..x.., port 0" in refused(data, tmp_path / "o.jsonl", "--host", "..x..", "--token", "t")


def test_a_file_system_without_locks(data, tmp_path, monkeypatch):
    def no_lock(*_):
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr("fcntl.flock", no_lock)
    assert "its file system gives no lock (No locks available)" in refused(data, tmp_path / "o.jsonl")


def test_input_that_is_not_there_or_empty(data, tmp_path):
    out = tmp_path / "o.jsonl"
    assert "no such file" in refused(tmp_path / "nowhere.jsonl", out)
    (tmp_path / "empty.jsonl").touch()
    assert "the file has no rows" in refused(tmp_path / "empty.jsonl", out)
    (tmp_path / "blank.jsonl").write_text('{"problem_id": "a", "prompt": "Q", "completion": "", "reference": ""}\n')
    assert "of 1 solution, none has a step" in refused(tmp_path / "blank.jsonl", out)


def test_solutions_that_are_left_out_are_told(data, tmp_path, caplog):
    write_solutions(tmp_path / "d.jsonl", [Solution("a", "Q", "", ""), Solution("a", "Q", "x", "")])
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        refused(tmp_path / "d.jsonl", tmp_path / "o.jsonl", "--port", str(other.getsockname()[1]))
    assert "1 solution is left out: it is without a step" in caplog.text


def test_an_out_file_that_holds_something_else(data, tmp_path):
    out = tmp_path / "o.jsonl"
    out.write_bytes(data.read_bytes())
    assert "row 1, field 'question': missing" in refused(data, out)
    assert out.read_bytes() == data.read_bytes()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"labeller": []}, "give names"),
        ({"labeller": ["ada", " "]}, "give names"),
        ({"labeller": ["ada", "ada"]}, "every name once"),
        ({"overlap": 0.5}, "overlap is 0.5, but ada labels alone"),
        ({"overlap": 1.5, "labeller": ["ada", "ben"]}, "overlap"),
        ({"out": "labels.parquet"}, "must end in .jsonl"),
        ({"out": "in.jsonl"}, "out is the path that data names"),
        ({"host": "0.0.0.0"}, "set RLSTEP_ANNOTATE_TOKEN"),
        ({"boundary_tag": "ки"}, "boundary_tag"),
        ({"token": "to ken"}, "visible ASCII"),
    ],
)
def test_settings_that_are_refused(changes, message, monkeypatch):
    monkeypatch.delenv("RLSTEP_ANNOTATE_TOKEN", raising=False)
    with pytest.raises(UserError, match=re.escape(message)):
        AnnotateConfig(**({"data": "in.jsonl", "out": "out.jsonl", "labeller": ["ada"]} | changes))


def test_a_token_opens_other_hosts_and_stays_out_of_the_record(monkeypatch):
    monkeypatch.setenv("RLSTEP_ANNOTATE_TOKEN", "from-the-environment")
    config = AnnotateConfig(data="in.jsonl", out="out.jsonl", labeller=["ada"], host="0.0.0.0")
    assert config.token == "from-the-environment"
    from rlstep.runtime.config import settings

    assert "from-the-environment" not in str(settings(config))
