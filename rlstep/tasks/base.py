"""What a task is: problems, demonstrations to start from, an exact checker, and a model small enough to train here."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal, Protocol

from rlstep.runtime.errors import UserError
from rlstep.steps.boundaries import Boundary
from rlstep.steps.prompts import problem_text
from rlstep.steps.records import Problem, Solution, Span

# Who says what an answer of the task `answers` is, and whether it is right (`rlstep.tasks.answers`).
Grader = Literal["math", "number", "choice", "exact", "regex"]
# What to do where a task cannot read a problem or its reference.
OTHER_TASK = (
    "Give the task that the problems belong to, or task: answers, which grades the answer of any problem, with the "
    "grader that fits the references."
)


@dataclass(frozen=True)
class Check:
    """An exact checker's result for one completion.

    Attributes:
        steps: character spans, in order (see `rlstep.steps.boundaries`).
        labels: one per step: 1 right, 0 wrong, None where the checker cannot tell.
        answer: the final answer as text, None if the completion gives none.
        correct: whether the answer is right.
    """

    steps: list[Span]
    labels: list[int | None]
    answer: str | None
    correct: bool


class Task(Protocol):
    """Problems, demonstrations and an exact checker; for `label` and `ppo` a class with `check` is enough.

    Attributes:
        name: of `rlstep.tasks.NAMES`.
        splits: what its problems are drawn from.
        boundary: what its checker takes for a step.
    """

    name: str
    splits: tuple[str, ...]
    boundary: Boundary

    def problems(self, split: str, n: int, seed: int) -> list[Problem]:
        """Problems of a split; another seed gives other problems, the same seed the same ones.

        Args:
            split: one of `splits`.
            n: how many.
            seed: of the draw.
        """

    def demonstrations(self, n: int, seed: int) -> list[Solution]:
        """Solutions to imitate; what the generator is first trained on.

        Args:
            n: how many.
            seed: of the draw.
        """

    def check(self, prompt: str, completion: str, reference: str) -> Check:
        """Steps, labels and answer; never raises, whatever the completion.

        Text without steps or an answer has none and is not correct.

        Args:
            prompt: the problem's text; of a chat, what the user said last.
            completion: what the policy wrote.
            reference: the right answer.
        """

    def tokenizer(self):
        """A Hugging Face tokenizer that knows the task's text, built offline."""


def checked(task: Task, solution: Solution) -> Solution:
    """Fills a solution's steps, labels, answer and correctness from the task's checker."""
    check = task.check(problem_text(solution.prompt), solution.completion, solution.reference)
    solution.steps, solution.labels = check.steps, check.labels
    solution.answer, solution.correct = check.answer, check.correct
    return solution


def check_draw(task: str, split: str, splits: Iterable[str], n: int, largest: int) -> None:
    """Refuses to draw from a split that a task that makes its problems has not, or more than it could make.

    Raises:
        UserError: there is no such split, or n is above `largest`.
    """
    if split not in splits:
        raise UserError(f"{task} has no split '{split}'; there are {', '.join(splits)}.")
    if n > largest:
        raise UserError(f"{task} has at most {largest} problems a split, but {n} were asked for.")
