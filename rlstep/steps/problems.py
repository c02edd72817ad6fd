"""Problems from anybody's rows: the one reader for every stage that takes problems.

A row needs a prompt and a reference answer. Of the names below, the first that a row has is taken:

prompt       prompt, messages (open-instruct), conversations (ShareGPT), problem, question, instruction; the last three
             with what they are about, where that is in another field (`rlstep.steps.two_fields`)
reference    reference, reward_model.ground_truth (verl), ground_truth (open-instruct), final_answer (OlympiadBench),
             expected_answer (OpenMathInstruct), answer
             In Open-Reasoner-Zero's rows, lists of two, it is where they have it. Of OlympiadBench's final answers all
             are asked for where it says `is_multiple_answer`
id           id, unique_id; else a hash of prompt and reference, the same in every file and run

`fields` names others. Messages that end with the assistant's are a demonstration, and a problem beside them is the
prompt. What else a row holds travels along in `Problem.extra`.
"""

import hashlib
import json
import logging
import re
from collections.abc import Iterator, Sequence
from contextlib import suppress
from decimal import Decimal
from math import isfinite, isnan
from pathlib import Path
from typing import NamedTuple, NoReturn

from rlstep.runtime.counted import counted
from rlstep.runtime.errors import UserError
from rlstep.steps.choices import refuse_choices_unseen
from rlstep.steps.fields import parse_fields, rename_fields
from rlstep.steps.messages import Prompt, read_prompt
from rlstep.steps.records import Problem, shown
from rlstep.steps.sources import Row, has_word, hub_rows, is_hub_id, rows_of, shards
from rlstep.steps.two_fields import fields_of_problem, whole_problem

logger = logging.getLogger(__name__)

NAMES = ("id", "prompt", "reference")
# What other people call them, in the order in which they are tried.
KNOWN_AS = {
    "id": ("unique_id",),
    "prompt": ("messages", "conversations", "problem", "question", "instruction"),
    "reference": ("reward_model.ground_truth", "ground_truth", "final_answer", "expected_answer", "answer"),
}
SPLITS = ("train", "validation", "valid", "val", "dev", "test")
# GSM8K's answers are whole solutions, and a reference that holds one would grade every answer wrong.
SOLUTION_MARK = "####"
# What NuminaMath's rows have in place of an answer.
NO_ANSWERS = ("proof", "notfound")

# A list of one text, written out as JSON (Skywork-OR1).
_ONE_IN_A_LIST = re.compile(r"""\s*\[\s*"(?:[^"\\]|\\.)*"\s*\]\s*""", re.DOTALL)

# The same settings in every stage that reads problems.
PROBLEMS_HELP = "Problems: a file (.jsonl, .json, .parquet, .gz), a folder of shards, or a hub id."
FIELDS_HELP = (
    "The problems' names of fields, where they are others: prompt=question,reference=meta.gold, or several fields of"
    " text: prompt=Body+Question. Known are id, prompt and reference; problem, question, instruction, messages,"
    " conversations, answer, final_answer, expected_answer, ground_truth and reward_model.ground_truth are recognised."
)
SPLIT_HELP = "The hub data set's split; of a folder, the shards with this word in their name."
CONFIG_NAME_HELP = "The hub data set's configuration."


def read_problems(
    path: str | Path,
    fields: Sequence[str] | None = None,
    split: str | None = None,
    config_name: str | None = None,
    places: dict[str, Row] | None = None,
) -> list[Problem]:
    """All problems of a file, of a folder of shards, or of a data set of the hub.

    Rows without an id of their own that have the same prompt and reference are one problem; how many there were is
    logged.

    Args:
        path: the file (`.jsonl`, `.json`, either with `.gz`, `.parquet`), the folder, or the hub id.
        fields: our names of fields and theirs, `prompt=question` (`rlstep.steps.fields`).
        split: the hub data set's split; of a folder, the shards with this word in their name.
        config_name: the hub data set's configuration, where it has several.
        places: is filled with the row of each problem, by the problem's id, for errors that are found later.

    Raises:
        UserError: nothing is there, a field that nothing reads, or a folder of several data sets or splits.
        DataError: a row has no prompt, no reference or a blank one, or an id that another row has.
    """
    mapping = parse_fields(fields, NAMES)
    problems: dict[str, Problem] = {}
    places = {} if places is None else places
    repeated = 0
    for row in _rows(str(path), split, config_name):
        row = rename_fields(row, mapping)
        problem, taken = _problem(row)
        row = row._replace(renamed={name: row.name_of(place) for name, place in taken.items()})
        if problem.id not in problems:
            problems[problem.id], places[problem.id] = problem, row
        elif "id" in taken:
            first = places[problem.id]
            where = f"row {first.number}" if first.source == row.source else f"{first.source}, row {first.number}"
            raise row.fault("id", f"'{problem.id}' is already in {where}.")
        else:
            repeated += 1
    if repeated:
        logger.warning(
            "%s: %s a problem; each of %d is taken once",
            path,
            counted(repeated, "row repeats", "rows repeat"),
            len(problems),
        )
    return list(problems.values())


