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

    p is the policy and q the reference, each conditioned on the previous tokens. As numbers, over x drawn from p:

    - k1 is unbiased, but negative wherever q > p, and of high variance.
    - k2 is never negative and of low variance, but biased: it agrees with the KL to second order in log p - log q.
    - k3 is never negative, and unbiased if p > 0 wherever q > 0; of low variance near q, but unbounded: a token that is
      very unlikely under p but not under q costs q / p.

    Subtracted from the reward, with no gradient through it, the value matters: the policy gradient of k1 is, in
    expectation, the gradient of KL(p || q). That of k2 and k3 differs: it is smaller by an order near q and restrains p
    too little there. In the loss, the estimate's own gradient matters, over x drawn from p:

    - k1: grad log p, 0 in expectation. It adds noise and restrains nothing.
    - k2: (log p - log q) grad log p, which in expectation is the gradient of KL(p || q).
    - k3: (1 - q / p) grad log p, which in expectation is the gradient of KL(q || p). The two agree near q.

    Both are the gradient of one token's KL given the previous tokens; that an earlier token leads to later ones with
    more or less KL is credited only if the KL is part of the reward (Tang and Munos, 2506.09477). All of this holds for
    tokens drawn from the current policy: after optimizer steps on the same samples it holds approximately.

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
