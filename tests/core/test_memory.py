"""Bytes: by hand, and against what autograd really keeps."""

from contextlib import nullcontext

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, LlamaConfig, Qwen2Config, Qwen3Config

from rlstep.core.memory import (
    Adapter,
    Precision,
    Shape,
    Zero,
    cast_weights,
    kept_per_place,
    key_value_cache,
    layer_bytes,
    mask_bytes,
    states_of,
    working_per_place,
)

SMALL = Shape(layers=2, hidden=8, inner=12, heads=4, kv_heads=2, head_size=3, vocabulary=50)
FLOAT32, BFLOAT16, MIXED = Precision(4, 4), Precision(2, 2), Precision(4, 2)


def test_a_layers_matrices_by_hand():
    """8 x (12 + 12 + 6 + 6) of the attention, 8 x 36 of the MLP."""
    assert SMALL.layer_matrices == 288 + 288


def test_a_layer_in_float32_by_hand():
    """Norms: 2 x (32 + 4), attention 4 x (24 + 24) + 16, MLP 144; inputs 64 of the norms, 32, 32 and 48."""
    assert layer_bytes(SMALL, FLOAT32, None) == 72 + 208 + 144 + 64 + 32 + 32 + 48


def test_keys_are_written_out_for_every_query_head_unless_attention_is_flash():
    more = layer_bytes(SMALL, FLOAT32, None) - layer_bytes(SMALL, FLOAT32, None, "flash_attention_2")
    assert more == 4 * 2 * (12 - 6)


def test_eager_attention_keeps_its_probabilities():
    """Four heads see ten places each: in float32, and in bfloat16 once more."""
    for precision, number in ((FLOAT32, 4), (BFLOAT16, 6)):
        more = layer_bytes(SMALL, precision, None, "eager", 10) - layer_bytes(SMALL, precision, None)
        assert more == 4 * 10 * number


KINDS = {"llama": LlamaConfig, "qwen2": Qwen2Config, "qwen3": Qwen3Config}
HIDDEN, INNER, HEADS, KV_HEADS, HEAD_SIZE, RANK, ROWS, LENGTH = 96, 224, 6, 2, 16, 8, 2, 40


def kept_by_autograd(kind: str, layers: int, dtype: torch.dtype, autocast: bool, lora: bool) -> int:
    """Bytes of the tensors that the layers' forward pass saves, each storage once, without parameters."""
    torch.manual_seed(0)
    config = KINDS[kind](
        vocab_size=64, hidden_size=HIDDEN, intermediate_size=INNER, num_hidden_layers=layers, num_attention_heads=HEADS,
        num_key_value_heads=KV_HEADS, head_dim=HEAD_SIZE, tie_word_embeddings=True,
    )  # fmt: skip
    model = AutoModelForCausalLM.from_config(config, dtype=dtype)
    if lora:
        adapter = LoraConfig(r=RANK, target_modules="all-linear", lora_dropout=0.0, task_type="CAUSAL_LM")
        model = get_peft_model(model, adapter).get_base_model()
    parameters = {p.untyped_storage().data_ptr() for p in model.parameters()}
    seen, alive = {}, []

    def pack(x):
        if (storage := x.untyped_storage()).data_ptr() not in parameters:
            seen[storage.data_ptr()] = storage.nbytes()
            alive.append(x)
        return x

    see_all = torch.ones(LENGTH, LENGTH, dtype=torch.bool).tril()
    mask = torch.zeros(ROWS, 1, LENGTH, LENGTH, dtype=torch.bfloat16 if autocast else dtype).masked_fill(~see_all, -1e4)
    mixed = torch.autocast("cpu", torch.bfloat16) if autocast else nullcontext()
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x), mixed:
        model.model(input_ids=torch.randint(0, 64, (ROWS, LENGTH)), attention_mask=mask, use_cache=False)
    return sum(seen.values())


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("dtype", "autocast", "lora"),
    [
        (torch.float32, False, False),
        (torch.float32, False, True),
        (torch.float32, True, False),
        (torch.float32, True, True),
        (torch.bfloat16, False, False),
        (torch.bfloat16, True, True),
    ],
)
def test_a_layer_keeps_what_autograd_keeps(kind, dtype, autocast, lora):
    one, two = (kept_by_autograd(kind, layers, dtype, autocast, lora) for layers in (1, 2))
    shape = Shape(1, HIDDEN, INNER, HEADS, KV_HEADS, HEAD_SIZE, 64, qk_norm=kind == "qwen3")
    weights = 4 if dtype == torch.float32 else 2
    precision = Precision(weights, 2 if autocast else weights)
    inputs = (HIDDEN,) * 3 + (HEADS * HEAD_SIZE, HIDDEN, HIDDEN, INNER)
    outputs = (96, 32, 32, HIDDEN, INNER, INNER, HIDDEN)
    adapter = Adapter(RANK, inputs, HIDDEN + HIDDEN + INNER) if lora else None
    matrices = RANK * (sum(inputs) + sum(outputs)) if lora else 0
    planned = ROWS * LENGTH * layer_bytes(shape, precision, adapter)
    planned += cast_weights(shape.layer_matrices, matrices, precision)
    assert planned == two - one


