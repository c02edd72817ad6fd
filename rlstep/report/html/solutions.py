"""The test solutions that a page embeds: one set for each seed, of one run, or of two in pairs.

A set is {"label", "problems", "columns"}. A problem is [id, text, right answer]. A column, one per run, says where its
solutions come from ("file", "total", "here", "counts": by kind how many are here and how many there are, "guards") and
has "rows"; in two columns, rows at the same place are of the same problem. A row leaves out what is null::

    p  index of the problem      n  number of the sample     k  kinds, as bits (`choice.KINDS`)
    a  answer                    c  whether it is right      u  true if it was cut off
    s  PRM score, the product    o  ORM score at the end     w  index of the first wrong step
    g  the guard that withholds all of it
    t  the text in order: [step, PRM score, label, guard] with nulls at its end left out, or the text between two steps
"""

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from rlstep.policy.rewards.guards import Guards
from rlstep.report import arms
from rlstep.report.examples import ORM, PRM, first_wrong
from rlstep.report.html.choice import KINDS, Withheld, choose, kinds_of, withheld
from rlstep.runtime.record import RECORD
from rlstep.runtime.visible import visible
from rlstep.steps.prompts import problem_text
from rlstep.steps.records import Solution, iter_solutions, solution_of
from rlstep.steps.sources import iter_rows

# What a run has of the test problems, the most complete first: one that is not finished has but the later ones.
FILES = ("test/scored.jsonl", "test/scored-prm.jsonl", "test/labelled.jsonl", "test/samples.jsonl")


@dataclass(frozen=True)
class Source:
    """The solutions of one run and seed.

    Attributes:
        folder: the run's.
        file: one of `FILES`.
        guards: settings of the guards, those of the process arm if it left a record.
        by_arm: whether they are that arm's, rather than the defaults.
        keys: of each row, what makes it comparable with another run's: problem, its text, and number of the sample.
        kinds: of each row (`choice.kinds_of`).
    """

    folder: Path
    file: str
    guards: Guards
    by_arm: bool
    keys: list[tuple[str, str, int]]
    kinds: list[int]

    @property
    def path(self) -> Path:
        return self.folder / self.file


def open_source(folder: Path) -> Source | None:
    """Reads which solutions a run folder has, and of which kinds they are; None if it has none."""
    file = next((name for name in FILES if (folder / name).is_file()), None)
    if file is None:
        return None
    settings = _guard_settings(folder)
    guards = Guards(**settings)
    source = Source(folder, file, guards, bool(settings), [], [])
    for solution in iter_solutions(source.path):
        source.keys.append(_key(solution))
        source.kinds.append(kinds_of(solution, bool(withheld(solution, guards))))
    return source


def _guard_settings(folder: Path) -> dict:
    """The process arm's settings of the guards, from its record; empty if it left none."""
    path = folder / arms.PROCESS.folder / RECORD
    if not path.is_file():
        return {}
    config = json.loads(path.read_text(encoding="utf-8")).get("config", {})
    return {name: config[name] for name in Guards.__dataclass_fields__ if name in config}


def _key(solution: Solution) -> tuple[str, str, int]:
    text = hashlib.sha256(problem_text(solution.prompt).encode("utf-8", "backslashreplace")).hexdigest()
    return solution.problem_id, text, solution.sample


