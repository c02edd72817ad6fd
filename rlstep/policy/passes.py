"""How the trainer's batches go through a model: with or without padding, at once or within a budget of tokens.

`tests/policy/test_trl_seam.py` checks the private names of TRL that are used here.
"""

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext

import torch
from torch import Tensor
from transformers.integrations import is_deepspeed_zero3_enabled
from trl import GRPOTrainer

from rlstep.policy.backbone import hidden_states, own_positions
from rlstep.policy.first_tokens import check_head, positions_help, takes_positions
from rlstep.policy.forward import PackedForward, Tap
from rlstep.policy.token_budget import TokenBudget
from rlstep.runtime.errors import UserError
from rlstep.verifiers.forward import pad_id_of
from rlstep.verifiers.packing import window_of

logger = logging.getLogger(__name__)

# TRL's method for padded rows: (model, input_ids, attention_mask, T, rows at once) to log-probabilities (B, T),
# entropies (B, T) or None, and the router's auxiliary loss or None.
ReadPadded = Callable[..., tuple[Tensor, Tensor | None, Tensor | None]]


class Passes:
    """Reads batches as the settings and the model admit.

    Args:
        trainer: with its model and accelerator.

    Attributes:
        packed: reads rows without padding; None where they are padded, which a warning says.
        positions: whether padded rows are read with the positions of their own tokens, which TRL does not tell.
        budget: cuts batches by `tokens_per_device`; None without it.

    Raises:
        UserError: the loss would depend on how the budget cuts, or the log-probabilities would not be the policy's.
    """

    def __init__(self, trainer: GRPOTrainer):
        self._accelerator, self._idle = trainer.accelerator, False
        self.packed, self.positions = _packed(trainer)
        self.budget = None
        if trainer.args.tokens_per_device is None:
            return
        if trainer.aux_loss_enabled:
            raise UserError(
                "a router's auxiliary loss is computed over each pass, which tokens_per_device would change; set "
                "router_aux_loss_coef: 0, or leave out tokens_per_device."
            )
        self.budget = TokenBudget(trainer.args.tokens_per_device, self.packed, self._accelerator)

    def read(
        self,
        tap: Tap,
        padded: ReadPadded,
        input_ids_BS: Tensor,
        attention_mask_BS: Tensor,
        T: int,
        rows_at_once: int | None,
    ) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """What `padded` gives; the tap gets what is computed beside it."""
        if self._idle:
            return input_ids_BS.new_zeros((len(input_ids_BS), T), dtype=torch.float32), None, None
        batch = input_ids_BS, attention_mask_BS, T
        if self.budget is None or torch.is_grad_enabled():
            return self._read(tap, padded, *batch, rows_at_once)
        return self.budget.read(lambda *piece: self._read(tap, padded, *piece, None), *batch)

    @contextmanager
    def left_out(self) -> Iterator[None]:
        """Within it nothing is read and every log-probability is 0, for batches where nobody needs them."""
        self._idle = True
        try:
            yield
        finally:
            self._idle = False

    def _read(
        self, tap: Tap, padded: ReadPadded, input_ids_BS: Tensor, attention_mask_BS: Tensor, T: int, rows: int | None
    ) -> tuple[Tensor, Tensor | None, Tensor | None]:
        batch = input_ids_BS, attention_mask_BS, T, rows
        if self.packed is not None and self.packed.fits(attention_mask_BS):
            with self._accelerator.autocast():
                log_probs_BT, entropies_BT, *values = self.packed(tap.model, *batch, tap.read_values)
            aux_loss = None
        else:
            positions = own_positions(tap.model) if self.positions else nullcontext()
            with positions, hidden_states(tap.model) if tap.read_values else nullcontext() as seen:
                log_probs_BT, entropies_BT, aux_loss = padded(tap.model, *batch)
            with self._accelerator.autocast():
                values = [tap.read_values(seen[-1][:, -T - 1 : -1])] if tap.read_values else []
        tap.log_probs_BT, tap.values_BT = log_probs_BT, (values[0] if values else None)
        return log_probs_BT, entropies_BT, aux_loss


def _packed(trainer: GRPOTrainer) -> tuple[PackedForward | None, bool]:
    """How rows are packed, and whether padded ones are told their positions."""
    model, sharded = trainer.model, is_deepspeed_zero3_enabled()
    # Sharded weights cannot be tried by one rank.
    reached = True if sharded else check_head(model, trainer.temperature)
    packed = _packed_forward(trainer, reached)
    # Batches with a row beyond the window are padded.
    if packed is not None and window_of(model.config) is None:
        return packed, False
    return packed, takes_positions(model) if sharded else positions_help(model)


def _packed_forward(trainer: GRPOTrainer, reached: bool) -> PackedForward | None:
    if not trainer.args.packing:
        return None
    refusal = PackedForward.refusal(trainer.model)
    if trainer.aux_loss_enabled:
        refusal = "its router's auxiliary loss counts the prompt's tokens once for each sample"
    if refusal is not None:
        logger.warning("completions are padded, which takes longer: %s", refusal)
        return None
    args = trainer.args
    # A head in float32 is TRL's fused one, which autocast does not turn to half precision. And OPT's own forward does
    # not call the module before its head, from which the fused one reads.
    fused = args.cast_lm_head_to_fp32 or not reached
    kept_logits = 0 if fused else int(args.kept_logits_gib * 2**30 / 4)
    # In float16 most of a vocabulary's probabilities are 0, unless the loss's scale comes before they are rounded.
    half = args.fp16 or trainer.model.dtype == torch.float16
    entropy_in_loss = args.entropy_coef or args.use_adaptive_entropy
    frozen_head = not (fused or half or entropy_in_loss)
    pad_id, group = pad_id_of(trainer._tokenizer), trainer.num_generations
    return PackedForward(trainer.model, pad_id, trainer.temperature, kept_logits, group, frozen_head)
