"""How text becomes tokens for a verifier, and how its logits become values: one layout for each kind of checkpoint."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from torch import Tensor

from rlstep.core.losses import right_log_odds
from rlstep.steps.records import Span
from rlstep.verifiers.features import Feature, score_features
from rlstep.verifiers.pretrained import Kind

CountNeutralAs = Literal["positive", "negative", "ignore"]


class Layout(Protocol):
    def features(
        self, prompts: Sequence[str], completions: Sequence[str], steps: Sequence[list[Span]], tokenizer
    ) -> list[Feature]:
        """One row a completion, asked at one column a step."""

    def values(self, logits_NK: Tensor) -> Tensor:
        """(N,) values in [0, 1] from the logits at the columns."""


@dataclass(frozen=True)
class PlainLayout:
    """Prompt and completion as they are, asked at each step's last token: what rlstep's own verifiers use.

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
