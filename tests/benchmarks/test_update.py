"""The benchmark of an update: both sides do the same work, and the count of useful operations."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from transformers import AutoTokenizer, LlamaConfig
from trl import GRPOTrainer

from rlstep.policy.trainer import StepPPOTrainer
from tests.benchmarks import trainers
from tests.benchmarks.bench_ppo import options_of
from tests.benchmarks.update import SAMPLES, SIDES, Lengths, Problem, Setting, draw, memory, timed, useful_flops

SIZES = {
    "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2,
}  # fmt: skip


@pytest.fixture
def setting(tmp_path, monkeypatch) -> Setting:
    """Two updates of two problems, two epochs each."""
    monkeypatch.setitem(trainers.SHAPES, "tiny", (LlamaConfig, SIZES, 600))
    model = trainers.base(tmp_path, "tiny")
    words = AutoTokenizer.from_pretrained(model)
    lengths = Lengths(prompt=(16, 0.3), completion=(8, 0.6), cap=16)
    problems = draw(lengths, 4, len(words), words.eos_token_id)
    return Setting(tmp_path, model, words, [problems[:2], problems[2:]], lengths.cap, epochs=2, micro=8, device="cpu")


def test_both_sides_have_the_same_gradients(setting):
    result = timed(setting)
    assert min(result["gradient_norm"].values()) > 1e-3
    assert result["gradient_difference"] < 1e-4
    assert result["ratios"] == [result["ratio"]]  # the first of two updates warms up


def test_a_budget_of_tokens_cuts_ours_and_plain_has_micro_batches_of_its_own(setting, monkeypatch):
    """Gradients are compared over the whole update: 16 rows in two micro-batches of ours, cut, and in four of plain."""
    cuts, rows = [], []
    loss_of_ours, loss_of_plain = StepPPOTrainer._compute_loss, GRPOTrainer._compute_loss

    def seen(of, original):
        def loss(self, model, inputs):
            if type(self) is of:
                (cuts if of is StepPPOTrainer else rows).append(len(inputs["prompt_ids"]))
            return original(self, model, inputs)

        return loss

    monkeypatch.setattr(StepPPOTrainer, "_compute_loss", seen(StepPPOTrainer, loss_of_ours))
    monkeypatch.setattr(GRPOTrainer, "_compute_loss", seen(GRPOTrainer, loss_of_plain))
    result = timed(replace(setting, tokens=48, plain_micro=4))
    assert result["gradient_difference"] < 1e-4
    assert rows == [4] * (2 * 2 * 4)
    assert len(cuts) > 2 * 2 * 2
    assert sum(cuts) == 2 * 2 * 16


@pytest.mark.parametrize("option", ["--tokens", "--plain-micro"])
def test_options_that_would_do_nothing_are_refused(option, capsys):
    assert options_of(["--work", "update", option, "8"]).work == "update"
    with pytest.raises(SystemExit):
        options_of(["--work", "full", option, "8"])
    assert "do nothing in --work full" in capsys.readouterr().err


def test_rows_that_micro_batches_of_plain_do_not_divide_are_refused(capsys):
    with pytest.raises(SystemExit):
        options_of(["--work", "update", "--plain-micro", "3"])
    assert "64 rows are not a multiple of --plain-micro 3" in capsys.readouterr().err


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="peaks of memory are read from Linux's /proc")
def test_memory_is_above_the_loaded_trainer(setting):
    for side in SIDES:
        # A tiny model takes next to nothing, and the system may take a page back in between.
        assert -(2**20) <= memory(setting, side) < 2**30


def test_lengths_are_as_asked():
    (problem,) = draw(Lengths(prompt=(32, 0), completion=(5, 0), cap=5), 1, 600, end=257)
    assert len(problem.prompt) == 32
    assert [len(completion) for completion in problem.completions] == [5] * SAMPLES
    many = draw(Lengths(prompt=(100, 0.3), completion=(120, 0.6), cap=384), 200, 600, end=257)
    lengths = [len(completion) for problem in many for completion in problem.completions]
    assert 110 < sum(lengths) / len(lengths) < 125  # the cap takes a little off the mean
    assert max(lengths) == 384
    assert all((completion[-1] == 257) == (len(completion) < 384) for one in many for completion in one.completions)


def test_useful_operations_by_hand():
    """A prompt of 3 tokens, completions of 2 and 1; one layer of width 4, two heads, one key-value head."""
    config = SimpleNamespace(
        hidden_size=4, num_attention_heads=2, num_key_value_heads=1, intermediate_size=6, num_hidden_layers=1,
        vocab_size=10,
    )  # fmt: skip
    problems = [Problem([1, 2, 3], [[4, 5], [6]])]
    # Matrices: queries and output 16 each, keys and values 8 each, MLP 3 x 24: 120 a layer. Places: 3 + 1.
    linear = 2 * (120 * 4 + 40 * 3)
    # 1 + 2 + 3 places seen by the prompt's, 4 by the completion's one: 10, 4 x 4 operations each.
    attention = 16 * 10
    adapter = 2 * 5 * 4
    training = 2 * linear + 3 * attention + 3 * adapter
    reference = linear + attention
    assert useful_flops(config, problems, 5, epochs=1) == training + reference == 4360
    assert useful_flops(config, problems, 5, epochs=2) == 2 * training + 2 * reference + adapter == 8760
