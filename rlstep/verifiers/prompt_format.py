"""How text becomes tokens for a verifier, and how its logits become values: one format for each kind of checkpoint.

Those of published PRMs are in `rlstep.verifiers.published`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import torch
from torch import Tensor

from rlstep.core.losses import right_log_odds
from rlstep.steps.records import Span
from rlstep.verifiers.features import Feature, TokenFeature, encode_rows, score_features, token_feature
from rlstep.verifiers.spec import Kind

CountNeutralAs = Literal["positive", "negative", "ignore"]


class PromptFormat(Protocol):
    def features(
        self, prompts: Sequence[str], completions: Sequence[str], steps: Sequence[list[Span]], tokenizer
    ) -> list[Feature]:
        """One row per completion, scored at one position per step."""

    def values(self, logits_NK: Tensor) -> Tensor:
        """(N,) values in [0, 1] from the logits at the positions."""


@dataclass(frozen=True)
class PlainFormat:
    """Prompt and completion as they are, scored at each step's last token: what rlstep's own verifiers use.

    Attributes:
        kind: prm or orm.
        neutral: what a third class counts as.
    """

    kind: Kind
    neutral: CountNeutralAs = "positive"

    def features(self, prompts, completions, steps, tokenizer) -> list[Feature]:
        return score_features(self.kind, prompts, completions, steps, tokenizer)

    def values(self, logits_NK: Tensor) -> Tensor:
        return right_log_odds(logits_NK, self.neutral).sigmoid()


@dataclass(frozen=True)
class TokenFormat:
    """Prompt and completion as they are, scored at every token of the completion: what implicit PRMs use.

    A row without steps is not scored.
    """

    def features(self, prompts, completions, steps, tokenizer) -> list[TokenFeature]:
        nothing = TokenFeature(torch.tensor([], dtype=torch.long), torch.tensor([], dtype=torch.long))
        return [
            token_feature(encoded) if encoded.step_ends else nothing
            for encoded in encode_rows(tokenizer, prompts, completions, steps)
        ]
