"""The two records that travel through every stage, in memory and on disk (JSONL or Parquet, same field names).

An example row of a scored `Solution` file (wrapped here; one line on disk)::

    {"problem_id": "arithmetic-test-0-17", "sample": 3, "prompt": "Left to right, mod 20: 7 + 3 * 7\\n",
     "completion": "7 + 3 = 10\\n10 * 7 = 10\\nAnswer: 10", "reference": "10", "finished": true,
     "steps": [[0, 11], [11, 23], [23, 33]], "labels": [1, 1, 1], "answer": "10", "correct": true,
     "scores": {"prm": [0.98, 0.97, 0.99]}}
"""

import json
import math
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path

from rlstep.runtime.counted import counted
from rlstep.runtime.errors import UserError
from rlstep.runtime.rows import write_rows
from rlstep.steps.messages import Prompt, read_prompt
from rlstep.steps.prompts import is_prompt_format
from rlstep.steps.sources import Row, iter_rows

Span = tuple[int, int]
HALF = 0.5


def counts_as_right(label: float) -> bool:
    """Whether a step with this label is right, where it has to be one or the other; a soft one of one half is."""
    return label >= HALF


def verdicts_of(labels: Sequence[float | None], neutral: Collection[int] = ()) -> list[bool | None]:
    """Whether each step is right, where it has to be one or the other; None where that is not known.

    A neutral step is right, as in "Let's Verify Step by Step" (Lightman et al., 2305.20050), wherever solutions are
    judged. What it counts as for a verifier is the verifier's own setting (`rlstep.steps.labels.LabelPolicy`).

    >>> verdicts_of([1, None, 0.3, None], neutral=[1])
    [True, True, False, None]
    """
    return [
        True if step in neutral else None if label is None else counts_as_right(label)
        for step, label in enumerate(labels)
    ]


@dataclass(frozen=True)
class Problem:
    """A problem as the policy sees it.

    Attributes:
        id: unique within its file.
        prompt: text that is given to the model as it is, ending where the completion begins, or a list of messages that
            go through its chat template (`rlstep.steps.prompts`).
        reference: the correct final answer.
        extra: what else was said of the problem, by name: JSON values that no stage reads and all of them keep.
    """

    id: str
    prompt: Prompt
    reference: str
    extra: dict = field(default_factory=dict, hash=False)


@dataclass
class Solution:
    """One completion of one problem, with what the stages have added so far.

    Attributes:
        problem_id, prompt, reference: the problem's.
        sample: the completion's number among those of its problem, from 0.
        completion: the text that the model wrote, without special tokens.
        finished: whether the model ended it, rather than being stopped by the length limit.
        steps: character spans [start, end) in `completion`, in order; a step's closing newline belongs to it.
        labels: one per step: 1 right, 0 wrong, None unknown; a value in between is a soft label.
        answer: the final answer that the completion states, None if it states none.
        correct: whether the answer is right.
        scores: by verifier name, one value per step: its probability that the step is right (PRM) or, read at the
            step's end, that the final answer will be right (ORM); None for a step that did not fit into the verifier
            (`rlstep score --on_long_row cut`, `rlstep sample --search`).
        neutral: indices of the steps that were rated neutral, neither right nor wrong; their label is None.
        tree: solutions with the same value branch off one labelled trajectory and share their first steps.
        prompt_format: how the prompt was written for the policy (`rlstep.steps.prompts.PromptFormat.to_dict`); None if
            that is not known.
        extra: the problem's.
        generated_tokens: tokens that were generated for it, the end token included; None if that is not known. Those of
            a search, which discards beams, are divided equally among the problem's solutions, so that in any file the
            sum over a problem's solutions is what they took.
    """

    problem_id: str
    prompt: Prompt
    completion: str
    reference: str
    sample: int = 0
    finished: bool = True
    steps: list[Span] | None = None
    labels: list[float | None] | None = None
    answer: str | None = None
    correct: bool | None = None
    scores: dict[str, list[float | None]] = field(default_factory=dict)
    neutral: list[int] | None = None
    tree: str | None = None
    prompt_format: dict | None = None
    extra: dict = field(default_factory=dict)
    generated_tokens: int | None = None

    @property
    def step_texts(self) -> list[str]:
        return [self.completion[start:end] for start, end in self.steps or []]

    @property
    def verdicts(self) -> list[bool | None]:
        """Whether each step is right, None where that is not known (`verdicts_of`); empty without labels."""
        return verdicts_of(self.labels or (), self.neutral or ())

    @property
    def clean(self) -> bool:
        """Whether the answer is right and every step is known to be right; a neutral one is."""
        return bool(self.correct) and bool(self.labels) and all(self.verdicts)

    def to_row(self) -> dict:
        """The fields by name, for a file: as `dataclasses.asdict`, but without copies of the lists."""
        return {name: getattr(self, name) for name in self.__dataclass_fields__}


_REQUIRED = ("problem_id", "prompt", "completion", "reference")


def _is_int(value) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _is_number_or_none(value) -> bool:
    return value is None or _is_number(value)


def _is_label(value) -> bool:
    return value is None or (_is_number(value) and 0 <= value <= 1)


def _is_span(value) -> bool:
    return isinstance(value, list) and len(value) == 2 and all(_is_int(place) for place in value)


def _is_list_of(holds: Callable, value) -> bool:
    return isinstance(value, list) and all(holds(item) for item in value)


def _are_scores(value) -> bool:
    return isinstance(value, dict) and all(_is_list_of(_is_number_or_none, scores) for scores in value.values())


