"""Other people's names for the fields of a row: a mapping of ours to theirs, and rows renamed by it.

--fields problem_id=id,answer=pred                ours=theirs
--fields reference=reward_model.ground_truth      a field within a field
--fields scores.qwen=qwen_prm                     into a field
"""

from collections.abc import Iterable
from fnmatch import fnmatchcase

from rlstep.runtime.errors import DataError, UserError
from rlstep.steps.sources import Row


def parse_fields(words: Iterable[str] | None, known: Iterable[str]) -> dict[str, str]:
    """Our name -> theirs, of words such as `prompt=question,reference=answer`.

    Args:
        words: each one pair or several, with commas between; None: no pair.
        known: our names that the reader of the rows looks at; `scores.*` admits any name after the full stop.

    Raises:
        UserError: a word that is no pair, our name given twice, or one that nothing would read.

    >>> parse_fields(["prompt=question,reference=answer"], known=["prompt", "reference"])
    {'prompt': 'question', 'reference': 'answer'}
    """
    known, mapping = list(known), {}
    for pair in (pair for word in words or () for pair in word.split(",")):
        ours, equals, theirs = (part.strip() for part in pair.partition("="))
        if not (ours and equals and theirs):
            raise UserError(f"fields has '{pair}'; give OURS=THEIRS, several with commas between them")
        if not any(fnmatchcase(ours, name) for name in known):
            raise UserError(f"fields has '{pair}', but no field '{ours}' is read; there are {', '.join(known)}")
        if ours in mapping:
            raise UserError(f"fields gives {ours} twice, as {mapping[ours]} and as {theirs}")
        mapping[ours] = theirs
    return mapping


def rename_fields(row: Row, mapping: dict[str, str]) -> Row:
    """The row with our names in place of theirs; its other fields stay as they are.

    The mapping wins over a field of the row that has our name already, so `reference=answer,answer=pred` is one.

    Raises:
        DataError: a field that the mapping names is not in the row, or is to go into one that holds no fields.
    """
    if not mapping:
        return row
    values = dict(row.values)
    moved = {}
    for ours, theirs in mapping.items():
        try:
            moved[ours] = _get(row.values, theirs)
        except KeyError:
            present = ", ".join(sorted(row.values)) or "none"
            problem = f"missing, but fields says {ours}={theirs} (fields present: {present})."
            raise DataError(row.source, row.number, theirs, problem) from None
    for theirs in sorted(set(mapping.values()), key=len, reverse=True):  # a field within another before that one
        _remove(values, theirs)
    for ours, value in moved.items():
        if not _put(values, ours, value):
            outer = ours.partition(".")[0]
            raise DataError(row.source, row.number, outer, f"holds no fields by name, so {ours} cannot be put into it.")
    return row._replace(values=values)


def _get(values: dict, path: str):
    """The value at a name, or at names with full stops between; a name that holds a full stop itself comes first."""
    if path in values:
        return values[path]
    outer, inner, rest = path.partition(".")
    if not inner or not isinstance(values.get(outer), dict):
        raise KeyError(path)
    return _get(values[outer], rest)


def _remove(values: dict, path: str) -> None:
    if path in values:
        del values[path]
        return
    outer, _, rest = path.partition(".")
    values[outer] = dict(values[outer])  # the row's own is left as it is
    _remove(values[outer], rest)


def _put(values: dict, path: str, value) -> bool:
    """Whether there was a place for the value."""
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
