"""Reading the documentation's Markdown: fenced blocks, links, and the anchors that headings make."""

import re
import shlex
import unicodedata
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[2]
SITE = sorted(path for path in (ROOT / "docs").rglob("*.md"))
# What GitHub shows without the site.
BESIDE = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "SECURITY.md", "CHANGELOG.md")] + sorted(
    (ROOT / "recipes").glob("*.md")
)
PAGES = SITE + BESIDE

_FENCE = re.compile(
    r"^(?P<indent> *)(?P<fence>`{3,})(?P<language>\w*)[^\n]*\n(?P<text>.*?)^(?P=indent)(?P=fence)$", re.M | re.S
)
_LINK = re.compile(r"\[[^\]]*\]\((?P<target>[^)\s]+)\)")
_HEADING = re.compile(r"^#{1,6} (?P<title>.+)$", re.M)


class Block(NamedTuple):
    page: Path
    line: int
    language: str
    text: str

    @property
    def name(self) -> str:
        return f"{self.page.relative_to(ROOT).as_posix()}:{self.line}"


def blocks(page: Path, *languages: str) -> list[Block]:
    """The fenced blocks of a page that are in one of these languages."""
    text = page.read_text(encoding="utf-8")
    actual = []
    for match in _FENCE.finditer(text):
        if match["language"] in languages:
            actual.append(Block(page, text.count("\n", 0, match.start()) + 1, match["language"], match["text"]))
    return actual


def commands(block: Block) -> list[list[str]]:
    """A shell block's commands as words, without comments and with continued lines joined."""
    text = block.text.replace("\\\n", " ")
    lines = [shlex.split(line, comments=True) for part in text.splitlines() for line in part.split("&&")]
    return [words for words in lines if words]


def in_line(page: Path) -> list[str]:
    """The code in a page's running text and tables, once each."""
    text = _FENCE.sub("", page.read_text(encoding="utf-8"))
    return [code.replace("\\|", "|") for code in dict.fromkeys(re.findall(r"`([^`\n]+)`", text))]


def links(page: Path) -> Iterator[str]:
    """Where a page's links and pictures lead, code blocks left out."""
    text = re.sub(r"`[^`\n]*`", "", _FENCE.sub("", page.read_text(encoding="utf-8")))
    for match in _LINK.finditer(text):
        yield match["target"]


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as MkDocs and GitHub make them."""
    text = _FENCE.sub("", page.read_text(encoding="utf-8"))
    return {_slug(match["title"]) for match in _HEADING.finditer(text)}


def _slug(title: str) -> str:
    title = re.sub(r"[`*_]|\]\([^)]*\)|\[", "", title)
    plain = unicodedata.normalize("NFKD", title).encode("ascii", "ignore").decode()
    return re.sub(r"[-\s]+", "-", re.sub(r"[^\w\s-]", "", plain).strip().lower())
