"""The estimators against exact sums over all tokens (all sequences) of small distributions: nothing is sampled."""

import math

import pytest
import torch

from rlstep.core.kl import kl_estimate

ESTIMATORS = ("k1", "k2", "k3")
LOGITS_V = torch.tensor([0.3, -1.2, 0.9, 0.1], dtype=torch.float64)
REF_LOGITS_V = torch.tensor([-0.4, 0.2, 0.5, 1.1], dtype=torch.float64)


def exact_kl(logp_V, logq_V):
    """KL(p || q) by its definition."""
    return (logp_V.exp() * (logp_V - logq_V)).sum()


def gradient_at(logits_V, of):
    """Gradient of a function of log p in the logits of p."""
    logits_V = logits_V.clone().requires_grad_()
    return torch.autograd.grad(of(torch.log_softmax(logits_V, dim=-1)), logits_V)[0]


def expected(logp_V, estimate_V):
    """Mean over tokens drawn from p, through whose drawing no gradient flows."""
    return (logp_V.detach().exp() * estimate_V).sum()


def estimates(logp, logq, estimator):
    """`kl_estimate` wants (B, T)."""
    return kl_estimate(logp.view(1, -1), logq.view(1, -1), estimator).view(logp.shape)


def test_estimators_by_hand():
    """Schulman, "Approximating KL divergence", 2020. p = 1/2, q = 1/4 and the other way round."""
    logps_BT, ref_BT = torch.tensor([[0.5, 0.25]]).log(), torch.tensor([[0.25, 0.5]]).log()
    log2 = math.log(2)
    for estimator, values in {
        "k1": [log2, -log2],
        "k2": [log2**2 / 2, log2**2 / 2],
        "k3": [0.5 - 1 + log2, 2 - 1 - log2],
    }.items():
        assert kl_estimate(logps_BT, ref_BT, estimator)[0].tolist() == pytest.approx(values)


@pytest.mark.parametrize(
    ("p", "q", "kl", "k2"),
    [
        # log(p/q) is log 2, 0 and -log 2
        ([0.5, 0.25, 0.25], [0.25, 0.25, 0.5], math.log(2) / 4, 0.75 * math.log(2) ** 2 / 2),
        # log 9 and -log 9
        ([0.9, 0.1], [0.1, 0.9], 0.8 * math.log(9), math.log(9) ** 2 / 2),
    ],
)
def test_k1_and_k3_are_unbiased_and_k2_is_not(p, q, kl, k2):
    logp_V, logq_V = (torch.tensor(probs, dtype=torch.float64).log() for probs in (p, q))
    means = {name: expected(logp_V, estimates(logp_V, logq_V, name)).item() for name in ESTIMATORS}
    assert means == pytest.approx({"k1": kl, "k2": k2, "k3": kl})
    assert exact_kl(logp_V, logq_V).item() == pytest.approx(kl)
    assert k2 > 1.03 * kl


def test_k2_agrees_with_the_kl_to_second_order():
    # with half the distance a KL has a quarter left, the bias an eighth
    def bias(distance):
        logp_V = (REF_LOGITS_V + distance * LOGITS_V).log_softmax(0)
        logq_V = REF_LOGITS_V.log_softmax(0)
        return (expected(logp_V, estimates(logp_V, logq_V, "k2")) - exact_kl(logp_V, logq_V)).item()

    assert bias(0.01) / bias(0.005) == pytest.approx(8, rel=0.02)


def test_k2_and_k3_are_never_negative_and_vary_less_than_k1_near_the_reference():
    logp_V, logq_V = (REF_LOGITS_V + 0.1 * LOGITS_V).log_softmax(0), REF_LOGITS_V.log_softmax(0)
    variance = {}
    for name in ESTIMATORS:
        estimate_V = estimates(logp_V, logq_V, name)
        assert (estimate_V < 0).any() == (name == "k1")
        variance[name] = expected(logp_V, (estimate_V - expected(logp_V, estimate_V)).square()).item()
    assert max(variance["k2"], variance["k3"]) < variance["k1"] / 100


def test_gradients_in_the_loss():
    """k1's is 0 in expectation, k2's that of KL(p || q), k3's that of KL(q || p)."""
    logq_V = REF_LOGITS_V.log_softmax(0)
    of_loss = {
        name: gradient_at(LOGITS_V, lambda logp_V, name=name: expected(logp_V, estimates(logp_V, logq_V, name)))
        for name in ESTIMATORS
    }
    towards_q = gradient_at(LOGITS_V, lambda logp_V: exact_kl(logp_V, logq_V))
    from_q = gradient_at(LOGITS_V, lambda logp_V: exact_kl(logq_V, logp_V))
    torch.testing.assert_close(of_loss["k1"], torch.zeros_like(towards_q))
    torch.testing.assert_close(of_loss["k2"], towards_q)
    torch.testing.assert_close(of_loss["k3"], from_q)
    assert (towards_q - from_q).abs().max() > 0.05


