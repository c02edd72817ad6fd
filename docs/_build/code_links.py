"""Links from the documentation to code: `[text](code:rlstep/core/rewards.py#step_rewards)`.

A link names a file and, after `#`, a definition in it: a function, a class, a method (`Class.method`), a field of a
class or a variable of the module. Line numbers are looked up when the site is built, so none can go stale, and a name
that is gone is an error. The files themselves become pages of the site, with a line to jump to.
"""

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[2]

LINK = re.compile(r"\]\(code:(?P<path>[^)#\s]+)(?:#(?P<symbol>[\w.]+))?\)")


class CodeLink(NamedTuple):
    path: str  # relative to the repository's root
    symbol: str | None  # a dotted name in that file

    def __str__(self) -> str:
        return self.path if self.symbol is None else f"{self.path}#{self.symbol}"


class BrokenCodeLink(Exception):
    """A link to a file or a definition that is not there."""


def links_in(markdown: str) -> Iterator[CodeLink]:
    for match in LINK.finditer(markdown):
        yield CodeLink(match["path"], match["symbol"])


def line_of(link: CodeLink) -> int:
    """The line of a linked definition, counted from 1; a file's first line where no definition is named.

    Raises:
        BrokenCodeLink: no such file, or no such definition in it.
    """
    if not (ROOT / link.path).is_file():
        raise BrokenCodeLink(f"code:{link}: there is no file {link.path}")
    if link.symbol is None:
        return 1
    body = _module(link.path).body
    line = 0
    for name in link.symbol.split("."):
        definitions = _definitions(body)
        if name not in definitions:
            known = ", ".join(sorted(definitions)) or "nothing"
            raise BrokenCodeLink(f"code:{link}: {link.path} does not define {name} there; it defines {known}")
        node = definitions[name]
        line, body = node.lineno, getattr(node, "body", [])
    return line


@cache
def _module(path: str) -> ast.Module:
    return ast.parse((ROOT / path).read_text(encoding="utf-8"), path)


def _definitions(body: list[ast.stmt]) -> dict[str, ast.stmt]:
    """What a module or class defines, by name."""
    definitions: dict[str, ast.stmt] = {}
    for node in body:
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            definitions[node.name] = node
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            definitions[node.target.id] = node
        elif isinstance(node, ast.Assign):
            definitions |= {target.id: node for target in node.targets if isinstance(target, ast.Name)}
    return definitions
