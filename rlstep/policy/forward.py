"""One forward pass over a batch's completions: all that the loss, the reference and the critic read of a model.

TRL pads every row to the longest prompt and the longest completion, and computes the prompt of a problem's samples once
for each of them. Here rows have no padding and samples share their prompt (`rlstep.verifiers.packing`), and the head
sees the places before completion tokens alone. What comes out is in TRL's form again, (B, T), and equal up to
rounding: a causal model gives every token the value that it has in its row alone.
"""

import logging
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.integrations import is_deepspeed_zero3_enabled

from rlstep.core.token_stats import log_probs_and_entropies, log_probs_under_frozen_head
from rlstep.policy.backbone import has_plain_head, head_of, hidden_states
from rlstep.verifiers.attention import shares_places
from rlstep.verifiers.features import TokenFeature
from rlstep.verifiers.forward import batch_of, collate, inputs_of, unwrapped
from rlstep.verifiers.packing import can_pack, rescaled_beyond, window_of, work_per_token

logger = logging.getLogger(__name__)

# Hidden states (..., H) to values (...).
ReadValues = Callable[[Tensor], Tensor]


@dataclass
class Tap:
    """Passed to TRL's loss in place of the model; captures what the loss is computed from.

    TRL runs the model within its loss and does not pass on what comes out, and a second forward pass would double the
    cost. The loss passes its model on to `_get_per_token_logps_and_entropies` and does nothing else with it; the
    trainer's override of that fills the tap. So the tensors travel with the call, and none is left on the trainer in
    between.

    Attributes:
        model: the model whose loss is computed.
        read_values: of the hidden states before each completion token, where values come out of the same pass.
        log_probs_BT: of the completions' tokens, with their gradient, once the loss is computed.
        values_BT: what `read_values` gave.
    """

    model: nn.Module
    read_values: ReadValues | None = None
    log_probs_BT: Tensor | None = None
    values_BT: Tensor | None = None


class PackedForward:
    """Log-probabilities and entropies of completions, from rows in bins.

    Args:
        model: the policy; its reference has the same architecture.
        pad_id: fills the ends of bins.
        temperature: logits are divided by it, as in sampling.
        kept_logits: how many logits may be kept for the backward pass. Beyond, TRL's fused head computes them again in
            pieces: a fifth more time, next to no memory.
        group: samples of one problem, which stand side by side.
        frozen_head: a head whose weights are frozen, and whose logits are the model's, keeps no logits, and takes no
            more time. Entropies then have no gradient.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        pad_id: int,
        temperature: float,
        kept_logits: int,
        group: int,
        frozen_head: bool = False,
    ):
        self.pad_id, self.temperature, self.kept_logits, self.group = pad_id, temperature, kept_logits, group
        self._plain_head = frozen_head and not is_deepspeed_zero3_enabled() and has_plain_head(model)
        self.vocabulary = model.config.get_text_config().vocab_size
        self._window, self._work = window_of(model.config), work_per_token(model.config)
        self._share, self._rescaled = shares_places(model.config), rescaled_beyond(model.config)
        self._warned = False

    @staticmethod
    def refusal(model: PreTrainedModel) -> str | None:
        """Why this model's rows are padded; None where they are packed."""
        return can_pack(model, probe=not is_deepspeed_zero3_enabled())

    def fits(self, attention_mask_BS: Tensor) -> bool:
        """Whether every row of a batch is safe beside others (`packing.window_of`)."""
        longest = int(attention_mask_BS.sum(dim=1).max())
        if self._window is None or longest <= self._window:
            return True
        if not self._warned:
            why = "up to which the model attends to all of them: batches with such rows are padded"
            if self._window == self._rescaled:
                why = (
                    "beyond which the longest row of a batch rescales the positions of all: batches with such rows are "
                    "padded, and what a shorter row in them gives depends on the batch"
                )
            logger.warning("a row has %d tokens, more than the %d %s", longest, self._window, why)
            self._warned = True
        return False

    def __call__(
        self,
        model: nn.Module,
        input_ids_BS: Tensor,
        attention_mask_BS: Tensor,
        T: int,
        rows_at_once: int | None = None,
        read_values: ReadValues | None = None,
    ) -> tuple[Tensor, ...]:
        """Reads a batch.

        Args:
            model: wrapped or not, with TRL's fused head.
            input_ids_BS, attention_mask_BS: prompts padded on the left, completions on the right.
            T: the completions' padded length.
            rows_at_once: rows in one pass, where no gradient is asked for; whole groups at least. By default all.
            read_values: of the hidden states that the head sees.

        Returns:
            (B, T) log-probabilities and entropies, and with `read_values` values, all 0 at padding.
        """
        features = features_of(input_ids_BS, attention_mask_BS, T)
        size = len(features) if rows_at_once is None else max(rows_at_once, self.group)
        parts = [self._read(model, features[i : i + size], read_values) for i in range(0, len(features), size)]
        mask_BT = attention_mask_BS[:, -T:].bool()
        return tuple(spread(torch.cat(of_parts), mask_BT) for of_parts in zip(*parts, strict=True))

    def values(
        self,
        backbone: nn.Module,
        read_values: ReadValues,
        input_ids_BS: Tensor,
        attention_mask_BS: Tensor,
        T: int,
        last: bool,
    ) -> Tensor:
        """(B, T) values before each completion token; with `last` (B, T + 1), the value after n tokens in column n.

        Args:
            backbone: a model without its head.
            read_values: of the backbone's hidden states.
            input_ids_BS, attention_mask_BS, T: as above.
            last: also read the value after the completion's last token.
        """
        features = features_of(input_ids_BS, attention_mask_BS, T, last)
        batch = packed_batch(backbone, features, self.pad_id)
        hidden_BLH = backbone(**inputs_of(backbone, batch)).last_hidden_state
        values_N = read_values(hidden_BLH[batch["rows"], batch["positions"]])
        mask_BT = attention_mask_BS[:, -T:].bool()
        if last:
            mask_BT = torch.cat([mask_BT.new_ones(len(mask_BT), 1), mask_BT], dim=1)
        return spread(values_N, mask_BT)

    def places(self, features: list[TokenFeature]) -> int:
        """How many places a pass over these rows has, the ends of bins included."""
        return collate(_with_positions(features), self.pad_id, True, self._work, self._share)["input_ids"].numel()

    def _read(
        self, model: nn.Module, features: list[TokenFeature], read_values: ReadValues | None
    ) -> tuple[Tensor, ...]:
        """(N,) log-probabilities, entropies and values of the rows' completion tokens, one row after the other."""
        batch = packed_batch(model, features, self.pad_id)
        inputs, next_ids_N = inputs_of(model, batch), batch["next_ids"]

        head, chosen = self._frozen_head(model), []

        def choose(hidden_BLH: Tensor) -> Tensor:
            chosen.append(hidden_BLH[batch["rows"], batch["positions"]])
            return chosen[0][None] if head is None else hidden_BLH[:, :0]

        with hidden_states(model, choose):
            if head is not None:
                model(**inputs)
                weights = head.weight, head.bias
                read = log_probs_under_frozen_head(chosen[0], *weights, next_ids_N, self.temperature)
            elif len(next_ids_N) * self.vocabulary <= self.kept_logits:
                logits_NV = model(**inputs).logits[0]
                read = log_probs_and_entropies(logits_NV, next_ids_N, self.temperature)
            else:
                fused = model(**inputs, shift_labels=next_ids_N[None], fused_lm_head=True)
                entropies_1N = torch.zeros_like(fused.log_probs) if fused.entropy is None else fused.entropy
                read = fused.log_probs[0], entropies_1N[0]
        return read if read_values is None else (*read, read_values(chosen[0]))

    def _frozen_head(self, model: nn.Module) -> nn.Linear | None:
        """The model's head, where it is read beside the model's own forward."""
        head = head_of(model) if self._plain_head else None
        # Exactly: an adapter's or a quantised layer is one with weights that say less than the layer does.
        if type(head) is not nn.Linear or any(weight.requires_grad for weight in head.parameters()):
            return None
        return head


