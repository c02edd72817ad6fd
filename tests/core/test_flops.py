"""Operations: by hand, and against the count of the benchmark of an update."""

from types import SimpleNamespace

import pytest

from rlstep.core.flops import Work, forward_flops, rows_work, training_flops
from rlstep.core.memory import Shape
from tests.benchmarks.update import Problem, useful_flops

SHAPE = Shape(layers=1, hidden=4, inner=6, heads=2, kv_heads=1, head_size=2, vocabulary=10)


def test_work_of_a_prompt_and_its_samples_by_hand():
    """A prompt of 3 tokens sees 1 + 2 + 3; two samples of 2 tokens, of which one is read: it sees 3 and itself."""
    assert rows_work(3, 2, samples=2) == Work(tokens=3 + 2, attended_pairs=6 + 2 * 4, head_tokens=4)
    assert rows_work(3, 2, samples=2, head_tokens=1).head_tokens == 2
    assert rows_work(3, 2).times(5) == Work(20, 50, 10)


def test_a_forward_pass_by_hand():
    """Matrices of 4 x (4 + 4 + 2 + 2) + 72 = 120; 4 x 4 for two places that see each other; a head of 40."""
    work = Work(tokens=5, attended_pairs=14, head_tokens=4)
    assert forward_flops(SHAPE, work) == 2 * 120 * 5 + 2 * 40 * 4 + 16 * 14
    assert forward_flops(SHAPE, work, adapter=7) == 2 * 120 * 5 + 2 * 40 * 4 + 16 * 14 + 2 * 7 * 5
    assert forward_flops(SHAPE, work, outputs=2) == 2 * 120 * 5 + 2 * 8 * 4 + 16 * 14


def test_a_training_pass_by_hand():
    """Three times the forward pass; frozen weights have no gradient; checkpointing repeats the layers, not the head."""
    work = Work(tokens=5, attended_pairs=14, head_tokens=4)
    layers, head, attention, lora = 1200, 320, 224, 70
    assert training_flops(SHAPE, work) == 3 * (layers + head + attention)
    assert training_flops(SHAPE, work, adapter=7) == 2 * (layers + head) + 3 * (attention + lora)
    again = training_flops(SHAPE, work, checkpointing=True) - training_flops(SHAPE, work)
    assert again == layers + attention


@pytest.mark.parametrize("epochs", [1, 2])
def test_an_update_is_what_the_benchmark_counts(epochs):
    config = SimpleNamespace(
        hidden_size=4, num_attention_heads=2, num_key_value_heads=1, intermediate_size=6, num_hidden_layers=1,
        vocab_size=10,
    )  # fmt: skip
    problems = [Problem([1, 2, 3], [[4, 5, 6, 7]] * 3)] * 2
    work = rows_work(3, 4, samples=3).times(2)
    planned = epochs * training_flops(SHAPE, work, 11) + forward_flops(SHAPE, work)
    planned += forward_flops(SHAPE, work, 11) if epochs > 1 else 0
    assert planned == useful_flops(config, problems, 11, epochs)
