"""Searches beside best-of-N at equal generated tokens.

A search (`rlstep sample --search`) of N beams takes more tokens than N samples or fewer, so equal N compares nothing.
Here a search that takes T tokens per problem is compared with best-of-n of independent samples that take m tokens each,
at n = T / m. Where n is no whole number, the samples are as many as the next lower number or the next higher one, in
such shares that they take T on average: their accuracy is the line between the two. Both numbers are exact, or averaged
over many draws (`rlstep.core.curves`); of no samples no answer is right.

Both sides have the same problems, so the interval of the difference is that of the differences per problem. All
intervals are 95%, over problems.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import numpy as np

from rlstep.core.curves import Curve
from rlstep.core.stats import Interval, normal_margin
from rlstep.evaluation.best_of_n import curves_of, fewest_samples
from rlstep.evaluation.sample_columns import ScoredSamples
from rlstep.evaluation.sample_rows import sample_rows
from rlstep.evaluation.samples import ScoreChoice, read_samples
from rlstep.evaluation.scored_rows import expect, problem_id_of, text_of
from rlstep.runtime.counted import counted
from rlstep.runtime.errors import UserError
from rlstep.steps.answers import same_answer
from rlstep.steps.sources import iter_rows

TOKENS = "generated_tokens"


@dataclass
class Taken:
    """What the samples of a problem took.

    Attributes:
        samples: their number.
        tokens: generated for all of them.
        reference: the problem's right answer, where the first row has one.
    """

    samples: int
    tokens: int
    reference: str | None


@dataclass(frozen=True)
class CountedSamples:
    """A file's samples, and the tokens that were generated for them.

    Attributes:
        path: the file.
        scored: the samples.
        taken: by problem.
    """

    path: str
    scored: ScoredSamples
    taken: dict[str, Taken]

    @property
    def tokens_per_problem(self) -> Fraction:
        """Generated for all samples of a problem, on average over problems."""
        return Fraction(sum(one.tokens for one in self.taken.values()), len(self.taken))

    @property
    def tokens_per_sample(self) -> Fraction:
        """Generated for a sample, on average over the samples of a problem and then over problems."""
        return sum(Fraction(one.tokens, one.samples) for one in self.taken.values()) / len(self.taken)


def read_taken(path: str | Path, fields: dict[str, str] | None = None) -> dict[str, Taken]:
    """By problem what its samples took.

    Args:
        path: a file of samples, or a folder of shards.
        fields: our names of fields -> the file's.

    Raises:
        DataError: a row does not say how many tokens were generated for it.
    """
    taken: dict[str, Taken] = {}
    for row in (sample for one in iter_rows(path) for sample in sample_rows(one, fields or {})):
        tokens = row.values.get(TOKENS)
        if tokens is None:
            problem = (
                "missing, and samples are compared at equal generated tokens. `rlstep sample` writes it, unless a "
                "server is sent text; sample the file again, or leave search_data out."
            )
            raise row.fault(TOKENS, problem)
        expect(row, TOKENS, tokens, (int,), "a whole number")
        if tokens < 0:
            raise row.fault(TOKENS, f"expected a whole number from 0, got {tokens}.")
        one = taken.setdefault(problem_id_of(row), Taken(0, 0, text_of(row, "reference")))
        one.samples, one.tokens = one.samples + 1, one.tokens + tokens
    if not any(one.tokens for one in taken.values()):
        raise UserError(f"{path}: no tokens were generated for any sample, so there is nothing to compare them at.")
    return taken


def read_search(path: str, choice: ScoreChoice, data: CountedSamples) -> CountedSamples:
    """The solutions of a search over the problems of `data`.

    Raises:
        DataError: a row cannot be used.
        UserError: they are of other problems, or not equally many of each, or have none of the scores of `data`.
    """
    search = CountedSamples(path, read_samples(path, choice), read_taken(path))
    _check_problems(data, search)
    problem, fewest = fewest_samples(search.scored)
    if fewest < search.scored.sizes.max():
        most = int(search.scored.sizes.max())
        raise UserError(
            f"{path}: problem '{problem}' has {counted(fewest, 'solution')} and others {most}; a search gives each N."
        )
    if not search.scored.scores.keys() & data.scored.scores.keys():
        names = [", ".join(one.scored.scores) or "none" for one in (search, data)]
        raise UserError(
            f"{path} has the scores {names[0]}, and {data.path} has {names[1]}: there is none by which both are "
            "picked. Score the samples with the search's PRM (`rlstep score`), or name its scores with prm."
        )
    return search


def _check_problems(data: CountedSamples, search: CountedSamples) -> None:
    for one, other in ((search, data), (data, search)):
        if missing := [name for name in one.taken if name not in other.taken]:
            raise UserError(
                f"{other.path} has no problem '{missing[0]}', which {one.path} has ({len(missing):,} such): both need "
                "the same problems."
            )
    for name, one in search.taken.items():
        first = data.taken[name].reference
        if None in (first, one.reference) or first == one.reference:
            continue
        if not same_answer(one.reference, first):
            raise UserError(
                f"the answer to problem '{name}' is {first} in {data.path} and {one.reference} in {search.path}: they "
                "are of different tasks."
            )


def equal_tokens(data: CountedSamples, searches: dict[str, CountedSamples], trials: int, seed: int) -> dict:
    """Each search beside best-of-n at its tokens.

    Args:
        data: independent samples.
        searches: by name, of the same problems.
        trials, seed: of the votes, as in `rlstep.evaluation.best_of_n.curves_of`.

    Returns:
        {"tokens_per_sample", "problems", "searches": {name: figures}}, where figures are {"solutions" per problem,
        "tokens" per problem, "n", "accuracy"}, and the accuracy is by curve {"search", "best_of_n", "difference"}, each
        {"mean", "low", "high"}; "n" and the last two are None where all samples took fewer tokens than the search.
    """
    result = {"tokens_per_sample": float(data.tokens_per_sample), "problems": len(data.taken), "searches": {}}
    for name, search in searches.items():
        result["searches"][name] = _figures(data, search, trials, seed)
    return result


def _figures(data: CountedSamples, search: CountedSamples, trials: int, seed: int) -> dict:
    solutions = fewest_samples(search.scored)[1]
    # Exact: rounded, a search that takes what N samples take would seem to take more than all of them.
    exact = search.tokens_per_problem / data.tokens_per_sample
    n = float(exact) if exact <= fewest_samples(data.scored)[1] else None
    searched = curves_of(search.scored, [solutions], trials, seed)
    order = [search.scored.ids.index(name) for name in data.scored.ids]
    samples = _accuracy_at(data.scored, n, trials, seed) if n is not None else {}
    names = [name for name in searched if name in samples] if n is not None else [*searched]
    accuracy = {}
    for name in names:
        searched_P = searched[name].problems_PN[order, 0]
        picked_P = samples.get(name)
        accuracy[name] = {
            "search": _interval(searched_P),
            "best_of_n": None if picked_P is None else _interval(picked_P),
            "difference": None if picked_P is None else _interval(searched_P - picked_P, low=-1),
        }
    return {"solutions": solutions, "tokens": float(search.tokens_per_problem), "n": n, "accuracy": accuracy}


def _accuracy_at(scored: ScoredSamples, n: float, trials: int, seed: int) -> dict[str, np.ndarray]:
    """By curve, (P,) each problem's accuracy with n samples on average."""
    below, above = math.floor(n), math.ceil(n)
    ns = sorted({number for number in (below, above) if number})
    if not ns:
        return {}
    curves: dict[str, Curve] = curves_of(scored, ns, trials, seed)

    def at(curve: Curve, number: int) -> np.ndarray:
        return curve.problems_PN[:, ns.index(number)] if number else np.zeros(len(curve.problems_PN))

    share = n - below
    return {name: (1 - share) * at(curve, below) + share * at(curve, above) for name, curve in curves.items()}


def _interval(values_P: np.ndarray, low: float = 0.0) -> dict[str, float | None]:
    """A mean over problems with its interval, within [low, 1]; one problem has none."""
    mean = float(values_P.mean())
    if len(values_P) == 1:
        return Interval(mean, None, None)._asdict()
    margin = float(normal_margin(values_P[:, None])[0])
    return Interval(mean, max(mean - margin, low), min(mean + margin, 1.0))._asdict()


def token_axis(data: CountedSamples, ns: Sequence[int]) -> list[float]:
    """The tokens per problem that numbers of samples take."""
    return [n * float(data.tokens_per_sample) for n in ns]
