"""Converts a recipe's values to the types of their options, refusing what the command line would refuse."""

import argparse
import json
import types
from collections.abc import Callable
from typing import Any, NamedTuple, Union, get_args, get_origin

from rlstep.runtime.errors import UserError


class Option(NamedTuple):
    """How a value is converted.

    Attributes:
        convert: from text to the option's type.
        hint: the field's type.
        several: whether it takes a list of values.
        choices: the values accepted; None accepts all.
        required, default: the option's.
    """

    convert: Callable[[str], Any]
    hint: Any
    several: bool
    choices: tuple | None
    required: bool
    default: Any

    @property
    def takes_null(self) -> bool:
        return type(None) in _members(self.hint) or (self.default is None and not self.required)


def converted(option: Option, value):
    """A YAML value converted to its option's type; a ValueError says what is wrong with it."""
    if value is None:
        if option.takes_null:
            return None
        raise ValueError("null, but it needs a value")
    if isinstance(value, dict):
        if dict in _members(option.hint):
            return value
        raise ValueError("expected one value, got a mapping")
    if isinstance(value, list):
        if option.several:
            return [_scalar(option, item) for item in value]
        if list in _members(option.hint):
            return value
        raise ValueError(f"expected one value, got a list {value!r}")
    return [_scalar(option, value)] if option.several else _scalar(option, value)


def _scalar(option: Option, value):
    if isinstance(value, (dict, list)):
        raise ValueError(f"expected a list of single values, got {value!r} in it")
    try:
        result = option.convert(str(value))
    except (ValueError, TypeError, argparse.ArgumentTypeError):
        name = getattr(option.convert, "__name__", "another type").replace("string_to_bool", "true or false")
        raise ValueError(f"expected {name}, got {value!r}") from None
    refused = option.choices is not None and result not in option.choices
    if isinstance(value, bool) and (refused or option.convert is str):
        raise ValueError(f"expected text, got {value}; YAML reads yes, no, on and off as booleans: put it in quotes")
    if refused:
        raise ValueError(f"{value!r} is not one of {', '.join(map(str, option.choices))}")
    return result


def _members(hint) -> set:
    """The classes that a type hint accepts, without their parameters: `dict[str, int] | None` -> {dict, NoneType}."""
    if get_origin(hint) in (Union, types.UnionType):
        return set().union(*(_members(member) for member in get_args(hint)))
    return {dict, list, type(None)} if hint is Any else {get_origin(hint) or hint}


def as_mapping(name: str, value, example: str) -> dict | None:
    """A setting that is a mapping, given as such in a recipe or as JSON on the command line.

    Args:
        name: the setting's, for the message.
        value: a mapping, JSON text, or None.
        example: JSON that would be right, for the message.

    Raises:
        UserError: it is something else.
    """
    mapping = value
    if isinstance(value, str):
        try:
            mapping = json.loads(value)
        except ValueError:
            mapping = [value]
    if not isinstance(mapping, dict | None):
        raise UserError(f"{name} is {value}; give a mapping, on the command line as JSON: '{example}'.")
    return mapping
