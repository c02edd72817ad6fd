"""Scores of solutions, one value a step, from one forward pass in which a shared prefix is computed once."""

import logging
from collections.abc import Iterator, Sequence
from typing import Literal

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from rlstep.runtime.errors import UserError
from rlstep.steps.boundaries import Boundary
from rlstep.steps.records import Span
from rlstep.verifiers import adapter_files, published
from rlstep.verifiers.collate import Feature, collate, model_inputs, pad_id_of
from rlstep.verifiers.model import (
    Kind,
    VerifierSpec,
    classify_at,
    label_head,
    load_classifier,
    load_config,
    load_lm,
    load_tokenizer,
    max_positions,
)
from rlstep.verifiers.packing import can_pack, mask_dtype, shared_runs, window_of, work_per_token
from rlstep.verifiers.scoring.layouts import CountNeutralAs, Layout, PlainLayout
from rlstep.verifiers.scoring.prefix_cache import PrefixCache, can_cache, families, without_prefix

logger = logging.getLogger(__name__)

Gives = Literal["probability", "reward"]


class RewardModel:
    """A PRM or an ORM that scores text, whichever tokenizer wrote it.

    Args:
        model: a token classifier, or a causal LM whose head holds the label tokens' rows (`label_head`).
        tokenizer: the verifier's own.
        kind: "prm" (value: the step is right) or "orm" (value: the answer will be right).
        batch_tokens: tokens a forward pass.
        layout: how text becomes tokens; that of rlstep's own verifiers by default.
        boundary: what a step is where no spans are given; lines by default.
        packing: rows without padding and shared prefixes once, where the model admits it; False pads.

    Attributes:
        gives: what `score` gives; an implicit PRM alone may give rewards.
    """

    gives: Gives = "probability"

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        kind: Kind,
        batch_tokens: int = 16384,
        layout: Layout | None = None,
        boundary: Boundary | None = None,
        packing: bool = True,
    ):
        if batch_tokens < 1:
            raise UserError(f"batch_tokens is {batch_tokens}; it must be at least 1.")
        self.model, self.tokenizer, self.kind, self.batch_tokens = model.eval(), tokenizer, kind, batch_tokens
        self.layout, self.boundary = layout or PlainLayout(kind), boundary or Boundary()
        self.max_positions = max_positions(model.config)
        refusal = can_pack(model) if packing else None
        if refusal:
            logger.warning("rows are padded, and shared prefixes repeated: %s", refusal)
        self.packing = packing and refusal is None
        self.caching = self.packing and can_cache(model)
        self.tokens_scored = self.rows_scored = 0

    @classmethod
    def from_pretrained(
        cls,
        path: str,
        device: str | torch.device | None = None,
        dtype: str | None = None,
        batch_tokens: int = 16384,
        kind: Kind | None = None,
        layout: str | None = None,
        neutral: CountNeutralAs | None = None,
        boundary: Boundary | None = None,
        packing: bool = True,
        trust_remote_code: bool = False,
        model: PreTrainedModel | None = None,
        gives: Gives = "probability",
    ) -> "RewardModel":
        """Loads a verifier for scoring: one that rlstep trained, or a published PRM (`published.FAMILIES`).

        An implicit PRM comes as an `ImplicitRewardModel`, whose scores are an ORM's and which has each step's reward.

        Args:
            path: folder or hub id.
            device: where it runs; a GPU where there is one.
            dtype: the weights' type; that of the checkpoint by default.
            batch_tokens: tokens a forward pass.
            kind: what label 1 means, for a two-label token classifier that is neither.
            layout: the published family, where the checkpoint does not tell.
            neutral: what neutral steps count as; must fit what the verifier was taught.
            boundary: what a step is where no spans are given; of a PRM, must be what it was taught.
            packing: rows without padding and shared prefixes once, where the model admits it; False pads.
            trust_remote_code: run model code from the hub.
            model: what `load_spec` would load, where it is in memory (`adapters.on_base`); it stays on its device.
            gives: what `score` gives: probabilities, or, of an implicit PRM, each step's reward.

        Raises:
            UserError: nothing loadable there, no verifier, or a policy that is not the checkpoint's.
        """
        config = load_config(path, trust_remote_code)
        if (getattr(config, "rlstep_verifier", None) or {}).get("kind") == "implicit":
            if kind or layout or neutral:
                raise UserError(f"{path} is an implicit PRM, which has no kind, layout or neutral class to choose.")
            from rlstep.verifiers.scoring.implicit import ImplicitRewardModel  # built on this module

            return ImplicitRewardModel.from_pretrained(
                path, device, dtype, batch_tokens, boundary, packing, trust_remote_code, gives
            )
        if gives != "probability":
            raise UserError(
                f"{path} is no implicit PRM, so it gives probabilities, and gives is {gives!r}. Leave that out, or give"
                " an implicit PRM (rlstep orm with loss: implicit)."
            )
        device = device or ("cuda" if torch.cuda.is_available() else "cpu")
        options = {"batch_tokens": batch_tokens, "packing": packing}
        own = getattr(config, "rlstep_verifier", None) is not None
        family = None if own or kind else layout or published.detect(config, path)
        if family:
            if neutral is not None:
                raise UserError(f"{path} is a {family} PRM, which has no neutral class; leave out neutral.")
            model, tokenizer, found = published.load(path, family, dtype or "auto", trust_remote_code)
            boundary = boundary or published.FAMILIES[family].boundary
            return cls(model.to(device), tokenizer, "prm", layout=found, boundary=boundary, **options)
        if layout is not None:
            raise UserError(f"layout '{layout}' is for published PRMs; {path} needs none here.")
        spec = VerifierSpec.from_config(path, config) if own or kind is None else VerifierSpec(kind)
        if kind is not None and kind != spec.kind:
            raise UserError(f"{path} is a {spec.kind}, not a {kind}; leave kind out.")
        _check_boundary(path, spec, boundary if own else None)
        _check_neutral(path, spec, neutral)
        if model is None:
            model = load_spec(path, config, spec, dtype or "auto", trust_remote_code).to(device)
        found = PlainLayout(spec.kind, neutral or "positive")
        tokenizer = load_tokenizer(path, trust_remote_code)
        return cls(model, tokenizer, spec.kind, layout=found, boundary=boundary or spec.boundary, **options)

    def score(
        self, prompts: Sequence[str], completions: Sequence[str], steps: Sequence[list[Span]] | None = None
    ) -> list[list[float]]:
        """One value in [0, 1] for each step of each completion, in the order given.

        Args:
            prompts, completions: one pair a row; equal rows are scored once.
            steps: character spans in the completions; found by the verifier's boundary rule by default.

        Raises:
            UserError: a row is longer than the model.
        """
        if len(prompts) != len(completions) or (steps is not None and len(steps) != len(prompts)):
            given = f"{len(prompts)} prompts, {len(completions)} completions" + (
                f", {len(steps)} steps" if steps else ""
            )
            raise UserError(f"score() needs lists of one length; got {given}.")
        if steps is None:
            steps = [self.boundary.split(completion) for completion in completions]
        row_of: dict[tuple, int] = {}
        keys = [(p, c, tuple(map(tuple, s))) for p, c, s in zip(prompts, completions, steps, strict=True)]
        for row, key in enumerate(keys):
            row_of.setdefault(key, row)
        unique = list(row_of)
        features = self.layout.features(*zip(*unique, strict=True), self.tokenizer) if unique else []
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
        self.rows_scored += len(features)
        asked = [index for index, feature in enumerate(features) if len(feature.columns)]
        rows = [features[index] for index in asked]
        window = window_of(self.model.config)
        packing = self.packing and (window is None or all(len(feature.ids) <= window for feature in rows))
        for places, found in self._passes(rows, packing):
            stop = 0
            for place in places:
                start, stop = stop, stop + len(rows[place].columns)
                values[asked[place]] = found[start:stop]
        return values

    def _passes(self, rows: list[Feature], packing: bool) -> Iterator[tuple[list[int], list[float]]]:
        """Yields, one forward pass at a time, the rows' indices and their values one after the other."""
        groups, alone = families(rows) if packing and self.caching else ([], list(range(len(rows))))
        for family in groups:
            cache = PrefixCache(self.model, family.prefix)
            self.tokens_scored += cache.length
            rest = [without_prefix(rows[index], cache.length) for index in family.members]
            # Whole rows count: the cache is repeated for each.
            for batch in padded_batches([rows[index].ids for index in family.members], self.batch_tokens):
                yield [family.members[place] for place in batch], self._forward([rest[p] for p in batch], True, cache)
        split = packed_batches if packing else padded_batches
        for batch in split([rows[index].ids.tolist() for index in alone], self.batch_tokens):
            yield [alone[place] for place in batch], self._forward([rows[alone[p]] for p in batch], packing)

    def _forward(self, rows: list[Feature], packing: bool, cache: PrefixCache | None = None) -> list[float]:
        work = work_per_token(self.model.config) if packing else None
        batch = collate(rows, pad_id_of(self.tokenizer), packing, work)
        self.tokens_scored += batch["input_ids"].numel()
        batch = {name: tensor.to(self.model.device) for name, tensor in batch.items()}
        inputs = model_inputs(batch, mask_dtype(self.model))
        logits_NK = cache.classify(inputs) if cache else classify_at(self.model, **inputs)
        values_N = self.layout.values(logits_NK)
        require_finite(values_N, self.model.dtype)
        return values_N.tolist()


