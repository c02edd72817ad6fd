"""A verifier's scores of completions that it has seen: policies repeat themselves, evaluations repeat problems."""

import hashlib
import json
from collections import OrderedDict
from collections.abc import Sequence

from rlstep.steps.records import Span


class ScoreCache:
    """A verifier whose newest scores are kept.

    What a completion scores depends, in its last digits, on the rows it was packed with, so the cache is part of what a
    run has to restore to continue exactly.

    Args:
        verifier: what is asked; see `rlstep.policy.rewards.task_rewards.Scorer`.
        method: its method's name: score, or step_log_ratios.
        size: completions kept; 0 keeps none.
    """

    def __init__(self, verifier, size: int, method: str = "score"):
        self.verifier, self.size, self.method = verifier, size, method
        self.hits = self.asked = 0
        self._known: OrderedDict[str, list[float]] = OrderedDict()
        setattr(self, method, self._scores)

    @property
    def kind(self) -> str:
        return self.verifier.kind

    def _scores(
        self, prompts: Sequence[str], completions: Sequence[str], steps: Sequence[list[Span]]
    ) -> list[list[float]]:
        keys = [_key(*row) for row in zip(prompts, completions, steps, strict=True)]
        new = {key: row for row, key in enumerate(keys) if key not in self._known}
        self.asked += len(keys)
        self.hits += len(keys) - len(new)
        found = {key: self._known[key] for key in keys if key in self._known}
        if new:
            asked = ([part[row] for row in new.values()] for part in (prompts, completions, steps))
            scores = getattr(self.verifier, self.method)(*asked)
            found |= dict(zip(new, scores, strict=True))
        for key in dict.fromkeys(keys):
            self._known[key] = found[key]
            self._known.move_to_end(key)
        while len(self._known) > self.size:
            self._known.popitem(last=False)
        return [list(found[key]) for key in keys]

    def clear(self) -> None:
        """Forgets all: the verifier has changed."""
        self._known.clear()

    def state_dict(self) -> dict:
        return {"keys": list(self._known), "scores": list(self._known.values())}

    def load_state_dict(self, state: dict) -> None:
        self._known = OrderedDict(zip(state["keys"], state["scores"], strict=True))


def _key(prompt: str, completion: str, steps: list[Span]) -> str:
    text = json.dumps([prompt, completion, [list(span) for span in steps]])
    return hashlib.sha256(text.encode()).hexdigest()
