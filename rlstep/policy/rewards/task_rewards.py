"""`TaskRewards`: step rewards and outcome rewards for a task's completions, from verifiers and exact checkers.

A step score goes one way: a verifier's `score`; what it pays, by the credit scheme or directly where the verifier gives
rewards; the sum over the sources; the guards; a `ScoredCompletion`.
"""

from collections.abc import Mapping, Sequence

import torch

from rlstep.core.first_error_credit import first_error_rewards
from rlstep.core.rewards import beginning_rewards, step_rewards, steps_to_first_error
from rlstep.policy.rewards import guards as guarding
from rlstep.policy.rewards.guards import Guards
from rlstep.policy.rewards.own import OwnReward
from rlstep.policy.rewards.scored import ScoredCompletion
from rlstep.runtime.errors import UserError
from rlstep.steps.answers import extract
from rlstep.steps.prompts import Prompt, problem_text
from rlstep.tasks.base import Check, Task
from rlstep.verifiers.interface import Verifier

PROCESS = ("prm", "checker", "implicit")
OUTCOME = ("orm", "outcome")
SOURCES = PROCESS + OUTCOME
# What the verifier of a source gives; a source that is not listed needs no verifier.
GIVES = {"prm": "probability", "orm": "probability", "implicit": "reward"}
# Where RL departs from the published scheme, unless it is told otherwise: a step more likely wrong than right costs
# something, and padding cannot raise a return.
DEFAULTS = {"sum": {"centered": True}, "min_form": {"total": "exact"}, "first_error": {"margin": "prompt"}}
# The credit scheme that also reads the outcome and the text, and how much of a good prefix's end it leaves unpaid:
# nothing, a tenth of the completion, or as much as the problem is long, in characters.
FIRST_ERROR = "first_error"
MARGINS = ("none", "partial", "prompt")
# The checker source's score of a step that the checker cannot label: as likely right as wrong.
UNKNOWN = 0.5


NO_THRESHOLD = (
    "credit 'first_error' needs first_error_threshold: the score below which a step is called wrong (VPPO took 0.8 for "
    "its PRM, chosen on ProcessBench)"
)


