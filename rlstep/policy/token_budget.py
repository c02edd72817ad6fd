"""Forward passes within a budget of tokens: a batch is cut into pieces, whose losses add up to that of the whole."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, nullcontext

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedType, gather_object
from torch import Tensor, nn
from torch.nn.functional import pad

from rlstep.policy.estimators import share_of_loss
from rlstep.policy.forward import PackedForward, features_of
from rlstep.runtime.errors import UserError

Batch = dict[str, Tensor | None]
LossOf = Callable[[Batch], Tensor]


class TokenBudget:
    """Cuts batches into pieces of consecutive rows, each for one forward pass.

    Args:
        tokens: the most places of a pass: bins times their length where rows are packed, rows times their padded length
            where they are not.
        packed: how batches are read without padding; None where they are padded.
        accelerator: the trainer's.
    """

    def __init__(self, tokens: int, packed: PackedForward | None, accelerator: Accelerator):
        self.tokens, self._packed, self._accelerator = tokens, packed, accelerator

    def pieces(self, batch: Batch, last: bool = False) -> list[slice]:
        """Whole groups where they fit, else rows; the same on each rank, because the ranks gather a value from each.

        Args:
            batch: with TRL's `prompt_ids`, `completion_ids` and their masks; equally many rows on each rank.
            last: the completions' last tokens are read, too.

        Raises:
            UserError: one row alone is more than the budget; on every rank.
        """
        places = self._places_of(batch, last)
        rows, group_ends = len(batch["prompt_ids"]), _group_ends(batch)
        pieces, start = [], 0
        while start < rows:
            end = self._furthest(places, start, (end for end in group_ends if end > start))
            end = end or self._furthest(places, start, range(start + 1, rows + 1))
            fault = None if end else self._too_small(batch, start, places(start, start + 1))
            everyones = gather_object([(end, fault)])
            for _, fault in everyones:
                if fault is not None:
                    raise UserError(fault)
            end = min(end for end, _ in everyones)
            pieces.append(slice(start, end))
            start = end
        return pieces

    def read(self, read: Callable[..., tuple], input_ids_BS: Tensor, attention_mask_BS: Tensor, T: int) -> tuple:
        """What `read(input_ids, attention_mask, T)` gives, tensors (B, T) or None, in passes without gradients."""
        P = input_ids_BS.shape[1] - T
        batch = {
            "prompt_ids": input_ids_BS[:, :P],
            "prompt_mask": attention_mask_BS[:, :P],
            "completion_ids": input_ids_BS[:, P:],
            "completion_mask": attention_mask_BS[:, P:],
        }
        parts = []
        for rows in self.pieces(batch):
            piece = rows_of(batch, rows)
            ids, mask = (torch.cat([piece[f"prompt_{x}"], piece[f"completion_{x}"]], dim=1) for x in ("ids", "mask"))
            parts.append(read(ids, mask, piece["completion_ids"].shape[1]))
        columns = zip(*parts, strict=True)
        return tuple(None if of[0] is None else torch.cat([widened(x, T) for x in of]) for of in columns)

    def loss(self, model: nn.Module, batch: Batch, pieces: list[slice], loss_type: str, loss_of: LossOf) -> Tensor:
        """The loss of a batch, all of whose pieces but the last have been through their backward pass.

        The gradients are those of the whole batch's loss, however it is cut. A piece's graph is freed before the next
        one's forward pass. Gradients are reduced over the ranks with the last piece.

        Args:
            model: wrapped or not.
            batch: a micro-batch.
            pieces: of `pieces`.
            loss_type: TRL's.
            loss_of: the loss of a batch of some of its rows.
        """
        done = 0.0
        for rows in pieces[:-1]:
            with _unreduced(self._accelerator, model):
                loss = self._share(batch, rows, loss_type, loss_of)
                # As in the Trainer's own step.
                deepspeed = self._accelerator.distributed_type == DistributedType.DEEPSPEED
                self._accelerator.backward(loss, **({"scale_wrt_gas": False} if deepspeed else {}))
                done = done + loss.detach()
        return self._share(batch, pieces[-1], loss_type, loss_of) + done

    def _share(self, batch: Batch, rows: slice, loss_type: str, loss_of: LossOf) -> Tensor:
        piece = rows_of(batch, rows)
        return share_of_loss(piece["completion_mask"], batch["completion_mask"], loss_type) * loss_of(piece)

    def _places_of(self, batch: Batch, last: bool) -> Callable[[int, int], int]:
        """The number of places of a pass over rows from one index to another."""
        mask_BS = torch.cat([batch["prompt_mask"], batch["completion_mask"]], dim=1)
        ids_BS = torch.cat([batch["prompt_ids"], batch["completion_ids"]], dim=1)
        prompts, completions = (batch[f"{part}_mask"].sum(dim=1).tolist() for part in ("prompt", "completion"))
        features = features_of(ids_BS, mask_BS, batch["completion_ids"].shape[1], last)

        def places(start: int, end: int) -> int:
            if self._packed is not None and self._packed.fits(mask_BS[start:end]):
                return self._packed.places(features[start:end])
            return (end - start) * (max(prompts[start:end]) + max(1, *completions[start:end]))

        return places

    def _furthest(self, places: Callable[[int, int], int], start: int, ends: Iterable[int]) -> int | None:
        """The last of rising `ends` up to which rows from `start` on are within the budget."""
        furthest = None
        for end in ends:
            if places(start, end) > self.tokens:
                break
            furthest = end
        return furthest

    def _too_small(self, batch: Batch, row: int, places: int) -> str:
        prompt, completion = (int(batch[f"{part}_mask"][row].sum()) for part in ("prompt", "completion"))
        return (
            f"tokens_per_device is {self.tokens}, and one row has {prompt} prompt and {completion} completion tokens; "
            f"set it to {places} or more, lower max_completion_length, or drop long prompts."
        )


def check_budget(lengths: dict[str, int], new_tokens: int, budget: int) -> None:
    """Refuses a budget that some completion would exceed, before anything is sampled.

    Args:
        lengths: prompt tokens by problem.
        new_tokens: the most tokens of a completion.
        budget: `tokens_per_device`.

    Raises:
        UserError: the longest prompt with a completion exceeds the budget.
    """
    longest = max(lengths, key=lengths.__getitem__)
    if lengths[longest] + new_tokens > budget:
        raise UserError(
            f"problem '{longest}': {lengths[longest]} prompt tokens and a completion of {new_tokens} exceed "
            f"tokens_per_device, {budget}. Raise it, lower max_completion_length, or drop the problem."
        )


def rows_of(batch: Batch, rows: slice) -> Batch:
    """Some rows of a batch, without columns in which all of them are padding; what has no row axis stays."""
    part = {name: x[rows] if torch.is_tensor(x) and x.ndim else x for name, x in batch.items()}
    longest = {kind: max(1, int(part[f"{kind}_mask"].sum(dim=1).max())) for kind in ("prompt", "completion")}
    for name, x in part.items():
        if torch.is_tensor(x) and x.ndim == 2:
            part[name] = x[:, -longest["prompt"] :] if name.startswith("prompt_") else x[:, : longest["completion"]]
    return part


def _group_ends(batch: Batch) -> list[int]:
    """Where runs of rows with the same prompt end."""
    same = [(batch[name][1:] == batch[name][:-1]).all(dim=1) for name in ("prompt_ids", "prompt_mask")]
    changes = (~(same[0] & same[1])).nonzero()[:, 0] + 1
    return [*changes.tolist(), len(batch["prompt_ids"])]


def widened(x_BT: Tensor, T: int) -> Tensor:
    """(B, T) with zeros on the right."""
    return pad(x_BT, (0, T - x_BT.shape[1]))


@contextmanager
def _unreduced(accelerator: Accelerator, model: nn.Module) -> Iterator[None]:
    """Within it a backward pass adds to this rank's gradients alone, and DeepSpeed makes no step."""
    deepspeed = accelerator.distributed_type == DistributedType.DEEPSPEED
    before = accelerator.sync_gradients
    accelerator.gradient_state._set_sync_gradients(False)
    try:
        with nullcontext() if deepspeed else accelerator.no_sync(model):
            yield
    finally:
        accelerator.gradient_state._set_sync_gradients(before)
