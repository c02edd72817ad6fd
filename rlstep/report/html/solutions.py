"""The solutions that a page embeds, in sets: for each seed the test solutions, and what each policy wrote during PPO.

Test solutions are of one run, or of two in pairs; what a policy wrote is of one.

A set is {"label", "problems", "columns"}. A problem is [id, text, right answer]. A column, one per run, says where its
solutions come from ("file", "total", "here", "counts": by kind how many are here and how many there are, without the
kinds that the file cannot tell, "guards") and has "rows"; in two columns, rows at the same place are of the same
problem. A row leaves out what is null::

    p  index of the problem      n  number of the sample     k  kinds, as bits (`choice.KINDS`)
    a  answer                    c  whether it is right      u  true if it was cut off
    s  PRM score (`aggregate`)   o  ORM score at the end     w  index of the first wrong step
    g  the guard that withholds all of it
    t  the text in order: [step, PRM score, label, guard, reward] with nulls at its end left out, or the text between
       two steps

and of a policy's::

    e  update                    v  the outcome's reward     r  sum of the step rewards
    y  true if it was chosen for its step rewards, though it is wrong
"""

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from rlstep.core.aggregate import Aggregate, solution_score, vote_weight
from rlstep.policy.monitoring.completions import TELLINGLY, Paid
from rlstep.report.examples import ORM, PRM, first_wrong
from rlstep.report.html.choice import KINDS, Withheld, choose, kinds_of
from rlstep.report.html.sources import Shown, Source, open_source
from rlstep.runtime.halves import encodable
from rlstep.runtime.visible import visible
from rlstep.steps.prompts import problem_text
from rlstep.steps.records import Solution


