"""Settings as the documentation shows them."""

import types
from dataclasses import MISSING
from enum import Enum
from typing import Literal, NamedTuple, Union, get_args, get_origin

import yaml

from rlstep.runtime.constraints import Idle, MayChange, Range, ReadBy, choices_of, constraints_of, default_of, plain


class Setting(NamedTuple):
    """One setting; every attribute is a string.

    Attributes:
        name: of the field, which is also the option and the recipe's key.
        type: its type, "null" standing for None.
        default: as a recipe would write it; "required" if there is none.
        help: one or two sentences, as `--help` shows them.
        limits: its range or choices; empty if the type says it all.
        read_by: the settings under which it is read, or that it has no effect; empty if it is always read.
        may_change: why a resumed run may change it; empty if it may not.
    """

    name: str
    type: str
    default: str
    help: str
    limits: str
    read_by: str
    may_change: str


def describe_settings(cls: type) -> list[Setting]:
    """The settings of a configuration class, in order, those that it inherits from TRL and transformers included."""
    rows = []
    for name, (hint, constraints) in constraints_of(cls).items():
        field = cls.__dataclass_fields__[name]
        default = default_of(field)
        limits = [str(c) for c in constraints if isinstance(c, Range)]
        if choices := choices_of(hint, constraints) or field.metadata.get("choices", ()):
            limits.append(f"one of {', '.join(map(str, choices))}")
        rows.append(
            Setting(
                name,
                type_name(hint),
                "required" if default is MISSING else as_yaml(plain(default)),
                " ".join(field.metadata.get("help", "").split()),
                " and ".join(limits),
                " and ".join(str(c) for c in constraints if isinstance(c, (ReadBy, Idle))),
                " and ".join(c.reason for c in constraints if isinstance(c, MayChange)),
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


def as_yaml(value) -> str:
    """A plain value as a recipe writes it, on one line."""
    text = yaml.safe_dump(value, default_flow_style=True, width=float("inf"), allow_unicode=True)
    return text.removesuffix("\n").removesuffix("\n...")
