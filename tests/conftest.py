"""Shared fixtures: the arithmetic tokenizer, a tiny saved model, labelled solutions, and GSM8K where it is found."""

import os
from pathlib import Path

import pytest

os.environ.setdefault("HF_HUB_OFFLINE", "1")


@pytest.fixture(scope="session")
def task():
    from rlstep.tasks.arithmetic import Arithmetic

    return Arithmetic()


@pytest.fixture(scope="session")
def tokenizer(task):
    return task.tokenizer()


@pytest.fixture(scope="session")
def tiny_lm(tokenizer, tmp_path_factory) -> str:
    """Path of a saved, randomly initialised causal LM with the arithmetic tokenizer."""
    from rlstep.tasks.small import small_model

    path = tmp_path_factory.mktemp("tiny_lm")
    small_model(tokenizer, hidden_size=32, layers=2, heads=2, intermediate_size=64).save_pretrained(path)
    tokenizer.save_pretrained(path)
    return str(path)


@pytest.fixture
def solutions(task):
    """Twelve labelled solutions by the pupil with buggy rules: some steps and answers are wrong."""
    from rlstep.tasks.base import checked

    return [checked(task, solution) for solution in task.demonstrations(12, seed=3)]


@pytest.fixture(scope="session")
def gsm8k_dir() -> Path:
    """The folder with GSM8K's train.jsonl and test.jsonl; the test is skipped on machines that do not have it."""
    beside = Path(__file__).resolve().parents[2] / "shared" / "data" / "gsm8k"
    folder = Path(os.environ.get("RLSTEP_GSM8K", beside))
    if not (folder / "test.jsonl").is_file():
        pytest.skip("GSM8K is not on this machine; set RLSTEP_GSM8K to a folder with train.jsonl and test.jsonl")
    return folder


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder with published rows, by set; the test is skipped on machines that do not have it."""
    folder = Path(os.environ.get("RLSTEP_DATA", Path(__file__).resolve().parents[2] / "shared" / "data"))
    if not (folder / "best_of_n").is_dir():
        pytest.skip("published rows are not on this machine; set RLSTEP_DATA to a folder that holds best_of_n")
    return folder


@pytest.fixture
def wandb_folder(tmp_path, monkeypatch) -> Path:
    """Where wandb, switched to offline, leaves its runs; its process-wide settings are read afresh."""
    import wandb

    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_DIR", str(tmp_path))
    monkeypatch.setenv("WANDB_SILENT", "true")
    wandb.teardown()
    yield tmp_path / "wandb"
    wandb.teardown()