def fields_faults(fields: Sequence[str] | None) -> Iterator[str]:
    """What is wrong with the setting `fields`."""
    try:
        parse_fields(fields, NAMES)
    except UserError as error:
        yield str(error)


def _rows(path: str, split: str | None, config_name: str | None) -> Iterator[Row]:
    if is_hub_id(path):
        return hub_rows(path, split, config_name, None)
    if config_name is not None:
        raise UserError(f"config_name is '{config_name}', but {path} is no data set of the hub. Leave it out.")
    files = shards(path, split)
    splits = [word for word in SPLITS if any(has_word(word, file.name) for file in files)]
    if split is None and len(files) > 1 and len(splits) > 1:
        raise UserError(f"{path}: its files are of the splits {', '.join(splits)}. Name one (split), or give a file.")
    return rows_of(files)


class _Taken(NamedTuple):
    """A value that was taken from a row."""

    field: str  # where in the row
    value: object


def _problem(row: Row) -> tuple[Problem, dict[str, str]]:
    """The problem that a row holds, and where in the row its id, prompt and reference are; no id has no place."""
    row = _read_values(row)
    taken: dict[str, _Taken] = {}
    for name in NAMES:
        # Where a field was named, no other is looked at, though it be null.
        for known in (name,) if name in row.renamed else (name, *KNOWN_AS[name]):
            outer, dot, inner = known.partition(".")
            value = row.values.get(outer)
            if dot:
                value = value.get(inner) if isinstance(value, dict) else None
            if value is not None and not (name == "prompt" and name not in row.renamed and _has_another(row, known)):
                taken[name] = _Taken(known, value)
                break
    for name in ("prompt", "reference"):
        if name not in taken:
            _refuse_missing(row, name)
    prompt, reference = _prompt(row, *taken["prompt"]), _reference(row, *taken["reference"])
    of_prompt = [taken["prompt"].field]
    if isinstance(prompt, str) and "prompt" not in row.renamed:
        prompt, of_prompt = whole_problem(row, *of_prompt, prompt)
    refuse_choices_unseen(row, prompt, taken["reference"].value)
    own = _id(row, *taken["id"]) if "id" in taken else f"problem-{_hash(prompt, reference)}"
    places = {name: one.field for name, one in taken.items()}
    return Problem(own, prompt, reference, _extra(row, {*places.values(), *of_prompt})), places


def _read_values(row: Row) -> Row:
    """The row with what tables could not say as it was: objects as JSON in a text, and a null id as NaN.

    Open-Reasoner-Zero's rows, [{"from": "human", "value"}, {"from": "assistant", "ground_truth": {"value"}}], get the
    names of open-instruct's.
    """
    asked, truth = row.values.get("0"), row.values.get("1")
    if isinstance(asked, dict) and isinstance(truth, dict) and isinstance(truth.get("ground_truth"), dict):
        more = {name: value for name, value in truth["ground_truth"].items() if name != "value"}
        values = {"messages": [asked], "ground_truth": truth["ground_truth"].get("value")}
        return row._replace(values=values | more)
    outers = {known.partition(".")[0] for names in KNOWN_AS.values() for known in names if "." in known}
    read = {}
    for name in outers & row.values.keys():
        with suppress(TypeError, ValueError):
            read[name] = json.loads(row.values[name])
    read = {name: value for name, value in read.items() if isinstance(value, dict)}
    if isinstance(value := row.values.get("id"), float) and isnan(value):
        read["id"] = None
    return row._replace(values=row.values | read) if read else row


