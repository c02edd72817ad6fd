"""MkDocs hooks: generated pages join the site's files, and links to code become links to their lines."""

import os
import re
import sys
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page
from mkdocs.utils import get_relative_url

sys.path.insert(0, os.path.dirname(__file__))
from code_links import ROOT, BrokenCodeLink, CodeLink, line_of  # noqa: E402
from generated import ROOT_PAGES, linked_files, metrics_page, root_page, settings_page, source_page  # noqa: E402

# Their introductions are files; the tables come from the code.
GENERATED = {"reference/settings.md": settings_page, "reference/metrics.md": metrics_page}

_HREF = re.compile(r'href="code:(?P<path>[^"#]+)(?:#(?P<symbol>[^"]+))?"')


def on_files(files: Files, config: MkDocsConfig) -> Files:
    for source, page in ROOT_PAGES.items():
        files.append(File.generated(config, page, content=_cut_comments(root_page(source))))
    for picture in (ROOT / "assets").glob("*.png"):
        files.append(File.generated(config, f"assets/{picture.name}", abs_src_path=str(picture)))
    for page, make in GENERATED.items():
        intro = files.get_file_from_path(page)
        content = make(intro.content_string)
        files.remove(intro)
        files.append(File.generated(config, page, content=content))
    pages = [file.content_string for file in files.documentation_pages()]
    for path in linked_files(pages):
        try:
            line_of(CodeLink(path, None))
        except BrokenCodeLink as error:
            raise PluginError(str(error)) from None
        files.append(File.generated(config, _source_uri(path), content=source_page(path)))
    return files


def on_page_content(html: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    def to_line(match: re.Match) -> str:
        link = CodeLink(match["path"], match["symbol"])
        try:
            line = line_of(link)
        except BrokenCodeLink as error:
            raise PluginError(f"{page.file.src_uri}: {error}") from None
        target = files.get_file_from_path(_source_uri(link.path))
        anchor = f"#__codelineno-0-{line}" if link.symbol else ""
        return f'href="{get_relative_url(target.url, page.url)}{anchor}"'

    return _HREF.sub(to_line, html)


def _source_uri(path: str) -> str:
    return f"source/{Path(path).with_suffix('').as_posix()}{Path(path).suffix.replace('.', '-')}.md"


def _cut_comments(text: str) -> str:
    return re.sub(r"<!--.*?-->\n?", "", text, flags=re.DOTALL)
