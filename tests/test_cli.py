"""The command line: what it lists, how it fails, and where it finds recipes."""

import errno
import json
import os
import re
import signal
import subprocess
import sys
from dataclasses import dataclass, fields
from pathlib import Path

import pytest

from rlstep import __version__, cli
from rlstep.runtime import paths
from rlstep.runtime.errors import UserError
from rlstep.runtime.failure import announce, announced_by, at_the_end, resumable, terminable
from rlstep.runtime.record import RunRecord
from rlstep.stages import COMMANDS, Command, config_classes

ROOT = Path(__file__).resolve().parents[1]
HEAVY = ("torch", "transformers", "trl", "datasets", "matplotlib", "scipy", "wandb")


@dataclass
class StubConfig:
    what: str = "pass"


def stub(config: StubConfig) -> dict:
    if config.what == "user":
        raise UserError("a.jsonl, row 3:\n  wrong")
    if config.what == "model":
        raise OSError("runs/none is not a local folder and is not a valid model identifier")
    if config.what == "interrupt":
        raise KeyboardInterrupt
    if config.what == "pipe":
        raise BrokenPipeError(errno.EPIPE, os.strerror(errno.EPIPE))
    if config.what == "bug":
        raise ZeroDivisionError
    if config.what == "term":
        signal.raise_signal(signal.SIGTERM)
    if config.what.startswith("kept"):
        with resumable(lambda: True):
            return stub(StubConfig(config.what.removeprefix("kept ")))
    if config.what.startswith("tracked"):
        with RunRecord("stub", {}, "none") as record:
            record.at_end.append(lambda *_: print("told the tracker", file=sys.stderr))
            return stub(StubConfig(config.what.removeprefix("tracked ")))
    return {"rows": 3, "loss": 0.123456, "nested": {}}


@pytest.fixture
def stubbed(monkeypatch):
    monkeypatch.setitem(COMMANDS, "stub", Command(__name__, "stub", "For tests."))


def loaded_after(code: str) -> set[str]:
    """The heavy modules that a fresh interpreter has loaded after running `code`."""
    script = f"{code}\nimport sys, json; print(json.dumps([m for m in {HEAVY!r} if m in sys.modules]))"
    run = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    return set(json.loads(run.stdout.splitlines()[-1]))


@pytest.mark.parametrize("code", ["import rlstep", "from rlstep.cli import main; main(['--help'])"])
def test_nothing_heavy_is_imported_before_a_command_is_known(code):
    assert loaded_after(code) == set()


def test_parser_imports_no_torch():
    assert not loaded_after("import rlstep.runtime.config") & {"torch", "transformers"}


def test_help_lists_every_command(capsys):
    assert cli.main(["--help"]) == 0
    out = capsys.readouterr().out
    for name, command in COMMANDS.items():
        assert re.search(rf"^  {name} +{re.escape(command.help)}$", out, re.MULTILINE)


def test_the_helps_example_names_a_recipe_and_a_command(capsys):
    cli.main(["--help"])
    example = capsys.readouterr().out.split("example:\n")[1].split()
    assert example[:1] + example[2:3] == ["rlstep", "--config"]
    assert example[1] in COMMANDS
    assert (ROOT / example[3]).is_file()


def test_no_command_shows_the_help_and_fails(capsys):
    assert cli.main([]) == 2
    assert "commands:" in capsys.readouterr().out


def test_version(capsys):
    assert cli.main(["--version"]) == 0
    assert capsys.readouterr().out == f"rlstep {__version__}\n"


def test_module_runs_the_same_command_line():
    run = subprocess.run([sys.executable, "-m", "rlstep", "--version"], cwd=ROOT, capture_output=True, text=True)
    assert (run.returncode, run.stdout) == (0, f"rlstep {__version__}\n")


@pytest.mark.parametrize("name", COMMANDS)
def test_command_help_lists_its_options(name, capsys):
    with pytest.raises(SystemExit) as done:
        cli.main([name, "--help"])
    assert done.value.code == 0
    out = capsys.readouterr().out
    assert f"rlstep {name} [--config" in out
    for kind in config_classes(name):
        for key in fields(kind):
            assert f"--{key.name}" in out


def test_unknown_command_has_a_suggestion(capsys):
    assert cli.main(["smaple"]) == 2
    assert capsys.readouterr().err == (
        "rlstep: error: unknown command 'smaple' (did you mean 'sample'?). `rlstep --help` lists the commands.\n"
    )


