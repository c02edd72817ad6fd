"""Best-of-N curves of scored samples (`rlstep.evaluation.samples`).

One of N samples per problem is picked; a curve gives the share of problems where its answer is right:

- NAME, for each score: picks the highest solution score, which is the product of the values per step, their minimum,
  the last, or the mean. `prm` and `orm` are the two that this package trains; for `orm` it is always the last;
- `majority`: the most frequent answer; `weighted`: the answer with the largest sum of PRM solution scores, and
  `weighted_NAME` the same for another score;
- `pass_at_n`: at least one sample is right: the ceiling of every way to pick;
- `prm_clean`, `orm_clean`, `NAME_clean`: the same picks, counted as right only if every step is labelled right as
  well; a step whose label is unknown does not count as right.

A curve is left out if the file lacks its data: votes if the rows have neither answers nor completions, clean picks if
solutions have no labels.

Answers vote together when they are equal by value, as they are graded (`rlstep.steps.answers.group_by_value`): 1/2 and
0.5 are one answer. It is right if more than half of its samples are marked right; normally that is all or none of them,
unless grading fails on some spelling.

A sample without an answer (truncated at the length limit, or no answer could be extracted) is drawn like any other but
is never picked and has no vote, as in the published evaluation of PRM800K; if none of the drawn samples has an answer,
the problem counts as wrong. Intervals are 95%, over problems.
"""

import math

from rlstep.core.aggregate import vote_weight
from rlstep.core.curves import best_of_n, pass_at_n, vote_at_n
from rlstep.core.trace_error import final_answer_error, trace_error
from rlstep.evaluation.samples import ORM, PRM, Samples, ScoredSamples
from rlstep.runtime.progress import track
from rlstep.steps.answers import group_by_value


def best_of_n_curves(scored: ScoredSamples, ns: list[int], trials: int, seed: int) -> dict[str, dict]:
    """Every curve listed in the module docstring that there is data for, as {"mean", "low", "high"}, lists along `ns`.

    Args:
        scored: each problem with at least as many samples as the largest N.
        ns: numbers of samples.
        trials: random draws per problem and N, for the votes.
        seed: seeds these draws.
    """
    problems = list(scored.problems.values())
    correct = [samples.correct for samples in problems]
    has_answers = scored.gives_answers
    answered = [[answer is not None for answer in samples.answers] for samples in problems] if has_answers else None
    scores = {curve: [samples.scores[curve] for samples in problems] for curve in scored.aggregates}

    curves = {curve: best_of_n(values, correct, ns, answered) for curve, values in scores.items()}
    if has_answers:
        votes = list(track((_votes(samples) for samples in problems), "grouping answers", len(problems)))
        groups, right = ([one[part] for one in votes] for part in (0, 1))
        curves["majority"] = vote_at_n(groups, right, ns, trials=trials, seed=seed)
        for curve, how in scored.aggregates.items():
            if curve != ORM:
                weights = [[vote_weight(score, how) for score in row] for row in scores[curve]]
                name = "weighted" if curve == PRM else f"weighted_{curve}"
                curves[name] = vote_at_n(groups, right, ns, weights=weights, trials=trials, seed=seed)
    curves["pass_at_n"] = pass_at_n(correct, ns)
    if scored.has_clean:
        clean = [samples.clean for samples in problems]
        curves |= {f"{curve}_clean": best_of_n(values, clean, ns, answered) for curve, values in scores.items()}
    return {name: {"mean": curve.mean, "low": curve.low, "high": curve.high} for name, curve in curves.items()}


def pick_errors(scored: ScoredSamples, curves: dict[str, dict]) -> dict[str, dict[str, list[float | None]]]:
    """Wrong answers, and right answers on a wrong step, of what each score picks (`rlstep.core.trace_error`).

    Args:
        scored: the samples.
        curves: of `best_of_n_curves`.

    Returns:
        By score, and for `sample`, one that is picked at random: `final_answer_error` and `trace_error`, lists along
        the numbers of samples; a trace error is None where no answer is right. Nothing where steps have no labels.
    """
    if not scored.has_clean:
        return {}
    problems = scored.problems.values()
    means = [[sum(marks) / len(marks) for marks in (samples.correct, samples.clean)] for samples in problems]
    correct, clean = zip(*means, strict=True)
    ns = len(curves["pass_at_n"]["mean"])
    errors = {"sample": _errors([correct] * ns, [clean] * ns)}
    for name in scored.aggregates:
        errors[name] = _errors(*([[mean] for mean in curves[one]["mean"]] for one in (name, f"{name}_clean")))
    return errors


def _errors(correct_NP, clean_NP) -> dict[str, list[float | None]]:
    """For each N, of the problems' probabilities or of their mean."""
    traces = [trace_error(*pair) for pair in zip(correct_NP, clean_NP, strict=True)]
    return {
        "final_answer_error": [final_answer_error(correct) for correct in correct_NP],
        "trace_error": [None if math.isnan(error) else error for error in traces],
    }


def _votes(samples: Samples) -> tuple[list[int | None], list[bool]]:
    """For each sample, the group of answers it votes for, and whether that group's answer is right."""
    groups = group_by_value(samples.answers)
    marks: dict[int | None, list[bool]] = {}
    for group, correct in zip(groups, samples.correct, strict=True):
        marks.setdefault(group, []).append(correct)
    right = {group: 2 * sum(marked) > len(marked) for group, marked in marks.items()}
    return groups, [right[group] for group in groups]


def fewest_samples(problems: dict[str, Samples]) -> tuple[str, int]:
    """(id, number of samples) of the problem with the fewest samples."""
    name = min(problems, key=lambda name: len(problems[name].answers))
    return name, len(problems[name].answers)


def powers_of_two(limit: int) -> list[int]:
    """
    >>> powers_of_two(48)
    [1, 2, 4, 8, 16, 32]
    """
    return [2**k for k in range(limit.bit_length())]


def missing_parts(scored: ScoredSamples) -> list[str]:
    """What the curves leave out, in words."""
    parts = []
    if not scored.aggregates:
        parts.append("best of N (no scores)")
    if not scored.gives_answers:
        parts.append("votes (no answers)")
    if not scored.has_clean and scored.aggregates:
        some = f"{scored.labelled:,} of {scored.rows:,} rows have labels"
        parts.append(f"clean picks ({some if scored.any_label else 'no step is labelled'})")
    return parts