def _has_another(row: Row, known: str) -> bool:
    """Whether messages are a demonstration, which ends with the assistant's, and another field has the prompt."""
    messages = row.values.get(known)
    demonstration = isinstance(messages, list) and messages and isinstance(messages[-1], dict)
    demonstration = demonstration and messages[-1].get("role") == "assistant"
    after = KNOWN_AS["prompt"][KNOWN_AS["prompt"].index(known) + 1 :] if known in KNOWN_AS["prompt"] else ()
    return bool(demonstration) and any(isinstance(row.values.get(other), str) for other in after)


def _refuse_missing(row: Row, name: str) -> NoReturn:
    if name in row.renamed:
        raise row.fault(name, "is null, and a problem needs one.")
    there = ", ".join(row.names) or "no fields"
    known = ", ".join((name, *KNOWN_AS[name]))
    hint = (
        " Published solutions are for the tasks math and gsm8k of `rlstep prepare`." if "solution" in row.values else ""
    )
    null = "is null" if name in row.values else "missing"
    spelled = next((str(own) for own in row.values if str(own).casefold() in (name, *KNOWN_AS[name])), "THEIRS")
    if name == "prompt":
        spelled = "+".join(fields_of_problem(spelled, row.names))
    raise row.fault(
        name,
        f"{null}; none of {known} is in this row, which has {there}. Name the field: --fields {name}={spelled}.{hint}",
    )


def _prompt(row: Row, field: str, value: object) -> Prompt:
    if isinstance(value, str) and not value.strip():
        raise row.fault(field, "is blank; a problem needs a prompt.")
    try:
        prompt = read_prompt(value)
    except ValueError as error:
        raise row.fault(field, f"{error}.") from None
    if isinstance(prompt, str):
        return prompt
    if prompt[-1]["role"] == "assistant":
        problem = "ends with the assistant's message; a prompt ends where the assistant is to speak."
        raise row.fault(field, problem)
    if not any(message["role"] == "user" and message["content"].strip() for message in prompt):
        raise row.fault(field, "has no message of the user's with a text in it.")
    return prompt


def _reference(row: Row, field: str, value: object) -> str:
    if isinstance(value, str) and _ONE_IN_A_LIST.fullmatch(value):
        with suppress(ValueError):
            value = json.loads(value)
    if isinstance(value, list) and len(value) > 1 and row.values.get("is_multiple_answer") is True:
        value = ", ".join(map(str, value))
    if isinstance(value, list) and len(value) == 1:
        value = value[0]
    if isinstance(value, list) and value:
        problem = (
            f"holds {len(value)} answers, {shown(value)}. If all of them are asked for, join them to one text ('2, 3');"
            " if they are one answer in several spellings, keep one."
        )
        raise row.fault(field, problem)
    if isinstance(value, (int, float, Decimal)) and not isinstance(value, bool):
        # A column of numbers with gaps in it is read with NaN there, and its whole numbers as 142.0.
        value = str(int(value)) if value == value // 1 else str(value) if isfinite(value) else ""
    if not isinstance(value, str):
        raise row.fault(field, f"expected the right answer as text, got {shown(value)}.")
    if not value.strip():
        raise row.fault(field, "is empty; it is the right answer, by which answers are graded.")
    if value.strip() in NO_ANSWERS:
        raise row.fault(
            field,
            f"is '{value.strip()}', which stands for no answer, so none can be graded by it. Leave such rows out.",
        )
    if SOLUTION_MARK in value:
        raise row.fault(
            field,
            f"holds a whole solution with its answer after '{SOLUTION_MARK}', as GSM8K has it, not the answer alone."
            " `rlstep prepare --task gsm8k` reads such rows.",
        )
    return value


def _id(row: Row, field: str, value: object) -> str:
    if isinstance(value, (int, float)) and not isinstance(value, bool) and value == value // 1:
        return str(int(value))
    if not isinstance(value, str) or not value:
        raise row.fault(field, f"expected text or a whole number, got {shown(value)}.")
    return value


def _hash(prompt: Prompt, reference: str) -> str:
    text = json.dumps([prompt, reference], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _extra(row: Row, taken: set[str]) -> dict:
    """A row's other fields, as JSON has them; those of our own field `extra` are among them."""
    rest = {str(name): value for name, value in row.values.items() if name not in taken}
    for outer, dot, inner in (known.partition(".") for known in taken):
        if dot:
            rest[outer] = {name: value for name, value in rest[outer].items() if name != inner}
    own = rest.pop("extra", None)
    if isinstance(own, dict):
        rest |= own
    elif own is not None:
        rest["extra"] = own
    # Dates and decimals of a Parquet file become text.
    return json.loads(json.dumps(rest, default=str))
