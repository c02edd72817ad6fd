"""Implicit PRMs: step rewards from a causal LM trained with outcome labels and the LM it started from.

The mathematics is in `rlstep.core.implicit`. A checkpoint is the trained causal LM with the reference, a causal LM as
well, in its subfolder `reference`; `config.rlstep_verifier` says how to read the two::

    {"kind": "implicit", "format": 2, "beta": 0.05, "boundary": {"rule": "line", "tag": null}}
"""

import math
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

from rlstep.core.implicit import implicit_rewards, outcome_probabilities
from rlstep.runtime.errors import UserError
from rlstep.steps.boundaries import Boundary
from rlstep.steps.positions import Encoded, encode_batch
from rlstep.steps.records import Span
from rlstep.verifiers.collate import CHUNK, Feature, collate, model_inputs, pad_id_of
from rlstep.verifiers.logprobs import require_plain_head, token_logps
from rlstep.verifiers.model import FORMAT, Head, VerifierSpec, load_config, load_tokenizer
from rlstep.verifiers.packing import mask_dtype, work_per_token
from rlstep.verifiers.published.weights import load_whole
from rlstep.verifiers.scoring.reward_model import Gives, RewardModel, require_finite

REFERENCE = "reference"
KIND = "implicit"


@dataclass(frozen=True)
class ImplicitSpec(VerifierSpec):
    """What an implicit PRM's checkpoint means.

    Attributes:
        beta: of `rlstep.core.implicit`.

    Raises:
        UserError: beta is not above 0.
    """

    kind: str = KIND
    head: Head = "token"
    beta: float = 0.05

    def __post_init__(self):
        if not (isinstance(self.beta, (int, float)) and 0 < self.beta < math.inf):
            raise UserError(f"beta is {self.beta!r}; it must be a number above 0, for example 0.05.")

    def to_config(self) -> dict:
        return {"kind": KIND, "format": FORMAT, "beta": self.beta, "boundary": self.boundary.to_dict()}

    @classmethod
    def from_config(cls, path: str, config: PretrainedConfig) -> "ImplicitSpec":
        """The spec of a checkpoint.

        Raises:
            UserError: it is no implicit PRM, or its format is newer than this version knows.
        """
        found = getattr(config, "rlstep_verifier", None)
        if not isinstance(found, dict) or found.get("kind") != KIND:
            raise UserError(f"{path} is no implicit PRM (its config has no 'rlstep_verifier' of this kind).")
        if found.get("format", 0) > FORMAT:
            raise UserError(
                f"{path} has verifier format {found['format']}; this rlstep reads up to {FORMAT}. Update rlstep."
            )
        return cls(beta=found.get("beta"), boundary=Boundary.from_dict(found.get("boundary", {})))


@dataclass(frozen=True)
class TokenFeature(Feature):
    """A row asked for the log-probability of each token of its completion.

    Attributes:
        ids: (T,) prompt and completion without its last token, which predicts nothing that is asked.
        columns: (N,) the place before each token of the completion.
        next_ids: (N,) these tokens.
        step_of: (N,) the step that each belongs to; what stands behind the last step's end is a part of it.
        steps: how many steps there are.
        reference: (N,) the reference's log-probabilities, once they are known.
    """

    next_ids: Tensor | None = None
    step_of: Tensor | None = None
    steps: int = 0
    reference: Tensor | None = None


@dataclass(frozen=True)
class ImplicitLayout:
    """Prompt and completion as they are; a row without steps is asked nothing."""

    def features(self, prompts, completions, steps, tokenizer) -> list[TokenFeature]:
        nothing = TokenFeature(torch.tensor([], dtype=torch.long), torch.tensor([], dtype=torch.long))
        return [
            token_feature(encoded) if encoded.step_ends else nothing
            for encoded in encode_rows(tokenizer, prompts, completions, steps)
        ]


def encode_rows(tokenizer, prompts, completions, steps) -> list[Encoded]:
    """`encode_batch`, in chunks that bound the memory of the offsets."""
    return [
        encoded
        for start in range(0, len(prompts), CHUNK)
        for encoded in encode_batch(
            tokenizer, prompts[start : start + CHUNK], completions[start : start + CHUNK], steps[start : start + CHUNK]
        )
    ]


def token_feature(encoded: Encoded) -> TokenFeature:
    """The row of a tokenised completion that has a token; without steps it is one step as a whole.

    Raises:
        UserError: nothing stands before the completion's first token, so no model can give its probability.
    """
    start, last = encoded.prompt_length, len(encoded.ids) - 1
    if start == 0:
        raise UserError(
            "a prompt is empty, and the tokenizer puts nothing before a text: an implicit PRM cannot give the "
            "probability of the completion's first token. Give every row a prompt."
        )
    ends = encoded.step_ends or [last]
    return TokenFeature(
        ids=torch.tensor(encoded.ids[:-1], dtype=torch.long),
        columns=torch.arange(start - 1, last),
        next_ids=torch.tensor(encoded.ids[start:], dtype=torch.long),
        step_of=torch.tensor([min(bisect_left(ends, place), len(ends) - 1) for place in range(start, last + 1)]),
        steps=len(ends),
    )


def collate_tokens(
    features: Sequence[TokenFeature], pad_id: int, packing: bool, work: float | None
) -> dict[str, Tensor]:
    """`collate`, with the tokens that are asked for: `next_ids` (N,)."""
    return collate(features, pad_id, packing, work) | {"next_ids": torch.cat([row.next_ids for row in features])}


