"""How a verifier is asked, and how its logits become values: one query format for each kind of checkpoint.

Those of published PRMs are in `rlstep.verifiers.published`; they write prompts in ways of their own. rlstep's verifiers
read a prompt as `rlstep.steps.prompts` writes it, which is what the policy reads.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol

import torch
from torch import Tensor

from rlstep.core.losses import right_log_odds
from rlstep.steps.prompts import Prompt, PromptFormat
from rlstep.steps.records import Span
from rlstep.verifiers.features import Feature, TokenFeature, encode_rows, score_features, token_feature
from rlstep.verifiers.spec import Kind

CountNeutralAs = Literal["positive", "negative", "ignore"]


class QueryFormat(Protocol):
    """
    Attributes:
        prompts: how prompts are written; None where they are reduced to the problem's text.
    """

    prompts: PromptFormat | None

    def features(
        self, prompts: Sequence[Prompt], completions: Sequence[str], steps: Sequence[list[Span]], tokenizer
    ) -> list[Feature]:
        """One row per completion, scored at one position per step."""

    def values(self, logits_NK: Tensor) -> Tensor:
        """(N,) values in [0, 1] from the logits at the positions."""


@dataclass(frozen=True)
class PlainFormat:
    """Prompt and completion as the policy has them, asked at each step's last token: what rlstep's own verifiers use.

    Attributes:
        kind: prm or orm.
        neutral: what a third class counts as.
        prompts: how prompts are written.
    """

    kind: Kind
    neutral: CountNeutralAs = "positive"
    prompts: PromptFormat = field(default_factory=PromptFormat)

    def features(self, prompts, completions, steps, tokenizer) -> list[Feature]:
        return score_features(self.kind, prompts, completions, steps, tokenizer, self.prompts)

    def values(self, logits_NK: Tensor) -> Tensor:
        return right_log_odds(logits_NK, self.neutral).sigmoid()


@dataclass(frozen=True)
class TokenFormat:
    """Prompt and completion as the policy has them, asked for every token of the completion: what implicit PRMs use.

    A row without steps is asked nothing.

    Attributes:
        prompts: how prompts are written.
    """

    prompts: PromptFormat = field(default_factory=PromptFormat)

    def features(self, prompts, completions, steps, tokenizer) -> list[TokenFeature]:
        nothing = TokenFeature(torch.tensor([], dtype=torch.long), torch.tensor([], dtype=torch.long))
        return [
            token_feature(encoded) if encoded.step_ends else nothing
            for encoded in encode_rows(tokenizer, prompts, completions, steps, self.prompts)
        ]
