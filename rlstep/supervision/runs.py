"""Runs of the labellers over a file: a teacher, a judge, the consensus of two; a kill spares what is written."""

from collections.abc import Iterator
from dataclasses import replace
from itertools import islice

from rlstep.runtime.errors import UserError
from rlstep.runtime.progress import track
from rlstep.runtime.rows import ResumableRows, write_rows
from rlstep.steps.records import Solution, iter_solutions
from rlstep.supervision.checker import grade_solution, has_step_labels, label_metrics
from rlstep.supervision.consensus import Consensus
from rlstep.supervision.judge import JudgedLabels, open_judge
from rlstep.supervision.options import ConsensusOptions, JudgeOptions, TeacherOptions
from rlstep.supervision.teacher import TeacherLabels, open_teacher
from rlstep.tasks.base import Task

# Rows that a teacher scores together and that are made durable together.
CHUNK = 256


def by_teacher(options: TeacherOptions, data: str, task: Task, rows: ResumableRows, total: int) -> dict:
    """Labels by a PRM; returns their metrics.

    Args:
        options: which, and how its probabilities become labels.
        data: the solutions' file, of `total` rows.
        task: grades answers, and says what a step is.
        rows: takes the labelled solutions in order; those of an earlier run are there.
    """
    done = len(rows.rows)
    if done < total:
        teacher = TeacherLabels(options, open_teacher(options, task.boundary), data)
        for chunk in track(_chunks(data, done), "labelling", total, done, weight=len):
            graded = [grade_solution(task, solution, data) for solution in chunk]
            rows.append(solution.to_row() for solution in teacher.label(graded))
    rows.finish()
    return label_metrics(Solution(**row) for row in rows.rows)


def by_judge(options: JudgeOptions, data: str, task: Task, journal: ResumableRows, total: int) -> dict:
    """Labels by a chat model; as long as it runs, the journal holds the verdicts that were given.

    Args:
        options, data, task, total: as in `by_teacher`.
        journal: of `JudgedLabels`.
    """
    given = track(iter_solutions(data), "grading", total)
    solutions = [grade_solution(task, solution, data) for solution in given]
    unlabelled = [row for row, solution in enumerate(solutions) if not has_step_labels(solution)]
    judged = JudgedLabels([solutions[row] for row in unlabelled], options, journal, data)
    if judged.open:
        judged.run(open_judge(options))
    judged.warn_of_unread()
    for row, labels in zip(unlabelled, judged.labels(), strict=True):
        solutions[row] = replace(solutions[row], labels=labels)
    journal.finish(solution.to_row() for solution in solutions)
    return label_metrics(solutions) | judged.metrics()


def by_consensus(options: ConsensusOptions, data: str, rows: ResumableRows) -> dict:
    """Keeps the solutions whose first error another file of labels sees at the same place.

    Raises:
        UserError: as `Consensus.compare`; or there are none.
    """
    consensus = Consensus(data, options.other)
    kept: list[Solution] = []
    aside: list[Solution] = []
    for solution, agreed in track(consensus.compare(), "comparing", None):
        (kept if agreed else aside).append(solution)
    if options.disagreements is not None:
        write_rows(options.disagreements, (solution.to_row() for solution in aside))
    metrics = label_metrics(kept) | consensus.metrics()
    if not kept:
        raise UserError(
            f"{data} and {options.other} agree on no solution: {metrics['compared']} were compared, and of "
            f"{metrics['undecided']} a labeller leaves the first error open."
        )
    rows.finish(solution.to_row() for solution in kept)
    return metrics


def _chunks(data: str, done: int) -> Iterator[list[Solution]]:
    todo = islice(iter_solutions(data), done, None)
    while chunk := list(islice(todo, CHUNK)):
        yield chunk
