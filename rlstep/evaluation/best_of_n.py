"""Best-of-N curves of scored samples (`rlstep.evaluation.samples`).

One of N samples per problem is picked; a curve gives the share of problems where its answer is right:

- NAME, for each score: picks the highest solution score, which is the product of the values per step, their minimum,
  the last, or the mean. `prm` and `orm` are the two that this package trains; for `orm` it is always the last;
- `majority`: the most frequent answer; `weighted`: the answer with the largest sum of PRM solution scores, and
  `weighted_NAME` the same for another score;
- `pass_at_n`: at least one sample is right: the ceiling of every way to pick;
- `prm_clean`, `orm_clean`, `NAME_clean`: the same picks, counted as right only if every step is labelled right as
  well, a soft label of one half or more and a neutral step included; a step whose label is unknown does not count as
  right.

A curve is left out if the file lacks its data: votes if the rows have no answers by which they are graded, clean picks
if solutions have no labels.

Answers vote together when they are equal by value, as they are graded (`rlstep.steps.answers.group_by_value`): 1/2 and
0.5 are one answer. It is right if more than half of its samples are marked right; normally that is all or none of them,
unless grading fails on some spelling.

A sample without an answer (truncated at the length limit, or no answer could be extracted) is drawn like any other but
is never picked and has no vote, as in the published evaluation of PRM800K; if none of the drawn samples has an answer,
the problem counts as wrong. A sample that did not fit into a verifier has that verifier's lowest score: it is picked
after all others, and its vote weighs nothing. Intervals are 95%, over problems.
"""

import math
from functools import partial

import numpy as np

from rlstep.core.aggregate import Aggregate, vote_weight
from rlstep.core.curves import Curve, best_of_n, pass_at_n, vote_at_n
from rlstep.core.trace_error import final_answer_error, trace_error
from rlstep.evaluation.sample_columns import ByProblem, ScoredSamples
from rlstep.evaluation.samples import ORM, PRM
from rlstep.runtime.counted import counted
from rlstep.runtime.errors import UserError
from rlstep.runtime.progress import track
from rlstep.steps.answers import group_by_value


def curves_of(scored: ScoredSamples, ns: list[int], trials: int, seed: int) -> dict[str, Curve]:
    """Every curve listed in the module docstring that there is data for.

    Args:
        scored: each problem with at least as many samples as the largest N.
        ns: numbers of samples.
        trials: random draws per problem and N, for the votes.
        seed: seeds these draws.
    """
    correct, has_answers = scored.by_problem(scored.correct), scored.gives_answers
    answered = scored.by_problem(scored.answers >= 0) if has_answers else None
    scores = {curve: scored.by_problem(values) for curve, values in scored.scores.items()}

    curves = {curve: best_of_n(values, correct, ns, answered) for curve, values in scores.items()}
    if has_answers:
        groups, right = _votes(scored)
        curves["majority"] = vote_at_n(groups, right, ns, trials=trials, seed=seed)
        for curve, how in scored.aggregates.items():
            if curve != ORM:
                to_weights = partial(_weights, how=how, logits=scored.logits)
                weights = scored.by_problem(scored.scores[curve], to_weights)
                name = "weighted" if curve == PRM else f"weighted_{curve}"
                curves[name] = vote_at_n(groups, right, ns, weights=weights, trials=trials, seed=seed)
    curves["pass_at_n"] = pass_at_n(correct, ns)
    if scored.has_clean:
        clean = scored.by_problem(scored.clean)
        curves |= {f"{curve}_clean": best_of_n(values, clean, ns, answered) for curve, values in scores.items()}
    return curves


def means(curves: dict[str, Curve]) -> dict[str, dict]:
    """Each curve as {"mean", "low", "high"}, lists along the numbers of samples, as files and figures have it."""
    return {name: {"mean": curve.mean, "low": curve.low, "high": curve.high} for name, curve in curves.items()}


