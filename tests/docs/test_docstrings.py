"""What the site's parser is given of docstrings, and that those of the API pages are complete."""

import re
from collections.abc import Iterator

import griffe
import yaml
from docstrings import rewritten

from tests.docs.pages import ROOT

# `::: NAME` and the indented options below it.
DIRECTIVE = re.compile(r"^::: (\S+)\n((?:    .*\n?)*)", re.M)
# Their fields have help texts, which `test_generated` asks for.
SETTINGS = ("StepPPOConfig", "VerifierArguments", "Guards")


def test_arguments_described_together_get_an_entry_each():
    given = """Scores.

Args:
    prompts, completions: one pair per row; equal rows
        are scored once.
    steps: spans, in order, one list per row.
    *args, **kwargs: the rest.

Returns:
    a, b: not arguments.
"""
    assert (
        rewritten(given)
        == """Scores.

Args:
    prompts: one pair per row; equal rows
        are scored once.
    completions: one pair per row; equal rows
        are scored once.
    steps: spans, in order, one list per row.
    *args: the rest.
    **kwargs: the rest.

Returns:
    a, b: not arguments.
"""
    )


def test_attributes_are_taken_apart_too():
    assert rewritten("Attributes:\n    low, high: the interval.") == (
        "Attributes:\n    low: the interval.\n    high: the interval."
    )


def test_a_block_is_announced_by_one_colon():
    assert rewritten("The schemes::\n\n    sum  p_k") == "The schemes:\n\n    sum  p_k"
    assert rewritten("A list[::2] stays.") == "A list[::2] stays."


def documented() -> Iterator[griffe.Object]:
    """What the API pages show: each named module's members, each named class with its public methods."""
    package = griffe.load("rlstep", search_paths=[str(ROOT)])
    for page in sorted((ROOT / "docs" / "reference").glob("*.md")):
        for name, options in DIRECTIVE.findall(page.read_text(encoding="utf-8")):
            named = package[name.removeprefix("rlstep.")]
            members = (yaml.safe_load(options) or {"options": {}})["options"].get("members")
            if not named.is_module:
                yield named
            if members is None:
                members = [member.name for member in methods(named)]
            for member in members or ():
                yield named[member]
                yield from methods(named[member])


def methods(one: griffe.Object) -> list[griffe.Object]:
    """The public functions with a docstring that a class, or a module, defines itself."""
    own = [member for member in one.members.values() if not member.is_alias and member.name[0] != "_"]
    return [member for member in own if member.is_function and member.docstring]


def undescribed(one: griffe.Object) -> list[str]:
    """The parameters that a docstring neither lists nor, where it lists none, names in its text."""
    called = one.members.get("__init__") if one.is_class else one
    if called is None or one.name in SETTINGS:  # inherited, and described where it is defined
        return []
    text = griffe.Docstring(rewritten(one.docstring.value), parent=one)
    entries = {
        entry.name.lstrip("*")
        for section in text.parse("google", warnings=False)
        if section.kind.value in ("parameters", "attributes")
        for entry in section.value
    }
    given = [parameter.name for parameter in called.parameters if parameter.name not in ("self", "cls")]
    return [name for name in given if name not in entries and (entries or not re.search(rf"\b{name}\b", text.value))]


def test_the_api_pages_describe_every_parameter():
    shown = list(documented())
    assert len(shown) > 60
    assert [one.path for one in shown if not one.docstring] == []
    assert {one.path: names for one in shown if one.docstring and (names := undescribed(one))} == {}
