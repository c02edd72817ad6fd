"""Continuations of begun completions by a policy: K of each beginning, which is computed once."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase, StoppingCriteriaList

from rlstep.policy.sampling import drawn_tokens, set_sampling
from rlstep.runtime.errors import UserError
from rlstep.runtime.halves import refuse_halves
from rlstep.steps.prompts import Prompt, PromptFormat
from rlstep.verifiers.pretrained import max_positions
from rlstep.verifiers.vocabulary import check_tokens

# (prompt, what is written of a completion); an engine's `Begun` is the same in tokens.
Beginning = tuple[Prompt, str]


@dataclass(frozen=True)
class Continuations:
    """What one call drew.

    Attributes:
        texts: of each beginning its continuations, without what was there before.
        finished: of each continuation, whether the model ended it, rather than being stopped by the length limit.
        tokens: how many were generated, end tokens included.
        prefix_tokens: tokens of the beginnings, each counted once.
    """

    texts: list[list[str]]
    finished: list[list[bool]]
    tokens: int
    prefix_tokens: int


@dataclass
class Continuer:
    """Continues completions by a policy.

    Attributes:
        model: a causal LM; its generation configuration is replaced by these settings.
        tokenizer: pads on the left.
        max_new_tokens: of a continuation, what is written before it not counted.
        temperature, top_p, top_k: as in `rlstep.policy.sampling.generate`.
        prompt_format: how prompts are written for the policy.
    """

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    max_new_tokens: int
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    prompt_format: PromptFormat = field(default_factory=PromptFormat)

    def check_room(self, beginnings: Sequence[Beginning], names: Sequence[str]) -> None:
        """Refuses beginnings that leave no room for a continuation in the model, or that it has no embeddings for.

        Raises:
            UserError: the longest is too long, and the message names it; or a token lies beyond the embedding.
        """
        if not beginnings:
            return
        encoded = self._encoded(beginnings)
        check_tokens((before + written for before, written in encoded), self.tokenizer, self.model.config, names)
        limit = max_positions(self.model.config)
        if limit is None:
            return
        lengths = [len(before) + len(written) for before, written in encoded]
        longest = max(range(len(lengths)), key=lengths.__getitem__)
        if lengths[longest] + self.max_new_tokens > limit:
            raise UserError(
                f"{names[longest]}: {lengths[longest]} tokens of prompt and completion and {self.max_new_tokens} new "
                f"ones exceed the policy's {limit} positions. Drop it, lower max_new_tokens, or take a policy with a "
                "longer context."
            )

    @torch.inference_mode()
    def draw(self, beginnings: Sequence[Beginning], numbers: Sequence[int], seed: int) -> Continuations:
        """The given number of continuations of each beginning; the same ones for the same arguments."""
        torch.manual_seed(seed)
        stops = set_sampling(
            self.model,
            self.tokenizer,
            max_new_tokens=self.max_new_tokens,
            temperature=self.temperature,
            top_p=self.top_p,
            top_k=self.top_k,
        )
        encoded = self._encoded(beginnings)
        rows = [row for row, number in enumerate(numbers) for _ in range(number)]
        ids_BT = continued(self.model, self.tokenizer, [before + written for before, written in encoded], rows)
        ended_B = torch.isin(ids_BT, torch.tensor(stops, device=ids_BT.device)).any(dim=1).tolist()
        texts: list[list[str]] = [[] for _ in beginnings]
        finished: list[list[bool]] = [[] for _ in beginnings]
        tails = self._tails([encoded[row][1] for row in rows], ids_BT.tolist())
        for row, tail, ended in zip(rows, tails, ended_B, strict=True):
            texts[row].append(tail)
            finished[row].append(ended)
        return Continuations(
            texts,
            finished,
            int(drawn_tokens(ids_BT, stops).sum()),
            sum(len(before) + len(written) for before, written in encoded),
        )

    def _encoded(self, beginnings: Sequence[Beginning]) -> list[tuple[list[int], list[int]]]:
        """(tokens of the prompt, tokens of what is written) of each."""
        prompts, begun = zip(*beginnings, strict=True)
        before = self.prompt_format.encode(self.tokenizer, prompts)
        refuse_halves(begun)
        written = self.tokenizer(list(begun), add_special_tokens=False, verbose=False)["input_ids"]
        return list(zip(before, written, strict=True))

    def _tails(self, written: list[list[int]], new: list[list[int]]) -> list[str]:
        """The texts of new tokens as they read after those written: some tokenizers drop a text's first space."""
        befores = self.tokenizer.batch_decode(written, skip_special_tokens=True)
        wholes = self.tokenizer.batch_decode(
            [a + b for a, b in zip(written, new, strict=True)], skip_special_tokens=True
        )
        apart = self.tokenizer.batch_decode(new, skip_special_tokens=True)
        return [
            whole[len(before) :] if whole.startswith(before) else alone
            for before, whole, alone in zip(befores, wholes, apart, strict=True)
        ]


def continued(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    ids: list[list[int]],
    rows: Sequence[int],
    stopping: StoppingCriteriaList | None = None,
) -> torch.Tensor:
    """(B, T) new tokens of each of `rows`, indices of `ids`: of beginnings, each of which is computed once.

    Args:
        model: with its sampling set (`set_sampling`).
        tokenizer: pads on the left.
        ids: tokens of each beginning.
        rows: which of them goes on, for each row.
        stopping: ends rows beside the end tokens; it is given the beginnings, padded, and what is drawn.
    """
    inputs = tokenizer.pad({"input_ids": ids}, return_tensors="pt").to(model.device)
    ids_PT, mask_PT = inputs["input_ids"], inputs["attention_mask"]
    index_B = torch.tensor(rows, device=ids_PT.device)
    more = {} if stopping is None else {"stopping_criteria": stopping}
    if mask_PT[:, :-1].any(dim=1).all() and len(rows) > len(ids):
        # All but the last token, which generating has to read. The token drawn here is thrown away.
        first = model.generate(
            input_ids=ids_PT[:, :-1], attention_mask=mask_PT[:, :-1], max_new_tokens=1, return_dict_in_generate=True
        )
        if (cache := first.past_key_values) is not None:
            cache.reorder_cache(index_B)  # as beam search multiplies its rows
            more["past_key_values"] = cache
    generated = model.generate(input_ids=ids_PT[index_B], attention_mask=mask_PT[index_B], **more)
    return generated[:, ids_PT.shape[1] :]
