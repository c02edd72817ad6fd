"""What a refresh of the PRM is set to do, and who labels its samples: the checker, a better PRM, or rollouts."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Literal, Protocol

import torch

from rlstep.core.rewards import steps_to_first_error
from rlstep.core.step_search import LinearSearch
from rlstep.runtime.constraints import Range, ReadBy, check
from rlstep.runtime.errors import UserError
from rlstep.steps.prompts import Prompt, problem_text, prompt_key, prompt_of
from rlstep.steps.records import Span
from rlstep.tasks.base import Task
from rlstep.verifiers.scoring.reward_model import RewardModel

Source = Literal["checker", "teacher", "monte_carlo"]
MonteCarlo = Literal["hard", "soft"]
# ((prompt, what is written of a completion) of each, N) -> N continuations of each.
Rollout = Callable[[list[tuple[Prompt, str]], int], list[list[str]]]

REFRESHED = ReadBy("refresh_every")
ROLLED_OUT = ReadBy("refresh_labels", "monte_carlo")


@dataclass
class RefreshOptions:
    """When and how the PRM is trained further during RL.

    Raises:
        UserError: settings out of range, unread or missing, all of them in one message.
    """

    refresh_every: Annotated[int, Range(at_least=0)] = field(
        default=0,
        metadata={"help": "Updates between refreshes of the PRM on the policy's samples; 0: it stays frozen."},
    )
    refresh_labels: Annotated[Source, REFRESHED] = field(
        default="checker",
        metadata={
            "help": "Who labels the new samples: the task's checker, a better PRM (teacher), or the policy's own "
            "rollouts from each step (monte_carlo)."
        },
    )
    refresh_teacher: Annotated[str | None, REFRESHED, ReadBy("refresh_labels", "teacher")] = field(
        default=None,
        metadata={"help": "teacher: folder, hub id or URL of a PRM; its probabilities are the labels (soft ones)."},
    )
    refresh_rollouts: Annotated[int, Range(at_least=1), REFRESHED, ROLLED_OUT] = field(
        default=8, metadata={"help": "monte_carlo: rollouts from the end of each step."}
    )
    refresh_monte_carlo: Annotated[MonteCarlo, REFRESHED, ROLLED_OUT] = field(
        default="hard",
        metadata={
            "help": "monte_carlo: hard: a step is right when any rollout reaches the answer; soft: its label is the "
            "share of rollouts that do."
        },
    )
    refresh_replay: Annotated[str | None, REFRESHED] = field(
        default=None,
        metadata={"help": "Labelled solutions that the PRM was trained on (JSONL, Parquet), to prevent forgetting."},
    )
    refresh_replay_share: Annotated[float, Range(above=0, below=1), REFRESHED, ReadBy("refresh_replay")] = field(
        default=0.5, metadata={"help": "refresh_replay: its share of the rows of each refresh."}
    )
    refresh_rows: Annotated[int, Range(at_least=1), REFRESHED] = field(
        default=1024, metadata={"help": "Most new rows per refresh: distinct samples, the newest ones."}
    )
    refresh_epochs: Annotated[int, Range(at_least=1), REFRESHED] = field(
        default=1, metadata={"help": "Passes of a refresh over its rows."}
    )
    refresh_batch_size: Annotated[int, Range(at_least=1), REFRESHED] = field(
        default=16, metadata={"help": "Rows per optimizer step of a refresh."}
    )
    refresh_learning_rate: Annotated[float, Range(above=0), REFRESHED] = field(
        default=1e-5, metadata={"help": "Learning rate of a refresh, constant."}
    )

    def __post_init__(self):
        check(self, self._faults())

    def _faults(self) -> Iterator[str]:
        if self.refresh_labels == "teacher" and self.refresh_teacher is None:
            yield "refresh_labels 'teacher' needs refresh_teacher: a PRM's folder, hub id or URL"


class Labeler(Protocol):
    def labels(
        self,
        prompts: Sequence[Prompt],
        completions: Sequence[str],
        references: Sequence[str],
        steps: Sequence[list[Span]],
    ) -> list[list[float | None]]:
        """For each completion one label per step: 1 right, 0 wrong, between them a soft label, None unknown."""


@dataclass(frozen=True)
class CheckerLabels:
    """The exact checker's labels; None for a step that the checker does not recognise."""

    task: Task

    def labels(self, prompts, completions, references, steps) -> list[list[float | None]]:
        labels = []
        for prompt, *row, spans in zip(prompts, completions, references, steps, strict=True):
            check = self.task.check(problem_text(prompt), *row)
            known = dict(zip(map(tuple, check.steps), check.labels, strict=True))
            labels.append([known.get(tuple(span)) for span in spans])
        return labels


