"""What `rlstep evaluate` says of the samples that it read: numbers for its files, and lines for who runs it."""

from collections.abc import Iterator

from rlstep.evaluation.best_of_n import fewest_samples, missing_parts
from rlstep.evaluation.sample_columns import ScoredSamples
from rlstep.runtime.counted import counted


def size_facts(scored: ScoredSamples) -> dict:
    """How many problems there are, how many samples of each, and the share without an answer."""
    facts = {"problems": len(scored.ids), "samples_per_problem": fewest_samples(scored)[1]}
    return facts | ({"unanswered": 1 - scored.answered / scored.rows} if scored.gives_answers else {})


def row_counts(scored: ScoredSamples) -> dict:
    """What the run record has: problems, solutions, and how many of these were cut, read or graded here."""
    counts = {"problems": len(scored.ids), "solutions": scored.rows}
    counts |= {name: value for name, value in size_facts(scored).items() if name == "unanswered"}
    counts |= {f"cut_by_{curve}": number for curve, number in scored.cut.items()}
    here = {"answers_extracted": scored.extracted, "graded_here": scored.graded}
    return counts | {name: count for name, count in here.items() if count}


def describe(scored: ScoredSamples) -> Iterator[str]:
    """What was read, extracted and graded, one line each."""
    fewest, most = int(scored.sizes.min()), int(scored.sizes.max())
    each = f"{fewest}" if fewest == most else f"{fewest} to {most}"
    yield f"{counted(scored.rows, 'sample')} of {counted(len(scored.ids), 'problem')}, {each} each"
    if scored.gives_answers:
        yield f"without an answer: {1 - scored.answered / scored.rows:.1%}"
        if scored.right_unanswered:
            yield f"right by the file and without an answer, so never picked: {scored.right_unanswered:,}"
    if scored.extracted:
        yield f"answers read from completions: {scored.extracted:,}"
    if scored.graded:
        yield f"graded here, by value: {scored.graded:,}"
    for curve, number in scored.cut.items():
        yield f"without a score of {curve}, or with a step without one, so the lowest for it: {number:,}"
    if parts := missing_parts(scored):
        yield f"left out: {', '.join(parts)}"


def bound_on_n(scored: ScoredSamples, ns: list[int]) -> Iterator[str]:
    """Which problem bounds N, if others have more samples."""
    problem, fewest = fewest_samples(scored)
    if fewest < scored.sizes.max():
        yield f"N goes up to {ns[-1]}: problem '{problem}' has {counted(fewest, 'sample')}"


def caption(scored: ScoredSamples) -> str:
    """What stands below a figure of the samples."""
    return (
        f"{counted(len(scored.ids), 'problem')}, {counted(scored.rows, 'sample')}. Shaded: 95% interval over problems."
    )
