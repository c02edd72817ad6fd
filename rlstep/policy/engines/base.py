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
from rlstep.steps.boundaries import Boundary
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

    def seed_of(self, problem: Problem, sample: int, *part: int) -> int:
        """One solution's own seed, in whatever order, batches and processes the solutions are drawn.

        Args:
            problem, sample: the solution.
            part: numbers of a part of it, where it is drawn in parts.
        """
        name = "\0".join(map(str, (self.seed, problem.id, sample, *part))).encode()
        # 31 bits: what every server takes.
        return int.from_bytes(hashlib.sha256(name).digest()[:4]) >> 1


# What vLLM would otherwise take from a model's generation_config.json, or from its own defaults.
PLAIN = {"min_p": 0.0, "repetition_penalty": 1.0, "presence_penalty": 0.0, "frequency_penalty": 0.0, "min_tokens": 0}


@dataclass(frozen=True)
class Begun:
    """A completion that is begun, to go on from.

    Attributes:
        name: of the problem and the sample, for messages.
        prompt: tokens of the prompt.
        written: tokens of the completion so far.
        room: tokens that it may still have; at least one.
        seed: of what comes next, for engines that draw each completion by a seed of its own.
    """

    name: str
    prompt: list[int]
    written: list[int]
    room: int
    seed: int

    @property
    def ids(self) -> list[int]:
        return self.prompt + self.written


class Engine(ABC):
    """Something that samples solutions."""

    @abstractmethod
    def generate(self, batch: Batch) -> list[Solution]:
        """One solution for each (problem, sample) of a batch, in its order.

        Raises:
            UserError: it cannot, and says why.
        """

    @abstractmethod
    def go_on(self, begun: Sequence[Begun], boundary: Boundary | None) -> list[list[int]]:
        """The next tokens of each completion, one at least: up to an end token, itself included, or its room.

        Args:
            begun: the completions; equal beginnings one after the other may be computed once.
            boundary: stop at the end of a step, too, or before: at text without which none ends (`Boundary.closing`,
                which it has). None goes on to the end.

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
        return solutions_of(batch, texts, finished, [len(c.ids) for c in completions], self.format)


def sample_name(problem: Problem, sample: int) -> str:
    """A sample's name in messages."""
    return f"problem '{problem.id}', sample {sample}"


def check_reason(where: str, reason: object) -> None:
    """Refuses a completion that ended neither by itself nor at the length limit.

    Raises:
        UserError: it ended for another reason.
    """
    if reason not in ("stop", "length"):
        raise UserError(f"{where}: the completion ended by {shown(reason)}, neither of itself nor at its longest.")


def step_parameters(begun: Begun, boundary: Boundary | None) -> dict:
    """What differs from `sampling_parameters` where a completion goes on, by vLLM's names.

    The text at which vLLM stops is among the tokens that it gives, whatever its own text has of it.
    """
    stop = {} if boundary is None else {"stop": [boundary.closing]}
    return {"max_tokens": begun.room, "seed": begun.seed, **stop}


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
