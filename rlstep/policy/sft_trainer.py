"""`ExactSFTTrainer`: TRL's SFTTrainer, whose runs continue exactly after a kill."""

from typing import Any

from trl import SFTTrainer

from rlstep.runtime.resume import ExactResume, refill
from rlstep.verifiers.adapters import name_bases_in_full


class ExactSFTTrainer(ExactResume, SFTTrainer):
    """Keeps also what TRL has measured and not logged yet, and the tokens that it has counted."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        name_bases_in_full(self.model)

    def _state(self) -> dict[str, Any]:
        return super()._state() | {"metrics": self._metrics, "tokens": self._total_train_tokens}

    def _restore(self, kept: dict[str, Any], epochs: int) -> None:
        refill(self._metrics, kept["metrics"])
        self._total_train_tokens = kept["tokens"]
