"""Step labels by a teacher, a PRM that is better than the one to be trained: "Let's Verify Step by Step"'s PRM_large.

A step is wrong where the probability of that is above a threshold, 0.20 in the paper (2305.20050, appendix H). A PRM
gives p, the probability that a step is right, neutral ones included, so that of wrong is 1 - p. Labels go up to and
including the first wrong step. The outcome, if the teacher gives that as well, is right where it passes every step.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from rlstep.core.first_error import NONE, first_error, labels_to_first_error
from rlstep.runtime.errors import UserError
from rlstep.steps.boundaries import Boundary
from rlstep.steps.prompt_options import written_as
from rlstep.steps.records import Solution
from rlstep.supervision.checker import has_step_labels, name_of
from rlstep.supervision.options import TeacherOptions

if TYPE_CHECKING:  # imports torch, which teachers in the file do not need
    from rlstep.verifiers.interface import Verifier


class TeacherLabels:
    """Labels solutions by a teacher's probabilities, given or in the file.

    Args:
        options: threshold, outcome, and where probabilities come from.
        verifier: scores steps; None where the file has scores.
        path: the solutions' file, for messages.
    """

    def __init__(self, options: TeacherOptions, verifier: "Verifier | None", path: str):
        self.options, self.verifier, self.path = options, verifier, path

    def label(self, solutions: Sequence[Solution]) -> Iterator[Solution]:
        """The solutions with labels, where they have none of their own, and with the teacher's outcome if it is asked.

        Args:
            solutions: with steps, graded.

        Raises:
            UserError: a solution is too long for the teacher, was sampled with prompts that it cannot read, or lacks
                scores.
        """
        by_outcome = self.options.outcome_by == "teacher"
        to_score = [one for one in solutions if by_outcome or not has_step_labels(one)]
        probs = iter(self._scores(to_score) if to_score else ())
        for solution in solutions:
            own = has_step_labels(solution)
            if own and not by_outcome:
                yield solution
                continue
            # Rounded: 1 - 0.7 is a little above 0.3, and p of 0.3 would be wrong with a probability of 0.7.
            first = first_error(next(probs), round(1 - self.options.p_negative, 12))
            if not own:
                solution = replace(solution, labels=labels_to_first_error(first, len(solution.steps)))
            # Nothing that was cut off, or only talks, is a right solution, however good its steps.
            passed = first == NONE and solution.answer is not None
            yield replace(solution, correct=passed) if by_outcome else solution

    def _scores(self, solutions: Sequence[Solution]) -> Sequence[Sequence[float]]:
        if self.verifier is None:
            return [self._score_in_file(solution) for solution in solutions]
        taught, written = self.verifier.prompt_format, written_as(solutions)
        if taught is not None and written is not None and (difference := taught.difference(written)):
            raise UserError(
                f"the teacher was taught {difference}, with which solutions of this file were sampled (problem "
                f"'{solutions[0].problem_id}' and others). Take one that reads prompts of this kind."
            )
        # Here, because a teacher in the file needs no torch.
        from rlstep.verifiers.scoring.scorer import TooLong

        columns = ([getattr(one, name) for one in solutions] for name in ("prompt", "completion", "steps"))
        try:
            return self.verifier.score(*columns)
        except TooLong as error:
            raise UserError(f"{name_of(solutions[error.row], self.path)}: {error.problem}") from None

    def _score_in_file(self, solution: Solution) -> Sequence[float]:
        name, where = self.options.teacher_score, name_of(solution, self.path)
        if name not in solution.scores:
            present = ", ".join(sorted(solution.scores)) or "none"
            raise UserError(
                f"{where}: it has no scores '{name}' (there are: {present}). Run `rlstep score --name {name}` on the "
                "file first, or give the teacher's path."
            )
        if None in solution.scores[name]:
            raise UserError(
                f"{where}: a step has no score '{name}', because the solution did not fit into the verifier. Score "
                "with on_long_row: skip, or give a teacher that reads it whole."
            )
        if not all(0 <= p <= 1 + 1e-6 for p in solution.scores[name]):
            raise UserError(f"{where}: its scores '{name}' are no probabilities from 0 to 1; a teacher's are.")
        return solution.scores[name]


def open_teacher(options: TeacherOptions, boundary: Boundary) -> "Verifier | None":
    """The PRM that the options name; None where its scores are in the file.

    Raises:
        UserError: it cannot be loaded or reached, is no PRM of steps, or was taught other steps.
    """
    if options.teacher is None:
        return None
    # Here, because the other labellers need no verifier.
    from rlstep.verifiers.load import load_verifier
    from rlstep.verifiers.serving.addresses import is_url

    remote = is_url(options.teacher)
    dtype = None if options.dtype == "auto" else options.dtype
    own = {} if remote else {"boundary": boundary}
    teacher = load_verifier(options.teacher, dtype=dtype, trust_remote_code=options.trust_remote_code, **own)
    if teacher.kind != "prm":
        raise UserError(f"{options.teacher} is an ORM: it scores beginnings, not steps. Give a PRM.")
    if remote and teacher.boundary != boundary:
        raise UserError(
            f"{options.teacher} was taught steps by {teacher.boundary}, and boundary is {boundary}. Set the boundary "
            "to the teacher's."
        )
    return teacher
