"""What the loss asks of each sampled token."""

import torch


def token_gradients(trainer, batch) -> torch.Tensor:
    """(B, T) gradient of the loss with respect to each sampled token's log-probability, as the loss reads it."""
    seen, read = [], trainer._get_per_token_logps_and_entropies

    def keep(*args, **kwargs):
        log_probs_BT, *others = read(*args, **kwargs)
        log_probs_BT.retain_grad()
        seen.append(log_probs_BT)
        return log_probs_BT, *others

    trainer._get_per_token_logps_and_entropies = keep
    trainer.compute_loss(trainer.model, batch).backward()
    del trainer._get_per_token_logps_and_entropies
    (log_probs_BT,) = seen
    return log_probs_BT.grad