# Python would accept a string as a list and true as 1, and fail stages later, so each field's type is checked.
_OPTIONAL = {
    "sample": (lambda v: _is_int(v) and v >= 0, "a whole number from 0"),
    "finished": (lambda v: isinstance(v, bool), "true or false"),
    "steps": (lambda v: v is None or _is_list_of(_is_span, v), "a list of [start, end] pairs or null"),
    "labels": (
        lambda v: v is None or _is_list_of(_is_label, v),
        "a list of labels from 0 to 1 or null each, or null",
    ),
    "neutral": (lambda v: v is None or _is_list_of(_is_int, v), "a list of step indices or null"),
    "tree": (lambda v: v is None or isinstance(v, str), "text or null"),
    "prompt_format": (lambda v: v is None or is_prompt_format(v), "a mapping with the form text or chat, or null"),
    "extra": (lambda v: isinstance(v, dict), "a mapping of names to values"),
    "generated_tokens": (lambda v: v is None or (_is_int(v) and v >= 0), "a whole number from 0, or null"),
    "answer": (lambda v: v is None or isinstance(v, str), "text or null"),
    "correct": (lambda v: v is None or isinstance(v, bool), "true, false or null"),
    "scores": (_are_scores, "a mapping of names to lists of finite numbers or null"),
}


def _from_row(row: Row) -> Solution:
    values = row.values
    for name in _REQUIRED:
        if name not in values:
            raise row.fault(name, "missing; a Solution row needs it.")
        if name != "prompt" and not isinstance(values[name], str):
            raise row.fault(name, f"expected text, got {shown(values[name])}.")
    try:
        values = values | {"prompt": read_prompt(values["prompt"])}
    except ValueError as error:
        raise row.fault("prompt", f"{error}.") from None
    known = {f.name for f in fields(Solution)}
    unknown = sorted(set(values) - known)
    if unknown:
        problem = f"unknown field; a Solution row has {sorted(known)}, and what is yours in extra."
        raise row.fault(unknown[0], problem)
    for name, (holds, wanted) in _OPTIONAL.items():
        if name in values and not holds(values[name]):
            raise row.fault(name, f"expected {wanted}, got {shown(values[name])}.")
    return Solution(**values)


def shown(value) -> str:
    """A value as an error message shows it: JSON, truncated if it is long."""
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= 60 else text[:60] + "..."


def _check_steps(solution: Solution, row: Row) -> None:
    if solution.steps is None:
        for name in ("labels", "neutral", "scores"):
            if getattr(solution, name):
                raise row.fault(name, "given without 'steps'.")
        return
    last = 0
    for span in solution.steps:
        if not (last <= span[0] <= span[1] <= len(solution.completion)):
            raise row.fault("steps", f"span {span} is out of order or outside the completion.")
        last = span[1]
    solution.steps = [tuple(span) for span in solution.steps]
    for name, values in {"labels": solution.labels, **{f"scores.{k}": v for k, v in solution.scores.items()}}.items():
        if values is not None and len(values) != len(solution.steps):
            raise row.fault(name, f"{counted(len(values), 'value')} for {counted(len(solution.steps), 'step')}.")
    _check_neutral(solution, row)


def _check_neutral(solution: Solution, row: Row) -> None:
    if solution.neutral and solution.labels is None:
        raise row.fault("neutral", "given without 'labels'.")
    last = -1
    for step in solution.neutral or ():
        if not last < step < len(solution.steps):
            steps = counted(len(solution.steps), "step")
            problem = f"{step} is out of order, or not an index of {steps} (ascending, from 0)."
            raise row.fault("neutral", problem)
        if solution.labels[step] is not None:
            label = shown(solution.labels[step])
            raise row.fault("neutral", f"step {step} is neutral, but its label is {label}, not null.")
        last = step


def solution_of(row: Row) -> Solution:
    """The solution that a row of our own format holds; a malformed one is a DataError."""
    solution = _from_row(row)
    _check_steps(solution, row)
    return solution


def iter_solutions(path: str | Path, need: tuple[str, ...] = ()) -> Iterator[Solution]:
    """Yields the solutions of a JSONL or Parquet file, or of a folder of such shards, one at a time.

    Args:
        path: the file or folder.
        need: fields that must not be null, nor a blank reference, for the caller's purpose: ("steps", "labels"), say.

    Raises:
        DataError: a row is no solution, or lacks a needed field; names file, row and field.
    """
    for row in iter_rows(path):
        solution = solution_of(row)
        for name in need:
            if getattr(solution, name) is None:
                raise row.fault(name, "is null; run `rlstep label` on this file first.")
            if name == "reference" and not solution.reference.strip():
                raise row.fault(name, "is empty; it is the right answer, by which answers are graded.")
        yield solution


def read_solutions(path: str | Path, need: tuple[str, ...] = ()) -> list[Solution]:
    """All solutions of a file or folder at once; arguments and errors as for `iter_solutions`.

    Args:
        path: the file or folder.
        need: fields that must not be null, nor a blank reference.
    """
    return list(iter_solutions(path, need))


def write_solutions(path: str | Path, solutions: Iterable[Solution]) -> int:
    """Writes a file, atomically and in batches; returns the number of solutions.

    Args:
        path: of a `.jsonl` or `.parquet` file.
        solutions: are read one at a time.

    Raises:
        UserError: the file has another suffix.
    """
    return write_solution_rows(path, (solution.to_row() for solution in solutions))


def write_solution_rows(path: str | Path, rows: Iterable[dict]) -> int:
    """As `write_solutions`, from rows (`Solution.to_row`)."""
    path = Path(path)
    if path.suffix == ".jsonl":
        return write_rows(path, rows)
    if path.suffix == ".parquet":
        from rlstep.steps.parquet import write_parquet

        return write_parquet(path, rows)
    raise UserError(f"{path}: solutions are written to a file whose name ends in .jsonl or .parquet.")