def batch_logps(model: torch.nn.Module, batch: dict[str, Tensor], dtype: torch.dtype | None) -> Tensor:
    """(N,) log-probabilities of a batch's `next_ids`.

    Args:
        model: a causal LM, wrapped or not.
        batch: of `collate_tokens`, on the model's device.
        dtype: `mask_dtype` of the model.
    """
    return token_logps(model, **model_inputs(batch, dtype), next_ids=batch["next_ids"])


class ImplicitRewardModel(RewardModel):
    """A PRM that was trained with outcome labels alone.

    By default `score` gives the probability at each step's end that the answer will be right, as an ORM's does. Opened
    with gives="reward" it gives what each step has added to the log-odds of that, which is the step's reward in RL, and
    the same as `step_log_ratios`.

    Args:
        model: the trained causal LM.
        reference: the causal LM that it started from.
        tokenizer: of both.
        beta: what the model was trained with.
        gives: what `score` gives, probabilities or rewards.
        **options: batch_tokens, boundary and packing, as in `RewardModel`.

    Raises:
        UserError: `gives` is neither, or the two models have different vocabularies or change their heads' logits.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        reference: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        beta: float,
        gives: Gives = "probability",
        **options,
    ):
        if gives not in get_args(Gives):
            raise UserError(f"gives is {gives!r}; choose one of {', '.join(get_args(Gives))}.")
        sizes = [language_model.get_input_embeddings().num_embeddings for language_model in (model, reference)]
        if sizes[0] != sizes[1]:
            raise UserError(f"the model has {sizes[0]} tokens and its reference {sizes[1]}; they need one vocabulary.")
        super().__init__(model, tokenizer, "orm", layout=ImplicitLayout(), **options)
        self.gives = gives
        self.caching = False  # a cached prompt is one model's, and here two read each row
        self.reference, self.beta = reference.eval(), ImplicitSpec(beta=beta).beta
        for language_model in (model, reference):
            require_plain_head(language_model)

    @classmethod
    def from_pretrained(
        cls,
        path: str,
        device: str | torch.device | None = None,
        dtype: str | None = None,
        batch_tokens: int = 16384,
        boundary: Boundary | None = None,
        packing: bool = True,
        trust_remote_code: bool = False,
        gives: Gives = "probability",
    ) -> "ImplicitRewardModel":
        """Loads an implicit PRM and its reference; arguments as in `RewardModel.from_pretrained`.

        Raises:
            UserError: there is none, or its reference is missing.
        """
        spec = ImplicitSpec.from_config(path, load_config(path, trust_remote_code))
        folder = _local_folder(path)
        models = []
        for home in (folder, _reference_folder(folder)):
            config = load_config(str(home), trust_remote_code)
            lm = load_whole(AutoModelForCausalLM, str(home), config, dtype or "auto", trust_remote_code)
            models.append(lm.to(device or ("cuda" if torch.cuda.is_available() else "cpu")))
        tokenizer = load_tokenizer(path, trust_remote_code)
        return cls(
            *models,
            tokenizer,
            spec.beta,
            gives,
            batch_tokens=batch_tokens,
            boundary=boundary or spec.boundary,
            packing=packing,
        )

    def score(
        self, prompts: Sequence[str], completions: Sequence[str], steps: Sequence[list[Span]] | None = None
    ) -> list[list[float]]:
        """For each step of each completion the probability at its end that the answer will be right, or its reward."""
        rewards = self.step_log_ratios(prompts, completions, steps)
        if self.gives == "reward":
            return rewards
        return [outcome_probabilities(torch.tensor(of_steps)).tolist() for of_steps in rewards]

    def step_log_ratios(
        self, prompts: Sequence[str], completions: Sequence[str], steps: Sequence[list[Span]] | None = None
    ) -> list[list[float]]:
        """For each step of each completion its reward: beta times the sum of its tokens' log-ratios, of either sign.

        Args:
            prompts, completions, steps: as in `RewardModel.score`.
        """
        return super().score(prompts, completions, steps)

    def _values(self, features: list[TokenFeature]) -> list[list[float]]:
        return [
            implicit_rewards(torch.tensor(log_ratios), row.step_of, row.steps, self.beta).tolist() if row.steps else []
            for row, log_ratios in zip(features, super()._values(features), strict=True)
        ]

    def _forward(self, rows: list[TokenFeature], packing: bool, cache=None) -> list[float]:
        """Log-ratios of the tokens asked for."""
        work = work_per_token(self.model.config) if packing else None
        batch = collate_tokens(rows, pad_id_of(self.tokenizer), packing, work)
        self.tokens_scored += batch["input_ids"].numel()
        batch = {name: tensor.to(self.model.device) for name, tensor in batch.items()}
        trained_N, reference_N = (batch_logps(lm, batch, mask_dtype(lm)) for lm in (self.model, self.reference))
        log_ratios_N = trained_N - reference_N
        require_finite(log_ratios_N, self.model.dtype)
        return log_ratios_N.tolist()


def _local_folder(path: str) -> Path:
    """A checkpoint's folder; of a hub id the one that its files are downloaded to."""
    if Path(path).is_dir():
        return Path(path)
    from huggingface_hub import snapshot_download

    return Path(snapshot_download(path, ignore_patterns=["*.bin", "*.pt", "*.pth", "checkpoint-*"]))


def _reference_folder(folder: Path) -> Path:
    """Where the reference is: a run's checkpoints share the one beside them."""
    homes = [folder / REFERENCE]
    if folder.name.startswith("checkpoint-"):
        homes.append(folder.parent / REFERENCE)
    for home in homes:
        if (home / "config.json").is_file():
            return home
    raise UserError(
        f"{folder} has no subfolder '{REFERENCE}' with the model that it was trained from, which an implicit PRM is "
        "compared with. Put that model's files there."
    )
