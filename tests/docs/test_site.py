"""The site as `make docs` builds it: without a warning, and complete without a network."""

import os
import re
import subprocess
import sys

import pytest

from tests.docs.pages import ROOT

LOADED = re.compile(r'<(?:script|img|iframe|source)\b[^>]*\bsrc="([^"]+)"|<link\b[^>]*\bhref="([^"]+)"')


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    out = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(out)]
    environment = os.environ | {"NO_MKDOCS_2_WARNING": "1"}
    run = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert run.returncode == 0, run.stdout + run.stderr
    return out


def test_a_reader_loads_nothing_from_elsewhere(site):
    for page in site.rglob("*.html"):
        for groups in LOADED.findall(page.read_text(encoding="utf-8")):
            url = "".join(groups)
            assert not re.match(r"(https?:)?//", url), f"{page.relative_to(site)} loads {url}"
    for sheet in site.rglob("*.css"):
        assert not re.search(r"url\(\s*['\"]?(https?:)?//", sheet.read_text(encoding="utf-8")), sheet


def test_links_to_code_arrive_at_a_line(site):
    page = (site / "one-update" / "index.html").read_text(encoding="utf-8")
    actual = re.findall(r'href="\.\./(source/[^"#]+)#(__codelineno-0-\d+)"', page)
    assert len(actual) > 5
    for path, anchor in actual:
        assert f'id="{anchor}"' in (site / path / "index.html").read_text(encoding="utf-8")
    assert "code:" not in re.sub(r"<code.*?</code>", "", page, flags=re.S)