@pytest.mark.parametrize(
    ("options", "code", "message"),
    [
        (["--what", "user"], 2, "rlstep stub: error: a.jsonl, row 3: wrong\n"),
        (["--waht", "x"], 2, "rlstep stub: error: unknown option '--waht' (did you mean '--what'?)."),
        (["--config", "none.yaml"], 2, "rlstep stub: error: none.yaml: no such file"),
        (["--what", "model"], 2, "rlstep stub: error: runs/none is not a local folder"),
        (["--what", "pipe"], 2, "rlstep stub: error: [Errno 32] Broken pipe"),  # of a server or a process
        (["--what", "interrupt"], 130, "rlstep stub: interrupted\n"),
        (["--what", "kept interrupt"], 130, "rlstep stub: interrupted; start it again, and it goes on\n"),
        (["--what", "term"], 143, "rlstep stub: ended by SIGTERM\n"),
        (["--what", "kept term"], 143, "rlstep stub: ended by SIGTERM; start it again, and it goes on\n"),
        (["--what", "kept pipe"], 2, "rlstep stub: error: [Errno 32] Broken pipe; start it again, and it goes on ("),
        (["--what", "kept user"], 2, "rlstep stub: error: a.jsonl, row 3: wrong\n"),  # which has to be mended first
    ],
)
def test_failure_is_one_line(stubbed, capsys, options, code, message):
    assert cli.main(["stub", *options]) == code
    err = capsys.readouterr().err
    assert err.startswith(message)
    assert err.count("\n") == 1


@pytest.mark.parametrize("argv", [["stub"], ["stub", "--help"], ["--help"], ["--version"], []])
def test_nothing_is_said_where_nobody_reads_the_output_any_more(stubbed, monkeypatch, capsys, argv):
    ours, theirs = os.pipe()
    os.close(ours)
    with os.fdopen(theirs, "w") as output:
        monkeypatch.setattr(sys, "stdout", output)
        assert cli.main(argv) == 1
        monkeypatch.undo()
    assert capsys.readouterr().err == ""


def test_a_bug_keeps_its_traceback(stubbed):
    with pytest.raises(ZeroDivisionError):
        cli.main(["stub", "--what", "bug"])


def test_a_bugs_traceback_says_how_to_go_on(stubbed):
    with pytest.raises(ZeroDivisionError) as raised:
        cli.main(["stub", "--what", "kept bug"])
    assert raised.value.__notes__ == ["start it again, and it goes on"]


@pytest.mark.parametrize(
    ("what", "code", "first", "last"),
    [
        ("term", 143, "rlstep stub: ended by SIGTERM", "rlstep stub: ended by SIGTERM"),
        ("bug", 1, "Traceback (most recent call last):", "ZeroDivisionError"),
    ],
)
def test_an_error_is_said_once_and_before_a_tracker_is_told(stubbed, capsys, what, code, first, last):
    assert cli.main(["stub", "--what", f"tracked {what}"]) == code
    lines = capsys.readouterr().err.splitlines()
    assert (lines[0], lines[-2], lines[-1]) == (first, last, "told the tracker")
    assert lines.count(last) == 1


@pytest.mark.parametrize("what", ["bug", "kept interrupt"])
def test_the_reporter_is_told_before_a_tracker_and_what_is_left_is_cleaned_up(stubbed, monkeypatch, capsys, what):
    told = []

    class Link:
        def report(self, message, resumable=False, lost=False):
            told.append((message.splitlines()[-1], resumable, lost, capsys.readouterr().err))

        def leave(self, code):
            told.append((code, capsys.readouterr().err))
            raise SystemExit(code)

    monkeypatch.setattr(cli, "join", lambda *_: Link())
    at_the_end(lambda: print("cleaned up", file=sys.stderr))
    with pytest.raises(SystemExit):
        cli.main(["stub", "--what", f"tracked {what}"])
    message, code = {"bug": ("ZeroDivisionError", 1), "kept interrupt": ("rlstep stub: interrupted", 130)}[what]
    assert told == [(message, True, False, ""), (code, "told the tracker\ncleaned up\n")]


def test_an_error_of_a_forked_process_is_its_parents_to_say(stubbed, capfd):
    with announced_by(lambda error: print("said", flush=True)):
        announce(ValueError())
        if (child := os.fork()) == 0:
            announce(ValueError())
            os._exit(0)
        os.waitpid(child, 0)
    assert capfd.readouterr().out == "said\n"


def test_sigterm_ends_a_forked_process_at_once():
    with terminable():
        if (child := os.fork()) == 0:
            try:
                signal.raise_signal(signal.SIGTERM)
            finally:
                os._exit(1)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGTERM


def test_an_oserror_shows_its_traceback_when_asked(stubbed, monkeypatch):
    monkeypatch.setenv("RLSTEP_TRACEBACK", "1")
    with pytest.raises(OSError, match="runs/none"):
        cli.main(["stub", "--what", "model"])


def test_metrics_end_a_command(stubbed, capsys):
    assert cli.main(["stub"]) == 0
    assert capsys.readouterr().out == "stub: rows 3, loss 0.1235\n"


def test_print_config_prints_and_runs_nothing(stubbed, capsys):
    assert cli.main(["stub", "--what", "bug", "--print_config"]) == 0
    assert capsys.readouterr().out == "# rlstep stub\n# StubConfig\nwhat: bug  # command line\n"


def test_print_config_is_in_the_help(stubbed, capsys):
    with pytest.raises(SystemExit):
        cli.main(["stub", "--help"])
    assert "--print_config" in capsys.readouterr().out


