"""The interface of all engines, and what those share that sample outside of transformers.

Whatever samples, a row is the same: the prompt's tokens are those of `PromptFormat.encode`, a completion ends at the
tokens of `rlstep.policy.end_tokens`, and its text is what this tokenizer makes of the tokens that were drawn.
"""

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from transformers import PreTrainedTokenizerBase

from rlstep.policy.sampling import Batch, solutions_of
from rlstep.runtime.errors import UserError
from rlstep.steps.prompts import PromptFormat
from rlstep.steps.records import Problem, Solution, shown


@dataclass(frozen=True)
class Sampling:
    """How completions are drawn.

    Attributes:
        max_new_tokens: of a completion at most.
        temperature: 0 takes the likeliest token.
        top_p: from the smallest set of tokens with this mass.
        top_k: from the k likeliest tokens; 0 is all.
        seed: of the run.
    """

    max_new_tokens: int
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    seed: int = 0

    def seed_of(self, problem: Problem, sample: int) -> int:
        """One solution's own seed, in whatever order, batches and processes the solutions are drawn."""
        name = f"{self.seed}\0{problem.id}\0{sample}".encode()
        # 31 bits: what every server takes.
        return int.from_bytes(hashlib.sha256(name).digest()[:4]) >> 1


# What vLLM would otherwise take from a model's generation_config.json, or from its own defaults.
PLAIN = {"min_p": 0.0, "repetition_penalty": 1.0, "presence_penalty": 0.0, "frequency_penalty": 0.0, "min_tokens": 0}


class Engine(ABC):
    """Something that samples solutions."""

    @abstractmethod
    def generate(self, batch: Batch) -> list[Solution]:
        """One solution for each (problem, sample) of a batch, in its order.

        Raises:
            UserError: it cannot, and says why.
        """


class Completion(NamedTuple):
    """What was drawn for one prompt.

    Attributes:
        ids: tokens, the end token included.
        reason: why it ended, in OpenAI's words: "stop" or "length".
    """

    ids: Sequence[int]
    reason: str


@dataclass(frozen=True)
class Prompting:
    """How problems become tokens, and tokens a solution's text.

    Attributes:
        tokenizer: the policy's.
        format: how prompts are written.
        stops: the tokens that end a completion.
    """

    tokenizer: PreTrainedTokenizerBase
    format: PromptFormat
    stops: tuple[int, ...]

    def encode(self, batch: Batch) -> list[list[int]]:
        """The tokens of each prompt."""
        return self.format.encode(self.tokenizer, [problem.prompt for problem, _ in batch])

    def solutions(self, batch: Batch, completions: Sequence[Completion]) -> list[Solution]:
        """The solutions of a batch whose completions came as tokens, end tokens included.

        At the last of `max_new_tokens` an end token may be reported as either reason: the tokens decide.
        """
        texts = self.tokenizer.batch_decode([list(c.ids) for c in completions], skip_special_tokens=True)
        finished = [c.reason == "stop" or any(token in self.stops for token in c.ids) for c in completions]
        return solutions_of(batch, texts, finished, self.format)


def check_reason(where: str, reason: object) -> None:
    """Refuses completions that ended neither by themselves nor at their longest.

    Raises:
        UserError: that is so.
    """
    if reason not in ("stop", "length"):
        raise UserError(f"{where}: the completion ended by {shown(reason)}, neither of itself nor at its longest.")


def sampling_parameters(sampling: Sampling, stops: tuple[int, ...]) -> dict:
    """Settings by vLLM's names, the same offline and on a server: all of them, so that no default applies."""
    return PLAIN | {
        "max_tokens": sampling.max_new_tokens,
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        "top_k": sampling.top_k,
        # A completion ends at these alone, whatever the served configuration holds.
        "stop_token_ids": list(stops),
        "ignore_eos": True,
    }
