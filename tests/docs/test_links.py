"""Every link of the documentation leads somewhere: files, headings and code. The build checks the site once more."""

from pathlib import Path

import code_links
import pytest
import yaml
from generated import ELSEWHERE, ROOT_PAGES, root_page

from tests.docs.pages import PAGES, ROOT, SITE, anchors, links


def name_of(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


# What the build makes: pages out of documents of the root, and pictures.
MADE = {page: source for source, page in ROOT_PAGES.items()}


def lands(page: Path, target: str) -> Path | None:
    """The file that a relative link leads to, or None where there is none."""
    path = (page.parent / target).resolve() if target else page
    if path.is_file():
        return path
    inside = path.relative_to(ROOT).as_posix() if path.is_relative_to(ROOT) else ""
    if page in SITE and inside.startswith("docs/"):
        inside = inside.removeprefix("docs/")
        if inside in MADE:
            return ROOT / MADE[inside]
        if inside.startswith("assets/") and (ROOT / inside).is_file():
            return ROOT / inside
    return None


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_links_between_files_lead_somewhere(page):
    for link in links(page):
        if link.startswith(("https://", "code:")):
            continue
        assert not link.startswith(("http:", "/")), f"{link}: give a relative link, or https"
        target, _, anchor = link.partition("#")
        file = lands(page, target)
        assert file, f"{link} leads nowhere"
        # Tables of settings and their anchors are made in the build, which checks links to them.
        if anchor and file.name != "settings.md":
            assert anchor in anchors(file), f"{link}: {name_of(file)} has no such heading, but {sorted(anchors(file))}"


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_links_to_code_name_a_definition(page):
    for link in code_links.links_in(page.read_text(encoding="utf-8")):
        if link.path == "PATH":
            continue  # the page that explains them
        assert code_links.line_of(link) >= 1


def test_a_code_link_finds_its_line():
    lines = (ROOT / "rlstep/core/rewards.py").read_text().splitlines()
    line = code_links.line_of(code_links.CodeLink("rlstep/core/rewards.py", "step_rewards"))
    assert lines[line - 1].startswith("def step_rewards(")
    lines = (ROOT / "rlstep/tasks/base.py").read_text().splitlines()
    line = code_links.line_of(code_links.CodeLink("rlstep/tasks/base.py", "Task.check"))
    assert lines[line - 1].strip().startswith("def check(self, prompt")


@pytest.mark.parametrize(
    ("path", "symbol", "says"),
    [
        ("rlstep/core/gone.py", None, "there is no file"),
        ("rlstep/core/rewards.py", "gone", "does not define gone"),
        ("rlstep/tasks/base.py", "Task.gone", "does not define gone"),
        ("rlstep/tasks/base.py", "Task.check.gone", "does not define gone"),
    ],
)
def test_a_code_link_to_nothing_is_an_error(path, symbol, says):
    with pytest.raises(code_links.BrokenCodeLink, match=says):
        code_links.line_of(code_links.CodeLink(path, symbol))


def test_documents_of_the_root_lead_to_pages_of_the_site(tmp_path):
    text = root_page("recipes/README.md")
    assert "](log.md)" in text
    assert "](LOG.md)" not in text
    for page in ELSEWHERE.values():
        assert (ROOT / "docs" / page).is_file()


def test_every_page_is_in_the_navigation_once():
    listed = yaml.safe_load((ROOT / "mkdocs.yml").read_text())["nav"]

    def pages(entry) -> list[str]:
        if isinstance(entry, str):
            return [entry]
        return [page for part in (entry.values() if isinstance(entry, dict) else entry) for page in pages(part)]

    expected = [path.relative_to(ROOT / "docs").as_posix() for path in SITE] + list(MADE)
    assert sorted(pages(listed)) == sorted(expected)


def test_the_readme_is_one_screen():
    text = (ROOT / "README.md").read_text()
    assert len(text.splitlines()) <= 130
