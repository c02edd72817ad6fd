"""Our own rows as tables have them: read back into records, whatever file other programs put them in.

A column has one type, so our Parquet has a prompt in `prompt` or `messages`, `scores` as pairs, and JSON in
`prompt_format` and `extra` (`rlstep.steps.parquet`). The library datasets keeps these in the JSON lines that it writes,
and makes JSON of objects itself where it reads ours.
"""

import json
from contextlib import suppress


def from_columns(row: dict) -> dict:
    """A row of our own with its prompt, its scores by name and its objects; rows of other files are left unchanged.

    Raises:
        ValueError: a name has two lists of scores.
    """
    return _with_one_prompt(_with_named_scores(row))


def _with_named_scores(row: dict) -> dict:
    """Those of earlier files, with a map, are unchanged."""
    row = _with_objects(row, "scores")
    pairs = row.get("scores")
    if not isinstance(pairs, list) or not all(
        isinstance(pair, dict) and {*pair} == {"name", "values"} for pair in pairs
    ):
        return row
    named = {}
    for pair in pairs:
        if pair["name"] in named:
            raise ValueError(f"'{pair['name']}' is there twice; each name may have one list.")
        named[pair["name"]] = pair["values"]
    return row | {"scores": named}


def _with_one_prompt(row: dict) -> dict:
    if not {"problem_id", "completion", "prompt"} <= row.keys():
        return row
    read = _with_objects(row, "prompt_format", "extra")
    if read.get("extra", "") is None:
        read = {name: value for name, value in read.items() if name != "extra"}  # none; a record has an empty mapping
    if "messages" in read and (read["prompt"] is None) != (read["messages"] is None):
        messages = read["messages"]
        read = {name: value for name, value in read.items() if name != "messages"}
        return read if messages is None else read | {"prompt": messages}
    return read


def _with_objects(row: dict, *names: str) -> dict:
    """The row with these fields read, where they are JSON in a text."""
    read = {}
    for name in names:
        if isinstance(row.get(name), str):
            # What is no JSON is left to the check of the field's reader, which names the row.
            with suppress(ValueError):
                read[name] = json.loads(row[name])
    return row | read if read else row
