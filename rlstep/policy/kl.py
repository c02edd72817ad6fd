"""The KL to the reference where TRL's is not used: subtracted from the reward, or estimated differently in the loss.

`tests/policy/test_trl_seam.py` checks the private names of TRL that are used here.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor
from trl import GRPOTrainer
from trl.models.utils import disable_gradient_checkpointing

from rlstep.core.kl import kl_estimate


@torch.no_grad()
def kl_when_sampled(trainer: GRPOTrainer, batch: dict[str, Tensor], estimator: str) -> Tensor:
    """(B, T) estimates at the policy that sampled, 0 after a completion's end.

    Its log-probabilities are kept in the batch, where the loss needs the same ones.

    Args:
        trainer: whose policy sampled.
        batch: TRL's, with the reference's log-probabilities.
        estimator: k1, k2 or k3.
    """
    mask_BT = batch["completion_mask"]
    if "old_per_token_logps" not in batch:
        ids, attention = (
            torch.cat([batch[f"prompt_{part}"], batch[f"completion_{part}"]], dim=1) for part in ("ids", "mask")
        )
        with disable_gradient_checkpointing(trainer.model, trainer.args.gradient_checkpointing_kwargs):
            batch["old_per_token_logps"], *_ = trainer._get_per_token_logps_and_entropies(
                trainer.model, ids, attention, mask_BT.shape[1], trainer.args.per_device_train_batch_size
            )
    return kl_estimate(batch["old_per_token_logps"], batch["ref_per_token_logps"], estimator) * mask_BT


def kl_in_loss(log_probs_BT: Tensor, batch: dict[str, Tensor], estimator: str, corrected: bool) -> Tensor:
    """(B, T) estimates at the policy that is trained, with their gradient.

    Args:
        log_probs_BT: the policy's.
        batch: TRL's, with the reference's log-probabilities, and those of the policy that sampled where it is another.
        estimator: k2 or k3.
        corrected: TRL's `use_bias_correction_kl`, which applies to k3: multiplied by the ratio of new to old
            probabilities, through which the gradient goes as well.
    """
    kl_BT = kl_estimate(log_probs_BT, batch["ref_per_token_logps"], estimator)
    if estimator != "k3" or not corrected:
        return kl_BT
    old_BT = batch.get("old_per_token_logps")
    return kl_BT * torch.exp(log_probs_BT - (log_probs_BT.detach() if old_BT is None else old_BT))


@contextmanager
def trls_kl(trainer: GRPOTrainer, added: bool) -> Iterator[None]:
    """TRL's loss adds beta times its own estimate of the KL; where `added` is false it adds nothing for a while."""
    beta = trainer.beta
    if not added:
        trainer.beta = 0.0
    try:
        yield
    finally:
        trainer.beta = beta