def solution_sets(runs: Sequence[Mapping[str, Path]], most: int, budget: int) -> list[dict]:
    """The sets of one run's seeds, or of two runs' in pairs where both have a seed with the same problems.

    Args:
        runs: by seed, the run folders.
        most: solutions per run and seed.
        budget: bytes of JSON that all sets may take.
    """
    if not most:
        return []
    sources = [{seed: open_source(folder) for seed, folder in run.items()} for run in runs]
    groups: list[tuple[str, list[Source | None]]] = []
    for seed in dict.fromkeys(seed for run in sources for seed in run):
        row = [run.get(seed) for run in sources]
        if len(row) == 2 and None not in row and not set(row[0].keys) & set(row[1].keys):
            groups += [(seed, [row[0], None]), (seed, [None, row[1]])]
        elif any(row):
            groups.append((seed, row))
    return [_set(seed, row, most, budget // len(groups)) for seed, row in groups]


def _set(label: str, sources: list[Source | None], most: int, budget: int) -> dict:
    present = [source for source in sources if source]
    chosen = _choose_pairs(*present, most) if len(present) == 2 else [choose(present[0].kinds, most)]
    read = [_read(source, places) for source, places in zip(present, chosen, strict=True)]
    pairs = [[one[place] for one, place in zip(read, pair, strict=True)] for pair in zip(*chosen, strict=True)]
    problems, kept = _fit(pairs, budget)
    order = sorted(kept, key=lambda pair: chosen[0][pair])  # as in the first run's file
    columns = iter([_column(source, [kept[pair][side] for pair in order]) for side, source in enumerate(present)])
    return {
        "label": label,
        "problems": problems,
        "columns": [next(columns) if source else None for source in sources],
    }


def _fit(
    pairs: list[list[tuple[Solution, Withheld]]], budget: int
) -> tuple[list[tuple[str, str, str]], dict[int, list[dict]]]:
    """(problems, rows by the number of their pair) of the first pairs that a budget of bytes holds.

    A pair that would take a tenth of the budget makes way for others.
    """
    problems: dict[tuple[str, str, str], int] = {}
    kept: dict[int, list[dict]] = {}
    left = budget
    for number, pair in enumerate(pairs):
        asked = [_problem(solution) for solution, _ in pair]
        new = [problem for problem in dict.fromkeys(asked) if problem not in problems]
        places = {problem: len(problems) + k for k, problem in enumerate(new)}
        rows = [
            row(solution, held, places.get(problem, problems.get(problem)))
            for (solution, held), problem in zip(pair, asked, strict=True)
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


def _read(source: Source, rows: Sequence[int]) -> dict[int, tuple[Solution, Withheld]]:
    """The chosen solutions by their places; the other rows, which were checked before, are passed over."""
    wanted, read = set(rows), {}
    for place, one in enumerate(iter_rows(source.path)):
        if place in wanted:
            solution = solution_of(one)
            read[place] = (solution, withheld(solution, source.guards))
    return read


def _problem(solution: Solution) -> tuple[str, str, str]:
    return visible(solution.problem_id), visible(problem_text(solution.prompt)), visible(solution.reference)


def _column(source: Source, rows: list[dict]) -> dict:
    here = [one["k"] for one in rows]
    counts = {
        kind.name: [sum(bits >> bit & 1 for bits in kinds) for kinds in (here, source.kinds)]
        for bit, kind in enumerate(KINDS)
    }
    return {
        "file": source.file,
        "total": len(source.kinds),
        "here": len(rows),
        "counts": counts,
        "guards": "as the process arm had them" if source.by_arm else "with their default settings",
        "rows": rows,
    }


def row(solution: Solution, held: Withheld, problem: int) -> dict:
    """A solution as the page's script takes it (see the module's docstring).

    Args:
        solution: labelled and scored, or not.
        held: what the guards withhold.
        problem: the index of its problem.
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
        "s": round(math.prod(scores), 4) if scores and None not in scores else None,
        "o": round(orm[-1], 4) if orm and orm[-1] is not None else None,
        "w": first_wrong(solution) if labels else None,
        "g": held.whole,
        "t": _pieces(solution, labels, scores, held.steps),
    }
    return {name: value for name, value in fields.items() if value is not None}


def _pieces(solution: Solution, labels: Sequence, scores: Sequence[float], guards: Sequence) -> list:
    pieces: list = []
    place = 0
    for step, (start, end) in enumerate(solution.steps or []):
        if solution.completion[place:start].strip():
            pieces.append(visible(solution.completion[place:start]))
        score, label, guard = (values[step] if step < len(values) else None for values in (scores, labels, guards))
        piece = [visible(solution.completion[start:end]), None if score is None else round(score, 4), label, guard]
        while piece[-1] is None:
            piece.pop()
        pieces.append(piece)
        place = end
    if solution.completion[place:].strip():
        pieces.append(visible(solution.completion[place:]))
    return pieces


def as_json(value) -> str:
    """JSON that can stand in a script element: no `<`, so neither its end nor a comment can begin in it.

    >>> as_json("</script><!--")
    '"\\\\u003c/script>\\\\u003c!--"'
    """
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")