class TaskRewards:
    """Process and outcome rewards for a task, from one source or several, weighted.

    ========  =========================================================================================================
    prm       p_k of a process reward model; step rewards follow by `credit` (`rlstep.core.rewards`)
    checker   the exact checker's labels in place of p_k (0.5 where it cannot tell)
    implicit  beta times the log-ratio of an implicit PRM, summed over the step's tokens; no credit scheme applies
    outcome   1 for a right answer, else 0
    orm       an outcome reward model's value of the finished solution
    (own)     a user's function (`rlstep.policy.rewards.own`): step rewards as they are, or an outcome reward, which is
              paid without an answer, too
    ========  =========================================================================================================

    Process rewards are weighted by `process_weight`, outcomes by `outcome_weight`. A completion without an answer has
    the outcome `missing_answer_reward`, whatever an ORM says of it, and one without steps has no process reward. Steps
    without reasoning (`rlstep.policy.rewards.guards`) are left out of what the credit scheme sees, and paid nothing.

    A completion that is longer than a verifier, in the verifier's own tokens, is cut for it: the steps that fit are
    scored as if it ended there, the others are not. These have no process reward, and a step whose reward would depend
    on them has none above 0 (`rlstep.core.rewards.beginning_rewards`). An ORM that did not read the end adds nothing to
    the outcome.

    Args:
        task: checks answers and steps.
        sources: name -> weight.
        verifiers: name -> the verifier of each of prm, orm and implicit among the sources.
        own: name -> the user's own reward of each other source.
        credit: the credit scheme's name: one of `rlstep.core.rewards.SCHEMES`, or first_error
            (`rlstep.core.first_error_credit`), which needs a first_error_threshold.
        credit_parameters: the credit scheme's parameters.
        process_weight, outcome_weight: factors of the two.
        first_error_threshold: steps after the first one scored below this are not scored: a PRM is trained up to the
            first wrong step, and what it says of later ones means nothing. None scores them all.
        guards: which withhold undeserved step rewards.
        missing_answer_reward: the outcome of a completion without an answer, before its weight.

    Raises:
        UserError: an unknown source, a verifier that is missing or does not fit its source, or wrong credit parameters.
    """

    def __init__(
        self,
        task: Task,
        sources: dict[str, float] | None = None,
        verifiers: Mapping[str, Verifier] | None = None,
        credit: str = "min_form",
        credit_parameters: dict | None = None,
        process_weight: float = 1.0,
        outcome_weight: float = 1.0,
        first_error_threshold: float | None = None,
        guards: Guards | None = None,
        missing_answer_reward: float = 0.0,
        own: Mapping[str, OwnReward] | None = None,
    ):
        self.own = own or {}
        self.task, self.sources, self.verifiers = task, sources or {"outcome": 1.0}, verifiers or {}
        _check_sources(self.sources, self.verifiers, self.own)
        self.credit = credit
        self.credit_parameters = credit_settings(credit, credit_parameters)
        self.process_weight, self.outcome_weight = process_weight, outcome_weight
        self.first_error_threshold = first_error_threshold
        if credit == FIRST_ERROR and first_error_threshold is None:
            raise UserError(NO_THRESHOLD)
        self.guards = guards or Guards()
        self.missing_answer_reward = missing_answer_reward

    def __call__(
        self, prompts: Sequence[Prompt], completions: Sequence[str], references: Sequence[str], /, **columns: list
    ) -> list[ScoredCompletion]:
        problems = [problem_text(prompt) for prompt in prompts]
        checks = [self.task.check(*row) for row in zip(problems, completions, references, strict=True)]
        spans = [check.steps for check in checks]
        values = {
            name: verifier.score(prompts, completions, spans, cut=True) for name, verifier in self.verifiers.items()
        }
        values |= {name: own(prompts, completions, references, spans, columns) for name, own in self.own.items()}
        return [
            self._score(problem, completion, check, {name: rows[row] for name, rows in values.items()})
            for row, (problem, completion, check) in enumerate(zip(problems, completions, checks, strict=True))
        ]

    def _score(self, problem: str, completion: str, check: Check, values: dict[str, list[float]]) -> ScoredCompletion:
        """One completion; `values` are the verifiers' by source, one per step that it read."""
        answered = check.answer is not None
        answer = guarding.answer_step(completion, check.steps, extract) if answered else None
        reasons = guarding.guard_reasons(problem, completion, check.steps, answer, self.guards)
        cut_by = [name for name in self.verifiers if len(values[name]) < len(check.steps)]
        return ScoredCompletion(
            steps=check.steps,
            step_rewards=self._step_rewards(check, values, reasons, answer, (len(problem), len(completion))),
            outcome=self.outcome_weight * self._outcome(check, values),
            correct=check.correct,
            clean=check.correct and all(label == 1 for label in check.labels),
            step_scores=values.get("prm"),
            labels=check.labels,
            answered=answered,
            guards=reasons,
            own={name: sum(values[name]) for name in self.own},
            cut_by=cut_by if self.verifiers else None,
            answer=check.answer,
            withheld_by=guarding.completion_guard(reasons, answer, self.guards) if check.steps else None,
        )

    def _outcome(self, check: Check, values: dict[str, list[float]]) -> float:
        total = sum(self.sources[name] * values[name][0] for name, own in self.own.items() if own.pays == "outcome")
        if check.answer is None:
            return total + self.missing_answer_reward
        total += self.sources.get("outcome", 0.0) * float(check.correct)
        # The last value of a completion that was cut is that of an unfinished solution.
        if "orm" in self.sources and check.steps and len(values["orm"]) == len(check.steps):
            total += self.sources["orm"] * values["orm"][-1]
        return total

    def _step_rewards(
        self,
        check: Check,
        values: dict[str, list[float]],
        reasons: list[str | None],
        answer: int | None,
        lengths: tuple[int, int],
    ) -> list[float]:
        """The weighted sum over the process sources, guarded; as long as the source that scores the most steps.

        `lengths` are the problem's and the completion's, in characters.
        """
        sources = [name for name in PROCESS if name in self.sources]
        sources += [name for name, own in self.own.items() if own.pays == "steps"]
        if not sources:
            return [0.0] * len(check.steps)
        seen = guarding.scored_steps(reasons)
        total: list[float] = []
        for name in sources:
            # The checker's labels take the place of a PRM's probabilities.
            of_steps = values[name] if name in values else [UNKNOWN if v is None else float(v) for v in check.labels]
            gives_rewards = name in self.own or (name in values and self.verifiers[name].gives == "reward")
            if gives_rewards:
                paid = _only(of_steps, seen)
            elif self.credit == FIRST_ERROR:
                paid = self._before_first_error(of_steps, seen, check, lengths)
            else:
                paid = self._credited(of_steps, seen)
            total = _sum(total, [self.sources[name] * reward for reward in paid])
        guarded = guarding.apply_guards(total, reasons, answer, self.guards)
        return [self.process_weight * reward for reward in guarded]

    def _credited(self, scores: Sequence[float], seen: Sequence[int]) -> list[float]:
        """The credit scheme's rewards for step scores.

        Args:
            scores: one probability per step, of the first steps alone where the completion was cut.
            seen: indices of the steps that the scheme is shown; the others get 0.

        Returns:
            one reward per scored step, up to the first error where `first_error_threshold` is set.
        """
        scored, length = [step for step in seen if step < len(scores)], len(scores)
        scores_S = torch.tensor([scores[step] for step in scored], dtype=torch.float64)
        paid = step_rewards if len(scored) == len(seen) else beginning_rewards
        if self.first_error_threshold is not None:
            count = steps_to_first_error(scores_S, self.first_error_threshold)
            if 0 < count < len(seen) and scores_S[count - 1] < self.first_error_threshold:
                # No later step would be judged, whether it has a score or not.
                length, paid = scored[count - 1] + 1, step_rewards
            scores_S = scores_S[:count]
        rewards = [0.0] * length
        rewards_S = paid(scores_S, self.credit, **self.credit_parameters)
        for step, reward in zip(scored, rewards_S.tolist(), strict=False):  # none after a first error
            rewards[step] = reward
        return rewards

    def _before_first_error(
        self, scores: Sequence[float], seen: Sequence[int], check: Check, lengths: tuple[int, int]
    ) -> list[float]:
        """What `first_error_rewards` pays, one reward per scored step, for the steps that it is shown.

        In a completion that was cut, the error is looked for among the steps that were read.
        """
        seen = [step for step in seen if step < len(scores)]
        problem, completion = lengths
        margin = {"none": 0, "partial": completion / 10, "prompt": problem}[self.credit_parameters["margin"]]
        scores_S = torch.tensor([scores[step] for step in seen], dtype=torch.float64)
        ends_S = torch.tensor([check.steps[step][1] for step in seen], dtype=torch.float64)
        rewards_S = first_error_rewards(scores_S, ends_S, check.correct, self.first_error_threshold, margin)
        rewards = [0.0] * len(scores)
        for step, reward in zip(seen, rewards_S.tolist(), strict=True):
            rewards[step] = reward
        return rewards


