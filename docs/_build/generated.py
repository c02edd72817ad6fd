"""Pages that are made when the site is built: settings, metrics, linked source files, and documents of the root."""

import posixpath
import re
from collections.abc import Iterable
from dataclasses import MISSING, Field, fields
from enum import Enum
from pathlib import Path
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from code_links import ROOT

# Documents that GitHub shows at the repository's root or beside what they describe, and their pages on the site.
ROOT_PAGES = {
    "recipes/README.md": "recipes.md",
    "recipes/LOG.md": "log.md",
    "CHANGELOG.md": "changelog.md",
    "SECURITY.md": "security.md",
}
# Where other files that those documents link to have their content on the site.
ELSEWHERE = {"README.md": "index.md", "CONTRIBUTING.md": "extending.md"}

_LINK = re.compile(r"\]\((?!https?:|code:|#)(?P<target>[^)#\s]+)(?P<anchor>#[^)\s]*)?\)")


def root_page(source: str) -> str:
    """A document of the root as a page: its links to other documents lead to their pages, those to code to code.

    Raises:
        ValueError: a link to a file that has no page.
    """

    def on_the_site(match: re.Match) -> str:
        target = posixpath.normpath(posixpath.join(posixpath.dirname(source), match["target"]))
        anchor = match["anchor"] or ""
        if page := (ROOT_PAGES | ELSEWHERE).get(target):
            return f"]({page}{anchor})"
        if target.startswith("docs/"):
            return f"]({target.removeprefix('docs/')}{anchor})"
        if (ROOT / target).is_file():
            return f"](code:{target}{anchor})"
        raise ValueError(f"{source} links to {match['target']}, which is no file of the repository")

    return _LINK.sub(on_the_site, (ROOT / source).read_text(encoding="utf-8"))


def source_page(path: str) -> str:
    """A source file with numbered lines, whose anchors are `#__codelineno-0-LINE`."""
    text = (ROOT / path).read_text(encoding="utf-8").rstrip()
    fence = "`" * max(3, *(len(run) + 1 for run in re.findall(r"`+", text) or [""]))
    language = {".py": "python", ".yaml": "yaml", ".json": "json"}.get(Path(path).suffix, "text")
    front = "---\nsearch:\n  exclude: true\nhide:\n  - toc\n  - navigation\n---\n"
    return f'{front}\n# {path}\n\n{fence}{language} linenums="1"\n{text}\n{fence}\n'


def metrics_page(intro: str) -> str:
    from rlstep.policy.monitoring.metrics import glossary_table

    return f"{intro}\n{glossary_table()}"


def settings_page(intro: str) -> str:
    """Every setting of every command: what it takes, its default and its help, as the dataclasses have them."""
    from rlstep.stages import COMMANDS, config_classes

    parts = [intro]
    for name, command in COMMANDS.items():
        parts.append(f"## `rlstep {name}` {{ #{name} }}\n\n{command.help}")
        parts += [_class_section(name, kind) for kind in config_classes(name)]
    return "\n\n".join(parts) + "\n"


def own_fields(kind: type) -> list[Field]:
    """The fields of a configuration that rlstep declares, in order; those that it inherits from a library left out."""
    declared = {
        name
        for base in kind.__mro__
        if base.__module__.partition(".")[0] == "rlstep"
        for name in base.__dict__.get("__annotations__", {})
    }
    return [field for field in fields(kind) if field.name in declared]


def _class_section(command: str, kind: type) -> str:
    own = own_fields(kind)
    inherited = [field.name for field in fields(kind) if field not in own]
    parts = []
    if own:
        hints = get_type_hints(kind)
        rows = [_row(command, field, hints[field.name]) for field in own]
        table = "\n".join(["| setting | takes | default | what it does |", "|---|---|---|---|", *rows])
        parts.append(f"### {kind.__name__} {{ #{command}-{kind.__name__.lower()} }}\n\n{table}")
    if inherited:
        names = ", ".join(f"`{name}`" for name in sorted(inherited))
        lines = [f'??? note "{len(inherited)} more from {_library_of(kind)}, passed through"', "", f"    {names}"]
        parts.append("\n".join(lines))
    return "\n\n".join(parts)


def _row(command: str, field: Field, hint: Any) -> str:
    takes = field.metadata.get("choices")
    takes = ", ".join(f"`{choice}`" for choice in takes) if takes else shown_type(hint)
    cells = (
        f'<span id="{command}-{field.name}">`{field.name}`</span>',
        takes,
        shown_default(field),
        field.metadata.get("help", ""),
    )
    return "| " + " | ".join(str(cell).replace("|", "\\|") for cell in cells) + " |"


def _library_of(kind: type) -> str:
    base = next(base for base in kind.__mro__ if base.__module__.partition(".")[0] != "rlstep")
    library = {"trl": "TRL", "transformers": "transformers"}.get(base.__module__.partition(".")[0], base.__module__)
    return f"{library}'s {base.__name__}"


def shown_type(hint: Any) -> str:
    """A field's type in words: `int`, `one of ...`, `list of text`."""
    members = get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)
    return " or ".join(_one_type(member) for member in members)


def _one_type(hint: Any) -> str:
    if get_origin(hint) is Literal:
        return ", ".join(f"`{choice}`" for choice in get_args(hint))
    if isinstance(hint, type) and issubclass(hint, Enum):
        return ", ".join(f"`{member.value}`" for member in hint)
    if (origin := get_origin(hint)) in (list, tuple):
        return f"list of {_one_type(get_args(hint)[0])}"
    if origin is dict:
        return "mapping"
    words = {str: "text", bool: "true, false", type(None): "null", dict: "mapping", int: "whole number", float: "number"}
    return words.get(hint, getattr(hint, "__name__", str(hint)))


def shown_default(field: Field) -> str:
    if field.default_factory is not MISSING:
        default = field.default_factory()
    elif field.default is not MISSING:
        default = field.default
    else:
        return "required"
    return f"`{_plain(default)}`"


def _plain(value: Any) -> str:
    if isinstance(value, Enum):
        value = value.value
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(map(_plain, value)) + "]"
    return str(value)


def linked_files(pages: Iterable[str]) -> list[str]:
    """The files that any of the pages' Markdown links to as code."""
    from code_links import links_in

    return sorted({link.path for page in pages for link in links_in(page)})
