"""Labels of a task's exact checker: of every step and of the answer. Labels that are there already are never lost."""

from collections.abc import Iterable
from dataclasses import replace

from rlstep.runtime.errors import UserError
from rlstep.steps.answers import same_answer
from rlstep.steps.records import Solution
from rlstep.steps.trees import Beginnings
from rlstep.tasks.base import OTHER_TASK, Task, checked


def has_step_labels(solution: Solution) -> bool:
    """Whether its steps were judged before, by a person or by another labelling."""
    return bool(solution.neutral) or any(label is not None for label in solution.labels or ())


def refuse_step_labels(solution: Solution, path: str) -> None:
    """Refuses a solution whose step labels others would replace.

    Raises:
        UserError: it has labels.
    """
    if has_step_labels(solution):
        raise UserError(
            f"{name_of(solution, path)}: it has step labels already, and new ones would replace them. Keep them and set"
            " the answers alone with labelled: keep, or give solutions without labels."
        )


def label_solution(task: Task, solution: Solution, path: str) -> Solution:
    """The solution with the checker's steps, labels, answer and correctness; the first two only where it has no labels.

    Args:
        path: the solutions' file, for messages.

    Raises:
        UserError: the prompt is not of the task, there is no reference answer, or scores are there that belong to other
            steps.
    """
    where = name_of(solution, path)
    if not solution.reference.strip():
        raise UserError(f"{where}: it has no reference answer, so its answer cannot be graded.")
    try:
        relabelled = checked(task, replace(solution))
    except ValueError as error:
        raise UserError(f"{where}: {error}. {OTHER_TASK}") from None
    if has_step_labels(solution):
        return _graded(solution, relabelled)
    if solution.scores and [tuple(step) for step in solution.steps] != relabelled.steps:
        raise UserError(
            f"{where}: its scores belong to other steps than the task {task.name} finds. Label solutions first, then "
            "score them."
        )
    return relabelled


def grade_solution(task: Task, solution: Solution, path: str) -> Solution:
    """As `label_solution`, but a solution without step labels gets none: another labeller gives them.

    Raises:
        UserError: as `label_solution`.
    """
    relabelled = label_solution(task, solution, path)
    if has_step_labels(solution):
        return relabelled
    return replace(relabelled, labels=[None] * len(relabelled.steps))


def _graded(solution: Solution, relabelled: Solution) -> Solution:
    """The solution with its own labels; its answer and correctness are the checker's."""
    if relabelled.answer is None and solution.answer is not None:
        # The data set says it in a form of its own.
        return replace(solution, correct=same_answer(solution.answer, solution.reference))
    if relabelled.answer is None and not solution.finished:
        return solution  # only its labelling ended there: it is not a failed attempt
    return replace(solution, answer=relabelled.answer, correct=relabelled.correct)


def name_of(solution: Solution, path: str) -> str:
    """A solution as error messages name it."""
    return f"{path}, problem '{solution.problem_id}', sample {solution.sample}"


def label_metrics(solutions: Iterable[Solution]) -> dict:
    """Counts and shares over labelled solutions (see `rlstep.stages.label.label`); a share of nothing is None."""
    beginnings = Beginnings()
    rows = steps = labelled = right_steps = right = clean = on_wrong_step = unanswered = unfinished = 0
    for solution in solutions:
        own = solution.verdicts[beginnings.take(solution) :]
        rows += 1
        steps += len(own)
        labelled += len(own) - own.count(None)
        right_steps += own.count(True)
        right += bool(solution.correct)
        clean += solution.clean
        on_wrong_step += bool(solution.correct) and False in solution.verdicts
        unanswered += solution.answer is None
        unfinished += not solution.finished

    def share(part: int, whole: int) -> float | None:
        return part / whole if whole else None

    return {
        "rows": rows,
        "steps": steps,
        "labelled_steps": labelled,
        "step_accuracy": share(right_steps, labelled),
        "accuracy": share(right, rows),
        "clean_accuracy": share(clean, rows),
        "right_on_wrong_step": share(on_wrong_step, right),
        "unanswered": share(unanswered, rows),
        "unfinished": share(unfinished, rows),
    }