def test_gradients_off_the_reward():
    """By the policy gradient, k1 has that of KL(p || q); near q, k2 and k3 have all but none of it."""

    def by_policy_gradient(logits_V, estimator):
        def surrogate(logp_V):
            return expected(logp_V, estimates(logp_V.detach(), logq_V, estimator) * logp_V)

        return gradient_at(logits_V, surrogate)

    logq_V = REF_LOGITS_V.log_softmax(0)
    for distance in (1.0, 0.01):
        logits_V = REF_LOGITS_V + distance * LOGITS_V
        exact_V = gradient_at(logits_V, lambda logp_V: exact_kl(logp_V, logq_V))
        torch.testing.assert_close(by_policy_gradient(logits_V, "k1"), exact_V)
        share = {name: (by_policy_gradient(logits_V, name).norm() / exact_V.norm()).item() for name in ("k2", "k3")}
        assert abs(share["k2"] - 1) > 0.1
        assert abs(share["k3"] - 1) > 0.1
    assert max(share.values()) < 0.02


def test_the_loss_sees_each_token_alone_and_the_reward_sees_where_it_leads():
    """Sequences of two tokens, three kinds each: the first token's choice decides how far the second is from q."""
    logits_43 = torch.tensor([[0.3, -0.8, 0.1], [0.0, 2.0, -1.0], [0.1, 0.2, 0.0], [0.5, -1.5, 0.4]]).double()
    logq_43 = torch.zeros(4, 3).double().log_softmax(1)

    def sequences(log_43):
        """(9, 2): the log-probabilities of both tokens of each sequence; row 0 is of the first, 1 + x of x's second."""
        return torch.stack([log_43[0].repeat_interleave(3), log_43[1:].flatten()], dim=1)

    def of_loss(log_43):
        logp_92 = sequences(log_43)
        weights_9 = logp_92.detach().sum(dim=1).exp()
        return (weights_9[:, None] * kl_estimate(logp_92, sequences(logq_43), "k2")).sum()

    def off_the_reward(log_43):
        logp_92 = sequences(log_43)
        weights_9 = logp_92.detach().sum(dim=1).exp()
        to_come_92 = kl_estimate(logp_92.detach(), sequences(logq_43), "k1").flip(1).cumsum(1).flip(1)
        return (weights_9[:, None] * to_come_92 * logp_92).sum()

    def of_sequences(log_43):
        """KL(p || q) of the nine sequences."""
        return exact_kl(sequences(log_43).sum(dim=1), sequences(logq_43).sum(dim=1))

    def of_tokens(log_43):
        """KL of each token given the first, where how often the first is drawn stays as it is."""
        second_3 = torch.stack([exact_kl(log_43[1 + x], logq_43[1 + x]) for x in range(3)])
        return exact_kl(log_43[0], logq_43[0]) + (log_43[0].detach().exp() * second_3).sum()

    torch.testing.assert_close(gradient_at(logits_43, off_the_reward), gradient_at(logits_43, of_sequences))
    torch.testing.assert_close(gradient_at(logits_43, of_loss), gradient_at(logits_43, of_tokens))
    assert (gradient_at(logits_43, of_sequences) - gradient_at(logits_43, of_tokens)).abs().max() > 0.05


def test_k3_keeps_its_digits_near_the_reference():
    # x^2 / 2 - x^3 / 6 at x = 1e-3; exp(x) - 1 - x would be off by a tenth in single precision
    estimate = kl_estimate(torch.zeros(1, 1), torch.full((1, 1), 1e-3), "k3").item()
    assert estimate == pytest.approx(1e-6 / 2 + 1e-9 / 6, rel=1e-3)


def test_wrong_input():
    with pytest.raises(ValueError, match="unknown KL estimator 'k4'; choose k1, k2 or k3"):
        kl_estimate(torch.zeros(1, 2), torch.zeros(1, 2), "k4")
    with pytest.raises(ValueError, match=r"logps_BT \(2, 3\), ref_logps_BT \(1, 3\)"):
        kl_estimate(torch.zeros(2, 3), torch.zeros(1, 3), "k1")
