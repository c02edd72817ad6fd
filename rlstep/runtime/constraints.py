"""What a setting accepts, stated once, next to its type: its range, its choices, what reads it, and whether a resumed
run may change it.

    gamma: Annotated[float, Range(at_least=0, at_most=1), ReadBy("advantage", "gae", "rloo")] = field(default=1.0, ...)

`check` enforces it on a configuration and reports all faults in one message; `describe_settings` in
`rlstep.runtime.describe` shows it in the documentation. Other parsers ignore what `Annotated` adds, so a configuration
still works with TRL's. Fields that a class inherits from a library are constrained in its attribute `inherited`, a
mapping of names to constraints.

A setting that nothing reads is refused when it differs from its default: it would silently do nothing.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import MISSING, Field, dataclass, fields
from functools import cache
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints

from rlstep.runtime.errors import UserError

# Values with which a switch is off.
OFF = (False, None, 0, "no", "off")


@dataclass(frozen=True)
class Range:
    """Finite numbers between two bounds, each inclusive or exclusive. `Range()` is any finite number."""

    at_least: float | None = None
    above: float | None = None
    at_most: float | None = None
    below: float | None = None

    def admits(self, value: float) -> bool:
        return math.isfinite(value) and all(
            (
                self.at_least is None or value >= self.at_least,
                self.above is None or value > self.above,
                self.at_most is None or value <= self.at_most,
                self.below is None or value < self.below,
            )
        )

    def __str__(self) -> str:
        bounds = (
            ("at least", self.at_least), ("above", self.above), ("at most", self.at_most), ("below", self.below),
        )  # fmt: skip
        return " and ".join(f"{words} {bound:g}" for words, bound in bounds if bound is not None) or "a finite number"


@dataclass(frozen=True)
class Choices:
    """The values accepted, for a string or for each item of a list. A `Literal` type needs none."""

    values: tuple[str, ...]

    def __str__(self) -> str:
        return f"one of {', '.join(map(str, self.values))}"


@dataclass(frozen=True, init=False)
class ReadBy:
    """Read only if another setting of the same configuration has one of the given values; without values, if it is set.

    Args:
        owner: the other setting's name.
        values: those under which this one is read; none means any that is not null, 0, false or empty.
    """

    owner: str
    values: tuple

    def __init__(self, owner: str, *values):
        object.__setattr__(self, "owner", owner)
        object.__setattr__(self, "values", values)

    @property
    def owners(self) -> tuple[str, ...]:
        return (self.owner,)

    def holds(self, config) -> bool:
        value = getattr(config, self.owner)
        return plain(value) in self.values if self.values else bool(value)

    def __str__(self) -> str:
        return f"{self.owner} {' or '.join(map(shown, self.values))}" if self.values else self.owner


@dataclass(frozen=True, init=False)
class ReadUnless(ReadBy):
    """Read unless another setting of the same configuration has one of the given values."""

    def holds(self, config) -> bool:
        return plain(getattr(config, self.owner)) not in self.values

    def __str__(self) -> str:
        return f"{self.owner} other than {' or '.join(map(shown, self.values))}"


@dataclass(frozen=True, init=False)
class GoesWith:
    """Given up where the last of several switches, maybe of another part of a run, is turned off by the user."""

    owners: tuple[str, ...]

    def __init__(self, *owners: str):
        object.__setattr__(self, "owners", owners)

    def holds(self, config) -> bool:
        return any(plain(getattr(config, owner)) not in OFF for owner in self.owners)

    def __str__(self) -> str:
        return f"goes with {' or '.join(self.owners)}"


@dataclass(frozen=True)
class Idle:
    """A library's setting that nothing reads here; `reason` says why, or what to set instead."""

    reason: str

    def __str__(self) -> str:
        return f"no effect: {self.reason}"


@dataclass(frozen=True)
class MayChange:
    """May differ between a run and its continuation (`rlstep.runtime.identity`); `reason` says why that is safe."""

    reason: str


Constraint = Range | Choices | ReadBy | GoesWith | Idle | MayChange


def check(config, more: Iterable[str] = ()) -> None:
    """Refuses a configuration whose settings are out of range or would do nothing.

    Args:
        config: a dataclass, after its fields are set.
        more: further faults, which concern several settings at once; reported in the same message.

    Raises:
        UserError: all faults.
    """
    raise_faults([*faults_of(config), *more])


def raise_faults(faults: Iterable[str]) -> None:
    """Raises one UserError that names every fault, if there are any; duplicates are named once."""
    if faults := [fault.rstrip(".") for fault in dict.fromkeys(faults)]:
        raise UserError("; ".join(faults) + ".")


def library_faults(initialise: Callable[[], None]) -> list[str]:
    """What a library's `__post_init__` rejects in a configuration, so that it can be reported with the rest."""
    try:
        initialise()
    except (ValueError, TypeError) as error:
        return [" ".join(str(error).split())]
    except ZeroDivisionError as error:
        return [f"a setting is 0 by which others are divided ({error})"]
    return []


