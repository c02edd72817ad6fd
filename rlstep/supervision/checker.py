"""Labels of a task's exact checker: of every step and of the answer."""

from collections.abc import Iterable

from rlstep.runtime.errors import UserError
from rlstep.steps.records import Solution
from rlstep.tasks.base import Task, checked


def label_solution(task: Task, solution: Solution, path: str) -> Solution:
    """The solution with the checker's steps, labels, answer and correctness.

    Args:
        path: the solutions' file, for messages.

    Raises:
        UserError: the prompt is not of the task, or scores are there that belong to other steps.
    """
    steps = solution.steps
    try:
        checked(task, solution)
    except ValueError as error:
        where = f"{path}, problem '{solution.problem_id}', sample {solution.sample}"
        raise UserError(f"{where}: {error}. Give the task that the problems are of.") from None
    if solution.scores and [tuple(step) for step in steps] != solution.steps:
        raise UserError(
            f"{path}, problem '{solution.problem_id}', sample {solution.sample}: its scores belong to other steps than"
            f" the task {task.name} finds. Label solutions first, then score them."
        )
    return solution


def label_metrics(solutions: Iterable[Solution]) -> dict:
    """Counts and shares over labelled solutions (see `rlstep.stages.label.label`); a share of nothing is None."""
    rows = steps = labelled = right_steps = right = clean = on_wrong_step = unanswered = unfinished = 0
    for solution in solutions:
        labels = [value for value in solution.labels if value is not None]
        rows += 1
        steps += len(solution.labels)
        labelled += len(labels)
        right_steps += sum(value == 1 for value in labels)
        right += solution.correct
        clean += solution.clean
        on_wrong_step += solution.correct and any(value < 1 for value in labels)
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
