"""Sampling by transformers, in this process."""

from collections.abc import Sequence
from functools import cached_property

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase, StoppingCriteria, StoppingCriteriaList

from rlstep.policy.continuations import continued
from rlstep.policy.engines.base import Begun, Engine, Sampling
from rlstep.policy.sampling import Batch, drawn_tokens, generate, set_sampling
from rlstep.steps.boundaries import Boundary
from rlstep.steps.positions import REPLACEMENT
from rlstep.steps.prompts import PromptFormat
from rlstep.steps.records import Solution


class TransformersEngine(Engine):
    """Samples a batch at a time, from torch's generator as it stands: the caller seeds it.

    Args:
        model: the policy, on its device.
        tokenizer: pads on the left.
        prompt_format: how prompts are written.
        sampling: how completions are drawn.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        prompt_format: PromptFormat,
        sampling: Sampling,
    ):
        self.model, self.tokenizer, self.prompt_format = model, tokenizer, prompt_format
        self._drawn = {name: getattr(sampling, name) for name in ("max_new_tokens", "temperature", "top_p", "top_k")}

    def generate(self, batch: Batch) -> list[Solution]:
        return generate(self.model, self.tokenizer, batch, self.prompt_format, **self._drawn)

    @torch.inference_mode()
    def go_on(self, begun: Sequence[Begun], boundary: Boundary | None) -> list[list[int]]:
        stops = set_sampling(
            self.model, self.tokenizer, **(self._drawn | {"max_new_tokens": max(one.room for one in begun)})
        )
        beginnings: dict[tuple[int, ...], int] = {}
        rows = [beginnings.setdefault(tuple(one.ids), len(beginnings)) for one in begun]
        cuts = _Cuts(self.tokenizer, begun, boundary, self._pieces)
        ids_BT = continued(
            self.model, self.tokenizer, [list(ids) for ids in beginnings], rows, StoppingCriteriaList([cuts])
        )
        lengths_B = torch.minimum(drawn_tokens(ids_BT, stops).cpu(), cuts.lengths_B)
        return [ids[:length] for ids, length in zip(ids_BT.tolist(), lengths_B.tolist(), strict=True)]

    @cached_property
    def _pieces(self) -> list[str]:
        """The text of each token of the vocabulary."""
        return self.tokenizer.batch_decode([[token] for token in range(len(self.tokenizer))], skip_special_tokens=True)


class _Cuts(StoppingCriteria):
    """Ends each row when it has no room or, with a boundary, when a step is over.

    Args:
        tokenizer: the policy's.
        begun: the rows.
        boundary: what a step is; None cuts at the room alone.
        pieces: the text of each token of the vocabulary.

    Attributes:
        lengths_B: (B,) where each row is cut, in new tokens; what is drawn beyond is padding.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        begun: Sequence[Begun],
        boundary: Boundary | None,
        pieces: Sequence[str],
    ):
        self.tokenizer, self.begun, self.boundary = tokenizer, begun, boundary
        self.lengths_B = torch.tensor([one.room for one in begun])
        self._start: int | None = None
        if boundary is not None:
            # A token that completes a step ends its closing text, or one of that text's bytes.
            last = boundary.closing[-1]
            self._closers = {token for token, piece in enumerate(pieces) if last in piece or REPLACEMENT in piece}
            self._whole = [boundary.whole_steps(self._text(one.written)) for one in begun]

    def __call__(self, input_ids: torch.LongTensor, scores: torch.FloatTensor, **kwargs) -> torch.BoolTensor:
        if self._start is None:
            self._start = input_ids.shape[1] - 1  # it is first called with one new token
        drawn = input_ids.shape[1] - self._start
        if self.boundary is not None:
            for row, token in enumerate(input_ids[:, -1].tolist()):
                if token in self._closers and drawn < self.lengths_B[row]:
                    self._cut_at_step(row, input_ids[row, self._start :].tolist())
        return (self.lengths_B <= drawn).to(input_ids.device)

    def _cut_at_step(self, row: int, ids: list[int]) -> None:
        if self.boundary.whole_steps(self._text(self.begun[row].written + ids)) > self._whole[row]:
            self.lengths_B[row] = len(ids)

    def _text(self, ids: list[int]) -> str:
        return self.tokenizer.decode(ids, skip_special_tokens=True)
