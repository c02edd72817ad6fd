"""Where the trainer's rewards come from: a verifier's step scores and the task's verified outcome.

A reward source judges text, so the verifier may have another tokenizer than the policy: steps are character spans, and
the trainer finds the policy's own tokens for them.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch

from rlstep.core.rewards import check_scheme, step_rewards, steps_to_first_error
from rlstep.runtime.errors import UserError
from rlstep.steps.records import Span
from rlstep.tasks.base import Task
from rlstep.verifiers.scoring import RewardModel


@dataclass(frozen=True)
class Judgement:
    """What one completion is worth.

    Attributes:
        steps: character spans in the completion.
        step_rewards: one a step, from the first on; shorter than `steps` where the later ones are not judged.
        outcome: the outcome's reward.
        correct: whether the answer is right.
        clean: whether the answer and every step are right, by the exact checker.
        step_scores: the verifier's, None where none was asked.
    """

    steps: list[Span]
    step_rewards: list[float]
    outcome: float
    correct: bool
    clean: bool
    step_scores: list[float] | None = None


class RewardSource(Protocol):
    def __call__(
        self, prompts: Sequence[str], completions: Sequence[str], references: Sequence[str]
    ) -> list[Judgement]: ...


class TaskRewards:
    """Process and outcome rewards for a task.

    The outcome is 1 for a right answer, else 0: a completion without an answer, or cut off before it, gets 0. A
    completion without steps gets no process reward. Step rewards follow from the verifier's scores by `credit`
    (`rlstep.core.rewards`); without a verifier they are 0, which is outcome-only training.

    Args:
        task: grades answers, and steps for the metrics.
        reward_model: scores steps; None for outcome-only training.
        credit: the scheme's name.
        credit_parameters: the scheme's parameters.
        process_weight, outcome_weight: factors of the two.
        first_error_threshold: steps after the first one scored below this are not judged: a PRM's training ends at
            the first wrong step, and what it says of later ones means nothing. None judges them all.
    """

    def __init__(
        self,
        task: Task,
        reward_model: RewardModel | None = None,
        credit: str = "sum",
        credit_parameters: dict | None = None,
        process_weight: float = 1.0,
        outcome_weight: float = 1.0,
        first_error_threshold: float | None = None,
    ):
        self.credit_parameters = {"centered": True} if credit == "sum" else {}
        self.credit_parameters |= credit_parameters or {}
        try:
            check_scheme(credit, self.credit_parameters)
        except ValueError as error:
            raise UserError(str(error)) from error
        if reward_model is not None and reward_model.kind != "prm":
            raise UserError("the reward model is an ORM: it values prefixes, not steps. Give a PRM, or reward outcome.")
        self.task, self.reward_model, self.credit = task, reward_model, credit
        self.process_weight, self.outcome_weight = process_weight, outcome_weight
        self.first_error_threshold = first_error_threshold

    def __call__(
        self, prompts: Sequence[str], completions: Sequence[str], references: Sequence[str]
    ) -> list[Judgement]:
        checks = [self.task.check(*row) for row in zip(prompts, completions, references, strict=True)]
        if self.reward_model is None:
            scores = [None] * len(checks)
        else:
            scores = self.reward_model.score(prompts, completions, [check.steps for check in checks])
        return [
            Judgement(
                steps=check.steps,
                step_rewards=self._step_rewards(step_scores, len(check.steps)),
                outcome=self.outcome_weight * float(check.correct),
                correct=check.correct,
                clean=check.correct and all(label == 1 for label in check.labels),
                step_scores=step_scores,
            )
            for check, step_scores in zip(checks, scores, strict=True)
        ]

    def _step_rewards(self, scores: list[float] | None, steps: int) -> list[float]:
        if scores is None:
            return [0.0] * steps
        scores_S = torch.tensor(scores, dtype=torch.float64)
        if self.first_error_threshold is not None:
            scores_S = scores_S[: steps_to_first_error(scores_S, self.first_error_threshold)]
        return (self.process_weight * step_rewards(scores_S, self.credit, **self.credit_parameters)).tolist()
