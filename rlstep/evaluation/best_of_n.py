"""Best-of-N curves of scored and labelled solutions.

From N samples of a problem one is picked; a curve gives the share of problems where the pick's answer is right:

- `prm`: the pick has the highest PRM solution score (product of the step probabilities, their minimum, the last, or
  the mean);
- `orm`: the pick has the highest ORM score, its value at the solution's end;
- `majority`: the most frequent answer; `weighted`: the answer with the largest sum of PRM solution scores;
- `pass_at_n`: some sample is right: the ceiling of every way to pick;
- `prm_clean`, `orm_clean`: the picks of `prm` and `orm`, counted only where every step is labelled right as well; a
  step whose label is unknown does not count as right.

A sample without an answer (`answer` is null: the length limit cut it off, or no answer could be read in it) is drawn
like any other but never picked and has no vote, as in the published evaluation of PRM800K; where a draw holds no
answer at all, the problem counts as wrong. Intervals are 95%, over problems.
"""

import math
from dataclasses import dataclass, field
from pathlib import Path

from rlstep.core.aggregate import Aggregate, solution_score, vote_weight
from rlstep.core.curves import best_of_n, pass_at_n, vote_at_n
from rlstep.runtime.errors import DataError
from rlstep.steps.labels import UNKNOWN, LabelPolicy
from rlstep.steps.records import Solution, iter_solutions
from rlstep.steps.trees import Beginnings
from rlstep.verifiers.metrics import RowScores

# After the first wrong step a PRM says what it was not taught.
TAUGHT = LabelPolicy(after_first_error="mask")


@dataclass
class Samples:
    """The samples of one problem, field by field; only what the curves need, so that large files fit in memory.

    Attributes:
        answers: as text; None where there is none.
        correct: whether the answer is right.
        clean: whether every step is right as well.
        prm: solution scores of the PRM.
        orm: values of the ORM at the solutions' ends.
        steps: the PRM's step scores, with the labels that it was taught.
    """

    answers: list[str | None] = field(default_factory=list)
    correct: list[bool] = field(default_factory=list)
    clean: list[bool] = field(default_factory=list)
    prm: list[float] = field(default_factory=list)
    orm: list[float] = field(default_factory=list)
    steps: list[RowScores] = field(default_factory=list)


def read_samples(path: str | Path, prm: str, orm: str, aggregate: Aggregate) -> dict[str, Samples]:
    """A file's solutions, by problem.

    Args:
        path: JSONL of labelled solutions.
        prm: name of the PRM's scores.
        orm: name of the ORM's scores.
        aggregate: how the PRM's step scores become the solution's.

    Raises:
        DataError: a row without labels or one of the scores, scores that are not probabilities, or a sample given
            twice.
    """
    problems: dict[str, Samples] = {}
    first_rows: dict[tuple[str, int], int] = {}
    beginnings = Beginnings()
    solutions = iter_solutions(path, need=("steps", "labels", "correct"))
    for row, solution in enumerate(solutions, start=1):
        key = (solution.problem_id, solution.sample)
        if key in first_rows:
            problem = f"sample {solution.sample} of '{solution.problem_id}' stands in row {first_rows[key]} already."
            raise DataError(path, row, "sample", problem)
        first_rows[key] = row
        samples = problems.setdefault(solution.problem_id, Samples())
        samples.answers.append(solution.answer)
        samples.correct.append(solution.correct)
        samples.clean.append(solution.clean)
        samples.prm.append(_score(solution, prm, aggregate, path, row))
        samples.orm.append(_score(solution, orm, "last", path, row))
        targets = [math.nan if target == UNKNOWN else target for target in TAUGHT.targets(solution)]
        samples.steps.append(RowScores(solution.scores[prm], targets, solution.problem_id, beginnings.take(solution)))
    return problems


def _score(solution: Solution, name: str, how: Aggregate, path: str | Path, row: int) -> float:
    if name not in solution.scores:
        present = ", ".join(sorted(solution.scores)) or "none"
        problem = f"missing (scores present: {present}); run `rlstep score --name {name}` on this file first."
        raise DataError(path, row, f"scores.{name}", problem)
    try:
        return solution_score(solution.scores[name], how)
    except (TypeError, ValueError) as error:
        raise DataError(path, row, f"scores.{name}", str(error)) from None


def best_of_n_curves(
    problems: list[Samples], ns: list[int], aggregate: Aggregate, trials: int, seed: int
) -> dict[str, dict]:
    """Every curve of the module's head as {"mean", "low", "high"}, lists along `ns`.

    Args:
        problems: each with as many samples as the largest N, or more.
        ns: numbers of samples.
        aggregate: how the PRM's solution scores were made, which says what they weigh in a vote.
        trials: random draws per problem and N, for the two votes.
        seed: of these draws.
    """
    correct = [samples.correct for samples in problems]
    clean = [samples.clean for samples in problems]
    answers = [samples.answers for samples in problems]
    answered = [[answer is not None for answer in samples.answers] for samples in problems]
    prm = [samples.prm for samples in problems]
    orm = [samples.orm for samples in problems]
    weights = [[vote_weight(score, aggregate) for score in scores] for scores in prm]
    curves = {
        "prm": best_of_n(prm, correct, ns, answered),
        "orm": best_of_n(orm, correct, ns, answered),
        "majority": vote_at_n(answers, correct, ns, trials=trials, seed=seed),
        "weighted": vote_at_n(answers, correct, ns, weights=weights, trials=trials, seed=seed),
        "pass_at_n": pass_at_n(correct, ns),
        "prm_clean": best_of_n(prm, clean, ns, answered),
        "orm_clean": best_of_n(orm, clean, ns, answered),
    }
    return {name: {"mean": curve.mean, "low": curve.low, "high": curve.high} for name, curve in curves.items()}
