"""Logits and log-probabilities at positions are those of the model's own forward over everything."""

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoModelForTokenClassification

from rlstep.verifiers import forward
from rlstep.verifiers.features import Feature
from rlstep.verifiers.forward import batch_of, logits_at, logps_at


@pytest.mark.parametrize("family", ["qwen2", "llama", "mistral", "gpt2"])
def test_logits_at_positions_are_those_of_the_whole_pass(family, configs, batch, whole_logits):
    torch.manual_seed(0)
    model = AutoModelForTokenClassification.from_config(configs[family]).eval()
    torch.testing.assert_close(logits_at(model, batch), whole_logits(model))
    # and the model is left as it was
    assert model(batch["input_ids"]).logits.shape == (3, 11, 2)


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("packing", [True, False])
def test_rows_are_read_alike_packed_and_padded_and_under_a_wrapper(packing, attention, configs):
    """Against one forward per row, by a model that DDP or DeepSpeed holds as its `module`."""
    torch.manual_seed(0)
    model = AutoModelForTokenClassification.from_config(configs["qwen2"], attn_implementation=attention).eval()

    class Wrapper(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.module = model

        def forward(self, **inputs):
            return self.module(**inputs)

    shared = list(range(3, 15))
    rows = [Feature(torch.tensor(shared + tail), torch.tensor([5, 11 + len(tail)])) for tail in ([20], [21, 22], [])]
    laid_out = batch_of(model, rows, 0, packing)
    actual = logits_at(Wrapper(), laid_out)
    with torch.no_grad():
        alone = torch.cat([model(row.ids[None]).logits[0, row.positions] for row in rows])
    torch.testing.assert_close(actual, alone, atol=1e-5, rtol=0)
    # the shared beginning is in the packed batch once
    assert (laid_out["input_ids"] == 3).sum() == (1 if packing else 3)


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@torch.no_grad()
def test_bins_are_longer_where_kernels_are_prepared_for_lengths_and_rows_read_the_same(attention, configs, monkeypatch):
    """As on a GPU: 37 places are made 40, with and without a cached prefix."""
    torch.manual_seed(0)
    model = AutoModelForTokenClassification.from_config(configs["qwen2"], attn_implementation=attention).eval()
    rows = [Feature(torch.arange(2, 2 + length), torch.tensor([1, length - 1])) for length in (37, 20)]
    for row in rows[1:]:
        row.ids[0] = 39
    laid_out, prefix = batch_of(model, rows, 0, packing=True), forward.Prefix.of(model, [5, 6, 7])
    expected = logits_at(model, laid_out), logits_at(model, laid_out, prefix)
    monkeypatch.setattr(forward, "_has_kernels", lambda device: True)
    inputs = forward.inputs_of(model, laid_out)
    assert {name: inputs[name].shape for name in ("input_ids", "position_ids", "attention_mask")} == {
        "input_ids": (2, 40), "position_ids": (2, 40), "attention_mask": (2, 1, 40, 40),
    }  # fmt: skip
    for actual, wanted in zip((logits_at(model, laid_out), logits_at(model, laid_out, prefix)), expected, strict=True):
        torch.testing.assert_close(actual, wanted, atol=1e-5, rtol=0)


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("mixed", [False, True], ids=["float32", "autocast"])
def test_layers_share_one_mask_in_the_type_of_the_scores(attention, mixed, configs):
    """Written out once: sdpa would make numbers of booleans in each layer, and keep them for the backward pass."""
    model = AutoModelForTokenClassification.from_config(configs["qwen2"], attn_implementation=attention)
    rows = [Feature(torch.arange(3, 8), torch.tensor([4])), Feature(torch.tensor([9, 8]), torch.tensor([1]))]
    with torch.autocast("cpu", torch.bfloat16, enabled=mixed):
        inputs = forward.inputs_of(model, batch_of(model, rows, 0, packing=True))
    assert inputs["attention_mask"].dtype == (torch.bfloat16 if mixed else torch.float32)


def test_head_runs_on_the_chosen_tokens_alone(configs, batch):
    model = AutoModelForTokenClassification.from_config(configs["qwen2"])
    seen = []
    model.score.register_forward_hook(lambda _, inputs, output: seen.append(inputs[0].shape))
    logits_at(model, batch)
    assert seen == [(4, 32)]


def test_dropout_is_respected(configs, batch):
    configs["qwen2"].classifier_dropout = 0.5
    model = AutoModelForTokenClassification.from_config(configs["qwen2"]).train()
    assert not torch.equal(logits_at(model, batch), logits_at(model, batch))


def test_gradients_pass_through_checkpointing(configs, batch):
    model = AutoModelForTokenClassification.from_config(configs["llama"]).train()
    model.activation_checkpointing_enable()
    logits_at(model, batch).sum().backward()
    assert model.model.layers[0].mlp.up_proj.weight.grad.abs().sum() > 0


# --- log-probabilities

IDS = torch.tensor([[5, 9, 30, 2, 7], [11, 4, 8, 0, 0]])
BATCH = {
    "input_ids": IDS,
    "attention_mask": torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]]),
    "rows": torch.tensor([0, 0, 0, 1, 1]),
    "positions": torch.tensor([1, 2, 3, 0, 1]),
    "next_ids": torch.tensor([30, 2, 7, 4, 8]),
}


