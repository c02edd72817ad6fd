"""Estimates of a policy's KL divergence from the reference policy, token by token, from the sampled tokens alone."""

from typing import Literal

import torch
from torch import Tensor

from rlstep.core.masked import check_shapes

__all__ = ["kl_estimate"]


def kl_estimate(logps_BT: Tensor, ref_logps_BT: Tensor, estimator: Literal["k1", "k2", "k3"]) -> Tensor:
    """Schulman's estimators ("Approximating KL divergence", 2020) of KL(p || q) at tokens x drawn from p::

        k1 = log p(x) - log q(x)
        k2 = (log p(x) - log q(x))^2 / 2
        k3 = q(x) / p(x) - 1 - (log q(x) - log p(x))

    p is the policy and q the reference, each given the tokens before. As a number, over x drawn from p:

    - k1 is unbiased, but negative wherever q > p, and of high variance.
    - k2 is never negative and of low variance, but biased: it agrees with the KL to second order in log p - log q.
    - k3 is never negative and unbiased where p > 0 wherever q is; of low variance near q, but unbounded: a token that p
      has all but given up and q has not costs q / p.

    Taken off the reward, with no gradient through it, the number matters: by the policy gradient k1 has the gradient of
    KL(p || q) in expectation. That of k2 and k3 is another, smaller by an order near q, and holds p back too little
    there. In the loss, the estimate's own gradient matters, over x drawn from p:

    - k1: grad log p, 0 in expectation. It adds noise and holds nothing back.
    - k2: (log p - log q) grad log p, which in expectation is the gradient of KL(p || q).
    - k3: (1 - q / p) grad log p, which in expectation is the gradient of KL(q || p). The two agree near q.

    Both are the gradient of a token's own KL, given the tokens before; that an earlier token leads to later ones with
    more or less KL is seen only off the reward (Tang and Munos, 2506.09477). And all of this is said of tokens that the
    policy would draw now: after optimizer steps on the same samples it holds approximately.

    Args:
        logps_BT: log p of each sampled token.
        ref_logps_BT: log q of the same tokens.
        estimator: "k1", "k2" or "k3".

    Returns:
        The estimate for each token, in nats. Nothing is masked.

    Raises:
        ValueError: shapes differ, or an unknown estimator.
    """
    check_shapes(logps_BT=logps_BT, ref_logps_BT=ref_logps_BT)
    log_ratio_BT = logps_BT - ref_logps_BT
    if estimator == "k1":
        return log_ratio_BT
    if estimator == "k2":
        return log_ratio_BT.square() / 2
    if estimator == "k3":
        # expm1 keeps the digits that exp(x) - 1 loses near 0, where k3 is about x^2 / 2.
        return torch.expm1(-log_ratio_BT) + log_ratio_BT
    raise ValueError(f"unknown KL estimator '{estimator}'; choose k1, k2 or k3.")
