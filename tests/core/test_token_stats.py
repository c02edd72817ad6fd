"""Log-probabilities and entropies against hand-worked numbers and against torch's own distributions."""

import math

import pytest
import torch
from torch.distributions import Categorical

from rlstep.core import token_stats
from rlstep.core.token_stats import log_probs_and_entropies, log_probs_under_frozen_head


def test_by_hand():
    """Odds 1 : 3 give log(3/4); the entropy is log 4 - 3/4 log 3. At temperature 2 odds are 1 : sqrt 3."""
    logits_NV = torch.tensor([[0.0, math.log(3)]])
    logp_N, entropy_N = log_probs_and_entropies(logits_NV, torch.tensor([1]))
    assert logp_N.item() == pytest.approx(math.log(0.75))
    assert entropy_N.item() == pytest.approx(math.log(4) - 0.75 * math.log(3))
    logp_N, _ = log_probs_and_entropies(logits_NV, torch.tensor([1]), temperature=2.0)
    assert logp_N.item() == pytest.approx(math.log(math.sqrt(3) / (1 + math.sqrt(3))))


@pytest.mark.parametrize("temperature", [0.7, 1.0, 1.5])
@pytest.mark.parametrize("read", [("log_prob",), ("entropy",), ("log_prob", "entropy")])
def test_values_and_gradients_are_those_of_torchs_distributions(temperature, read, monkeypatch):
    monkeypatch.setattr(token_stats, "CPU_PIECE", 40)  # three rows at a time
    torch.manual_seed(0)
    logits_NV = torch.randn(10, 13, requires_grad=True)
    tokens_N, weights_2N = torch.randint(13, (10,)), torch.randn(2, 10)

    def gradient(log_prob_N, entropy_N):
        terms = {"log_prob": log_prob_N * weights_2N[0], "entropy": entropy_N * weights_2N[1]}
        return torch.autograd.grad(sum(terms[name].sum() for name in read), logits_NV)[0]

    oracle = Categorical(logits=logits_NV / temperature)
    expected = oracle.log_prob(tokens_N), oracle.entropy()
    ours = log_probs_and_entropies(logits_NV, tokens_N, temperature)
    torch.testing.assert_close(ours, expected)
    torch.testing.assert_close(gradient(*ours), gradient(*expected))


def test_a_token_that_cannot_be_drawn_adds_nothing():
    logits_NV = torch.tensor([[0.0, 0.0, -torch.inf]], requires_grad=True)
    logp_N, entropy_N = log_probs_and_entropies(logits_NV, torch.tensor([0]))
    assert entropy_N.item() == pytest.approx(math.log(2))
    (logp_N + entropy_N).sum().backward()
    torch.testing.assert_close(logits_NV.grad, torch.tensor([[0.5, -0.5, 0.0]]))


def test_no_rows_keep_the_graph():
    logits_NV = torch.randn(2, 5, requires_grad=True)
    logp_N, _ = log_probs_and_entropies(logits_NV[:0], torch.zeros(0, dtype=torch.long))
    logp_N.sum().backward()
    assert torch.equal(logits_NV.grad, torch.zeros(2, 5))


def test_half_precision_is_summed_in_float32():
    torch.manual_seed(0)
    logits_NV = torch.randn(4, 2000).bfloat16()
    tokens_N = torch.arange(4)
    logp_N, entropy_N = log_probs_and_entropies(logits_NV, tokens_N)
    oracle = Categorical(logits=logits_NV.double())
    assert logp_N.dtype == torch.float32
    torch.testing.assert_close(logp_N.double(), oracle.log_prob(tokens_N), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(entropy_N.double(), oracle.entropy(), atol=1e-4, rtol=1e-5)


# --- Under a frozen head


@pytest.fixture
def head(monkeypatch):
    """Hidden states, weights and tokens; three rows of logits at a time, worked through one by one."""
    monkeypatch.setattr(token_stats, "CPU_HEAD_PIECE", 40)
    monkeypatch.setattr(token_stats, "CPU_PIECE", 13)
    torch.manual_seed(0)
    return torch.randn(10, 5, requires_grad=True), torch.randn(13, 5), torch.randint(13, (10,))


@pytest.mark.parametrize("temperature", [0.7, 1.0])
@pytest.mark.parametrize("bias_V", [None, torch.linspace(-1, 1, 13)], ids=["no bias", "bias"])
def test_a_frozen_head_gives_the_same_as_its_logits(head, temperature, bias_V):
    (hidden_NH, weight_VH, tokens_N), weights_N = head, torch.linspace(-1, 1, 10)
    logits_NV = torch.nn.functional.linear(hidden_NH, weight_VH, bias_V)
    expected = log_probs_and_entropies(logits_NV, tokens_N, temperature)
    actual = log_probs_under_frozen_head(hidden_NH, weight_VH, bias_V, tokens_N, temperature)
    torch.testing.assert_close(actual, expected)
    assert not actual[1].requires_grad
    gradients = [torch.autograd.grad((weights_N * of[0]).sum(), hidden_NH)[0] for of in (actual, expected)]
    torch.testing.assert_close(*gradients, rtol=1e-6, atol=1e-6)


def test_a_frozen_head_keeps_nothing_as_large_as_logits(head):
    hidden_NH, weight_VH, tokens_N = head
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda x: kept.append(x.numel()) or x, lambda x: x):
        log_probs_under_frozen_head(hidden_NH, weight_VH, None, tokens_N)
    assert kept == [hidden_NH.numel()]


def test_no_rows_under_a_frozen_head_keep_the_graph(head):
    hidden_NH, weight_VH, tokens_N = head
    log_probs_under_frozen_head(hidden_NH[:0], weight_VH, None, tokens_N[:0])[0].sum().backward()
    assert torch.equal(hidden_NH.grad, torch.zeros_like(hidden_NH))


def test_a_frozen_head_multiplies_in_autocasts_precision(head):
    hidden_NH, weight_VH, tokens_N = head
    logits_NV = (hidden_NH.bfloat16() @ weight_VH.bfloat16().T).detach()
    with torch.autocast("cpu", torch.bfloat16):
        actual = log_probs_under_frozen_head(hidden_NH, weight_VH, None, tokens_N)
    torch.testing.assert_close(actual[0].detach(), log_probs_and_entropies(logits_NV, tokens_N)[0])
    assert actual[0].dtype == torch.float32
    actual[0].sum().backward()
    assert hidden_NH.grad.dtype == torch.float32