def solution_sets(
    runs: Sequence[Mapping[str, Path]],
    most: int,
    budget: int,
    policies: Sequence[Sequence[tuple[str, Source]]] = (),
) -> list[dict]:
    """The test solutions of one run's seeds, or of two runs' in pairs where both have a seed with the same problems.

    After them come the policies' own, which two runs have apart.

    Args:
        runs: by seed, the run folders.
        most: solutions per set.
        budget: bytes of JSON that all sets may take.
        policies: of each run, what its policies wrote (`policy_sources`).
    """
    if not most:
        return []
    sources = [{seed: open_source(folder) for seed, folder in run.items()} for run in runs]
    groups: list[tuple[str, list[Source | None]]] = []
    for seed in dict.fromkeys(seed for run in sources for seed in run):
        row = [run.get(seed) for run in sources]
        label = f"{seed}: test problems"
        if len(row) == 2 and None not in row and not set(row[0].keys) & set(row[1].keys):
            groups += [(label, [row[0], None]), (label, [None, row[1]])]
        elif any(row):
            groups.append((label, row))
    for side, written in enumerate(policies):
        groups += [(label, [source if k == side else None for k in range(len(runs))]) for label, source in written]
    sets = []
    for waiting, (label, row) in zip(range(len(groups), 0, -1), groups, strict=True):
        sets.append(_set(label, row, most, budget // waiting))
        budget -= len(as_json(sets[-1]).encode())  # what a set leaves is for those after it
    return sets


def _set(label: str, sources: list[Source | None], most: int, budget: int) -> dict:
    present = [source for source in sources if source]
    chosen = _choose_pairs(*present, most) if len(present) == 2 else [choose(present[0].kinds, most)]
    read = [source.read(places) for source, places in zip(present, chosen, strict=True)]
    pairs = [[one[place] for one, place in zip(read, pair, strict=True)] for pair in zip(*chosen, strict=True)]
    problems, kept = _fit(pairs, [source.aggregate for source in present], budget)
    order = sorted(kept, key=lambda pair: chosen[0][pair])  # as in the first run's file
    columns = iter([_column(source, [kept[pair][side] for pair in order]) for side, source in enumerate(present)])
    return {
        "label": label,
        "problems": problems,
        "columns": [next(columns) if source else None for source in sources],
    }


def _fit(
    pairs: list[list[Shown]], aggregates: Sequence[Aggregate], budget: int
) -> tuple[list[tuple[str, str, str]], dict[int, list[dict]]]:
    """(problems, rows by the number of their pair) of the first pairs that a budget of bytes holds.

    A pair that would take a tenth of the budget makes way for others. `aggregates` are of the sides of a pair.
    """
    problems: dict[tuple[str, str, str], int] = {}
    kept: dict[int, list[dict]] = {}
    left = budget
    for number, pair in enumerate(pairs):
        of_pair = [_problem(shown.solution) for shown in pair]
        new = [problem for problem in dict.fromkeys(of_pair) if problem not in problems]
        places = {problem: len(problems) + k for k, problem in enumerate(new)}
        rows = [
            row(shown.solution, shown.held, places.get(problem, problems.get(problem)), shown.paid, how)
            for shown, problem, how in zip(pair, of_pair, aggregates, strict=True)
        ]
        cost = len(as_json([*new, *rows]).encode())
        if cost <= min(left, budget / 10):
            left -= cost
            problems |= places
            kept[number] = rows
    return list(problems), kept


def _choose_pairs(first: Source, second: Source, most: int) -> list[list[int]]:
    """Rows of both files that are the same sample of the same problem; a pair is of the kinds of either."""
    places = {key: place for place, key in enumerate(second.keys)}
    pairs = [(place, places[key]) for place, key in enumerate(first.keys) if key in places]
    chosen = choose([first.kinds[a] | second.kinds[b] for a, b in pairs], most)
    return [[pairs[place][side] for place in chosen] for side in (0, 1)]


def _problem(solution: Solution) -> tuple[str, str, str]:
    return visible(solution.problem_id), visible(problem_text(solution.prompt)), visible(solution.reference)


def _column(source: Source, rows: list[dict]) -> dict:
    here = [one["k"] for one in rows]
    counts = {
        kind.name: [sum(bits >> bit & 1 for bits in kinds) for kinds in (here, source.kinds)]
        for bit, kind in enumerate(KINDS)
        if source.told >> bit & 1
    }
    return {
        "file": source.file,
        "total": len(source.kinds),
        "here": len(rows),
        "counts": counts,
        "guards": source.guards,
        "rows": rows,
    }


def row(solution: Solution, held: Withheld, problem: int, paid: Paid | None = None, how: Aggregate = "product") -> dict:
    """A solution as the page's script takes it (see the module's docstring).

    Args:
        solution: labelled and scored, or not.
        held: what the guards withhold.
        problem: the index of its problem.
        paid: what PPO paid for it, where it was sampled in training.
        how: how the PRM's values become the solution's score.
    """
    labels, scores = solution.labels or [], solution.scores.get(PRM, [])
    orm = solution.scores.get(ORM)
    fields = {
        "p": problem,
        "n": solution.sample,
        "k": kinds_of(solution, bool(held)),
        "a": None if solution.answer is None else visible(solution.answer),
        "c": solution.correct,
        "u": None if solution.finished else True,
        "s": _solution_score(scores, how) if scores and None not in scores else None,
        "o": _rounded(orm[-1]) if orm else None,
        "w": first_wrong(solution) if labels else None,
        "g": None if held.whole is None else visible(held.whole),
        "t": _pieces(solution, labels, scores, held.steps, _step_rewards(paid)),
    }
    if paid:
        rewards = _step_rewards(paid)
        fields |= {
            "e": paid.update,
            "v": _rounded(paid.outcome),
            "r": round(math.fsum(rewards), 4) if rewards and None not in rewards else None,
            "y": (bool(rewards) and paid.chosen == TELLINGLY) or None,
        }
    return {name: value for name, value in fields.items() if value is not None}


def _step_rewards(paid: Paid | None) -> list[float | None]:
    """What the steps were paid; empty if all of it is 0, as where PPO has no reward for steps."""
    return paid.step_rewards if paid and any(reward != 0 for reward in paid.step_rewards) else []


def _pieces(
    solution: Solution, labels: Sequence, scores: Sequence, guards: Sequence, rewards: Sequence[float | None]
) -> list:
    pieces: list = []
    place = 0
    for step, (start, end) in enumerate(solution.steps or []):
        if solution.completion[place:start].strip():
            pieces.append(visible(solution.completion[place:start]))
        score, label, guard, reward = (
            values[step] if step < len(values) else None for values in (scores, labels, guards, rewards)
        )
        guard = None if guard is None else visible(guard)
        piece = [visible(solution.completion[start:end]), _rounded(score), label, guard, _rounded(reward)]
        while piece[-1] is None:
            piece.pop()
        pieces.append(piece)
        place = end
    if solution.completion[place:].strip():
        pieces.append(visible(solution.completion[place:]))
    return pieces


def _solution_score(scores: Sequence[float], how: Aggregate) -> float:
    """In four digits after leading zeros: the product of many steps is small, and solutions are sorted by it."""
    return float(f"{vote_weight(solution_score(scores, how), how):.4g}")


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 4)


def as_json(value) -> str:
    """JSON that can stand in a script element: no `<`, so neither its end nor a comment can begin in it.

    >>> as_json("</script><!--")
    '"\\\\u003c/script>\\\\u003c!--"'
    """
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    if not encodable(text):  # half a surrogate pair, in the name of a score or of a folder
        text = json.dumps(value, separators=(",", ":"), allow_nan=False)
    return text.replace("<", "\\u003c")
