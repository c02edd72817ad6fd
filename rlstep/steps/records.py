"""The two records that travel through every stage, in memory and on disk (JSONL, same field names).

An example row of a scored `Solution` file (wrapped here; one line on disk)::

    {"problem_id": "arithmetic-test-0-17", "sample": 3, "prompt": "Left to right, mod 20: 7 + 3 * 7\\n",
     "completion": "7 + 3 = 10\\n10 * 7 = 10\\nAnswer: 10", "reference": "10", "finished": true,
     "steps": [[0, 11], [11, 23], [23, 33]], "labels": [1, 1, 1], "answer": "10", "correct": true,
     "scores": {"prm": [0.98, 0.97, 0.99]}}
"""

import json
import math
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path

from rlstep.runtime.errors import DataError
from rlstep.runtime.rows import read_rows

Span = tuple[int, int]


@dataclass(frozen=True)
class Problem:
    """A problem as the policy sees it.

    Attributes:
        id: unique within its file.
        prompt: the exact text given to the model, ending where the completion begins.
        reference: the right final answer.
    """

    id: str
    prompt: str
    reference: str


@dataclass
class Solution:
    """One completion of one problem, with what the stages have found out about it so far.

    Attributes:
        problem_id, prompt, reference: the problem's.
        sample: the completion's number among those of its problem, from 0.
        completion: the text that the model wrote, without special tokens.
        finished: whether the model ended it, rather than the length limit.
        steps: character spans [start, end) in `completion`, in order; a step's closing newline belongs to it.
        labels: one a step: 1 right, 0 wrong, None unknown; a value between is a soft label.
        answer: the final answer found in the completion, None where there is none.
        correct: whether the answer is right.
        scores: by verifier name, one value a step: its probability that the step is right (PRM) or, read at the
            step's end, that the final answer will be right (ORM).
    """

    problem_id: str
    prompt: str
    completion: str
    reference: str
    sample: int = 0
    finished: bool = True
    steps: list[Span] | None = None
    labels: list[float | None] | None = None
    answer: str | None = None
    correct: bool | None = None
    scores: dict[str, list[float]] = field(default_factory=dict)

    @property
    def step_texts(self) -> list[str]:
        return [self.completion[start:end] for start, end in self.steps or []]

    @property
    def clean(self) -> bool:
        """Whether the answer is right and every step is labelled right."""
        return bool(self.correct) and bool(self.labels) and all(label == 1 for label in self.labels)

    def to_row(self) -> dict:
        return asdict(self)


_REQUIRED = {
    Problem: {"id": str, "prompt": str, "reference": str},
    Solution: {"problem_id": str, "prompt": str, "completion": str, "reference": str},
}


def _is_int(value) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _is_label(value) -> bool:
    return value is None or (_is_number(value) and 0 <= value <= 1)


def _is_span(value) -> bool:
    return isinstance(value, list) and len(value) == 2 and all(_is_int(place) for place in value)


def _is_list_of(holds: Callable, value) -> bool:
    return isinstance(value, list) and all(holds(item) for item in value)


def _are_scores(value) -> bool:
    return isinstance(value, dict) and all(_is_list_of(_is_number, scores) for scores in value.values())


# Python would take a string for a list and true for 1, and fail stages later, so each field is held against its type.
_OPTIONAL = {
    Problem: {},
    Solution: {
        "sample": (lambda v: _is_int(v) and v >= 0, "a whole number from 0"),
        "finished": (lambda v: isinstance(v, bool), "true or false"),
        "steps": (lambda v: v is None or _is_list_of(_is_span, v), "a list of [start, end] pairs or null"),
        "labels": (
            lambda v: v is None or _is_list_of(_is_label, v),
            "a list of labels from 0 to 1 or null each, or null",
        ),
        "answer": (lambda v: v is None or isinstance(v, str), "text or null"),
        "correct": (lambda v: v is None or isinstance(v, bool), "true, false or null"),
        "scores": (_are_scores, "a mapping of names to lists of finite numbers"),
    },
}


def _from_row(kind: type, row: dict, path, number: int):
    for name, wanted in _REQUIRED[kind].items():
        if name not in row:
            raise DataError(path, number, name, f"missing; a {kind.__name__} row needs it.")
        if not isinstance(row[name], wanted):
            raise DataError(path, number, name, f"expected {wanted.__name__}, found {type(row[name]).__name__}.")
    known = {f.name for f in fields(kind)}
    unknown = sorted(set(row) - known)
    if unknown:
        raise DataError(path, number, unknown[0], f"unknown field; a {kind.__name__} row has {sorted(known)}.")
    for name, (holds, wanted) in _OPTIONAL[kind].items():
        if name in row and not holds(row[name]):
            raise DataError(path, number, name, f"expected {wanted}, found {_shown(row[name])}.")
    return kind(**row)


def _shown(value) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else text[:60] + "..."


def _check_steps(solution: Solution, path, number: int) -> None:
    if solution.steps is None:
        for name in ("labels", "scores"):
            if getattr(solution, name):
                raise DataError(path, number, name, "given without 'steps'.")
        return
    last = 0
    for span in solution.steps:
        if not (last <= span[0] <= span[1] <= len(solution.completion)):
            raise DataError(path, number, "steps", f"span {span} is out of order or outside the completion.")
        last = span[1]
    solution.steps = [tuple(span) for span in solution.steps]
    for name, values in {"labels": solution.labels, **{f"scores.{k}": v for k, v in solution.scores.items()}}.items():
        if values is not None and len(values) != len(solution.steps):
            raise DataError(path, number, name, f"{len(values)} values for {len(solution.steps)} steps.")


def read_problems(path: str | Path) -> list[Problem]:
    """All problems of a JSONL file; a malformed row or a repeated id is a DataError."""
    problems, seen = [], {}
    for number, row in read_rows(path):
        problem = _from_row(Problem, row, path, number)
        if problem.id in seen:
            raise DataError(path, number, "id", f"'{problem.id}' stands in row {seen[problem.id]} already.")
        seen[problem.id] = number
        problems.append(problem)
    return problems


def iter_solutions(path: str | Path, need: tuple[str, ...] = ()) -> Iterator[Solution]:
    """Yields the solutions of a JSONL file, one at a time.

    Args:
        path: the file.
        need: fields that must not be null for the caller's purpose, for example ("steps", "labels").
    """
    for number, row in read_rows(path):
        solution = _from_row(Solution, row, path, number)
        _check_steps(solution, path, number)
        for name in need:
            if getattr(solution, name) is None:
                raise DataError(path, number, name, "is null; run `rlstep label` on this file first.")
        yield solution


def read_solutions(path: str | Path, need: tuple[str, ...] = ()) -> list[Solution]:
    return list(iter_solutions(path, need))
