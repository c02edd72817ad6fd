"""report.html in a real browser: what its script draws, and what keys and pointer do.

Needs the package playwright (in the dev extra) and a Chromium: RLSTEP_CHROMIUM names one, else the system's is taken.
"""

import json
import re
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from rlstep.report.finished import open_run
from rlstep.report.one_run import report_run
from rlstep.runtime.rows import write_rows
from tests.report.runs import make_run, scored

pytestmark = pytest.mark.slow
WIDE, NARROW = {"width": 1280, "height": 800}, {"width": 390, "height": 844}
HOSTILE = '</script><script>window.taken = 1</script><img src=x onerror="window.taken = 1">'
MANY = 23  # solutions of each kind: more than a page


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A run with an alarm and hostile text, beside another one of the same problems."""
    root = tmp_path_factory.mktemp("runs")
    for name, shift in (("a", 0.0), ("b", 0.1)):
        run = make_run(root / name, shift=shift)
        rows = [replace(one, problem_id=f"p{k}", prompt=f"problem {k}\n") for k in range(MANY) for one in scored()]
        rows.append(replace(rows[0], problem_id="bad", completion=HOSTILE, steps=[(0, len(HOSTILE))], labels=[1]))
        rows[-1].scores = {"prm": [0.5], "orm": [0.5]}
        write_rows(run / "test" / "scored.jsonl", [row.to_row() for row in rows])
        updates = [
            {"update": k, "samples": 100 * k, "loss": 0.1, "kl": 0.1 * k, "alarm": float(k in (2, 3))}
            for k in range(1, 6)
        ]
        write_rows(run / "ppo_process" / "metrics.jsonl", updates)
    report_run(root / "a", root / "one")
    report_run(root / "a", root / "two", beside=open_run(root / "b"))
    return root


@contextmanager
def opened(browser, path: Path, viewport=WIDE, **options):
    """The page, drawn; anything that the browser complains of fails the test."""
    context = browser.new_context(viewport=viewport, **options)
    page, complaints = context.new_page(), []
    page.on("console", lambda message: complaints.append(message.text))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("request", lambda request: None if request.url.startswith("file:") else complaints.append(request.url))
    page.goto(path.as_uri())
    page.wait_for_selector("html[data-ready=true]")
    yield page
    context.close()
    assert complaints == []


def cards(page):
    return page.locator(".solution")


def test_charts_show_values_and_the_alarm(browser, folder):
    with opened(browser, folder / "one" / "report.html") as page:
        figures = page.locator("figure[data-chart]")
        assert figures.count() == 4
        assert figures.locator("polyline").count() == 5 + 3 + 3 + 1
        chart = figures.nth(0).locator(".panel > svg")
        chart.scroll_into_view_if_needed()
        box = chart.bounding_box()
        page.mouse.move(box["x"] + box["width"] - 16, box["y"] + box["height"] / 2)
        tip = figures.nth(0).locator(".tip")
        assert "N = 4" in tip.inner_text()
        assert re.search(r"PRM\s+70\.0% \[65\.0%, 75\.0%\]", tip.inner_text())
        training = figures.nth(3)
        assert training.locator(".marks rect").count() == 1
        training.locator(".panel > svg").focus()
        for _ in range(3):
            page.keyboard.press("ArrowRight")
        assert "300 samples" in training.locator(".tip").inner_text()
        assert "alarm: process + outcome, update 2 to 3" in training.locator(".tip").inner_text()
        figures.nth(0).get_by_role("button", name="majority vote").click()
        assert figures.nth(0).locator("polyline").count() == 4


def test_solutions_are_filtered_sorted_searched_and_tinted(browser, folder):
    with opened(browser, folder / "one" / "report.html") as page:
        assert page.locator(".status").inner_text() == "1 to 10 of 93 solutions"
        first = cards(page).nth(1)
        assert first.locator(".first-error .text").inner_text() == "1 + 1 = 3"
        assert "wrong step 1" in first.locator(".tags").inner_text()
        blue, orange = (
            first.locator(".step").nth(k).evaluate("node => getComputedStyle(node).backgroundColor") for k in (0, 1)
        )
        red = [float(re.findall(r"[\d.]+", colour)[0]) for colour in (blue, orange)]
        assert red[0] < red[1]
        page.get_by_label("Show").select_option(label="PRM mistake: a wrong step scored 0.5 or more (23 of 23)")
        assert page.locator(".status").inner_text() == "1 to 10 of 23 solutions"
        page.get_by_label("Order").select_option(label="lowest PRM score first")
        page.get_by_label("Show").select_option(label="every solution")
        assert "PRM 0.05" in cards(page).first.locator(".tags").inner_text()  # 0.1 * 0.6 * 0.9
        page.get_by_label("Search the text").fill("PROBLEM 22")
        assert page.locator(".status").inner_text() == "1 to 4 of 4 solutions"
        page.get_by_label("Search the text").fill("no such text")
        assert page.locator(".status").inner_text() == "No solutions fit."


def test_text_of_a_model_is_shown_and_never_run(browser, folder):
    with opened(browser, folder / "one" / "report.html") as page:
        page.get_by_label("Search the text").fill("<img")
        assert cards(page).locator(".text").inner_text() == HOSTILE
        assert page.locator("img").count() == 0
        assert page.evaluate("window.taken") is None


def test_text_that_became_html_after_all_would_be_refused(browser, folder):
    page = browser.new_page()
    page.goto((folder / "one" / "report.html").as_uri())
    assign = (
        "() => { try { document.body.innerHTML = '<b>x</b>'; return 'taken' } catch (error) { return error.name } }"
    )
    assert page.evaluate(assign) == "TypeError"
    page.close()


def test_keys_move_search_help_and_change_the_theme(browser, folder):
    with opened(browser, folder / "one" / "report.html", color_scheme="light") as page:
        current = page.locator("[aria-current]")
        page.keyboard.press("j")
        assert current.locator("header b").inner_text() == "1"
        for _ in range(10):
            page.keyboard.press("j")
        assert current.locator("header b").inner_text() == "11"
        page.keyboard.press("k")
        assert current.locator("header b").inner_text() == "10"
        page.keyboard.press("]")
        assert page.locator(".status").inner_text().startswith("11 to 20")
        page.keyboard.press("/")
        page.keyboard.type("jk?")
        assert page.get_by_label("Search the text").input_value() == "jk?"
        page.keyboard.press("Escape")
        page.keyboard.press("?")
        assert page.get_by_role("dialog").is_visible()
        page.keyboard.press("Escape")
        assert page.get_by_role("dialog").count() == 0
        colour = "getComputedStyle(document.body).backgroundColor"
        assert page.evaluate(colour) == "rgb(255, 255, 255)"
        page.keyboard.press("t")
        dark = page.evaluate(colour)
        assert dark != "rgb(255, 255, 255)"
    with opened(browser, folder / "one" / "report.html", color_scheme="dark") as page:
        assert page.evaluate(colour) == dark


def test_two_runs_share_axes_and_stand_in_pairs(browser, folder):
    with opened(browser, folder / "two" / "report.html") as page:
        assert page.locator("figure").first.locator(".panel").count() == 2
        assert "A" in page.locator(".card thead").first.inner_text()
        assert cards(page).first.locator(".written").count() == 2
        assert "same samples of the same problems" in page.locator("#browser").inner_text()


@pytest.mark.parametrize("name", ["one", "two"])
def test_a_narrow_screen_needs_no_scrolling_sideways(browser, folder, name):
    with opened(browser, folder / name / "report.html", viewport=NARROW) as page:
        assert page.evaluate("document.documentElement.scrollWidth") == NARROW["width"]


def test_on_paper_tables_are_open_and_tools_are_gone(browser, folder):
    with opened(browser, folder / "one" / "report.html") as page:
        page.evaluate("dispatchEvent(new Event('beforeprint'))")
        page.emulate_media(media="print")
        assert page.locator("details:not([open])").count() == 0
        assert not page.locator("nav").is_visible()
        assert page.pdf()[:5] == b"%PDF-"  # which ends with an afterprint
        assert page.locator("details[open]").count() == 0


def test_without_javascript_figures_and_tables_can_be_read(browser, folder):
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto((folder / "one" / "report.html").as_uri())
    assert "0.70" in page.locator(".card").first.inner_text()
    page.locator("#best_of_n summary").first.click()
    assert "0.50 [0.45, 0.55]" in page.locator("#best_of_n table").first.inner_text()
    assert "Charts need JavaScript." in page.locator("#best_of_n").inner_text()
    context.close()


def test_the_embedded_data_is_what_is_drawn(browser, folder):
    text = (folder / "one" / "report.html").read_text()
    embedded = json.loads(re.search(r'id="data">(.*?)</script>', text, re.DOTALL)[1])
    assert embedded["sets"][0]["columns"][0]["here"] == 4 * MANY + 1
