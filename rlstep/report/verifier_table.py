"""The tables of `rlstep bench`: verifiers side by side, and the parts of each published benchmark."""

from collections.abc import Iterator

from rlstep.evaluation.verifier_bench import BEST_OF_N, PRMBENCH, PROCESSBENCH
from rlstep.report.tables import number, table

UNDEFINED = {
    PROCESSBENCH: "A subset's F1 needs solutions with a wrong step and solutions without one, and a threshold.",
    PRMBENCH: "A score needs steps that are right and steps that are wrong.",
}


def headline(benchmark: str, figures: dict) -> tuple[float, float | None, float | None]:
    """A benchmark's one figure: the mean of subsets, all of PRMBench, or best-of-N at the largest N."""
    if benchmark.startswith(BEST_OF_N):
        return tuple(figures["best_of_n"][part][-1] for part in ("mean", "low", "high"))
    figure = figures["average" if benchmark == PROCESSBENCH else "overall"]
    return figure["score"], figure["low"], figure["high"]


def verifier_table(figures: dict[str, dict[str, dict]], votes: dict[str, dict]) -> str:
    """Verifiers in rows, benchmarks in columns; for best-of-N also the majority and the ceiling. Then each one's parts.

    Args:
        figures: by verifier and benchmark, as in bench.json.
        votes: by best-of-N benchmark, the curves that need no verifier.
    """
    benchmarks = list(next(iter(figures.values())))
    heads = ["verifier", *(_head(benchmark, figures) for benchmark in benchmarks)]
    rows = [[model, *(number(*headline(name, of[name]), digits=3) for name in benchmarks)]
            for model, of in figures.items()]  # fmt: skip
    for vote, words in (("majority", "(majority vote)"), ("pass_at_n", "(any sample right)")):
        curves = [votes.get(benchmark, {}).get(vote) for benchmark in benchmarks]
        if any(curves):
            ends = [number(*(curve[part][-1] for part in ("mean", "low", "high")), digits=3) if curve else "-"
                    for curve in curves]  # fmt: skip
            rows.append([words, *ends])
    return "\n\n".join([table(heads, rows), *_details(figures)])


def _head(benchmark: str, figures: dict[str, dict[str, dict]]) -> str:
    if benchmark == PROCESSBENCH:
        return "ProcessBench, F1"
    if benchmark == PRMBENCH:
        return "PRMBench, score"
    n = next(iter(figures.values()))[benchmark]["ns"][-1]
    return f"best of {n}, {benchmark.removeprefix(BEST_OF_N + ': ')}"


def _details(figures: dict[str, dict[str, dict]]) -> Iterator[str]:
    """A table of the parts of each published benchmark, with the thresholds that were used."""
    for benchmark in (PROCESSBENCH, PRMBENCH):
        of_each = {model: of[benchmark] for model, of in figures.items() if benchmark in of}
        if not of_each:
            continue
        parts = list(next(iter(of_each.values())))
        rows = []
        for model, measures in of_each.items():
            limits = sorted({limit for measure in measures.values() for limit in measure["thresholds"]})
            scores = [number(*(measures[part][end] for end in ("score", "low", "high"))) for part in parts]
            rows.append([model, *scores, ", ".join(f"{limit:.3g}" for limit in limits)])
        counts = [f"{part} ({next(iter(of_each.values()))[part]['solutions']:,})" for part in parts]
        yield table([benchmark, *counts, "thresholds"], rows)
        undefined = [part for part in parts if any(of[part]["score"] is None for of in of_each.values())]
        if undefined:
            yield f"-: undefined. {UNDEFINED[benchmark]} Concerns {', '.join(undefined)}."
