"""Which stages of a pipeline run again, with commands that only write down how they were called."""

from dataclasses import replace
from pathlib import Path

import pytest

from rlstep.runtime.errors import NothingToLearn, UserError
from rlstep.runtime.pipeline import Pipeline, Stage, left_out

STAGE = Stage("orm", "orm", "orm", {"data": "train/labelled.jsonl"}, ("output_dir", "orm"), resumes=True)


class Commands:
    """Stands for the commands and their code."""

    def __init__(self):
        self.calls: list[tuple[str, dict]] = []
        self.code = "first"
        self.kill = False

    def run(self, name: str, options: list[str]) -> None:
        self.calls.append((name, dict(zip(options[::2], options[1::2], strict=True))))
        out = Path(self.calls[-1][1]["--output_dir"])
        out.mkdir(exist_ok=True)
        (out / f"call-{len(self.calls)}").touch()
        if self.kill:
            raise KeyboardInterrupt

    def code_digest(self, command: str) -> str:
        return f"{command} {self.code}"


@pytest.fixture
def commands() -> Commands:
    return Commands()


@pytest.fixture
def folder(tmp_path) -> Path:
    """A run folder that is the folder of recipes, too."""
    (tmp_path / "train").mkdir()
    (tmp_path / "train" / "labelled.jsonl").write_text("{}\n")
    (tmp_path / "orm.yaml").write_text("learning_rate: 1.0e-3\n")
    return tmp_path


@pytest.fixture
def run(folder, commands):
    """Runs the stage; returns the names of what is in its output."""

    def start(seed: int = 0, stage: Stage = STAGE) -> list[str]:
        Pipeline([stage], folder, commands.run, commands.code_digest).run_stage(stage, folder, seed)
        return sorted(path.name for path in (folder / "orm").iterdir())

    return start


def test_the_command_gets_its_recipe_paths_and_seed(run, folder, commands):
    run(seed=3)
    data, out = str(folder / "train" / "labelled.jsonl"), str(folder / "orm")
    options = {"--config": str(folder / "orm.yaml"), "--data": data, "--output_dir": out, "--seed": "3"}
    assert commands.calls == [("orm", options | {"--resume": "true"})]


def test_a_stage_without_chance_gets_no_seed_and_one_that_cannot_resume_is_not_asked_to(run, commands):
    run(3, Stage("orm", "orm", "orm", STAGE.inputs, STAGE.output, seeded=False))
    assert set(commands.calls[0][1]) == {"--config", "--data", "--output_dir"}


def test_an_option_may_take_several_paths_and_each_counts(folder):
    """Its words follow it, the stage waits for whatever writes one of them, and a change in any runs it afresh."""
    inputs = {"data": ["train/labelled.jsonl", "test/labelled.jsonl"]}
    stage = Stage("table", "evaluate", "orm", inputs, ("out", "table"), seeded=False)
    writer = Stage("label_test", "label", "orm", {}, ("out", "test/labelled.jsonl"))
    (folder / "test").mkdir()
    (folder / "test" / "labelled.jsonl").write_text("{}\n")
    calls = []

    def write(name: str, options: list[str]) -> None:
        calls.append(options)
        (folder / "table").mkdir(exist_ok=True)

    pipeline = Pipeline([writer, stage], folder, write, str)
    assert [needs for _, needs in pipeline.with_needs()] == [(), ("label_test",)]
    pipeline.run_stage(stage, folder, 0)
    at = calls[0].index("--data")
    assert calls[0][at + 1 : at + 3] == [str(folder / path) for path in inputs["data"]]
    pipeline.run_stage(stage, folder, 0)
    assert len(calls) == 1
    (folder / "test" / "labelled.jsonl").write_text("{} \n")
    pipeline.run_stage(stage, folder, 0)
    assert len(calls) == 2


def test_settings_stand_in_place_of_the_recipes_and_others_run_it_afresh(run, commands):
    assert run(stage=replace(STAGE, settings={"learning_rate": "1"})) == ["call-1"]
    assert commands.calls[0][1]["--learning_rate"] == "1"
    assert run(stage=replace(STAGE, settings={"learning_rate": "1"})) == ["call-1"]
    assert run(stage=replace(STAGE, settings={"learning_rate": "2"})) == ["call-2"]


def test_a_finished_stage_is_not_run_again(run, capsys):
    assert run() == run() == ["call-1"]
    assert capsys.readouterr().out == "unchanged\n"


@pytest.mark.parametrize("change", ["recipe", "input", "seed", "code"])
def test_what_changed_is_run_afresh(run, folder, commands, change):
    run()
    if change == "recipe":
        (folder / "orm.yaml").write_text("learning_rate: 2.0e-3\n")
    elif change == "input":
        (folder / "train" / "labelled.jsonl").write_text("{} \n")
    elif change == "code":
        commands.code = "second"
    assert run(seed=int(change == "seed")) == ["call-2"]


