"""Where the trainer's rewards come from: verifiers' and checkers' step scores, and the outcome.

A reward source judges text, so the verifier may have another tokenizer than the policy, or be on another machine: steps
are character spans, and the trainer finds the policy's own tokens for them.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

import torch

from rlstep.core.rewards import step_rewards, steps_to_first_error
from rlstep.policy.rewards import guards as guarding
from rlstep.policy.rewards.guards import Guards
from rlstep.runtime.errors import UserError
from rlstep.steps.answers import extract
from rlstep.steps.records import Span
from rlstep.tasks.base import Check, Task

PROCESS = ("prm", "checker", "implicit")
OUTCOME = ("orm", "outcome")
SOURCES = PROCESS + OUTCOME
# Where RL departs from the published scheme, unless it is told otherwise: a step more likely wrong than right costs
# something, and padding cannot raise a return.
DEFAULTS = {"sum": {"centered": True}, "min_form": {"total": "exact"}}
# What the checker source says of a step that the checker cannot judge: as likely right as wrong.
UNKNOWN = 0.5


@dataclass(frozen=True)
class Judgement:
    """What one completion is worth.

    Attributes:
        steps: character spans in the completion.
        step_rewards: one a step, from the first on; shorter than `steps` where the later ones are not judged.
        outcome: the outcome's reward.
        correct: whether the answer is right.
        clean: whether the answer and every step are right, by the exact checker.
        step_scores: the PRM's, None where none was asked.
        labels: the exact checker's, one a step, None where it cannot tell.
        answered: whether there is an answer.
        guards: for each step the guard that withheld its reward, or None.
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

    @property
    def checked(self) -> bool:
        """Whether the exact checker can tell of every step."""
        return len(self.labels) == len(self.steps) and None not in self.labels


class RewardSource(Protocol):
    def __call__(
        self, prompts: Sequence[str], completions: Sequence[str], references: Sequence[str]
    ) -> list[Judgement]: ...


class Scorer(Protocol):
    """What is asked of a verifier, here or on another machine: one value a step."""

    def score(
        self, prompts: Sequence[str], completions: Sequence[str], steps: Sequence[list[Span]]
    ) -> list[list[float]]: ...