def pick_errors(scored: ScoredSamples, curves: dict[str, Curve]) -> dict[str, dict[str, list[float | None]]]:
    """Wrong answers, and right answers on a wrong step, of what each score picks (`rlstep.core.trace_error`).

    Args:
        scored: the samples.
        curves: of `curves_of`.

    Returns:
        By score, and for `sample`, one that is picked at random: `final_answer_error` and `trace_error`, lists along
        the numbers of samples; a trace error is None where no answer is right, and where the labels of some right
        answer leave open whether a step is wrong. Nothing where steps have no labels.
    """
    if not scored.has_clean:
        return {}
    correct, clean = (
        [float(part.mean()) for part in scored.by_problem(marks)] for marks in (scored.correct, scored.clean)
    )
    ns = len(curves["pass_at_n"].mean)
    errors = {"sample": _errors([correct] * ns, [clean] * ns)}
    for name in scored.aggregates:
        errors[name] = _errors(*([[mean] for mean in curves[one].mean] for one in (name, f"{name}_clean")))
    if scored.open:
        unknown = {"trace_error": [None] * ns}
        errors = {name: one | unknown for name, one in errors.items()}
    return errors


def _errors(correct_NP, clean_NP) -> dict[str, list[float | None]]:
    """For each N, of the problems' probabilities or of their mean."""
    traces = [trace_error(*pair) for pair in zip(correct_NP, clean_NP, strict=True)]
    return {
        "final_answer_error": [final_answer_error(correct) for correct in correct_NP],
        "trace_error": [None if math.isnan(error) else error for error in traces],
    }


def _votes(scored: ScoredSamples) -> tuple[ByProblem, ByProblem]:
    """For each sample of each problem, the group of answers it votes for, and whether that group's answer is right."""
    group_N, right_N = np.empty(scored.rows, dtype=np.int32), np.empty(scored.rows, dtype=bool)
    parts = zip(scored.by_problem(group_N), scored.by_problem(right_N), strict=True)  # views, which are filled
    samples = zip(scored.by_problem(scored.answers), scored.by_problem(scored.correct), parts, strict=True)
    for answers, correct, (group, right) in track(samples, "grouping answers", len(scored.ids)):
        # No answer is no group, and is marked like the others that have none.
        groups = [-1 if one is None else one for one in group_by_value(scored.spelled(answers))]
        group[:] = groups
        votes, marks = np.bincount(group + 1), np.bincount(group + 1, correct)
        right[:] = (2 * marks > votes)[group + 1]
    return scored.by_problem(group_N, _as_votes), scored.by_problem(right_N)


def _as_votes(groups: np.ndarray) -> list[int | None]:
    return [None if group < 0 else group for group in groups.tolist()]


def _weights(scores: np.ndarray, how: Aggregate, logits: bool) -> list[float]:
    return [vote_weight(score, how, logits) for score in scores.tolist()]


def fewest_samples(scored: ScoredSamples) -> tuple[str, int]:
    """(id, number of samples) of the problem with the fewest samples."""
    fewest = int(scored.sizes.argmin())
    return scored.ids[fewest], int(scored.sizes[fewest])


def check_numbers(scored: ScoredSamples, ns: list[int], data: str) -> None:
    """Refuses an N that is larger than some problem's number of samples; `data` is where they are from.

    Raises:
        UserError: there is such a problem; the message names the one with the fewest samples.
    """
    problem, fewest = fewest_samples(scored)
    if fewest < ns[-1]:
        raise UserError(
            f"{data}: ns asks for best-of-{ns[-1]}, but problem '{problem}' has {counted(fewest, 'sample')}."
            f" Sample at least {ns[-1]} per problem, or give ns up to {fewest}."
        )


def powers_of_two(limit: int) -> list[int]:
    """1, 2, 4, ... up to the limit.

    >>> powers_of_two(48)
    [1, 2, 4, 8, 16, 32]
    """
    return [2**k for k in range(limit.bit_length())]


def missing_parts(scored: ScoredSamples) -> list[str]:
    """What the curves leave out, in words."""
    parts = []
    if not scored.aggregates:
        parts.append("best of N (no scores; if a field holds some, --fields scores.NAME=FIELD)")
    if not scored.gives_answers:
        right = int(scored.correct.sum())
        some = f"{scored.right_unanswered:,} of {right:,} right samples have none"
        parts.append(f"votes ({some if scored.right_unanswered else 'no answers'})")
    if not scored.has_clean and scored.aggregates:
        some = f"{scored.labelled:,} of {scored.rows:,} rows have labels"
        parts.append(f"clean picks ({some if scored.any_label else 'no step is labelled'})")
    if scored.has_clean and scored.open:
        some = f"{scored.open:,} right answers have a step without a label and none that is wrong, or no steps"
        parts.append(f"trace error ({some}; they are not clean)")
    return parts
