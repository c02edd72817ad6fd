import pytest
import torch
from transformers import AutoModelForCausalLM, Gemma2Config, Gemma2ForCausalLM

from rlstep.runtime.errors import UserError
from rlstep.verifiers import forward as logprobs
from rlstep.verifiers.forward import require_plain_head, token_logps

IDS = torch.tensor([[5, 9, 30, 2, 7], [11, 4, 8, 0, 0]])
BATCH = {
    "input_ids": IDS,
    "attention_mask": torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]]),
    "rows": torch.tensor([0, 0, 0, 1, 1]),
    "columns": torch.tensor([1, 2, 3, 0, 1]),
    "next_ids": torch.tensor([30, 2, 7, 4, 8]),
}


@pytest.fixture
def model(tiny_lm):
    return AutoModelForCausalLM.from_pretrained(tiny_lm)


def by_all_logits(model) -> torch.Tensor:
    logits_BTV = model(input_ids=IDS, attention_mask=BATCH["attention_mask"]).logits
    return logits_BTV.float().log_softmax(-1)[BATCH["rows"], BATCH["columns"], BATCH["next_ids"]]


@pytest.mark.parametrize("pieces_of", [1, 2, 1000])
def test_values_and_gradients_are_those_of_all_logits(model, monkeypatch, pieces_of):
    monkeypatch.setattr(logprobs, "LARGEST_LOGITS", pieces_of * model.config.vocab_size)
    weights = torch.tensor([1.0, -2.0, 0.5, 3.0, 1.0])
    expected = by_all_logits(model)
    (expected * weights).sum().backward()
    gradients = [parameter.grad.clone() for parameter in model.parameters()]
    model.zero_grad()
    found = token_logps(model, **BATCH)
    (found * weights).sum().backward()
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)
    for parameter, gradient in zip(model.parameters(), gradients, strict=True):
        torch.testing.assert_close(parameter.grad, gradient, atol=1e-5, rtol=1e-4)


def test_the_head_never_sees_more_than_a_piece(model, monkeypatch):
    monkeypatch.setattr(logprobs, "LARGEST_LOGITS", 2 * model.config.vocab_size)
    seen = []
    model.lm_head.register_forward_hook(lambda _, inputs, output: seen.append(output.numel() // output.shape[-1]))
    token_logps(model, **BATCH).sum().backward()
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
    found = token_logps(model, **BATCH)
    assert found.dtype == torch.float32
    assert (found - exact).abs().max() > 1e-4
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)


def test_models_that_change_their_heads_logits_are_refused(model):
    require_plain_head(model)
    sizes = {"num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 8, "num_hidden_layers": 1}
    config = Gemma2Config(vocab_size=50, hidden_size=16, intermediate_size=16, final_logit_softcapping=0.5, **sizes)
    with pytest.raises(UserError, match="Gemma2ForCausalLM changes the logits that its head gives"):
        require_plain_head(Gemma2ForCausalLM(config))
