"""A griffe extension: docstrings as this project writes them, as the site's parser reads them.

Arguments that are described together, `prompts, completions: one pair per row`, become one entry each, so that every one
has its type. `::`, which announces a block in reStructuredText, becomes the colon that a reader sees.
"""

import re

import griffe

_TOGETHER = re.compile(r"^(?P<indent>[ ]+)(?P<names>\*{0,2}\w+(?:, \*{0,2}\w+)+): (?P<text>.*(?:\n(?P=indent)[ ]+.*)*)", re.M)
_SECTION = re.compile(r"^(?P<name>Args|Attributes):\n(?P<body>(?:[ ]+.*\n?|\n(?=[ ]))*)", re.M)
_BLOCK = re.compile(r"::$", re.M)


class Docstrings(griffe.Extension):
    def on_object(self, *, obj: griffe.Object, **_) -> None:
        if obj.docstring is not None:
            obj.docstring.value = rewritten(obj.docstring.value)


def rewritten(docstring: str) -> str:
    apart = _SECTION.sub(lambda found: f"{found['name']}:\n{_one_each(found['body'])}", docstring)
    return _BLOCK.sub(":", apart)


def _one_each(body: str) -> str:
    def entries(found: re.Match) -> str:
        names = found["names"].split(", ")
        return "\n".join(f"{found['indent']}{name}: {found['text']}" for name in names)

    return _TOGETHER.sub(entries, body)