def test_a_comment_in_a_recipe_changes_nothing(run, folder):
    run()
    (folder / "orm.yaml").write_text("# slower\nlearning_rate: 0.001\n")
    assert run() == ["call-1"]


def test_a_lost_output_is_written_again(run, folder):
    run()
    (folder / "orm" / "call-1").unlink()
    (folder / "orm").rmdir()
    assert run() == ["call-2"]


def kill(run, commands) -> None:
    commands.kill = True
    with pytest.raises(KeyboardInterrupt):
        run()
    commands.kill = False


def test_a_killed_stage_continues_on_what_it_left(run, commands):
    kill(run, commands)
    assert run() == ["call-1", "call-2"]
    assert run() == ["call-1", "call-2"]
    assert len(commands.calls) == 2


def test_a_killed_stage_starts_afresh_when_its_recipe_has_changed(run, folder, commands):
    kill(run, commands)
    (folder / "orm.yaml").write_text("learning_rate: 2.0e-3\n")
    assert run() == ["call-2"]


@pytest.fixture
def chain(folder):
    """Runs a stage, and one that reads from it; returns what each printed or was refused with, and the calls."""
    (folder / "score.yaml").write_text("{}\n")
    calls: list[str] = []

    def start(teaches: bool, optional: bool = True, reader_optional: bool = True) -> list[str]:
        (folder / "train" / "labelled.jsonl").write_text("01" if teaches else "11")

        def run(name: str, options: list[str]) -> None:
            calls.append(name)
            given = dict(zip(options[::2], options[1::2], strict=True))
            out = Path(given.get("--output_dir") or given["--out"])
            out.mkdir(exist_ok=True)
            if name == "orm" and "0" not in Path(given["--data"]).read_text():
                raise NothingToLearn("every label is 1")

        first = replace(STAGE, optional=optional)
        second = Stage("score", "score", "score", {"model": "orm"}, ("out", "scored"), optional=reader_optional)
        pipeline = Pipeline([first, second], folder, run, str)
        calls.clear()
        for stage in (first, second):
            pipeline.run_stage(stage, folder, 0)
        return calls

    return start


def test_an_optional_stage_that_has_nothing_to_learn_from_is_left_out_with_what_reads_from_it(chain, folder, capsys):
    assert chain(teaches=False) == ["orm"]
    assert left_out(folder, "orm") == left_out(folder, "score") == "orm: every label is 1"
    assert not (folder / "orm").exists()
    assert capsys.readouterr().out == "left out: orm: every label is 1\n" * 2
    assert chain(teaches=False) == []
    assert capsys.readouterr().out == "unchanged\n" * 2
    assert chain(teaches=True) == ["orm", "score"]
    assert left_out(folder, "orm") is left_out(folder, "score") is None
    assert chain(teaches=False) == ["orm"]
    assert not (folder / "scored").exists()


def test_what_is_not_optional_stops_the_run(chain):
    with pytest.raises(NothingToLearn, match="every label is 1"):
        chain(teaches=False, optional=False)
    with pytest.raises(UserError, match="score cannot do without what was left out: orm: every label is 1"):
        chain(teaches=False, reader_optional=False)


def test_a_missing_input_is_named(run, folder):
    (folder / "train" / "labelled.jsonl").unlink()
    with pytest.raises(UserError, match=r"labelled\.jsonl: no such file"):
        run()


def test_partial_rows_of_another_configuration_are_removed(folder):
    def write(name: str, options: list[str]) -> None:
        assert not (folder / "x.jsonl.partial").exists()
        (folder / "x.jsonl").touch()

    for name in ("x.jsonl", "x.jsonl.partial", "x.jsonl.run.json", "y.jsonl"):
        (folder / name).write_text("of another configuration")
    stage = Stage("x", "label", "orm", {}, ("out", "x.jsonl"))
    Pipeline([stage], folder, write, lambda command: "").run_stage(stage, folder, 0)
    assert (folder / "x.jsonl").read_text() == ""
    assert (folder / "x.jsonl.run.json").exists()
    assert (folder / "y.jsonl").exists()


def test_a_stage_waits_for_those_it_reads_from():
    def stage(name: str, *inputs: str) -> Stage:
        return Stage(name, name, name, dict(zip("abc", inputs, strict=False)), ("out", name))

    # "model" is another's output, "model-2" is not: a name's beginning does not count, a folder's contents do.
    stages = [stage("model"), stage("data.jsonl"), stage("scores", "model/best", "data.jsonl"), stage("x", "model-2")]
    pipeline = Pipeline(stages, Path(), print, str)
    needs = {stage.name: names for stage, names in pipeline.with_needs()}
    assert needs == {"model": (), "data.jsonl": (), "scores": ("model", "data.jsonl"), "x": ()}
