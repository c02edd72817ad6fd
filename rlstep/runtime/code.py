"""Which files of rlstep a module can reach by its imports, so that a change elsewhere does not redo finished work."""

import ast
from collections.abc import Iterator
from pathlib import Path

import rlstep
from rlstep.runtime.record import digest


def code_digest(module: str) -> str:
    """Hash of the code that a module can reach by its imports; arguments as `reachable_files`."""
    root = Path(rlstep.__file__).parent
    files = reachable_files(module)
    return digest(*(path.relative_to(root).as_posix() for path in files), *files)


def reachable_files(module: str) -> list[Path]:
    """The source files of a module and of everything it imports from rlstep, directly or indirectly, in a fixed order.

    Imports are read from the source, including those inside functions; nothing is imported. `__init__.py` files are
    included, because importing a module runs those of the packages above it.

    Args:
        module: a dotted name, for example "rlstep.stages.prm".
    """
    seen: set[Path] = set()
    waiting = [module]
    while waiting:
        parts = waiting.pop().split(".")
        # rlstep.a.b runs rlstep/a/__init__.py first; a name imported from a module resolves to that module.
        for length in range(2, len(parts) + 1):
            file = _file_of(parts[:length])
            if file is not None and file not in seen:
                seen.add(file)
                waiting += _imported_names(file)
    return sorted(seen)


def _file_of(parts: list[str]) -> Path | None:
    path = Path(rlstep.__file__).parent.joinpath(*parts[1:])
    candidates = (path / "__init__.py", path.with_suffix(".py"))
    return next((file for file in candidates if file.is_file()), None)


def _imported_names(file: Path) -> Iterator[str]:
    """Dotted names inside rlstep that a file's import statements mention."""
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        yield from (name for name in names if name.startswith("rlstep."))
