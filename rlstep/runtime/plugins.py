"""What a user adds without changing rlstep: `package.module:NAME`, or a name that an installed package gives it.

A package offers one as an entry point, in its pyproject.toml:

    [project.entry-points."rlstep.tasks"]
    sudoku = "sudoku_task:Sudoku"
"""

import difflib
import sys
import traceback
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path

from rlstep.runtime.errors import UserError


def is_reference(name: str) -> bool:
    """Whether a name says where the object is: `package.module:NAME`."""
    module, colon, attribute = name.partition(":")
    return bool(colon) and all(map(str.isidentifier, module.split("."))) and attribute.isidentifier()


def offered(group: str) -> dict[str, EntryPoint]:
    """The entry points of a group by name."""
    return {point.name: point for point in entry_points(group=group)}


def name_faults(setting: str, names: list[str], built_in: tuple[str, ...], group: str) -> list[str]:
    """What is wrong with names that are to be built-in ones, entry points or references; nothing is imported."""
    points, faults = offered(group), []
    for name in names:
        if name in built_in and name in points:
            faults.append(
                f"{setting} '{name}' is rlstep's own, and the installed {points[name].value} has the same name in the "
                f"entry points {group}; name that as {points[name].value}, under another entry point"
            )
        elif name not in built_in and name not in points and not is_reference(name):
            there = [*built_in, *sorted(points)]
            close = difflib.get_close_matches(name, there, n=1)
            hint = f" (did you mean '{close[0]}'?)" if close else ""
            faults.append(
                f"no {setting} '{name}'{hint}; there are {', '.join(there)}, or your own as package.module:NAME"
            )
    return faults


def load_object(name: str, group: str, what: str):
    """The object that an entry point of the group has this name for, or that a reference names.

    Modules in the working directory can be imported, as by `python -m`.

    Args:
        name: the name or the reference.
        group: the entry points' group.
        what: what it is to be, for messages: task, reward.

    Raises:
        UserError: there is no such entry point, module or name in it, or importing it fails.
    """
    points = offered(group)
    reference = points[name].value if name in points else name
    if not is_reference(reference):
        raise UserError(f"no {what} '{name}'; give package.module:NAME, or install a package that offers it.")
    module_name, _, attribute = reference.partition(":")
    if (here := str(Path.cwd())) not in sys.path:
        sys.path.insert(0, here)
    try:
        module = import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module_name}.".startswith(f"{error.name}."):
            raise UserError(f"{what} {name}: importing {module_name} fails, for it needs '{error.name}'.") from error
        raise UserError(
            f"{what} {name}: there is no module '{error.name}' in {here} and among the installed packages."
        ) from error
    except Exception as error:  # whatever the module does when it is imported
        place = traceback.extract_tb(error.__traceback__)[-1]
        where = f"{place.filename}, line {place.lineno}"
        raise UserError(
            f"{what} {name}: importing {module_name} fails: {type(error).__name__}: {error} ({where})."
        ) from error
    if not hasattr(module, attribute):
        public = [key for key, value in vars(module).items() if callable(value) and not key.startswith("_")]
        there = ", ".join(public) or "nothing that could be called"
        raise UserError(f"{what} {name}: {module_name} has no '{attribute}'; it has {there}.")
    return getattr(module, attribute)