def load_spec(path: str, config, spec: VerifierSpec, dtype: str, trust_remote_code: bool) -> PreTrainedModel:
    """A checkpoint's model with one logit a class."""
    if spec.head == "classification" and config.num_labels != spec.classes:
        raise UserError(f"{path} has {config.num_labels} labels; its policy tells {spec.classes} classes apart.")
    if adapter := adapter_files.find(path):
        model = adapter_files.load(adapter, config, spec.head, dtype, trust_remote_code).get_base_model()
    elif spec.head == "token":
        model = load_lm(path, config, dtype, trust_remote_code)
    else:
        model = load_classifier(path, config, dtype, trust_remote_code)
    return label_head(model, spec.label_tokens) if spec.head == "token" else model


def require_finite(values_N: torch.Tensor, dtype: torch.dtype) -> None:
    """Refuses values that would be written, and turn up as an error or a reward much later."""
    if not torch.isfinite(values_N).all():
        raise UserError(
            f"the verifier gives values that are no numbers in {dtype}. Take dtype: bfloat16 or float32; if it does so "
            "there, too, its weights are damaged."
        )


def _check_neutral(path: str, spec: VerifierSpec, neutral: str | None) -> None:
    taught = spec.policy.neutral
    if neutral is not None and spec.classes < 3 and neutral != taught:
        raise UserError(
            f"{path} was taught neutral steps as '{taught}', so its scores cannot count them as '{neutral}'. "
            f"Leave neutral out, or train with neutral: class to choose when scoring."
        )


