"""Pages that are made when the site is built: settings, metrics, linked source files, and documents of the root."""

import posixpath
import re
from collections.abc import Iterable
from dataclasses import fields
from pathlib import Path

from code_links import ROOT, links_in

from rlstep.runtime.describe import Setting, describe_settings

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
    from rlstep.policy.monitoring.glossary import glossary_table

    return f"{intro}\n{glossary_table()}"


def settings_page(intro: str) -> str:
    """Every setting of every command: what it takes, its default and its help, as the dataclasses have them."""
    from rlstep.stages import COMMANDS, config_classes

    parts = [intro]
    for name, command in COMMANDS.items():
        parts.append(f"## `rlstep {name}` {{ #{name} }}\n\n{command.help}")
        parts += [_class_section(name, kind) for kind in config_classes(name)]
    return "\n\n".join(parts) + "\n"


def own_settings(kind: type) -> list[Setting]:
    """The settings of a configuration that rlstep declares, in order; those that it inherits from a library left out."""
    declared = {
        name
        for base in kind.__mro__
        if base.__module__.partition(".")[0] == "rlstep"
        for name in base.__dict__.get("__annotations__", {})
    }
    return [setting for setting in describe_settings(kind) if setting.name in declared]


def _class_section(command: str, kind: type) -> str:
    own = own_settings(kind)
    inherited = {field.name for field in fields(kind)} - {setting.name for setting in own}
    parts = []
    if own:
        rows = [_row(command, setting) for setting in own]
        table = "\n".join(["| setting | what it does | takes | default |", "|---|---|---|---|", *rows])
        parts.append(f"### {kind.__name__} {{ #{command}-{kind.__name__.lower()} }}\n\n{table}")
    if inherited:
        names = ", ".join(f"`{name}`" for name in sorted(inherited))
        lines = [f'??? note "{len(inherited)} more from {_library_of(kind)}, passed through"', "", f"    {names}"]
        parts.append("\n".join(lines))
    return "\n\n".join(parts)


_WORDS = {"str": "text", "int": "whole number", "float": "number", "bool": "true or false", "dict": "mapping"}


def _takes(setting: Setting) -> str:
    """What a setting admits in words: `number at least 0, or null`."""
    types = [_WORDS.get(name, name.replace("of str", "of text")) for name in setting.type.split(" or ")]
    wanted = " or ".join(name for name in types if name != "null")
    if setting.limits.startswith("one of "):
        wanted = setting.limits
    elif setting.limits:
        wanted = f"{wanted} {setting.limits}".replace("number a finite number", "finite number")
    return wanted + (", or null" if "null" in types else "")


def _row(command: str, setting: Setting) -> str:
    about = [setting.help]
    if setting.read_by:
        idle = setting.read_by.startswith("no effect")
        about.append(f"{setting.read_by.capitalize()}." if idle else f"Only with {setting.read_by}.")
    if setting.may_change:
        about.append("*May differ in a continued run.*")
    cells = (
        f'<span id="{command}-{setting.name}">`{setting.name}`</span>',
        " ".join(about),
        _takes(setting),
        setting.default if setting.default == "required" else f"`{setting.default}`",
    )
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _library_of(kind: type) -> str:
    base = next(base for base in kind.__mro__ if base.__module__.partition(".")[0] != "rlstep")
    library = {"trl": "TRL", "transformers": "transformers"}.get(base.__module__.partition(".")[0], base.__module__)
    return f"{base.__name__} of {library}"


def linked_files(pages: Iterable[str]) -> list[str]:
    """The files that any of the pages' Markdown links to as code."""
    return sorted({link.path for page in pages for link in links_in(page)})
