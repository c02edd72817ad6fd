"""Rows whose fields have other names: a mapping from our names to theirs, and renaming by it.

--fields problem_id=id,answer=pred                ours=theirs
--fields reference=reward_model.ground_truth      a field within a field
--fields scores.qwen=qwen_prm                     into a field
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
        DataError: a field that the mapping names is missing, or its destination is not an object.
    """
    if not mapping:
        return row
    values = dict(row.values)
    moved = {}
    for ours, theirs in mapping.items():
        try:
            moved[ours] = value_at(row.values, theirs)
        except KeyError:
            present = ", ".join(sorted(row.values)) or "none"
            problem = f"missing, but fields says {ours}={theirs} (fields present: {present})."
            raise row.fault(theirs, problem) from None
    for theirs in sorted(set(mapping.values()), key=len, reverse=True):  # nested fields before their parents
        _remove(values, theirs)
    for ours, value in moved.items():
        if not _put(values, ours, value):
            outer = ours.partition(".")[0]
            raise row.fault(outer, f"is not an object, so {ours} cannot be put into it.")
    return row._replace(values=values, renamed=mapping)


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
