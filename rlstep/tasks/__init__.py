"""Problems with exact checkers: the embedded ones, those in words for chat models among them, GSM8K and MATH."""

from rlstep.runtime.errors import UserError
from rlstep.steps.boundaries import Boundary
from rlstep.tasks.base import Task

NAMES = ("arithmetic", "increasing", "increasing_words", "word_problems", "gsm8k", "math")


def get(name: str, path: str | None = None, boundary: Boundary | None = None) -> Task:
    """The task of that name.

    Args:
        name: one of `NAMES`.
        path: where a task with published data finds it: a folder, a file, or a hub id. Tasks that generate their
            problems take none.
        boundary: what the checker is to take for a step; lines by default, and always where it reads each step exactly.

    Raises:
        UserError: no such task, or one that takes no path or no other boundary.
    """
    if name not in NAMES:
        raise UserError(f"no task '{name}'; there are {', '.join(NAMES)}.")
    if name == "gsm8k":
        from rlstep.tasks.gsm8k import GSM8K

        return GSM8K(path, boundary or Boundary())
    if name == "math":
        from rlstep.tasks.math import MATH

        return MATH(path, boundary or Boundary())
    if path:
        raise UserError(f"task '{name}' generates its problems and takes no task_path, but '{path}' was given.")
    if boundary not in (None, Boundary()):
        raise UserError(
            f"the steps are by {boundary}, and the checker of task '{name}' reads exactly one step per line. Take "
            "boundary: line, and a PRM that was taught lines."
        )
    if name == "increasing_words":
        from rlstep.tasks.increasing_words import IncreasingWords

        return IncreasingWords()
    if name == "word_problems":
        from rlstep.tasks.word_problems import WordProblems

        return WordProblems()
    if name == "increasing":
        from rlstep.tasks.increasing import Increasing

        return Increasing()
    from rlstep.tasks.arithmetic import Arithmetic

    return Arithmetic()
