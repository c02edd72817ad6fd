"""Implicit PRMs: step rewards from a causal LM trained with outcome labels and the LM that it started from.

The mathematics is in `rlstep.core.implicit`, the checkpoint's format in `rlstep.verifiers.spec`.
"""

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, PreTrainedModel, PreTrainedTokenizerBase

from rlstep.core.implicit import implicit_rewards, outcome_probabilities
from rlstep.runtime.errors import UserError
from rlstep.steps.boundaries import Boundary
from rlstep.steps.prompt_options import BY_CHECKPOINT, PromptOptions
from rlstep.steps.prompts import Prompt, PromptFormat
from rlstep.steps.records import Span
from rlstep.verifiers.attention import choose_attention
from rlstep.verifiers.features import TokenFeature
from rlstep.verifiers.forward import Prefix, logps_at
from rlstep.verifiers.heads import require_plain_head
from rlstep.verifiers.pretrained import load_config, load_every_weight, load_tokenizer
from rlstep.verifiers.query_format import TokenFormat
from rlstep.verifiers.scoring.scorer import StepScorer
from rlstep.verifiers.spec import Gives, ImplicitSpec

REFERENCE = "reference"


class ImplicitRewardModel(StepScorer):
    """A PRM that was trained with outcome labels alone.

    Args:
        model: the trained causal LM.
        reference: the causal LM that it started from.
        tokenizer: of both.
        beta: what the model was trained with.
        gives: "probability": `score` gives, as an ORM's, the probability at each step's end that the answer will be
            right. "reward": it gives `step_log_ratios`, what each step has added to its log-odds.
        prompts: how prompts are written.
        **options: batch_tokens, boundary and packing, as in `RewardModel`.

    Raises:
        UserError: the two have different vocabularies, or change their heads' logits.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        reference: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        beta: float,
        gives: Gives = "probability",
        prompts: PromptFormat | None = None,
        **options,
    ):
        if gives not in ("probability", "reward"):
            raise UserError(f"gives is {gives!r}; choose probability or reward.")
        sizes = [language_model.get_input_embeddings().num_embeddings for language_model in (model, reference)]
        if sizes[0] != sizes[1]:
            raise UserError(f"the model has {sizes[0]} tokens and its reference {sizes[1]}; they need one vocabulary.")
        super().__init__(model, tokenizer, "orm", TokenFormat(prompts or PromptFormat()), **options)
        self.caching = False  # a cached prompt is one model's, and here two read each row
        self.reference, self.beta, self.gives = reference.eval(), ImplicitSpec(beta=beta).beta, gives
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
        prompts: PromptOptions = BY_CHECKPOINT,
        attn_implementation: str | None = None,
    ) -> "ImplicitRewardModel":
        """Loads an implicit PRM and its reference; arguments as in `RewardModel.from_pretrained`.

        Raises:
            UserError: there is none, or its reference is missing.
        """
        spec = ImplicitSpec.from_config(path, load_config(path, trust_remote_code))
        folder = _local_folder(path)
        models = []
        for part in (folder, _reference_folder(folder)):
            config = load_config(str(part), trust_remote_code)
            lm = load_every_weight(AutoModelForCausalLM, str(part), config, dtype or "auto", trust_remote_code)
            choose_attention(lm, attn_implementation)
            models.append(lm.to(device or ("cuda" if torch.cuda.is_available() else "cpu")))
        tokenizer = load_tokenizer(path, trust_remote_code)
        return cls(
            *models,
            tokenizer,
            spec.beta,
            gives=gives,
            prompts=prompts.agreed(tokenizer, spec.prompts, path),
            batch_tokens=batch_tokens,
            boundary=boundary or spec.boundary,
            packing=packing,
        )

    def score(
        self,
        prompts: Sequence[Prompt],
        completions: Sequence[str],
        steps: Sequence[list[Span]] | None = None,
        cut: bool = False,
    ) -> list[list[float]]:
        """For each step of each completion what `gives` names: the probability, at its end, that the answer will be
        right, or the step's reward.

        Args:
            prompts, completions, steps, cut: as in `RewardModel.score`.
        """
        rewards = self.step_log_ratios(prompts, completions, steps, cut)
        if self.gives == "reward":
            return rewards
        return [outcome_probabilities(torch.tensor(row)).tolist() for row in rewards]

    def step_log_ratios(
        self,
        prompts: Sequence[Prompt],
        completions: Sequence[str],
        steps: Sequence[list[Span]] | None = None,
        cut: bool = False,
    ) -> list[list[float]]:
        """For each step of each completion its reward: beta times the sum of its tokens' log-ratios, of either sign.

        Args:
            prompts, completions, steps, cut: as in `RewardModel.score`.
        """
        return self._score_rows(prompts, completions, steps, cut)

    def _values(self, feature: TokenFeature, numbers: list[float]) -> list[float]:
        if not feature.steps:
            return []
        return implicit_rewards(torch.tensor(numbers), feature.step_of, feature.steps, self.beta).tolist()

    def _pass(self, batch: dict[str, Tensor], prefix: Prefix | None) -> Tensor:
        """Log-ratios of the tokens that are asked about."""
        trained_N, reference_N = (logps_at(lm, batch) for lm in (self.model, self.reference))
        return trained_N - reference_N


def _local_folder(path: str) -> Path:
    """A checkpoint's folder; of a hub id the one that its files are downloaded to."""
    if Path(path).is_dir():
        return Path(path)
    from huggingface_hub import snapshot_download

    return Path(snapshot_download(path, ignore_patterns=["*.bin", "*.pt", "*.pth", "checkpoint-*"]))


def _reference_folder(folder: Path) -> Path:
    """Where the reference is: a run's checkpoints share the one beside them."""
    candidates = [folder / REFERENCE]
    if folder.name.startswith("checkpoint-"):
        candidates.append(folder.parent / REFERENCE)
    for candidate in candidates:
        if (candidate / "config.json").is_file():
            return candidate
    raise UserError(
        f"{folder} has no subfolder '{REFERENCE}' with the model that it was trained from, which an implicit PRM is "
        "compared with. Put that model's files there."
    )
