"""Best-of-N by domain, at one N: how far verifiers generalise (Lightman et al., 2305.20050, Table 1).

A domain is a file of scored samples, or the rows with the same value in one field. Its figures are those of its curves
(`rlstep.evaluation.best_of_n`) at N; those of all domains together count every problem once.
"""

from collections.abc import Sequence
from os.path import commonprefix
from pathlib import Path

from rlstep.core.curves import Curve, pooled
from rlstep.evaluation.best_of_n import curves_of, fewest_samples
from rlstep.evaluation.sample_columns import ScoredSamples
from rlstep.evaluation.samples import ScoreChoice, read_parts, read_samples
from rlstep.evaluation.scored_rows import expect
from rlstep.runtime.counted import counted
from rlstep.runtime.errors import UserError
from rlstep.steps.fields import value_at
from rlstep.steps.sources import Row, stem

ALL = "all"
EXTRA = "extra"


def file_domains(paths: Sequence[str]) -> dict[str, str]:
    """The name of each file's domain -> the file: the part of its path that the others lack, without the ending.

    >>> file_domains(["ood/calculus.jsonl", "ood/physics.parquet"])
    {'calculus': 'ood/calculus.jsonl', 'physics': 'ood/physics.parquet'}
    >>> list(file_domains(["runs/calculus/scored.jsonl", "runs/physics/scored.jsonl"]))
    ['calculus', 'physics']

    Raises:
        UserError: two files have the same name.
    """
    parts = [(*Path(path).parts[:-1], stem(Path(path).name)) for path in paths]
    for index, path in enumerate(parts):
        if path in parts[:index]:
            raise UserError(
                f"data has {paths[parts.index(path)]} and {paths[index]}, two domains of the same name; give each"
                " domain one file or folder, with a name of its own"
            )
    shortest = min(map(len, parts))
    # At least one part is left of each.
    first = min(len(commonprefix(parts)), shortest - 1)
    last = min(len(commonprefix([path[::-1] for path in parts])), shortest - 1 - first)
    return {"/".join(path[first : len(path) - last]): given for path, given in zip(parts, paths, strict=True)}


def read_domains(
    paths: Sequence[str], choice: ScoreChoice, fields: dict[str, str] | None = None, domain: str | None = None
) -> dict[str, ScoredSamples]:
    """The samples of each domain, in the order of the files or of the domains' first rows.

    Args:
        paths: files of scored samples, or folders of shards.
        choice: which scores to use.
        fields: our names of fields -> the files'.
        domain: the field that names a row's domain, as it is called in the files or within their `extra`; None: each
            file is a domain.

    Raises:
        DataError: a row without a domain, or one that `rlstep.evaluation.samples.read_samples` refuses.
        UserError: domains with different scores, a domain called `all`, two files of the same name.
    """
    if domain is None:
        domains = {name: read_samples(path, choice, fields) for name, path in file_domains(paths).items()}
    else:
        domains = read_parts(paths, choice, fields, lambda row: _domain_of(row, domain))
    if ALL in domains:
        raise UserError(f"a domain is called '{ALL}', as the row of all domains together is; give it another name.")
    first, *others = domains
    for name in others:
        if set(domains[name].scores) != set(domains[first].scores):
            raise UserError(
                f"the domain '{first}' has {_listed(domains[first])}, the domain '{name}' {_listed(domains[name])}."
                " Score all of them with the same verifiers, or choose scores that all have with scores_of."
            )
    return domains


def check_samples(domains: dict[str, ScoredSamples], n: int) -> None:
    """Refuses problems with fewer than `n` samples.

    Raises:
        UserError: the first domain that has one, and the largest N that all of them allow.
    """
    fewest = {name: fewest_samples(scored) for name, scored in domains.items()}
    for name, (problem, samples) in fewest.items():
        if samples < n:
            raise UserError(
                f"n is {n}, but problem '{problem}' of the domain '{name}' has "
                f"{counted(samples, 'sample')}. Sample at least {n} per problem, "
                f"or give n up to {min(count for _, count in fewest.values())}."
            )


def domain_figures(domains: dict[str, ScoredSamples], n: int, trials: int, seed: int) -> dict:
    """The figures of each domain, and of all of them.

    Args:
        domains: each problem with at least `n` samples.
        n: the number of samples.
        trials, seed: of the votes, as in `rlstep.evaluation.best_of_n.curves_of`.

    Returns:
        {"n", "domains": {name: figures}, "all": figures}, where figures are {"problems", "solutions", "accuracy"}, and
        the accuracy is by curve {"mean", "low", "high"}. For all, there are those curves that every domain has.
    """
    by_domain = {name: curves_of(scored, [n], trials, seed) for name, scored in domains.items()}
    first = next(iter(by_domain.values()))
    common = [curve for curve in first if all(curve in curves for curves in by_domain.values())]
    together = {curve: pooled([curves[curve] for curves in by_domain.values()]) for curve in common}
    return {
        "n": n,
        "domains": {name: _figures([domains[name]], curves) for name, curves in by_domain.items()},
        ALL: _figures([*domains.values()], together),
    }


def _figures(scored: Sequence[ScoredSamples], curves: dict[str, Curve]) -> dict:
    accuracy = {
        name: {"mean": curve.mean[0], "low": curve.low[0], "high": curve.high[0]} for name, curve in curves.items()
    }
    problems, solutions = sum(len(one.ids) for one in scored), sum(one.rows for one in scored)
    return {"problems": problems, "solutions": solutions, "accuracy": accuracy}


def _domain_of(row: Row, field: str) -> str:
    for place in (field, f"{EXTRA}.{field}"):
        try:
            value = value_at(row.values, place)
        except KeyError:
            continue
        name = str(expect(row, place, value, (str, int), "the domain, text or a whole number")).strip()
        if not name:
            raise row.fault(place, "blank; it is to name the row's domain.")
        return name
    there = ", ".join(sorted(row.values))
    if isinstance(extra := row.values.get(EXTRA), dict) and extra:
        there += f"; its {EXTRA} has {', '.join(sorted(extra))}"
    raise row.fault(field, f"missing; it is to name the row's domain. The row has {there}.")


def _listed(scored: ScoredSamples) -> str:
    return f"the scores {', '.join(sorted(scored.scores))}" if scored.scores else "no scores"