def features_of(input_ids_BS: Tensor, attention_mask_BS: Tensor, T: int, last: bool = False) -> list[TokenFeature]:
    """A padded batch's rows without their padding, read at the place before each token of the completion.

    Args:
        input_ids_BS, attention_mask_BS: prompts padded on the left, completions on the right.
        T: the completions' padded length.
        last: read at the completion's last token, too.
    """
    lengths = attention_mask_BS[:, -T:].sum(dim=1).tolist()
    ids, mask = input_ids_BS.cpu(), attention_mask_BS.bool().cpu()
    features = []
    for row, kept, completion in zip(ids, mask, lengths, strict=True):
        tokens = row[kept]
        start = len(tokens) - completion
        positions = torch.arange(start - 1, len(tokens) - (not last))
        # What follows the last position cannot change what is read, and is not computed.
        features.append(TokenFeature(tokens[: max(1, len(tokens) - (not last))], positions, next_ids=tokens[start:]))
    return features


def packed_batch(model: nn.Module, features: list[TokenFeature], pad_id: int) -> dict[str, Tensor]:
    """Rows in bins on the model's device, without those that are read nowhere."""
    return batch_of(unwrapped(model), _with_positions(features), pad_id, packing=True)


def _with_positions(features: list[TokenFeature]) -> list[TokenFeature]:
    """The rows that are read somewhere; one of the others where there is none, as a model cannot read nothing."""
    return [feature for feature in features if len(feature.positions)] or features[:1]


def spread(x_N: Tensor, mask_BT: Tensor) -> Tensor:
    """(B, T): one value per token of `mask_BT`, row by row, and 0 elsewhere; it stays connected where there is none."""
    return x_N.new_zeros(mask_BT.shape).masked_scatter(mask_BT, x_N)


def groups_together(slices: list[dict[str, Tensor | None]]) -> list[dict[str, Tensor | None]]:
    """The rows of a generation batch in another order, in which the samples of a problem stand side by side.

    TRL shuffles rows, not problems. Of samples in different slices no prompt can be shared. The problems stay in the
    order in which the shuffle brought each of them up first.

    Args:
        slices: the batch in slices of equally many rows, with `group`, the number of each row's problem; values without
            a row axis are the same in all slices.
    """

    def per_row(value) -> bool:
        return torch.is_tensor(value) and value.ndim > 0

    whole = {
        name: torch.cat([part[name] for part in slices]) if per_row(value) else value
        for name, value in slices[0].items()
    }
    groups = whole["group"].tolist()
    first = {group: row for row, group in reversed(list(enumerate(groups)))}
    order = sorted(range(len(groups)), key=lambda row: (first[groups[row]], row))
    size = len(groups) // len(slices)
    return [
        {name: value[order[start : start + size]] if per_row(value) else value for name, value in whole.items()}
        for start in range(0, len(groups), size)
    ]
