"""Problems with checkers: the embedded ones, those in words for chat models among them, GSM8K, MATH, any problems with
answers, and a user's own."""

from collections.abc import Iterator

from rlstep.runtime.errors import UserError
from rlstep.runtime.plugins import name_faults
from rlstep.steps.boundaries import Boundary
from rlstep.tasks.base import Check, Grader, Task

__all__ = ["Check", "Grader", "Task", "get", "task_faults"]

# Those that generate their problems, and read none.
GENERATED = (
    "arithmetic", "arithmetic_short", "arithmetic_easy", "increasing", "increasing_words", "rises_words",
    "word_problems",
)  # fmt: skip
NAMES = (*GENERATED, "gsm8k", "math", "answers")
GROUP = "rlstep.tasks"
TASK_HELP = f"One of {', '.join(NAMES)}, or your own as package.module:Class."
GRADER_HELP = (
    "task answers: math compares by value; number, choice (a letter) and exact (the text) read the answer as such;"
    " regex takes it by answer_pattern."
)
PATTERN_HELP = "grader regex: a regular expression whose first group is the answer; the last match counts."


def get(
    name: str,
    path: str | None = None,
    boundary: Boundary | None = None,
    need: tuple[str, ...] = ("check",),
    **options,
) -> Task:
    """The task of that name.

    Args:
        name: one of `NAMES`, an entry point of the group `rlstep.tasks`, or `package.module:Class`.
        path: where a task with published data finds it: a folder, a file, or a hub id. Tasks that generate their
            problems take none.
        boundary: what the checker is to take for a step; lines by default, and always where it reads each step exactly.
            A user's own has the steps that it says.
        need: the methods of `Task` that will be called; only a user's own can lack one.
        options: of the task `answers`, see there.

    Raises:
        UserError: there is none, a path for one that reads nothing, another boundary for one whose steps are given, or
            what the task itself has against its settings.
    """
    if faults := list(task_faults(name)):
        raise UserError(f"{faults[0]}.")
    if name == "gsm8k":
        from rlstep.tasks.gsm8k import GSM8K

        return GSM8K(path, boundary or Boundary())
    if name == "math":
        from rlstep.tasks.math import MATH

        return MATH(path, boundary or Boundary())
    if name == "answers":
        from rlstep.tasks.answers import Answers

        return Answers(path, boundary=boundary or Boundary(), **options)
    if name not in NAMES:
        from rlstep.tasks.own import OwnTask

        return OwnTask(name, path, need, boundary)
    if path:
        raise UserError(f"task '{name}' generates its problems and takes no task_path, but '{path}' was given.")
    if boundary not in (None, Boundary()):
        raise UserError(
            f"the steps are by {boundary}, and the checker of task '{name}' reads exactly one step per line. Take "
            "boundary: line, and a PRM that was taught lines."
        )
    return _generated(name)


def _generated(name: str) -> Task:
    """A task that generates its problems; what it needs is imported here, as it is needed."""
    if name == "increasing_words":
        from rlstep.tasks.increasing_words import IncreasingWords

        return IncreasingWords()
    if name == "rises_words":
        from rlstep.tasks.rises_words import RisesWords

        return RisesWords()
    if name == "word_problems":
        from rlstep.tasks.word_problems import WordProblems

        return WordProblems()
    if name == "increasing":
        from rlstep.tasks.increasing import Increasing

        return Increasing()
    from rlstep.tasks.arithmetic import Arithmetic, ArithmeticEasy, ArithmeticShort

    return next(task() for task in (Arithmetic, ArithmeticShort, ArithmeticEasy) if task.name == name)


def task_faults(name: str, grader: str | None = None, pattern: str | None = None) -> Iterator[str]:
    """What is wrong with a task's name, and with how the task `answers` is to grade; nothing is imported.

    Args:
        name: see `get`.
        grader, pattern: the settings `grader` and `answer_pattern`.
    """
    yield from name_faults("task", [name], NAMES, GROUP)
    if grader == "regex" and pattern is None:
        yield "grader is 'regex', which needs answer_pattern: a regular expression whose first group is the answer"
