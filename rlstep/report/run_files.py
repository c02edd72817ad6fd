"""The files of a run that a report is made of, each checked: a value of another kind would fail far from its file."""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import get_args

from rlstep.core.aggregate import Aggregate
from rlstep.evaluation.domains import ALL
from rlstep.report import tables
from rlstep.runtime.counted import counted
from rlstep.runtime.errors import DataError, UserError

PARTS = ("mean", "low", "high")
EVALUATE = "Run `rlstep evaluate` again."
AGGREGATES = get_args(Aggregate)
NAMED = 5  # faults of a file


class Faults:
    """The rows of a file that could not be read, in words: the first ones, and how many more there are."""

    def __init__(self):
        self._named: list[str] = []
        self._more = 0

    def add(self, fault: DataError) -> None:
        """Takes the error of a row."""
        if len(self._named) < NAMED:
            self._named.append(str(fault))
        else:
            self._more += 1

    def words(self, path: Path) -> list[str]:
        """One text per row that is named, and one for the others of the file `path`."""
        more = [f"{path}: {counted(self._more, 'more row')} that cannot be read"] if self._more else []
        return [*self._named, *more]


def read_json(path: Path) -> dict:
    """The object that a JSON file holds.

    Raises:
        UserError: it holds something else.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:  # of JSON or of UTF-8
        reason = getattr(error, "msg", None) or getattr(error, "reason", error)
        raise UserError(f"{path}: not valid JSON ({reason}). Run the stage that writes it again.") from None
    if not isinstance(content, dict):
        raise UserError(f"{path}: expected a JSON object, got {type(content).__name__}.")
    return content


def read_curves(path: Path) -> dict:
    """The content of best_of_n.json.

    Raises:
        UserError: it lacks a part, or has another in its place.
    """
    curves = read_json(path)
    names = tables.curve_names(curves)
    if "ns" not in curves or not names:
        raise UserError(f"{path}: {'no curve' if 'ns' in curves else 'no ' + repr('ns')}. {EVALUATE}")
    _check(path, curves, "ns", _are_ns, "rising whole numbers from 1")
    for name in names:
        for part in PARTS:
            values = curves[name].get(part)
            if not isinstance(values, list) or len(values) != len(curves["ns"]) or not all(map(_is_number, values)):
                raise UserError(f"{path}: the curve '{name}' needs one '{part}' for each N of 'ns'. {EVALUATE}")
    for name in ("problems", "samples_per_problem"):
        _check(path, curves, name, _is_count, "a whole number")
    _check(path, curves, "aggregate", lambda value: value in AGGREGATES, f"one of {', '.join(AGGREGATES)}")
    _check(path, curves, "unanswered", _is_number, "a share", needed=False)
    _check(path, curves, "prm_steps", _are_numbers, "measures by name", needed=False)
    return curves


def read_domains(path: Path) -> dict:
    """The content of domains.json.

    Raises:
        UserError: it lacks a part, or has another in its place.
    """
    figures = read_json(path)
    _check(path, figures, "n", _is_count, "a whole number")
    _check(path, figures, "domains", lambda value: isinstance(value, dict) and bool(value), "figures by domain")
    for name, one in (figures["domains"] | {ALL: figures.get(ALL)}).items():
        accuracy = one.get("accuracy") if isinstance(one, dict) else None
        known = isinstance(accuracy, dict) and all(map(_is_interval, accuracy.values()))
        if not known or not _is_count(one.get("problems")):
            raise UserError(f"{path}: '{name}' needs 'problems', and 'accuracy' with its intervals. {EVALUATE}")
    return figures


def read_record(path: Path) -> dict:
    """A stage's record.

    Raises:
        UserError: it has something else than a record has.
    """
    record = read_json(path)
    again = "Run the stage that writes it again."
    _check(path, record, "seconds", _is_number, "a number", needed=False, again=again)
    _check(path, record, "seed", lambda seed: seed is None or _is_whole(seed), "a whole number", False, again)
    _check(path, record, "commit", lambda value: value is None or _is_text(value), "text", False, again)
    _check(path, record, "versions", _are_texts, "texts by package", False, again)
    _check(path, record, "config", lambda value: isinstance(value, dict), "settings by name", False, again)
    return record


def _check(
    path: Path, content: dict, name: str, holds: Callable, wanted: str, needed: bool = True, again: str = EVALUATE
) -> None:
    if name not in content and needed:
        raise UserError(f"{path}: no '{name}'. {again}")
    if name in content and not holds(content[name]):
        raise UserError(f"{path}: '{name}' is not {wanted}. {again}")


def _is_whole(value) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_count(value) -> bool:
    return _is_whole(value) and value >= 0


def _is_number(value) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _is_text(value) -> bool:
    return isinstance(value, str)


def _are_ns(value) -> bool:
    if not isinstance(value, list) or not value or not all(map(_is_whole, value)):
        return False
    return value[0] > 0 and value == sorted(set(value))


def _are_numbers(value) -> bool:
    return isinstance(value, dict) and all(map(_is_number, value.values()))


def _are_texts(value) -> bool:
    return isinstance(value, dict) and all(map(_is_text, value.values()))


def _is_interval(value) -> bool:
    """One figure: {"mean", "low", "high"}, the ends null where there is no spread."""
    if not isinstance(value, dict) or not _is_number(value.get("mean")):
        return False
    return all(value.get(end) is None or _is_number(value[end]) for end in ("low", "high"))
