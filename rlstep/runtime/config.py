"""Strict configuration: a YAML recipe, then `--key value`, into dataclasses; what is not known is an error.

TRL's parser makes YAML values argparse defaults, which argparse does not check: a wrong choice, or a list where a
number belongs, would pass. Here every YAML value is held against its field's type and choices and becomes what the
same text on the command line would become; all faults are shown at once.

TRL loads lazily: importing its parser costs a third of a second and no torch, so every stage can use this one.
"""

import argparse
import difflib
import types
from collections.abc import Iterable, Sequence
from dataclasses import MISSING, fields
from enum import Enum
from typing import Any, Literal, NamedTuple, Union, get_args, get_origin, get_type_hints

import yaml
from trl import TrlParser

from rlstep.runtime.constraints import Idle, Range, ReadBy, choices_of, constraints_of, default_of, plain
from rlstep.runtime.errors import UserError
from rlstep.runtime.recipes import load_recipe, one_line


class StrictParser(TrlParser):
    """TrlParser that refuses unknown keys and bad values, from YAML as from the command line."""

    def __init__(self, dataclass_types: Sequence[type], **kwargs):
        super().__init__(dataclass_types, **kwargs)
        self._hints = {name: hint for kind in self.dataclass_types for name, hint in get_type_hints(kind).items()}

    def error(self, message: str):
        raise UserError(f"{message}. `{self.prog} --help` lists the options.")

    def parse(self, argv: Sequence[str]) -> tuple:
        """The dataclasses of `argv`, where `--config FILE` gives defaults that other options override.

        Raises:
            UserError: no such recipe, not a mapping, unknown keys, wrong types or choices (all of them in one message).
        """
        path, argv = _take_config(argv)
        recipe = load_recipe(path) if path else {}
        values, faults = self._checked(recipe)
        problems = [f"{path}: " + "; ".join(faults)] if faults else []
        options = [word.partition("=")[0] for word in argv if word.startswith("--")]
        known = self._option_string_actions
        # argparse would take an abbreviation, whose meaning changes when a later version adds an option.
        problems += [f"unknown option '{o}'" + _suggestion(o, known) for o in options if o not in known]
        if problems:
            self.error("; ".join(problems))
        self.set_defaults_with_config(**values)
        try:
            *parsed, rest = self.parse_args_into_dataclasses(
                argv, return_remaining_strings=True, look_for_args_file=False
            )
        except (ValueError, TypeError) as error:
            # __post_init__ of a configuration refuses a combination of values.
            raise UserError(one_line(error)) from error
        if rest:
            self.error(f"unexpected argument '{rest[0]}'")
        return tuple(parsed)

    def _checked(self, recipe: dict) -> tuple[dict, list[str]]:
        """A recipe's values in their options' types, and what is wrong with the others."""
        actions: dict[str, argparse.Action] = {}
        for action in self._actions:
            # A flag that is on by default has a second action, --no_flag, with the same name.
            actions.setdefault(action.dest, action)
        actions.pop("help", None)
        values, faults = {}, []
        for key, value in recipe.items():
            if key not in actions:
                faults.append(f"unknown key '{key}'" + _suggestion(str(key), actions))
                continue
            try:
                values[key] = _converted(actions[key], self._hints[key], value)
            except ValueError as error:
                faults.append(f"{key}: {error}")
        return values, faults


def _converted(action: argparse.Action, hint, value):
    """A YAML value as its option's type; a ValueError says what is wrong with it."""
    if value is None:
        if type(None) in _members(hint) or (action.default is None and not action.required):
            return None
        raise ValueError("null, but it needs a value")
    if isinstance(value, dict):
        if dict in _members(hint):
            return value
        raise ValueError("expected one value, found a mapping")
    if isinstance(value, list):
        if action.nargs == "+":
            return [_scalar(action, item) for item in value]
        if list in _members(hint):
            return value
        raise ValueError(f"expected one value, found a list {value!r}")
    return [_scalar(action, value)] if action.nargs == "+" else _scalar(action, value)


