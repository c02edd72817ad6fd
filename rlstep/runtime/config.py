"""Strict configuration: a YAML recipe, then `--key value`, into dataclasses; anything unknown is an error.

TRL's parser makes YAML values argparse defaults, which argparse does not check: a wrong choice, or a list where a
number belongs, would pass. Here every YAML value is checked against its field's type and choices and converted as the
same text on the command line would be; all faults are reported at once.

TRL loads lazily: importing its parser costs a third of a second and no torch, so every stage can use this one.
"""

import argparse
import difflib
import sys
from collections.abc import Iterable, Sequence
from dataclasses import fields
from pathlib import Path
from types import SimpleNamespace
from typing import get_type_hints

from trl import TrlParser

from rlstep.runtime.constraints import OFF, GoesWith, ReadBy, constraints_of, default_of, plain, raise_faults
from rlstep.runtime.conversion import Option, converted
from rlstep.runtime.describe import as_yaml, describe_settings
from rlstep.runtime.errors import UserError
from rlstep.runtime.recipes import load_recipe, one_line, recipe_layers
from rlstep.runtime.redaction import is_secret, redacted

__all__ = ["PRINT_CONFIG", "StrictParser", "describe_settings", "load_recipe", "settings"]

PRINT_CONFIG = "--print_config"
COMMAND_LINE, TAKEN_BACK = "command line", "back to the default"


