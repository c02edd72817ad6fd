"""Caches a verifier's scores: policies repeat completions, and evaluations repeat problems."""

import hashlib
import json
from collections import OrderedDict
from collections.abc import Sequence
from typing import Literal

from rlstep.steps.prompts import Prompt
from rlstep.steps.records import Span
from rlstep.verifiers.interface import Verifier
from rlstep.verifiers.scoring.scorer import TooLong


class ScoreCache:
    """A verifier whose newest scores are cached; it is used like the verifier itself.

    The last digits of a completion's scores depend on the rows that it was packed with. The cache is therefore part of
    what a run has to restore to continue exactly.

    Args:
        verifier: what computes the scores that are not cached.
        size: how many completions are kept; 0 keeps none.

    Attributes:
        requested, hits: completions that were requested, and those whose scores were cached.
    """

    def __init__(self, verifier: Verifier, size: int):
        self.verifier, self.size = verifier, size
        self.hits = self.requested = 0
        self._known: OrderedDict[str, list[float]] = OrderedDict()

    @property
    def kind(self) -> Literal["prm", "orm"]:
        return self.verifier.kind

    @property
    def gives(self) -> Literal["probability", "reward"]:
        return self.verifier.gives

    def score(
        self,
        prompts: Sequence[Prompt],
        completions: Sequence[str],
        steps: Sequence[list[Span]] | None = None,
        cut: bool = False,
    ) -> list[list[float]]:
        """The verifier's values, one per step of each completion; only rows that are not cached are scored.

        Args:
            prompts, completions, steps, cut: as in `rlstep.verifiers.interface.Verifier`.

        Raises:
            TooLong: a row is longer than the verifier, and not to be cut.
        """
        spans = [None] * len(prompts) if steps is None else steps
        keys = [_key(*row, cut) for row in zip(prompts, completions, spans, strict=True)]
        new_rows = {key: row for row, key in enumerate(keys) if key not in self._known}
        self.requested += len(keys)
        self.hits += len(keys) - len(new_rows)
        scores_by_key = {key: self._known[key] for key in keys if key in self._known}
        if new_rows:
            rows = new_rows.values()
            new_steps = None if steps is None else [steps[row] for row in rows]
            try:
                new_scores = self.verifier.score(
                    [prompts[row] for row in rows], [completions[row] for row in rows], new_steps, cut
                )
            except TooLong as error:
                raise TooLong(list(rows)[error.row], error.problem) from None
            scores_by_key |= dict(zip(new_rows, new_scores, strict=True))
        for key in dict.fromkeys(keys):
            self._known[key] = scores_by_key[key]
            self._known.move_to_end(key)
        while len(self._known) > self.size:
            self._known.popitem(last=False)
        return [list(scores_by_key[key]) for key in keys]

    def clear(self) -> None:
        """Forgets all scores: the verifier has changed."""
        self._known.clear()

    def state_dict(self) -> dict:
        return {"keys": list(self._known), "scores": list(self._known.values())}

    def load_state_dict(self, state: dict) -> None:
        self._known = OrderedDict(zip(state["keys"], state["scores"], strict=True))


def _key(prompt: Prompt, completion: str, steps: list[Span] | None, cut: bool) -> str:
    text = json.dumps([prompt, completion, None if steps is None else [list(span) for span in steps], cut])
    return hashlib.sha256(text.encode()).hexdigest()