def test_all_layers_by_hand():
    """Whole layers, or under checkpointing their inputs; and the last norm's input and output."""
    assert kept_per_place(SMALL, FLOAT32, 1000, checkpointing=False) == 2 * 1000 + 64
    assert kept_per_place(SMALL, FLOAT32, 1000, checkpointing=True) == 2 * 32 + 64
    assert kept_per_place(SMALL, BFLOAT16, 1000, checkpointing=True) == 2 * 16 + 48


def test_a_layers_backward_pass_by_hand():
    """The attention's 4 x 12 are more than the MLP's 3 x 12; a residual stream of 8."""
    assert working_per_place(SMALL, FLOAT32, 1000, checkpointing=False) == 4 * 48 + 32
    assert working_per_place(SMALL, FLOAT32, 1000, checkpointing=True) == 4 * 48 + 32 + 1000


def test_masks_by_hand():
    """Three bins of ten places."""
    assert mask_bytes(SMALL, FLOAT32, 3, 10, packed=True, attention="sdpa", checkpointing=False) == 1200
    assert mask_bytes(SMALL, FLOAT32, 3, 10, packed=False, attention="sdpa", checkpointing=False) == 2400
    assert mask_bytes(SMALL, BFLOAT16, 3, 10, packed=False, attention="sdpa", checkpointing=True) == 600
    assert mask_bytes(SMALL, FLOAT32, 3, 10, packed=True, attention="flash_attention_2", checkpointing=False) == 0


def test_keys_and_values_by_hand():
    """Two layers, five rows of seven tokens, keys and values of 2 x 3 numbers."""
    assert key_value_cache(SMALL, 5, 7, 2) == 2 * 2 * 5 * 7 * 6 * 2


def of(zero: Zero, frozen: int = 0, trained: int = 1000, trained_bytes: int = 4, gpus: int = 4) -> tuple:
    states = states_of(frozen, trained, 2, trained_bytes, 2.0, zero, gpus)
    return states.weights, states.gradients, states.optimizer


def test_states_without_deepspeed():
    """AdamW: two moments like the weights. 500 frozen ones take two bytes each."""
    assert of(Zero(), frozen=500, gpus=1) == (1000 + 4000, 4000, 8000)
    assert of(Zero(), trained_bytes=2, gpus=1) == (2000, 2000, 4000)


def test_several_gpus_without_deepspeed_have_gradients_twice():
    assert of(Zero(), gpus=2) == (4000, 8000, 8000)


@pytest.mark.parametrize(
    ("stage", "expected"),
    [
        (0, (3000, 2000, 12000)),
        (1, (3000, 2000, 3000)),
        (2, (3000, 500, 3000)),
        (3, (750, 500, 3000)),
    ],
)
def test_states_under_zero(stage, expected):
    """ZeRO's 2 + 2 + 12 bytes (1910.02054, section 3.1) of 1000 weights on four GPUs, and 500 frozen ones."""
    assert of(Zero(stage, engine=True), frozen=500, trained_bytes=2) == expected


def test_states_that_are_kept_by_the_host():
    assert of(Zero(2, optimizer_away=True, engine=True), trained_bytes=2) == (2000, 500, 0)
    assert of(Zero(3, True, True, engine=True), trained_bytes=2) == (0, 500, 0)
