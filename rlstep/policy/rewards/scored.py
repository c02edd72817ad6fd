"""What rewards are made of: one scored completion, a batch of them, and the interface of a reward source.

A reward source only reads text, so a verifier may have a different tokenizer, or be on another machine: steps are
character spans, and the trainer finds the policy's own tokens for them.
"""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from rlstep.steps.prompts import Prompt
from rlstep.steps.records import Span


@dataclass(frozen=True)
class ScoredCompletion:
    """The rewards of one completion, and how they came about.

    Attributes:
        steps: character spans in the completion.
        step_rewards: one per step, from the first on; shorter than `steps` where the later ones are not scored.
        outcome: the outcome's reward.
        correct: whether the answer is right.
        clean: whether the answer and every step are right, by the exact checker.
        step_scores: the PRM's, None if no PRM is used; shorter than `steps` where it scores the first ones alone.
        labels: the exact checker's, one per step, None where it cannot tell.
        own: what each of the user's own rewards gave, before weights and guards, the sum over the steps; by name.
        answered: whether there is an answer.
        guards: for each step the guard that withheld its reward, or None.
        cut_by: the verifiers for which it is too long, and which read its first steps alone; None without verifiers.
        answer: the answer that it states; None without one, or where the reward source does not say it.
        withheld_by: the guard that withholds every positive step reward of the whole, or None.
    """

    steps: list[Span]
    step_rewards: list[float]
    outcome: float
    correct: bool
    clean: bool
    step_scores: list[float] | None = None
    labels: list[int | None] = field(default_factory=list)
    answered: bool = True
    guards: list[str | None] = field(default_factory=list)
    own: dict[str, float] = field(default_factory=dict)
    cut_by: list[str] | None = None
    answer: str | None = None
    withheld_by: str | None = None

    @property
    def checked(self) -> bool:
        """Whether the exact checker labelled every step."""
        return len(self.labels) == len(self.steps) and None not in self.labels


@dataclass(frozen=True)
class ScoredBatch:
    """The completions of one generation batch and their rewards, B rows.

    They are one rank's, or those of all ranks, in the same order on each of them.

    Attributes:
        update: the update that the batch is for, counted from 1; in an evaluation the one that comes next.
        prompts: the problems' own, texts or lists of messages.
        completions, references: texts.
        scored: what each completion is worth.
        finished: whether the policy ended the completion itself, rather than being cut off.
        extras: what else is known of the problems (`rlstep.steps.records.Problem.extra`).
    """

    update: int
    prompts: list[Prompt]
    completions: list[str]
    references: list[str]
    scored: list[ScoredCompletion]
    finished: list[bool]
    extras: list[dict]

    @classmethod
    def from_rows(cls, update: int, rows: Iterable[dict]) -> "ScoredBatch":
        """The batch of an update's rows.

        Args:
            update: counted from 1.
            rows: each with `problem_prompt`, `completion`, `reference`, `scored`, `finished` and maybe `extra` (JSON).
        """
        columns = ("problem_prompt", "completion", "reference", "scored", "finished")
        rows = list(rows)
        return cls(update, *([row[name] for row in rows] for name in columns), [extra_of(row) for row in rows])


def extra_of(row: dict) -> dict:
    """What else is known of a row's problem; a data set has it as JSON, because a column has one type."""
    return json.loads(row.get("extra") or "{}")


class RewardSource(Protocol):
    """Scores completions; `rlstep.policy.rewards.task_rewards.TaskRewards` is one."""

    def __call__(
        self, prompts: Sequence[Prompt], completions: Sequence[str], references: Sequence[str], **columns: list
    ) -> list[ScoredCompletion]:
        """One for each completion; `columns` are the problems' other fields by name, where they have any."""
        ...