def _check_boundary(path: str, spec: VerifierSpec, boundary: Boundary | None) -> None:
    """Refuses to ask a PRM at other places than it was taught to answer at; an ORM was taught at every token."""
    if spec.kind == "prm" and boundary is not None and boundary != spec.boundary:
        raise UserError(
            f"{path} was taught steps by {spec.boundary}, not {boundary}. Leave the boundary out, give spans, or train "
            "one for these steps."
        )


def packed_batches(rows: Sequence[list[int]], batch_tokens: int) -> Iterator[list[int]]:
    """Indices of rows in batches of at most `batch_tokens` places, rows that share prefixes together.

    Batches hold rows of similar lengths, the longest first: attention then pays for lengths that are there.
    """
    batch, size = [], 0
    for run in sorted(shared_runs(rows), key=lambda run: -max(len(rows[index]) for index, _ in run)):
        for index, shared in run:
            if batch and size + len(rows[index]) - shared > batch_tokens:
                yield batch
                batch, size = [], shared
            size += len(rows[index]) - shared
            batch.append(index)
    if batch:
        yield batch


def padded_batches(rows: Sequence[list[int]], batch_tokens: int) -> Iterator[list[int]]:
    """Indices in batches of similar lengths, longest first, at most `batch_tokens` padded."""
    batch: list[int] = []
    for index in sorted(range(len(rows)), key=lambda index: -len(rows[index])):
        if batch and (len(batch) + 1) * len(rows[batch[0]]) > batch_tokens:
            yield batch
            batch = []
        batch.append(index)
    if batch:
        yield batch
