"""What all verifiers of this process share: `score`, equal rows computed once, and rows batched into forward passes."""

import logging
from abc import ABC, abstractmethod
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from functools import partial

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from rlstep.runtime.counted import counted
from rlstep.runtime.errors import UserError
from rlstep.steps.boundaries import Boundary
from rlstep.steps.prompts import Prompt, PromptFormat, prompt_key
from rlstep.steps.records import Span
from rlstep.verifiers.attention import shares_places
from rlstep.verifiers.batches import packed_batches, padded_batches
from rlstep.verifiers.features import Feature
from rlstep.verifiers.forward import Prefix, batch_of, pad_id_of
from rlstep.verifiers.packing import can_pack, window_of
from rlstep.verifiers.pretrained import max_positions
from rlstep.verifiers.query_format import QueryFormat
from rlstep.verifiers.scoring.prefixes import can_cache, families, without_prefix
from rlstep.verifiers.spec import Gives, Kind

logger = logging.getLogger(__name__)


class TooLong(UserError):
    """A row is longer than the verifier.

    Attributes:
        row: its index among those to be scored.
        problem: how long it is, and what to do.
    """

    def __init__(self, row: int, problem: str):
        super().__init__(f"row {row}: {problem}")
        self.row, self.problem = row, problem


class RowScorer(ABC):
    """A verifier that scores text, whichever tokenizer wrote it: text becomes tokens here, equal rows once.

    A subclass says what numbers stand at a row's positions (`_numbers`), and what its values are made of them
    (`_values`).

    Args:
        tokenizer: the verifier's own.
        kind: what it was taught, "prm" or "orm".
        query_format: how it is asked.
        boundary: what a step is where no spans are given; lines by default.
        longest: tokens that a row may have; None without a limit.

    Attributes:
        gives: what `score` gives for each step: "probability", in [0, 1], or "reward", of either sign.
        max_positions: tokens that a row may have; None without a limit.
        tokens_scored, rows_scored: what has been computed so far; equal rows count once.
    """

    gives: Gives = "probability"

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        kind: Kind,
        query_format: QueryFormat,
        boundary: Boundary | None = None,
        longest: int | None = None,
    ):
        self.tokenizer, self.kind, self.query_format = tokenizer, kind, query_format
        self.boundary, self.max_positions = boundary or Boundary(), longest
        self.tokens_scored = self.rows_scored = 0

    @property
    def prompt_format(self) -> PromptFormat | None:
        """How it reads prompts; None where it reads the problem's text in a way of its own."""
        return self.query_format.prompts

    @abstractmethod
    def score(
        self,
        prompts: Sequence[Prompt],
        completions: Sequence[str],
        steps: Sequence[list[Span]] | None = None,
        cut: bool = False,
    ) -> list[list[float]]:
        """One value, of the sort that `gives` names, for each step of each completion, in the order given.

        Args:
            prompts, completions: one pair per row; equal rows are scored once.
            steps: character spans in the completions; by default the verifier's boundary rule splits them.
            cut: a row that is longer than the model is read up to the last step that fits, as if it ended there, and
                has values of these steps alone.

        Raises:
            TooLong: a row is longer than the model, and not to be cut.
        """

    def fitting_steps(self, prompt: Prompt, completion: str, steps: list[Span]) -> int:
        """With how many of its first steps a row is no longer than the model."""

        def exceeds(count: int) -> bool:
            end = steps[count - 1][1]
            return self.lengths([prompt], [completion[:end]], [steps[:count]])[0] > self.max_positions

        if self.max_positions is None:
            return len(steps)
        return bisect_left(range(1, len(steps) + 1), True, key=exceeds)

    def lengths(self, prompts: Sequence[Prompt], completions: Sequence[str], steps: Sequence[list[Span]]) -> list[int]:
        """The tokens that the verifier reads of each row: up to the last that it is asked about; 0 without steps."""
        rows = self.query_format.features(prompts, completions, steps, self.tokenizer) if prompts else []
        return [len(feature.ids) for feature in rows]

    @abstractmethod
    def _numbers(self, features: list[Feature]) -> list[list[float]]:
        """For each row the numbers at its positions."""

    def _values(self, feature: Feature, numbers: list[float]) -> list[float]:
        """A row's values, one per step, of the numbers at its positions."""
        return numbers

    def _score_rows(
        self, prompts: Sequence[Prompt], completions: Sequence[str], steps: Sequence[list[Span]] | None, cut: bool
    ) -> list[list[float]]:
        if len(prompts) != len(completions) or (steps is not None and len(steps) != len(prompts)):
            given = f"{counted(len(prompts), 'prompt')}, {counted(len(completions), 'completion')}"
            given += f", steps of {counted(len(steps), 'row')}" if steps else ""
            raise UserError(f"score() needs lists of one length; got {given}.")
        if steps is None:
            steps = [self.boundary.split(completion) for completion in completions]
        row_of: dict[tuple, int] = {}
        keys = [(prompt_key(p), c, tuple(map(tuple, s))) for p, c, s in zip(prompts, completions, steps, strict=True)]
        for row, key in enumerate(keys):
            row_of.setdefault(key, row)
        rows = list(row_of.values())
        texts = [(prompts[row], completions[row], steps[row]) for row in rows]
        features = self.query_format.features(*zip(*texts, strict=True), self.tokenizer) if texts else []
        for place, (feature, row) in enumerate(zip(features, texts, strict=True)):
            if cut and self._exceeded_by(feature):
                features[place] = self._beginning(*row)
        self._check_lengths(features, rows)
        numbers = self._numbers(features)
        values = {key: self._values(*row) for key, *row in zip(row_of, features, numbers, strict=True)}
        return [list(values[key]) for key in keys]

    def _exceeded_by(self, feature: Feature) -> bool:
        return self.max_positions is not None and len(feature.ids) > self.max_positions

    def _beginning(self, prompt: Prompt, completion: str, steps: list[Span]) -> Feature:
        """A row up to the last step that fits."""
        steps = steps[: self.fitting_steps(prompt, completion, steps)]
        end = steps[-1][1] if steps else 0
        return self.query_format.features([prompt], [completion[:end]], [steps], self.tokenizer)[0]

    def _check_lengths(self, features: list[Feature], rows: list[int]) -> None:
        for feature, row in zip(features, rows, strict=True):
            if self._exceeded_by(feature):
                raise TooLong(
                    row,
                    f"{len(feature.ids)} tokens exceed the verifier's {self.max_positions} positions. Drop the row, "
                    "sample shorter completions, or take a verifier with a longer context.",
                )