@pytest.fixture
def model(tiny_lm):
    return AutoModelForCausalLM.from_pretrained(tiny_lm)


def by_all_logits(model) -> torch.Tensor:
    logits_BTV = model(input_ids=IDS, attention_mask=BATCH["attention_mask"]).logits
    return logits_BTV.float().log_softmax(-1)[BATCH["rows"], BATCH["positions"], BATCH["next_ids"]]


@pytest.mark.parametrize("pieces_of", [1, 2, 1000])
def test_values_and_gradients_are_those_of_all_logits(model, monkeypatch, pieces_of):
    monkeypatch.setattr(forward, "LARGEST_LOGITS", pieces_of * model.config.vocab_size)
    weights = torch.tensor([1.0, -2.0, 0.5, 3.0, 1.0])
    expected = by_all_logits(model)
    (expected * weights).sum().backward()
    gradients = [parameter.grad.clone() for parameter in model.parameters()]
    model.zero_grad()
    actual = logps_at(model, BATCH)
    (actual * weights).sum().backward()
    torch.testing.assert_close(actual, expected, atol=1e-5, rtol=0)
    for parameter, gradient in zip(model.parameters(), gradients, strict=True):
        torch.testing.assert_close(parameter.grad, gradient, atol=1e-5, rtol=1e-4)


def test_the_head_never_sees_more_than_a_piece(model, monkeypatch):
    monkeypatch.setattr(forward, "LARGEST_LOGITS", 2 * model.config.vocab_size)
    seen = []
    model.lm_head.register_forward_hook(lambda _, inputs, output: seen.append(output.numel() // output.shape[-1]))
    logps_at(model, BATCH).sum().backward()
    assert max(seen) == 2
    # three pieces forward, the same ones again in the backward pass, and nothing in the model's own forward
    assert sorted(seen) == [0, 1, 1, 2, 2, 2, 2]
    assert not model.lm_head._forward_pre_hooks


def test_the_head_runs_in_the_precision_of_the_forward(model):
    inner = model.forward

    def mixed(*args, **options):
        with torch.autocast("cpu", torch.bfloat16):
            return inner(*args, **options)

    exact = by_all_logits(model)
    model.forward = mixed
    # bfloat16 logits: the head's own, rounded as they are where the whole forward runs at once
    expected = by_all_logits(model)
    actual = logps_at(model, BATCH)
    assert actual.dtype == torch.float32
    assert (actual - exact).abs().max() > 1e-4
    torch.testing.assert_close(actual, expected, atol=1e-5, rtol=0)
