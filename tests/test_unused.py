"""Nothing in the library waits for tests alone: each function and class is used by the library, or exported by name.

Exported is what a module lists in `__all__`, what `rlstep` and its packages load lazily, and the commands.
"""

import ast
import importlib
from collections import Counter
from pathlib import Path

import pytest

import rlstep
from rlstep.stages import COMMANDS

ROOT = Path(rlstep.__file__).parent
SOURCES = {
    ".".join(("rlstep", *path.relative_to(ROOT).with_suffix("").parts)).removesuffix(".__init__"): ast.parse(
        path.read_text(encoding="utf-8")
    )
    for path in sorted(ROOT.rglob("*.py"))
}
# Called by name from outside: prints a table of the documentation.
CALLED_FROM_OUTSIDE = {("rlstep.policy.monitoring.glossary", "glossary_table")}
Definition = ast.FunctionDef | ast.ClassDef


def exported(module: str, tree: ast.Module) -> set[str]:
    """The names of `__all__` and the keys of `_LAZY`."""
    names: set[str] = set()
    for node in tree.body:
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            value = node.value.keys if isinstance(node.value, ast.Dict) else getattr(node.value, "elts", [])
            if node.targets[0].id in ("__all__", "_LAZY"):
                names |= {item.value for item in value if isinstance(item, ast.Constant)}
    return names


def references(tree: ast.AST) -> Counter[str]:
    """How often each name is read, as a name or as an attribute of a module."""
    names = Counter(node.id for node in ast.walk(tree) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load))
    return names + Counter(node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute))


def imported(sources: dict[str, ast.Module]) -> set[tuple[str, str]]:
    """(module, name) of what is imported within the library, or read as an attribute of an imported module."""
    actual: set[tuple[str, str]] = set()
    for tree in sources.values():
        modules = {}
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and node.module:
                actual |= {(node.module, alias.name) for alias in node.names}
                modules |= {alias.asname or alias.name: f"{node.module}.{alias.name}" for alias in node.names}
        for node in ast.walk(tree):
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in modules:
                actual.add((modules[node.value.id], node.attr))
    return actual


def unused(sources: dict[str, ast.Module]) -> list[str]:
    """Functions, classes and methods that no line of the library calls, and that are not exported."""
    used = (
        imported(sources) | CALLED_FROM_OUTSIDE | {(command.module, command.function) for command in COMMANDS.values()}
    )
    everywhere = sum((references(tree) for tree in sources.values()), Counter())
    names = []
    for module, tree in sources.items():
        here, public = references(tree), exported(module, tree)
        for node in tree.body:
            if not isinstance(node, Definition) or node.name.startswith("__"):
                continue
            by_itself = references(node)[node.name]
            if node.name not in public and (module, node.name) not in used and here[node.name] <= by_itself:
                names.append(f"{module}.{node.name}")
            # A base class of another library may call its methods by name.
            if isinstance(node, ast.ClassDef) and not node.bases:
                methods = [
                    one for one in node.body if isinstance(one, ast.FunctionDef) and not one.name.startswith("__")
                ]
                names += [f"{module}.{node.name}.{one.name}" for one in methods if not everywhere[one.name]]
    return names


def test_everything_is_used_or_exported():
    assert unused(SOURCES) == []


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("def helper(): pass", ["m.helper"]),
        ("def helper(): return helper()", ["m.helper"]),
        ("__all__ = ['helper']\ndef helper(): pass", []),
        ("def helper(): pass\nx = helper()", []),
        ("class Thing:\n    def method(self): pass\nThing()", ["m.Thing.method"]),
        ("class Thing:\n    def method(self): pass\nThing().method()", []),
        ("class Thing(Base):\n    def hook(self): pass\nThing()", []),
    ],
)
def test_what_only_a_test_would_call_is_seen(code, expected):
    assert unused({"m": ast.parse(code)}) == expected


def test_another_modules_use_counts():
    used = {"m": ast.parse("def helper(): pass"), "n": ast.parse("from m import helper")}
    assert unused(used) == []
    assert unused({**used, "n": ast.parse("from a import m\nm.helper()")}) == ["m.helper"]
    assert unused({"a.m": used["m"], "n": ast.parse("from a import m\nm.helper()")}) == []


@pytest.mark.parametrize("module", [name for name in SOURCES if name.startswith("rlstep.core.")])
def test_core_exports_all_that_has_no_underscore(module):
    public = [n.name for n in SOURCES[module].body if isinstance(n, Definition) and not n.name.startswith("_")]
    listed = importlib.import_module(module).__all__
    assert set(public) <= set(listed)
    assert all(hasattr(importlib.import_module(module), name) for name in listed)