class StepScorer(RowScorer):
    """A verifier with its model in this process: rows are batched into forward passes.

    A subclass says what one forward pass gives (`_pass`).

    Args:
        model: a model of transformers.
        tokenizer, kind, query_format, boundary: as in `RowScorer`.
        batch_tokens: tokens in a forward pass.
        packing: rows without padding and shared prefixes once, where the model admits it; False pads.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        kind: Kind,
        query_format: QueryFormat,
        batch_tokens: int = 16384,
        boundary: Boundary | None = None,
        packing: bool = True,
    ):
        if batch_tokens < 1:
            raise UserError(f"batch_tokens is {batch_tokens}; it must be at least 1.")
        super().__init__(tokenizer, kind, query_format, boundary, max_positions(model.config))
        self.model, self.batch_tokens = model.eval(), batch_tokens
        refusal = can_pack(model) if packing else None
        if refusal:
            logger.warning("rows are padded, and shared prefixes repeated: %s", refusal)
        self.packing = packing and refusal is None
        self.caching = self.packing and can_cache(model)

    @abstractmethod
    def _pass(self, batch: dict[str, torch.Tensor], prefix: Prefix | None) -> torch.Tensor:
        """(N,) numbers at a batch's positions, from one forward pass."""

    @torch.inference_mode()
    def _numbers(self, features: list[Feature]) -> list[list[float]]:
        numbers: list[list[float]] = [[] for _ in features]
        self.rows_scored += len(features)
        with_steps = [index for index, feature in enumerate(features) if len(feature.positions)]
        rows = [features[index] for index in with_steps]
        window = window_of(self.model.config)
        packing = self.packing and (window is None or all(len(feature.ids) <= window for feature in rows))
        for members, passed in self._passes(rows, packing):
            stop = 0
            for member in members:
                start, stop = stop, stop + len(rows[member].positions)
                numbers[with_steps[member]] = passed[start:stop]
        return numbers

    def _passes(self, rows: list[Feature], packing: bool) -> Iterator[tuple[list[int], list[float]]]:
        """Yields, one forward pass at a time, the rows' indices and their numbers one after the other."""
        groups, alone = families(rows) if packing and self.caching else ([], list(range(len(rows))))
        for family in groups:
            prefix = Prefix.of(self.model, family.prefix)
            self.tokens_scored += prefix.length
            rest = [without_prefix(rows[index], prefix.length) for index in family.members]
            # Whole rows count: the cache is repeated for each.
            for batch in padded_batches([rows[index].ids for index in family.members], self.batch_tokens):
                members = [family.members[index] for index in batch]
                yield members, self._run([rest[index] for index in batch], True, prefix)
        split = partial(packed_batches, share=shares_places(self.model.config)) if packing else padded_batches
        for batch in split([rows[index].ids.tolist() for index in alone], self.batch_tokens):
            members = [alone[index] for index in batch]
            yield members, self._run([rows[index] for index in members], packing)

    def _run(self, rows: list[Feature], packing: bool, prefix: Prefix | None = None) -> list[float]:
        batch = batch_of(self.model, rows, pad_id_of(self.tokenizer), packing)
        self.tokens_scored += batch["input_ids"].numel()
        numbers_N = self._pass(batch, prefix)
        if not torch.isfinite(numbers_N).all():
            # Written, they would turn up as an error or a reward much later.
            raise UserError(
                f"the verifier gives values that are no numbers in {self.model.dtype}. Take dtype: bfloat16 or "
                "float32; if it does so there, too, its weights are damaged."
            )
        return numbers_N.tolist()