class TaskRewards:
    """Process and outcome rewards for a task, from one source or several, weighted.

    ========  =========================================================================================================
    prm       p_k of a process reward model; step rewards follow by `credit` (`rlstep.core.rewards`)
    checker   the exact checker's labels in the place of p_k (0.5 where it cannot tell)
    implicit  beta times the log-ratio of an implicit PRM, summed over the step's tokens; no credit scheme applies
    outcome   1 for a right answer, else 0
    orm       an outcome reward model's value of the finished solution
    ========  =========================================================================================================

    Process rewards are weighted by `process_weight`, outcomes by `outcome_weight`. A completion without an answer has
    the outcome `missing_answer_reward`, whatever an ORM says of it, and one without steps no process reward. Guarded
    steps (`rlstep.policy.rewards.guards`) are left out of the scores that the credit scheme sees, and paid nothing.

    Args:
        task: grades answers, and steps for the metrics.
        sources: name -> weight.
        verifiers: name -> the verifier of each of prm, orm and implicit among the sources.
        credit: the scheme's name.
        credit_parameters: the scheme's parameters.
        process_weight, outcome_weight: factors of the two.
        first_error_threshold: steps after the first one scored below this are not judged: a PRM's training ends at
            the first wrong step, and what it says of later ones means nothing. None judges them all.
        guards: against step rewards for nothing.
        missing_answer_reward: the outcome of a completion without an answer, before its weight.
    """

    def __init__(
        self,
        task: Task,
        sources: dict[str, float] | None = None,
        verifiers: dict[str, Scorer] | None = None,
        credit: str = "min_form",
        credit_parameters: dict | None = None,
        process_weight: float = 1.0,
        outcome_weight: float = 1.0,
        first_error_threshold: float | None = None,
        guards: Guards | None = None,
        missing_answer_reward: float = 0.0,
    ):
        self.task, self.sources, self.verifiers = task, sources or {"outcome": 1.0}, verifiers or {}
        _check_sources(self.sources, self.verifiers)
        self.credit = credit
        self.credit_parameters = credit_settings(credit, credit_parameters)
        self.process_weight, self.outcome_weight = process_weight, outcome_weight
        self.first_error_threshold = first_error_threshold
        self.guards = guards or Guards()
        self.missing_answer_reward = missing_answer_reward

    def __call__(
        self, prompts: Sequence[str], completions: Sequence[str], references: Sequence[str]
    ) -> list[Judgement]:
        checks = [self.task.check(*row) for row in zip(prompts, completions, references, strict=True)]
        steps = [check.steps for check in checks]
        asked = {name: self._ask(name, prompts, completions, steps) for name in self.verifiers}
        rows = zip(prompts, completions, checks, strict=True)
        return [
            self._judge(prompt, completion, check, {name: values[row] for name, values in asked.items()})
            for row, (prompt, completion, check) in enumerate(rows)
        ]

    def _ask(self, name: str, prompts, completions, steps) -> list[list[float]]:
        verifier = self.verifiers[name]
        if name == "implicit":
            return verifier.step_log_ratios(prompts, completions, steps)
        return verifier.score(prompts, completions, steps)

    def _judge(self, prompt: str, completion: str, check: Check, values: dict[str, list[float]]) -> Judgement:
        answered = check.answer is not None
        place = guarding.answer_step(completion, check.steps, extract) if answered else None
        reasons = guarding.withheld(prompt, completion, check.steps, place, self.guards)
        return Judgement(
            steps=check.steps,
            step_rewards=self._process(check, values, reasons, place),
            outcome=self.outcome_weight * self._outcome(check, values),
            correct=check.correct,
            clean=check.correct and all(label == 1 for label in check.labels),
            step_scores=values.get("prm"),
            labels=check.labels,
            answered=answered,
            guards=reasons,
        )

    def _outcome(self, check: Check, values: dict[str, list[float]]) -> float:
        if check.answer is None:
            return self.missing_answer_reward
        total = self.sources.get("outcome", 0.0) * float(check.correct)
        if "orm" in self.sources and values["orm"]:
            total += self.sources["orm"] * values["orm"][-1]
        return total

    def _process(self, check: Check, values: dict, reasons: list[str | None], place: int | None) -> list[float]:
        """The weighted sum over the process sources; as long as the longest of them is judged."""
        paid: list[float] = []
        for name in (source for source in PROCESS if source in self.sources):
            given = self._paid_by(name, check, values, reasons)
            given = [self.sources[name] * reward for reward in given]
            paid = [sum(pair) for pair in zip(*_padded(paid, given), strict=True)]
        if not any(name in self.sources for name in PROCESS):
            return [0.0] * len(check.steps)
        paid = guarding.settle(paid, reasons, place, self.guards)
        return [self.process_weight * reward for reward in paid]

    def _paid_by(self, name: str, check: Check, values: dict, reasons: list[str | None]) -> list[float]:
        """One source's step rewards: steps without reasoning get 0, and the credit scheme does not see them."""
        if name == "implicit":
            seen = set(guarding.counted(reasons))
            return [value if k in seen else 0.0 for k, value in enumerate(values[name])]
        scores = values[name] if name == "prm" else [UNKNOWN if v is None else float(v) for v in check.labels]
        kept = guarding.counted(reasons)
        scores_S = torch.tensor([scores[k] for k in kept], dtype=torch.float64)
        judged = len(scores)
        if self.first_error_threshold is not None:
            count = steps_to_first_error(scores_S, self.first_error_threshold)
            if count < len(kept):
                judged = kept[count - 1] + 1
            scores_S = scores_S[:count]
        paid = [0.0] * judged
        rewards_S = step_rewards(scores_S, self.credit, **self.credit_parameters)
        for k, reward in zip(kept, rewards_S.tolist(), strict=False):  # none behind a first error
            paid[k] = reward
        return paid


def _padded(a: list[float], b: list[float]) -> tuple[list[float], list[float]]:
    length = max(len(a), len(b))
    return a + [0.0] * (length - len(a)), b + [0.0] * (length - len(b))


def credit_settings(credit: str, parameters: dict | None) -> dict:
    """A credit scheme's parameters, with RL's own defaults.

    Raises:
        UserError: the scheme does not take them, by name or by value.
    """
    found = DEFAULTS.get(credit, {}) | (parameters or {})
    try:
        # Of two steps, so that wrong values show at the start, and not wrong names alone.
        step_rewards(torch.full((2,), 0.5), credit, **found)
    except (ValueError, TypeError) as error:
        raise UserError(str(error)) from error
    return found


def _check_sources(sources: dict[str, float], verifiers: dict[str, Scorer]) -> None:
    unknown = sorted(set(sources) - set(SOURCES))
    if unknown:
        raise UserError(f"no reward source '{unknown[0]}'; choose among {', '.join(SOURCES)}.")
    needed = {name for name in ("prm", "orm", "implicit") if name in sources}
    if needed != set(verifiers):
        raise UserError(f"the sources need verifiers for {sorted(needed)}; given are {sorted(verifiers)}.")
    for name, other in (
        ("prm", "is an ORM: it values prefixes, not steps. Give a PRM, or name it as reward orm"),
        ("orm", "is a PRM: it judges steps, not answers. Give an ORM, or name it as reward prm"),
    ):
        if name in verifiers and verifiers[name].kind != name:
            raise UserError(f"the {name} given {other}.")
    if "implicit" in verifiers and not hasattr(verifiers["implicit"], "step_log_ratios"):
        raise UserError("the implicit source needs an implicit PRM (rlstep orm with loss: implicit).")
