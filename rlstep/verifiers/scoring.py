"""Scores of solutions, one value a step, from one forward pass a solution."""

from collections.abc import Iterator, Sequence

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from rlstep.runtime.errors import UserError
from rlstep.steps.boundaries import line_steps
from rlstep.steps.records import Span
from rlstep.verifiers.collate import Feature, pad, pad_id_of, score_features
from rlstep.verifiers.model import (
    Kind,
    classify_at,
    kind_of,
    load_classifier,
    load_config,
    load_tokenizer,
    max_positions,
)


class RewardModel:
    """A PRM or an ORM that scores text, whichever tokenizer wrote it.

    Args:
        model: a two-label token classifier.
        tokenizer: the verifier's own.
        kind: "prm" (value: the step is right) or "orm" (value: the answer will be right).
        batch_tokens: padded tokens a forward pass.
    """

    def __init__(
        self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, kind: Kind, batch_tokens: int = 16384
    ):
        if batch_tokens < 1:
            raise UserError(f"batch_tokens is {batch_tokens}; it must be at least 1.")
        self.model, self.tokenizer, self.kind, self.batch_tokens = model.eval(), tokenizer, kind, batch_tokens
        self.max_positions = max_positions(model.config)
        self.tokens_scored = 0

    @classmethod
    def from_pretrained(
        cls,
        path: str,
        device: str | torch.device | None = None,
        dtype: str | None = None,
        batch_tokens: int = 16384,
        kind: Kind | None = None,
        trust_remote_code: bool = False,
    ) -> "RewardModel":
        """Loads a verifier for scoring.

        Args:
            path: folder or hub id.
            device: where it runs; a GPU where there is one.
            dtype: the weights' type; that of the checkpoint by default.
            batch_tokens: padded tokens a forward pass.
            kind: what label 1 means, for a token classifier that rlstep did not train.
            trust_remote_code: run model code from the hub.

        Raises:
            UserError: nothing loadable there, or no verifier.
        """
        config = load_config(path, trust_remote_code)
        kind = kind or kind_of(path, config)
        if config.num_labels != 2:
            raise UserError(f"{path} has {config.num_labels} labels; a verifier has two: 0 wrong, 1 right.")
        model = load_classifier(path, config, dtype or "auto", trust_remote_code)
        device = device or ("cuda" if torch.cuda.is_available() else "cpu")
        return cls(model.to(device), load_tokenizer(path, trust_remote_code), kind, batch_tokens)

    def score(
        self, prompts: Sequence[str], completions: Sequence[str], steps: Sequence[list[Span]] | None = None
    ) -> list[list[float]]:
        """One value in [0, 1] for each step of each completion, in the order given.

        Args:
            prompts, completions: one pair a row; equal rows are scored once.
            steps: character spans in the completions; lines (`line_steps`) by default.

        Raises:
            UserError: a row is longer than the model.
        """
        if len(prompts) != len(completions) or (steps is not None and len(steps) != len(prompts)):
            given = f"{len(prompts)} prompts, {len(completions)} completions" + (
                f", {len(steps)} steps" if steps else ""
            )
            raise UserError(f"score() needs lists of one length; got {given}.")
        if steps is None:
            steps = [line_steps(completion) for completion in completions]
        row_of: dict[tuple, int] = {}
        keys = [(p, c, tuple(map(tuple, s))) for p, c, s in zip(prompts, completions, steps, strict=True)]
        for row, key in enumerate(keys):
            row_of.setdefault(key, row)
        unique = list(row_of)
        features = score_features(self.kind, *zip(*unique, strict=True), self.tokenizer) if unique else []
        self._check_lengths(features, [row_of[key] for key in unique])
        values = dict(zip(unique, self._values(features), strict=True))
        return [list(values[key]) for key in keys]

    def _check_lengths(self, features: list[Feature], rows: list[int]) -> None:
        for feature, row in zip(features, rows, strict=True):
            if self.max_positions is not None and len(feature.ids) > self.max_positions:
                raise UserError(
                    f"row {row}: {len(feature.ids)} tokens exceed the verifier's {self.max_positions} positions. "
                    "Drop the row, sample shorter completions, or take a verifier with a longer context."
                )

    @torch.inference_mode()
    def _values(self, features: list[Feature]) -> list[list[float]]:
        values: list[list[float]] = [[] for _ in features]
        device, pad_id = self.model.device, pad_id_of(self.tokenizer)
        for indices in _batches([len(feature.ids) for feature in features], self.batch_tokens):
            batch = {name: tensor.to(device) for name, tensor in pad([features[i] for i in indices], pad_id).items()}
            right_N = classify_at(self.model, **batch).float().softmax(dim=-1)[:, 1].tolist()
            stop = 0
            for index in indices:
                start, stop = stop, stop + len(features[index].columns)
                values[index] = right_N[start:stop]
                self.tokens_scored += len(features[index].ids)
        return values


def _batches(lengths: Sequence[int], batch_tokens: int) -> Iterator[list[int]]:
    """Indices in batches of similar lengths, longest first, at most `batch_tokens` padded; empty rows are left out."""
    batch: list[int] = []
    for index in sorted((i for i, length in enumerate(lengths) if length), key=lambda i: -lengths[i]):
        if batch and (len(batch) + 1) * lengths[batch[0]] > batch_tokens:
            yield batch
            batch = []
        batch.append(index)
    if batch:
        yield batch
