import logging
import os

import pytest

from rlstep.runtime.checkpoints import checkpoint_files, newest_checkpoint


@pytest.fixture
def write(tmp_path):
    def make(name: str, complete: bool = True) -> str:
        (tmp_path / name).mkdir()
        (tmp_path / name / "model.safetensors").touch()
        if complete:
            (tmp_path / name / "trainer_state.json").touch()
        return str(tmp_path / name)

    return make


def test_the_newest_is_that_of_the_highest_step(write, tmp_path):
    write("checkpoint-9")
    newest = write("checkpoint-100")
    write("checkpoint-20")
    assert newest_checkpoint(tmp_path) == newest


def test_half_written_ones_are_passed_over_and_named(write, tmp_path, caplog):
    whole = write("checkpoint-4")
    write("checkpoint-8", complete=False)
    with caplog.at_level(logging.WARNING):
        assert newest_checkpoint(tmp_path) == whole
    assert "checkpoint-8 is half-written" in caplog.text


def test_other_folders_are_no_checkpoints(write, tmp_path):
    for name in ("checkpoint-best", "checkpoint-4-old", "run-4"):
        write(name)
    write("checkpoint-8", complete=False)
    assert newest_checkpoint(tmp_path) is None
    assert newest_checkpoint(tmp_path / "none") is None


def test_a_model_trained_again_has_other_files(write):
    path = write("model")
    before = checkpoint_files(path)
    assert [name for name, _, _ in before] == ["model.safetensors", "trainer_state.json"]
    assert checkpoint_files(path) == before
    weights = os.path.join(path, "model.safetensors")
    os.utime(weights, ns=(0, os.stat(weights).st_mtime_ns + 1))
    assert checkpoint_files(path) != before
    assert checkpoint_files("org/name-on-the-hub") == []
