"""A few tokens through a policy before it is trained: whether the passes of an update give what the model itself gives.

A run whose log-probabilities are not those of the policy that sampled goes on without a word, and learns something
else. What is relied on is therefore tried: that TRL's fused head is the model's head, and that padding before a row
changes nothing in it.
"""

import inspect
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

import torch
from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils.other import AuxiliaryTrainingWrapper, ModulesToSaveWrapper
from torch import Tensor, nn
from transformers import PreTrainedModel

from rlstep.policy.backbone import causal_lm, hidden_states, own_positions
from rlstep.runtime.errors import UserError
from rlstep.verifiers.attention import tried_as

ROW, PADDING = 12, 5


def check_head(model: nn.Module, temperature: float) -> bool:
    """Refuses models whose head is more than the output embedding, which is all that TRL's fused head reads.

    Args:
        model: the policy with TRL's fused head, wrapped by PEFT or not.
        temperature: logits are divided by it.

    Returns:
        Whether the model's own forward reads the backbone that hooks are put on.

    Raises:
        UserError: there are weights or operations between the backbone and the logits that the loss would leave out.
    """
    inner = causal_lm(model)
    head = inner.get_output_embeddings()
    tuned = isinstance(head, AuxiliaryTrainingWrapper) and not isinstance(head, ModulesToSaveWrapper)
    if tuned or isinstance(head, BaseTunerLayer):
        raise UserError(
            "the adapter has a layer on the output embedding, whose weights the losses here read without an adapter. "
            "Leave it out of target_modules (and trainable_token_indices or ensure_weight_tying, where input and "
            "output embeddings are one), or train it whole: modules_to_save."
        )
    ids_1S = _row(inner)
    with _trial(model), tried_as(inner, packed=False), hidden_states(inner) as seen:
        logits_1SV = inner(input_ids=ids_1S, use_cache=False).logits.float() / temperature
        own, reached = _log_probs(logits_1SV, ids_1S), bool(seen)
        fused = inner(input_ids=ids_1S, labels=ids_1S, fused_lm_head=True).log_probs
    if not _same(fused, own, inner.dtype):
        raise UserError(
            f"{type(inner).__name__} computes its logits by more than its output embedding, which TRL's loss reads "
            "alone: the log-probabilities would not be the policy's. Take another model."
        )
    return reached


def positions_help(model: nn.Module) -> bool:
    """Whether padded rows have to be read with the positions of their own tokens.

    Args:
        model: the policy, wrapped by PEFT or not.

    Raises:
        UserError: padding before a row changes what the model gives for it, with positions as without.
    """
    inner = causal_lm(model)
    ids_1S = _row(inner)
    padding = ids_1S.new_zeros(1, PADDING)
    ids, mask = torch.cat([padding, ids_1S], dim=1), torch.cat([padding, torch.ones_like(ids_1S)], dim=1)
    with _trial(model), tried_as(inner, packed=False):
        alone = _log_probs(inner(input_ids=ids_1S, use_cache=False).logits.float(), ids_1S)
        for told in (True, False) if takes_positions(model) else (False,):
            with own_positions(inner) if told else nullcontext():
                logits_1SV = inner(input_ids=ids, attention_mask=mask, use_cache=False).logits[:, PADDING:].float()
            if _same(_log_probs(logits_1SV, ids_1S), alone, inner.dtype):
                return told
    raise UserError(
        f"{type(inner).__name__} gives a row other values when padding stands before it, and it is trained on padded "
        "rows: prompts of different lengths would have log-probabilities that the policy never had. Take another model."
    )


def takes_positions(model: nn.Module) -> bool:
    return "position_ids" in inspect.signature(causal_lm(model).forward).parameters


def _row(model: PreTrainedModel) -> Tensor:
    vocabulary = model.config.get_text_config().vocab_size
    return torch.arange(3, 3 + ROW, device=model.device)[None] % vocabulary


def _log_probs(logits_1SV: Tensor, ids_1S: Tensor) -> Tensor:
    """Of each token after the first, as TRL's fused head gives them."""
    return logits_1SV[:, :-1].log_softmax(dim=-1).gather(2, ids_1S[:, 1:, None])[..., 0]


def _same(left: Tensor, right: Tensor, dtype: torch.dtype) -> bool:
    tolerance = 1e-3 if dtype == torch.float32 else 0.1
    return bool((left - right).abs().max() <= tolerance * right.abs().max())


@contextmanager
def _trial(model: nn.Module) -> Iterator[None]:
    """Without gradients and dropout; the model is then as it was."""
    training = model.training
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        model.train(training)