def _only(values: Sequence[float], steps: Sequence[int]) -> list[float]:
    """The values of these steps, 0 for the others."""
    kept = set(steps)
    return [value if step in kept else 0.0 for step, value in enumerate(values)]


def _sum(a: list[float], b: list[float]) -> list[float]:
    """Elementwise; the shorter one counts as 0 where it has ended."""
    length = max(len(a), len(b))
    padded = (values + [0.0] * (length - len(values)) for values in (a, b))
    return [sum(pair) for pair in zip(*padded, strict=True)]


def credit_settings(credit: str, parameters: dict | None) -> dict:
    """A credit scheme's parameters, with RL's own defaults.

    Raises:
        UserError: the scheme does not take them, by name or by value.
    """
    complete = DEFAULTS.get(credit, {}) | (parameters or {})
    if credit == FIRST_ERROR:
        unknown = sorted(set(complete) - {"margin"})
        if unknown:
            raise UserError(f"reward scheme 'first_error' has no parameter '{unknown[0]}'; it takes margin.")
        if complete["margin"] not in MARGINS:
            raise UserError(f"scheme 'first_error': margin={complete['margin']!r} is not one of {', '.join(MARGINS)}.")
        return complete
    try:
        # Tried on two steps, so that wrong values show at the start, not only wrong names.
        step_rewards(torch.full((2,), 0.5), credit, **complete)
    except (ValueError, TypeError) as error:
        raise UserError(str(error)) from error
    return complete


def _check_sources(
    sources: Mapping[str, float], verifiers: Mapping[str, Verifier], own: Mapping[str, OwnReward]
) -> None:
    unknown = sorted(set(sources) - set(SOURCES) - set(own))
    if unknown:
        raise UserError(f"no reward source '{unknown[0]}'; choose among {', '.join(SOURCES)}.")
    needed = set(GIVES) & set(sources)
    if needed != set(verifiers):
        raise UserError(f"the sources need verifiers for {sorted(needed)}; given are {sorted(verifiers)}.")
    for name, other in (
        ("prm", "is an ORM: it scores prefixes, not steps. Give a PRM, or name it as reward orm"),
        ("orm", "is a PRM: it scores steps, not answers. Give an ORM, or name it as reward prm"),
    ):
        if name in verifiers and verifiers[name].kind != name:
            raise UserError(f"the {name} given {other}.")
    for name, verifier in verifiers.items():
        if verifier.gives != GIVES[name]:
            raise UserError(
                "the implicit source needs an implicit PRM (rlstep orm with loss: implicit)."
                if GIVES[name] == "reward"
                else f"the {name} given was opened for rewards, and the source needs probabilities. Open it with"
                " gives='probability', or name it as reward implicit."
            )
