"""Rows whose fields have other names: a mapping from our names to theirs, and renaming by it.

--fields problem_id=id,answer=pred                ours=theirs
--fields reference=reward_model.ground_truth      a field within a field
--fields scores.qwen=qwen_prm                     into a field
--fields prompt=Body+Question                     several fields of text, joined by a line break; null ones are left out
"""

from collections.abc import Iterable
from fnmatch import fnmatchcase

from rlstep.runtime.errors import UserError
from rlstep.steps.sources import Row


def parse_fields(words: Iterable[str] | None, known: Iterable[str]) -> dict[str, str]:
    """Our name -> theirs, of words such as `prompt=question,reference=answer`.

    Args:
        words: each holds one or several pairs, separated by commas; None for no pairs.
        known: our names that the reader of the rows uses; `scores.*` accepts any name after the dot.

    Raises:
        UserError: a word that is not a pair, a name of ours given twice, or one that nothing would read.

    >>> parse_fields(["prompt=question,reference=answer"], known=["prompt", "reference"])
    {'prompt': 'question', 'reference': 'answer'}
    """
    known, mapping = list(known), {}
    for pair in (pair for word in words or () for pair in word.split(",")):
        ours, equals, theirs = (part.strip() for part in pair.partition("="))
        if not (ours and equals and theirs):
            raise UserError(f"fields has '{pair}'; give OURS=THEIRS, several separated by commas")
        if not any(fnmatchcase(ours, name) for name in known):
            raise UserError(f"fields has '{pair}', but no field '{ours}' is read; there are {', '.join(known)}")
        if ours in mapping:
            raise UserError(f"fields gives {ours} twice, as {mapping[ours]} and as {theirs}")
        mapping[ours] = theirs
    return mapping


def rename_fields(row: Row, mapping: dict[str, str]) -> Row:
    """The row with our names in place of theirs, which its errors keep; its other fields stay as they are.

    The mapping takes precedence over a field that already has our name, so `reference=answer,answer=pred` works.

    Raises:
        DataError: a field that the mapping names is missing, its destination is not an object, or one of several that
            are joined is no text.
    """
    if not mapping:
        return row
    values = dict(row.values)
    moved = {}
    for ours, theirs in mapping.items():
        parts = {}
        for part in _parts(row.values, theirs):
            try:
                parts[part] = value_at(row.values, part)
            except KeyError:
                present = ", ".join(sorted(row.values)) or "none"
                problem = f"missing, but fields says {ours}={theirs} (fields present: {present})."
                raise row.fault(part, problem) from None
        moved[ours] = parts[theirs] if theirs in parts else _joined(row, ours, parts)
    named = {part for theirs in mapping.values() for part in _parts(row.values, theirs)}
    for theirs in sorted(named, key=len, reverse=True):  # nested fields before their parents
        _remove(values, theirs)
    for ours, value in moved.items():
        if not _put(values, ours, value):
            outer = ours.partition(".")[0]
            raise row.fault(outer, f"is not an object, so {ours} cannot be put into it.")
    return row._replace(values=values, renamed=mapping)


def _parts(values: dict, theirs: str) -> list[str]:
    """The fields that a name of theirs joins; a name that contains the plus itself wins."""
    parts = [theirs] if theirs in values else [part.strip() for part in theirs.split("+")]
    return parts if all(parts) else [theirs]


def _joined(row: Row, ours: str, parts: dict) -> str | None:
    """The texts as one; None if all of them are null."""
    there = {name: value for name, value in parts.items() if value is not None}
    for name, value in there.items():
        if not isinstance(value, str):
            problem = f"expected text, as {ours} is {'+'.join(parts)}, got {type(value).__name__}."
            raise row.fault(name, problem)
    return "\n".join(text for text in there.values() if text.strip()) if there else None


def value_at(values: dict, path: str):
    """The value at a name, or at a path of names joined by dots; a name that contains the dots itself wins.

    Raises:
        KeyError: there is none.
    """
    if path in values:
        return values[path]
    outer, inner, rest = path.partition(".")
    if not inner or not isinstance(values.get(outer), dict):
        raise KeyError(path)
    return value_at(values[outer], rest)


def _remove(values: dict, path: str) -> None:
    if path in values:
        del values[path]
        return
    outer, _, rest = path.partition(".")
    values[outer] = dict(values[outer])  # a copy, so that the row stays unchanged
    _remove(values[outer], rest)


def _put(values: dict, path: str, value) -> bool:
    """Sets the value at the path; returns whether it could."""
    outer, inner, rest = path.partition(".")
    if not inner:
        values[path] = value
        return True
    if values.get(outer) is None:
        values[outer] = {}
    if not isinstance(values[outer], dict):
        return False
    values[outer] = {**values[outer], rest: value}
    return True