@dataclass(frozen=True)
class TeacherLabels:
    """Another PRM's probabilities, as soft labels; None for steps that do not fit into it.

    Attributes:
        teacher: has a RewardModel's `score`.
        threshold: steps after the first one scored below this have no label: a PRM's training ends at the first wrong
            step, and what it says of later ones means nothing. None takes them all.

    Raises:
        UserError: the teacher is an ORM.
    """

    teacher: RewardModel
    threshold: float | None = 0.5

    def __post_init__(self):
        if getattr(self.teacher, "kind", "prm") != "prm":
            raise UserError("refresh_teacher is an ORM: it scores prefixes, not steps. Give a PRM.")

    def labels(self, prompts, completions, references, steps) -> list[list[float | None]]:
        labels = []
        for scores, spans in zip(self.teacher.score(prompts, completions, steps, cut=True), steps, strict=True):
            known = len(scores)
            if self.threshold is not None:
                known = steps_to_first_error(torch.tensor(scores, dtype=torch.float64), self.threshold)
            labels.append([*scores[:known], *[None] * (len(spans) - known)])
        return labels


@dataclass(frozen=True)
class MonteCarloLabels:
    """How often the policy reaches the answer from each step: `rlstep.core.step_search.LinearSearch`, all rows abreast.

    A step that ends the completion is graded as it stands. Steps after the first one with the share 0 are not rolled
    out and have no label.

    Attributes:
        rollout: (P prefixes, N) to P lists of N continuations each. It is called once for each number of steps, with
            the distinct prefixes of all completions: (the prompt, the completion up to a step's end).
        is_correct: (problem, completion, reference) to whether the answer is right.
        rollouts: N.
        soft: which of the two labels.
    """

    rollout: Rollout
    is_correct: Callable[[str, str, str], bool]
    rollouts: int = 8
    soft: bool = False

    def labels(self, prompts, completions, references, steps) -> list[list[float | None]]:
        rows = list(zip(prompts, completions, references, steps, strict=True))
        searches = [LinearSearch(len(spans), self.soft) for *_, spans in rows]
        while todo := {row: search.wanted()[0] for row, search in enumerate(searches) if search.wanted()}:
            heads = {row: self._head(*rows[row], step) for row, step in todo.items()}
            shares = self._shares(list(dict.fromkeys(heads.values())))
            for row, step in todo.items():
                searches[row].tell(step, shares[heads[row]])
        return [search.labels() for search in searches]

    def _head(self, prompt: Prompt, completion: str, reference: str, spans: list[Span], step: int) -> tuple:
        """(the prompt's key, completion up to the step's end, reference, whether the completion ends there)."""
        end = spans[step][1]
        ended = not completion[end:].strip()
        return prompt_key(prompt), completion if ended else completion[:end], reference, ended

    def _shares(self, heads: list[tuple]) -> dict[tuple, float]:
        keys = list(dict.fromkeys((key, begun) for key, begun, _, ended in heads if not ended))
        prefixes = [(prompt_of(key), begun) for key, begun in keys]
        drawn = dict(zip(keys, self.rollout(prefixes, self.rollouts), strict=True)) if prefixes else {}
        shares = {}
        for key, begun, reference, ended in heads:
            tails = [""] if ended else drawn[key, begun]
            if not ended and len(tails) != self.rollouts:
                raise ValueError(f"{len(tails)} rollouts came from a prefix; {self.rollouts} were requested.")
            problem = problem_text(prompt_of(key))
            right = sum(self.is_correct(problem, begun + tail, reference) for tail in tails)
            shares[key, begun, reference, ended] = right / len(tails)
        return shares


def make_labeler(
    options: RefreshOptions,
    task: Task,
    teacher: RewardModel | None = None,
    rollout: Rollout | None = None,
) -> Labeler:
    """The labeler that the options name; `teacher` and `rollout` are for those that need them."""
    if options.refresh_labels == "checker":
        return CheckerLabels(task)
    if options.refresh_labels == "teacher":
        return TeacherLabels(teacher)

    def is_correct(problem: str, completion: str, reference: str) -> bool:
        return task.check(problem, completion, reference).correct

    return MonteCarloLabels(rollout, is_correct, options.refresh_rollouts, options.refresh_monte_carlo == "soft")
