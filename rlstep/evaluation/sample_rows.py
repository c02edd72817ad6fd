"""Rows of scored samples in the forms that other programs give them, made into a row per sample.

Tables of text (CSV, and what is made of it) hold numbers, lists and truth values as they are written: "0.98", "[0.98,
0.97]", "True". A column of whole numbers with gaps in it holds 3.0. Such values are read, and a blank field is null.

A row may hold all samples of a problem, as published sets for best of N do: if `completion`, or else `answer`, is a
list, each field of a sample is a list of as many values, and what is the problem's stays one value::

    {"problem_id": "algebra-17", "reference": "12", "completion": ["...", "..."], "scores": [[0.98, 0.97], [0.4]]}

A completion in TRL's conversational form is what its messages of the assistant say.
"""

import json
from collections.abc import Iterator
from contextlib import suppress

from rlstep.evaluation.scored_rows import UNNAMED
from rlstep.steps.fields import rename_fields
from rlstep.steps.messages import is_messages
from rlstep.steps.records import shown
from rlstep.steps.sources import Row

TRUTH = {"true": True, "false": False}
# Fields of a sample that are no text; the others are a text already.
VALUES = ("sample", "scores", "correct", "labels", "neutral", "steps", "generated_tokens")
WHOLE = ("problem_id", "sample", "generated_tokens")
OF_A_SAMPLE = (*VALUES, "answer", "completion")


def sample_rows(row: Row, fields: dict[str, str]) -> Iterator[Row]:
    """The samples that a row of a file holds, with our names of fields.

    Args:
        row: as it is in its file.
        fields: our names of fields -> the file's (`rlstep.steps.fields`).

    Raises:
        DataError: a field that `fields` names is missing; a row of several samples has none, or a field with another
            number.
    """
    row = rename_fields(row, fields)
    values = dict(row.values)
    for name in {*VALUES, *WHOLE} & values.keys():
        values[name] = _read(values[name], name)
    if "scores" in values:
        values["scores"] = _read_scores(values["scores"])
    row = row._replace(values=values)
    of = next((name for name in ("completion", "answer") if _is_several(values.get(name))), None)
    for sample in (row,) if of is None else _divided(row, of):
        text = sample.values.get("completion")
        yield sample._replace(values=sample.values | {"completion": _said(text)}) if is_messages(text) else sample


def _is_several(value: object) -> bool:
    return isinstance(value, list) and not is_messages(value)


def _read(value: object, name: str) -> object:
    """A value that a table wrote as text or as another kind of number; what cannot be read stays, to be refused."""
    if isinstance(value, str) and name != "problem_id":
        if not (text := value.strip()):
            return None
        if text.lower() in TRUTH:
            return TRUTH[text.lower()]
        with suppress(ValueError, RecursionError):
            value = json.loads(text)
    if name in WHOLE and isinstance(value, float) and value.is_integer():
        return int(value)
    return value


def _read_scores(scores: object) -> object:
    """The same of every score, however deep in lists and names."""
    if isinstance(scores, dict):
        return {name: _read_scores(value) for name, value in scores.items()}
    if isinstance(scores, list):
        return [_read_scores(value) for value in scores]
    return _read(scores, "scores") if isinstance(scores, str) else scores


def _divided(row: Row, of: str) -> Iterator[Row]:
    """A row for each sample; `of` is the field whose values are counted."""
    values, count = row.values, len(row.values[of])
    if not count:
        problem = "an empty list: a problem without samples would count in no figure. Leave the row out."
        raise row.fault(of, problem)
    several = {name: values[name] for name in OF_A_SAMPLE if values.get(name) is not None}
    scores = several.pop("scores", {})
    named = scores if isinstance(scores, dict) else {UNNAMED: scores}
    places = {f"scores.{name}" if scores is named else "scores": parts for name, parts in named.items()}
    for name, parts in (several | places).items():
        if not isinstance(parts, list) or len(parts) != count:
            problem = f"expected a list of {count}, one per sample, as '{row.name_of(of)}' is one; got {shown(parts)}."
            raise row.fault(name, problem)
    for k in range(count):
        sample = {name: parts[k] for name, parts in several.items()}
        if named:
            sample["scores"] = {name: parts[k] for name, parts in named.items()}
        yield row._replace(values=values | sample)


def _said(messages: list[dict[str, str]]) -> str:
    return "\n".join(message["content"] for message in messages if message["role"] == "assistant")
