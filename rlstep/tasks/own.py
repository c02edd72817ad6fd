"""A task that a user wrote: `package.module:Class`, or a name that an installed package gives it.

A class with `check` serves `label` and `ppo`; `prepare` needs the other methods of `rlstep.tasks.base.Task`, too. What
its checker returns is held against what a check is: a mistake there would otherwise be a wrong label, far from here.
"""

from collections.abc import Iterable, Sequence

from rlstep.runtime.counted import counted
from rlstep.runtime.errors import UserError
from rlstep.runtime.plugins import load_object
from rlstep.steps.boundaries import Boundary
from rlstep.steps.records import Problem, Solution
from rlstep.tasks.base import Check

GROUP = "rlstep.tasks"
METHODS = {"check": "check(prompt, completion, reference)", "problems": "problems(split, n, seed)",
           "demonstrations": "demonstrations(n, seed)", "tokenizer": "tokenizer()"}  # fmt: skip


class OwnTask:
    """A user's task, with its checks looked at.

    Args:
        name: what it was asked for by.
        path: given to the class, as its only argument, where there is one.
        need: the methods that will be called.
        boundary: what a step is to be; None asks for nothing.

    Raises:
        UserError: nothing of that name can be imported, it cannot be made, it lacks a method, or its steps are others.
    """

    def __init__(self, name: str, path: str | None, need: Sequence[str], boundary: Boundary | None = None):
        self.name = name
        task = load_object(name, GROUP, "task")
        if isinstance(task, type):
            try:
                task = task() if path is None else task(path)
            except TypeError as error:
                given = "without arguments" if path is None else "with task_path alone"
                raise UserError(f"task {name} cannot be made {given}: {error}.") from error
        elif path is not None:
            raise UserError(f"task {name} is no class, so task_path would do nothing; leave it out.")
        lacking = [METHODS[method] for method in need if not callable(getattr(task, method, None))]
        if lacking:
            raise UserError(
                f"task {name} has no {' and no '.join(lacking)}, which this command calls. rlstep.tasks.base.Task says "
                "what each returns."
            )
        self._task = task
        if boundary not in (None, self.boundary):
            raise UserError(
                f"the steps are by {boundary}, and task {name} says that its checker's are by {self.boundary}. Set "
                "boundary to that, or let the class say otherwise: boundary = rlstep.steps.boundaries.Boundary(...)."
            )

    @property
    def boundary(self) -> Boundary:
        """What the user says that the checker takes for a step; lines where the class says nothing."""
        return getattr(self._task, "boundary", Boundary())

    @property
    def splits(self) -> tuple[str, ...]:
        return tuple(getattr(self._task, "splits", ("train", "test")))

    def problems(self, split: str, n: int, seed: int) -> list[Problem]:
        """The user's.

        Raises:
            UserError: they are no n problems.
        """
        return self._records("problems", Problem, n, self._task.problems(split, n, seed))

    def demonstrations(self, n: int, seed: int) -> list[Solution]:
        """The user's.

        Raises:
            UserError: they are no n solutions.
        """
        return self._records("demonstrations", Solution, n, self._task.demonstrations(n, seed))

    def _records(self, method: str, kind: type, n: int, returned: object) -> list:
        records = list(returned) if isinstance(returned, Iterable) else [returned]
        if wrong := [one for one in records if not isinstance(one, kind)]:
            got, wanted = type(wrong[0]).__name__, f"rlstep.steps.records.{kind.__name__}"
            raise UserError(f"task {self.name}: {method} returned {got}, no {wanted}.")
        if len(records) != n:
            raise UserError(f"task {self.name}: {method} returned {len(records)}, and {n} were asked for.")
        return records

    def tokenizer(self):
        return self._task.tokenizer()

    def check(self, prompt: str, completion: str, reference: str) -> Check:
        """The user's, where it is one.

        Raises:
            UserError: what it returned is no check of this completion.
        """
        check = self._task.check(prompt, completion, reference)
        if fault := _fault(check, completion):
            raise UserError(f"task {self.name}: check returned {fault}, for the completion {completion[:80]!r}.")
        return check


def _fault(check: object, completion: str) -> str | None:
    """What is wrong with a check."""
    if not isinstance(check, Check):
        return f"{type(check).__name__}, no rlstep.tasks.base.Check(steps, labels, answer, correct)"
    if len(check.labels) != len(check.steps):
        return f"{counted(len(check.labels), 'label')} for {counted(len(check.steps), 'step')}"
    last = 0
    for start, end in check.steps:
        if not last <= start <= end <= len(completion):
            return f"the step {(start, end)}, which is out of order or outside the completion"
        last = end
    if any(label is not None and label not in (0, 1) for label in check.labels):
        return f"the labels {check.labels}; a label is 1, 0 or None"
    if not isinstance(check.answer, str | None):
        return f"the answer {check.answer!r}, which is neither text nor None"
    if not isinstance(check.correct, bool):
        return f"correct: {check.correct!r}, which is neither True nor False"
    return None
