"""Problems with exact checkers: embedded tasks, some of them in words for chat models, GSM8K and MATH."""

from rlstep.runtime.errors import UserError
from rlstep.tasks.base import Task

NAMES = ("arithmetic", "increasing", "increasing_words", "word_problems", "gsm8k", "math")


def get(name: str, path: str | None = None) -> Task:
    """The task of that name.

    Args:
        name: one of `NAMES`.
        path: the data of a task with published problems: a folder, a file, or a hub id. Tasks that generate their
            problems take none.
    """
    if name not in NAMES:
        raise UserError(f"no task '{name}'; there are {', '.join(NAMES)}.")
    if name == "gsm8k":
        from rlstep.tasks.gsm8k import GSM8K

        return GSM8K(path)
    if name == "math":
        from rlstep.tasks.math import MATH

        return MATH(path)
    if path:
        raise UserError(f"task '{name}' generates its problems and takes no task_path, but '{path}' was given.")
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