def test_print_config_of_a_light_stage_loads_no_torch():
    code = "from rlstep.cli import main; main(['label', '--config', 'arithmetic/label', '--print_config'])"
    assert not loaded_after(code) & {"torch", "transformers", "datasets", "matplotlib", "wandb"}


def test_missing_model_folder_is_one_line(tmp_path, capsys):
    problems = tmp_path / "problems.jsonl"
    problems.write_text(json.dumps({"id": "a", "prompt": "1 + 1\n", "reference": "2"}) + "\n")
    model, out = tmp_path / "no-model", tmp_path / "out.jsonl"
    assert cli.main(["sample", "--model", str(model), "--problems", str(problems), "--out", str(out)]) == 2
    err = capsys.readouterr().err.splitlines()[-1]
    assert err.startswith("rlstep sample: error: ")
    assert "no-model" in err


@pytest.mark.parametrize(
    "argv", [["--local_rank=1", "stub"], ["stub", "--local_rank=1"], ["stub", "--local-rank=1", "--what", "pass"]]
)
def test_deepspeeds_local_rank_goes_to_the_environment(stubbed, monkeypatch, argv):
    monkeypatch.setenv("LOCAL_RANK", "0")  # so that it is put back after the test
    monkeypatch.delenv("LOCAL_RANK")
    assert cli.main(argv) == 0
    assert os.environ["LOCAL_RANK"] == "1"


def test_deepspeeds_local_rank_does_not_overwrite(stubbed, monkeypatch):
    monkeypatch.setenv("LOCAL_RANK", "3")
    assert cli.main(["--local_rank=1", "stub"]) == 0
    assert os.environ["LOCAL_RANK"] == "3"


@pytest.mark.parametrize(("rank", "said"), [("0", True), ("1", False)])
def test_the_first_of_several_processes_alone_speaks(rank, said):
    code = (
        "import logging, sys, warnings; from rlstep import cli; cli.main(['--version'])\n"
        "from rlstep.runtime.progress import track\n"
        "warnings.warn('a warning'); logging.getLogger('rlstep.policy').warning('a log line')\n"
        "sys.stderr.isatty = lambda: True\n"
        "assert list(track([1, 2], 'a bar', total=2)) == [1, 2]"
    )
    environment = os.environ | {"RANK": rank}
    environment.pop("PYTHONWARNINGS", None)
    done = subprocess.run([sys.executable, "-c", code], env=environment, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert [text in done.stderr for text in ("a warning", "a log line", "a bar")] == [said] * 3


def test_what_a_library_warns_of_its_own_calls_is_hidden():
    code = (
        "import warnings; from rlstep import cli; cli.main(['--version'])\n"
        "warnings.warn('`is_gradient_checkpointing` is deprecated', FutureWarning)\n"
        "warnings.warn('`gradient_checkpointing` is deprecated', FutureWarning)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert "is_gradient_checkpointing" not in done.stderr
    assert "`gradient_checkpointing` is deprecated" in done.stderr


def test_an_error_of_all_processes_is_reported_by_the_first(stubbed, monkeypatch, capsys):
    waits = []
    monkeypatch.setattr("time.sleep", waits.append)
    assert cli.main(["stub", "--what", "user"]) == 2
    assert not waits
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setattr("rlstep.cli.speak_once", lambda: None)  # it changes this process's settings
    assert cli.main(["stub", "--what", "user"]) == 2
    # The launcher ends this process before the wait is over, if the first one has failed too.
    assert waits == [10.0]
    assert "wrong" in capsys.readouterr().err


def test_recipes_are_found_by_name(tmp_path, monkeypatch):
    checkout = tmp_path / "checkout"
    for root, text in ((checkout, "checkout"), (checkout / "rlstep" / "_shipped", "package")):
        (root / "recipes" / "task").mkdir(parents=True)
        (root / "recipes" / "task" / "sft.yaml").write_text(f"where: {text}")
    monkeypatch.setattr(paths.rlstep, "__file__", str(checkout / "rlstep" / "__init__.py"))
    # Without pyproject.toml beside the package it is an installed one.
    assert paths.recipe("task/sft").read_text() == "where: package"
    (checkout / "pyproject.toml").touch()
    for name in ("task/sft", "task/sft.yaml", "recipes/task/sft.yaml"):
        assert paths.recipe(name).read_text() == "where: checkout"
    assert paths.recipes() == ["task/sft"]
    for name in ("task/none", "../task/sft", str(tmp_path / "task/sft.yaml")):
        with pytest.raises(UserError, match=r"The shipped ones: task/sft\."):
            paths.recipe(name)


def test_imports_run_downward_only():
    linter = Path(sys.executable).with_name("lint-imports")
    if not linter.is_file():
        pytest.skip("import-linter is not installed beside this interpreter")
    run = subprocess.run([linter, "--no-cache"], cwd=ROOT, capture_output=True, text=True)
    assert run.returncode == 0, run.stdout + run.stderr


def test_a_share_of_one_is_not_printed_as_a_count():
    line = cli.summary({"finished": 1.0, "rows": 24, "loss": 0.25, "tiny": 1e-9})
    assert line == "finished 1.0, rows 24, loss 0.25, tiny 1e-09"