def faults_of(config, kind: type | None = None) -> Iterator[str]:
    """Faults of single settings: those outside their range or choices, then those that nothing would read.

    Args:
        config: the configuration.
        kind: the class whose constraints apply, if not its own.
    """
    unread: dict[ReadBy | Idle, list[str]] = {}
    constraints = constraints_of(kind or type(config))
    for name, (hint, constraint) in constraints.items():
        value = getattr(config, name)
        yield from _value_faults(name, value, hint, constraint)
        conditions = [c for c in constraint if isinstance(c, Idle) or isinstance(c, ReadBy) and not c.holds(config)]
        if conditions and differs(config, name):
            # What nothing reads at all is not read if another setting changes, either.
            first = min(conditions, key=lambda condition: not isinstance(condition, Idle))
            unread.setdefault(first, []).append(name)
    for condition, names in unread.items():
        yield _unread_fault(config, condition, names)


def faults_of_values(kind: type, values: Mapping[str, Any]) -> Iterator[str]:
    """What is out of range or no choice among settings of a configuration that is not built.

    Args:
        kind: the configuration's class.
        values: its settings by name, maybe among those of others; of a required one that is not there nothing is said.
    """
    required = {field.name for field in fields(kind) if default_of(field) is MISSING}
    for name, (hint, constraint) in constraints_of(kind).items():
        if name in values and not (name in required and values[name] is None):
            yield from _value_faults(name, values[name], hint, constraint)


def _value_faults(name: str, value, hint, constraints: Iterable[Constraint]) -> Iterator[str]:
    optional = type(None) in get_args(hint)
    if value is None and optional:
        return
    or_null = ", or null" if optional else ""
    ranges = [constraint for constraint in constraints if isinstance(constraint, Range)]
    numeric = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not all(numeric and admitted.admits(value) for admitted in ranges):
        bounds = " and ".join(map(str, ranges))
        finite = " and finite" if numeric and math.isinf(value) and "finite" not in bounds else ""
        yield f"{name} is {'null' if value is None else value}; it must be {bounds}{finite}{or_null}"
    if admitted := choices_of(hint, constraints):
        for item in value if isinstance(value, (list, tuple)) else [value]:
            if plain(item) not in admitted:
                yield f"{name} is '{item}'; it must be one of {', '.join(map(str, admitted))}{or_null}"


def _unread_fault(config, condition: ReadBy | Idle, names: list[str]) -> str:
    listed, them, do = ", ".join(names), *(("it", "does") if len(names) == 1 else ("them", "do"))
    if isinstance(condition, Idle):
        return f"{listed} {do} nothing here: {condition.reason}; leave {them} out"
    # What a recipe sets cannot be unset on the command line, only set back to its default.
    defaults = ", ".join(shown(plain(default_of(config.__dataclass_fields__[name]))) for name in names)
    owner, value = condition.owner, plain(getattr(config, condition.owner))
    given = " or ".join(map(shown, condition.values))
    to = f" to {given}" if given else ""
    if isinstance(condition, ReadUnless):
        to = " to false" if condition.values == (True,) else f" to a value other than {given}"
    return f"{owner} is {shown(value)}, so {listed} would do nothing; set {owner}{to}, or leave {them} at {defaults}"


def differs(config, name: str) -> bool:
    """Whether a setting differs from its default (a `default_factory`'s included); one without a default does."""
    default = default_of(config.__dataclass_fields__[name])
    return default is MISSING or plain(getattr(config, name)) != plain(default)


def changed(config, names: Iterable[str] | None = None) -> list[str]:
    """The settings, among `names` or all, that differ from their defaults."""
    return [name for name in ([f.name for f in fields(config)] if names is None else names) if differs(config, name)]


def default_of(field: Field) -> Any:
    """A field's default, calling its factory if it has one; MISSING if it has no default."""
    return field.default_factory() if field.default_factory is not MISSING else field.default


@cache
def constraints_of(cls: type) -> dict[str, tuple[Any, tuple[Constraint, ...]]]:
    """Each field's plain type and its constraints, inherited fields included."""
    inherited: dict[str, tuple[Constraint, ...]] = {}
    for kind in reversed(cls.__mro__):
        inherited |= vars(kind).get("inherited", {})
    hints = get_type_hints(cls, include_extras=True)
    by_name = {}
    for field in fields(cls):
        hint, own = hints[field.name], ()
        if get_origin(hint) is Annotated:
            hint, *rest = get_args(hint)
            own = tuple(item for item in rest if isinstance(item, Constraint))
        by_name[field.name] = (hint, own + inherited.pop(field.name, ()))
    if inherited:
        raise TypeError(f"{cls.__name__} constrains {', '.join(inherited)}, which it does not have")
    return by_name


def choices_of(hint, constraints: Iterable[Constraint]) -> tuple:
    """The values that a type or a constraint lists; empty if any value is accepted."""
    for constraint in constraints:
        if isinstance(constraint, Choices):
            return constraint.values
    members = (hint, *get_args(hint)) if get_origin(hint) is not Literal else (hint,)
    return tuple(value for member in members if get_origin(member) is Literal for value in get_args(member))


def plain(value):
    """A value in JSON types: enums by their values, tuples as lists, anything else as text."""
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    # An Enum of str prints as Enum.MEMBER; its value is what a recipe holds.
    value = getattr(value, "value", value)
    return value if isinstance(value, (str, int, float, bool, type(None))) else str(value)


def shown(value) -> str:
    """A value as a recipe writes it, strings in quotes."""
    if isinstance(value, str):
        return f"'{value}'"
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return str(value)