def _scalar(action: argparse.Action, value):
    if isinstance(value, (dict, list)):
        raise ValueError(f"expected a list of single values, found {value!r} in it")
    try:
        found = action.type(str(value))
    except (ValueError, TypeError, argparse.ArgumentTypeError):
        name = getattr(action.type, "__name__", "another type").replace("string_to_bool", "true or false")
        raise ValueError(f"expected {name}, found {value!r}") from None
    refused = action.choices is not None and found not in action.choices
    if isinstance(value, bool) and (refused or action.type is str):
        raise ValueError(f"expected a text, found {value}; YAML reads yes, no, on and off so: put it in quotes")
    if refused:
        raise ValueError(f"{value!r} is not one of {', '.join(map(str, action.choices))}")
    return found


def _members(hint) -> set:
    """The classes that a type hint admits, without their parameters: `dict[str, int] | None` -> {dict, NoneType}."""
    if get_origin(hint) in (Union, types.UnionType):
        return set().union(*(_members(member) for member in get_args(hint)))
    return {dict, list, type(None)} if hint is Any else {get_origin(hint) or hint}


def _suggestion(word: str, known: Iterable[str]) -> str:
    close = difflib.get_close_matches(word, list(known), n=1)
    return f" (did you mean '{close[0]}'?)" if close else ""


def _take_config(argv: Sequence[str]) -> tuple[str | None, list[str]]:
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    parser.add_argument("--config", action="append", default=[])
    try:
        found, rest = parser.parse_known_args(argv)
    except argparse.ArgumentError:
        raise UserError("--config needs a file: --config recipes/....yaml") from None
    if len(found.config) > 1:
        raise UserError(
            f"--config is given {len(found.config)} times; give one and override its keys with --key value."
        )
    return (found.config[0] if found.config else None), rest


class Setting(NamedTuple):
    """One setting as a reader of the documentation sees it; every part is a text.

    Attributes:
        name: the field's, and so the option's and the recipe's key.
        type: its type, "null" standing for None.
        default: as a recipe would write it; "required" where there is none.
        help: one sentence or two, as `--help` shows them.
        limits: its range or choices; empty where the type says all.
        read_by: the settings under which it is read, or that it has no effect; empty where it always is.
    """

    name: str
    type: str
    default: str
    help: str
    limits: str
    read_by: str


def describe_settings(cls: type) -> list[Setting]:
    """The settings of a configuration class, in order, those that it inherits from TRL and transformers included."""
    rows = []
    for name, (hint, constraints) in constraints_of(cls).items():
        field = cls.__dataclass_fields__[name]
        default = default_of(field)
        ranges = [str(c) for c in constraints if isinstance(c, Range)]
        if choices := choices_of(hint, constraints) or field.metadata.get("choices", ()):
            ranges.append(f"one of {', '.join(map(str, choices))}")
        rows.append(
            Setting(
                name,
                type_name(hint),
                "required" if default is MISSING else _as_yaml(plain(default)),
                " ".join(field.metadata.get("help", "").split()),
                " and ".join(ranges),
                " and ".join(str(c) for c in constraints if isinstance(c, (ReadBy, Idle))),
            )
        )
    return rows


def type_name(hint) -> str:
    """A type as documentation writes it: `int | None` -> "int or null", a Literal by the type of its values."""
    if hint is type(None):
        return "null"
    if get_origin(hint) in (Union, types.UnionType):
        return " or ".join(dict.fromkeys(map(type_name, get_args(hint))))
    if get_origin(hint) is Literal:
        return " or ".join(dict.fromkeys(type(value).__name__ for value in get_args(hint)))
    if get_origin(hint) in (list, dict) and get_args(hint):
        return f"{get_origin(hint).__name__} of {' to '.join(map(type_name, get_args(hint)))}"
    if isinstance(hint, type) and issubclass(hint, Enum):
        return "str"
    return getattr(hint, "__name__", str(hint))


def _as_yaml(value) -> str:
    return yaml.safe_dump(value, default_flow_style=True, width=float("inf")).removesuffix("\n...\n").strip()


def settings(config) -> dict:
    """A configuration's fields as plain values, for run records and fingerprints; access tokens are left out."""
    return {f.name: plain(getattr(config, f.name)) for f in fields(config) if not f.name.endswith("_token")}