class StrictParser(TrlParser):
    """TrlParser that refuses unknown keys and bad values, from YAML as from the command line."""

    def __init__(self, dataclass_types: Sequence[type], **kwargs):
        super().__init__(dataclass_types, **kwargs)
        self._explain_negations()
        self._options = self._settings_options()
        # These two are removed from the command line before it is parsed; they are added here only for the help.
        self.add_argument("--config", metavar="RECIPE", help="A recipe: a YAML file, or the name of a shipped one.")
        self.add_argument(
            PRINT_CONFIG,
            action="store_true",
            help="Print every setting as a recipe, with where its value comes from, and run nothing. Types and choices "
            "are checked; whether the settings are compatible is checked by a run, before it loads anything.",
        )

    def error(self, message: str):
        raise UserError(f"{message}. `{self.prog} --help` lists the options.")

    def parse(self, argv: Sequence[str]) -> tuple:
        """The dataclasses of `argv`, where `--config FILE` gives defaults that other options override.

        Raises:
            UserError: no such recipe, not a mapping, unknown keys, wrong types or choices, all of them in one message;
                otherwise settings that are out of range or incompatible, those of all dataclasses in one message.
        """
        values, origins = self._resolve(argv)
        if taken_back := [name for name, origin in origins.items() if origin.startswith(TAKEN_BACK)]:
            print(f"{self.prog}: switched off, so back to the default: {', '.join(taken_back)}", file=sys.stderr)
        configs, faults = [], []
        for kind in self.dataclass_types:
            try:
                configs.append(kind(**{field.name: values[field.name] for field in fields(kind) if field.init}))
            except (UserError, ValueError, TypeError) as error:
                faults.append(one_line(error))
        raise_faults(faults)
        return tuple(configs)

    def resolved(self, argv: Sequence[str]) -> str:
        """The settings of `argv` as the text of a recipe that reproduces them, each with where its value comes from.

        Secrets are left out. No configuration is built, so this works even where the settings could not be used, for
        example on a machine without a GPU.

        Raises:
            UserError: no such recipe, not a mapping, unknown keys, wrong types or choices, all of them in one message.
        """
        values, origins, missing = self._resolve_incomplete(argv)
        lines = []
        for kind in self.dataclass_types:
            lines += ["", f"# {kind.__name__}"]
            for name in (field.name for field in fields(kind) if field.init):
                origin = origins.get(name, "default")
                if name in missing:
                    lines.append(f"# {name}: required, but not given")
                elif is_secret(name) and values[name] is not None:
                    lines.append(f"# {name}: redacted ({origin})")
                else:
                    lines.append(f"{name}: {as_yaml(redacted(plain(values[name])))}  # {origin}")
        return "\n".join(lines[1:])

    def values(self, argv: Sequence[str]) -> dict:
        """The settings of `argv` by name, those of all dataclasses; required ones that are not given are None.

        No configuration is built.

        Raises:
            UserError: as in `resolved`.
        """
        return self._resolve_incomplete(argv)[0]

    def _resolve_incomplete(self, argv: Sequence[str]) -> tuple[dict, dict[str, str], set[str]]:
        """What `_resolve` gives where required settings may be missing, and which are."""
        required = [action for action in self._actions if action.required]
        for action in required:
            action.required = False
        values, origins = self._resolve(argv)
        return values, origins, {action.dest for action in required} - origins.keys()

    def _resolve(self, argv: Sequence[str]) -> tuple[dict, dict[str, str]]:
        """Every setting's value, and the origin of those that were given: a recipe's path, or the command line."""
        path, argv = _take_config(argv)
        given = {key: (value, _shown(file)) for file, recipe in recipe_layers(path) for key, value in recipe.items()}
        values, faults = self._checked(given)
        options = [word.partition("=")[0] for word in argv if word.startswith("--")]
        known = self._option_string_actions
        # argparse would accept an abbreviation, whose meaning changes when a later version adds an option.
        faults += [f"unknown option '{o}'" + _suggestion(o, known) for o in options if o not in known]
        if faults:
            self.error("; ".join(faults))
        argv, nulls = self._take_nulls(argv)
        self.set_defaults_with_config(**values)
        namespace, rest = self.parse_known_args(argv)
        if rest:
            self.error(f"unexpected argument '{rest[0]}'")
        values = {key: value for key, value in (vars(namespace) | nulls).items() if key in self._options}
        origins = {key: source for key, (_, source) in given.items()} | {known[o].dest: COMMAND_LINE for o in options}
        for kind in self.dataclass_types:
            self._switch_off(kind, values, origins)
        return values, origins

    def _switch_off(self, kind: type, values: dict, origins: dict[str, str]) -> None:
        """Turning a switch off on the command line (`--use_vllm false`) also resets what a recipe sets under it.

        Such a setting goes back to its default, and its origin says so. A setting given in the same place as the
        switch (both on the command line, or both in one recipe) is left alone, and refused by the configuration.
        """
        state = SimpleNamespace(**values)
        for name, (_, constraints) in constraints_of(kind).items():
            for condition in constraints:
                if not isinstance(condition, (ReadBy, GoesWith)) or condition.holds(state):
                    continue
                switches = [one for one in condition.owners if origins.get(one) == COMMAND_LINE and values[one] in OFF]
                if switches and origins.get(name, COMMAND_LINE) != COMMAND_LINE:
                    source, values[name] = origins[name], default_of(kind.__dataclass_fields__[name])
                    off = f"{' and '.join(switches)} {'is' if len(switches) == 1 else 'are'} off"
                    origins[name] = f"{TAKEN_BACK}, for {off}; {source} has another value"

    def _explain_negations(self) -> None:
        """TRL's parser gives `--no_flag` the help of `--flag` and a default of its own, which says the opposite."""
        for action in self._actions:
            if isinstance(action, argparse._StoreFalseAction):
                action.help, action.default = f"The same as --{action.dest} false.", argparse.SUPPRESS

    def _settings_options(self) -> dict[str, Option]:
        """How the values of each setting are converted."""
        hints = {name: hint for kind in self.dataclass_types for name, hint in get_type_hints(kind).items()}
        options: dict[str, Option] = {}
        for action in self._actions:
            # A flag that is on by default has a second action, --no_flag, with the same name.
            if action.dest in hints and action.dest not in options:
                options[action.dest] = Option(
                    action.type,
                    hints[action.dest],
                    action.nargs == "+",
                    action.choices,
                    action.required,
                    action.default,
                )
        return options

    def _checked(self, given: dict) -> tuple[dict, list[str]]:
        """A recipe's values, key -> (value, file), converted to their options' types, and the faults of the others."""
        values: dict = {}
        faults: dict[str, list[str]] = {}
        for key, (value, source) in given.items():
            if key not in self._options:
                faults.setdefault(source, []).append(f"unknown key '{key}'" + _suggestion(str(key), self._options))
                continue
            try:
                values[key] = converted(self._options[key], value)
            except ValueError as error:
                faults.setdefault(source, []).append(f"{key}: {error}")
        return values, [f"{source}: {'; '.join(wrong)}" for source, wrong in faults.items()]

    def _take_nulls(self, argv: Sequence[str]) -> tuple[list[str], dict[str, None]]:
        """Takes `--key null`, for settings that may be null, out of the command line: argparse has no such value."""
        rest, nulls = [], {}
        words = iter(argv)
        for word in words:
            option, has_value, value = word.partition("=")
            action = self._option_string_actions.get(option)
            following = [] if action is None or has_value else [next(words, None)]
            null = (value if has_value else following[0] if following else None) == "null"
            if action is not None and action.dest in self._options and null and self._options[action.dest].takes_null:
                nulls[action.dest] = None
                continue
            if action is not None:
                nulls.pop(action.dest, None)
            rest += [word, *(w for w in following if w is not None)]
        return rest, nulls


def _suggestion(word: str, known: Iterable[str]) -> str:
    close = difflib.get_close_matches(word, list(known), n=1)
    return f" (did you mean '{close[0]}'?)" if close else ""


def _take_config(argv: Sequence[str]) -> tuple[str | None, list[str]]:
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    parser.add_argument("--config", action="append", default=[])
    try:
        known, rest = parser.parse_known_args(argv)
    except argparse.ArgumentError:
        raise UserError("--config needs a file: --config recipes/....yaml") from None
    if len(known.config) > 1:
        raise UserError(
            f"--config is given {len(known.config)} times; give one and override its keys with --key value."
        )
    return (known.config[0] if known.config else None), rest


def _shown(file: Path) -> str:
    """A file's path relative to the working directory, where it is inside it."""
    return str(file.relative_to(Path.cwd()) if file.is_relative_to(Path.cwd()) else file)


def settings(config) -> dict:
    """A configuration's fields as plain values, for run records and fingerprints; secrets are left out."""
    values = {f.name: plain(getattr(config, f.name)) for f in fields(config)}
    return redacted(values)
