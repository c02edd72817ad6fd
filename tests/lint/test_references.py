"""What docstrings and comments refer to is there: paths of files, and dotted names of modules and what they define."""

import ast
import re
from functools import cache
from pathlib import Path

import pytest

import rlstep

ROOT = Path(rlstep.__file__).parents[1]
SOURCES = sorted(path for folder in ("rlstep", "tests") for path in (ROOT / folder).rglob("*.py"))
# `tests/policy/test_trl_seam.py`, `rlstep.core.rewards.SCHEMES`
PATH = re.compile(r"`((?:rlstep|tests|recipes|docs|ds_configs)/[\w./-]+\.\w+)`")
NAME = re.compile(r"`(rlstep(?:\.\w+)+)`")
ENTRY_POINTS = {"rlstep.rewards"}  # a group of entry points, not a module


@cache
def defined(file: Path) -> dict[str, ast.AST]:
    """What a module binds by name, at its top level."""
    return names_of(ast.parse(file.read_text(encoding="utf-8")).body)


def names_of(body: list[ast.stmt]) -> dict[str, ast.AST]:
    names: dict[str, ast.AST] = {}
    for node in body:
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            names[node.name] = node
        elif isinstance(node, (ast.Import, ast.ImportFrom)):
            names |= {alias.asname or alias.name: node for alias in node.names}
        elif isinstance(node, (ast.Assign, ast.AnnAssign)):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            names |= {name.id: node for target in targets for name in ast.walk(target) if isinstance(name, ast.Name)}
    return names


def exists(name: str) -> bool:
    """Whether a dotted name is a module or package of rlstep, something that one defines, or a member of a class."""
    parts = name.split(".")
    for length in range(len(parts), 0, -1):
        place = ROOT.joinpath(*parts[:length])
        file = place / "__init__.py" if place.is_dir() else place.with_suffix(".py")
        if not file.is_file():
            continue
        known, rest = defined(file), parts[length:]
        for part in rest:
            if part not in known:
                return False
            node = known[part]
            known = names_of(node.body) if isinstance(node, ast.ClassDef) else {}
        return True
    return False


@pytest.mark.parametrize("source", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_references_lead_somewhere(source):
    text = source.read_text(encoding="utf-8")
    assert [path for path in PATH.findall(text) if not (ROOT / path).exists()] == []
    assert [name for name in NAME.findall(text) if name not in ENTRY_POINTS and not exists(name)] == []


@pytest.mark.parametrize(
    ("name", "there"),
    [
        ("rlstep.core", True),
        ("rlstep.core.rewards.SCHEMES", True),
        ("rlstep.steps.readers.base.Reader.cut_short", True),
        ("rlstep.core.rewards.missing", False),
        ("rlstep.core.missing.step_rewards", False),
        ("rlstep.steps.readers.base.Reader.missing", False),
    ],
)
def test_a_name_is_looked_up_in_its_module_and_class(name, there):
    assert exists(name) is there
