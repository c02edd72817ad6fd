"""The page in a real browser, driven as a labeller does: keys, mouse, two tabs, a server that goes away.

Needs the package playwright (in the dev extra) and a Chromium: RLSTEP_CHROMIUM names one, else the system's is taken.
"""

import re
import threading
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from rlstep.annotation.app import AnnotationServer, create_app
from rlstep.annotation.desk import Desk
from rlstep.annotation.items import read_items
from rlstep.steps.boundaries import Boundary
from rlstep.steps.records import Solution, write_solutions
from rlstep.steps.sources import iter_rows
from tests.annotation.conftest import read_back, rows

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed; `make setup` does it")
pytestmark = pytest.mark.slow
WIDE, NARROW = {"width": 1280, "height": 800}, {"width": 390, "height": 844}


class Site:
    """A server in this process that can be stopped and started again at the same address."""

    def __init__(self, data: Path, out: Path, labellers=("ada",), overlap=0.0, **options):
        self.make_desk = lambda: Desk(read_items(data, Boundary())[0], out, labellers, overlap)
        self.options, self.out, self.port = options, out, 0

    def start(self) -> None:
        self.desk = self.make_desk()
        self.server = AnnotationServer("127.0.0.1", self.port)
        self.port, self.url = self.server.port, self.server.url
        self.server.open(create_app(self.desk, **self.options))
        self._thread = threading.Thread(target=self.server.serve_forever)
        self._thread.start()

    def stop(self) -> None:
        self.server.shutdown()
        self._thread.join()
        self.server.__exit__()
        self.desk.close()


@pytest.fixture
def serve(data, out):
    @contextmanager
    def serving(data=data, **options):
        site = Site(data, out, **options)
        site.start()
        try:
            yield site
        finally:
            site.stop()

    return serving


@pytest.fixture
def site(serve):
    with serve() as site:
        yield site


@pytest.fixture
def visit(browser):
    """visit(site, labeller): a new tab of a new browser profile, whose errors and requests elsewhere fail the test."""
    faults, contexts = [], []

    def make(site, labeller="ada", fragment="", wait="#work", viewport=WIDE, **options):
        context = browser.new_context(viewport=viewport, **options)
        contexts.append(context)
        # Chromium may let requests pass for a moment after a page's first route: so there is one from the start.
        context.route("**/no-such-path", lambda route: route.continue_())
        page = context.new_page()
        page.set_default_timeout(15_000)
        page.on("pageerror", lambda error: faults.append(f"error: {error}"))
        page.on("console", lambda said: faults.append(said.text) if _is_fault(said) else None)
        page.on("dialog", lambda dialog: faults.append(f"dialog: {dialog.message}"))
        page.on("request", lambda request: faults.append(request.url) if _elsewhere(request.url, site) else None)
        page.goto(site.url + ("/" if labeller is None else f"/?labeller={labeller}") + fragment)
        page.wait_for_selector(wait)
        return page

    yield make
    for context in contexts:
        context.close()
    assert faults == []


def _is_fault(said) -> bool:
    # A refusal, and a server that is gone, are part of what is tested; the browser itself logs them.
    return said.type == "error" and not said.text.startswith("Failed to load resource")


def _elsewhere(url: str, site) -> bool:
    return urlsplit(url).scheme in ("http", "https") and urlsplit(url).port != site.port


def press(page, *keys: str) -> None:
    for key in keys:
        page.keyboard.press(key)


def shown(page) -> tuple[str, list[str]]:
    """The problem's number, and the marks of the steps on the page."""
    marks = page.locator(".step").evaluate_all("steps => steps.map(step => step.className.replace('step ', ''))")
    return page.locator("#number").inner_text(), marks


def expect(page, number: str, *marks: str) -> None:
    condition = """([number, marks]) => document.getElementById('number').textContent === number
        && [...document.querySelectorAll('.step')].map(s => s.className.replace('step ', '')).join() === marks"""
    try:
        page.wait_for_function(condition, arg=[number, ",".join(marks)])
    except playwright.TimeoutError:
        raise AssertionError(f"expected {number}, {marks}; the page shows {shown(page)}") from None


def when_saved(page) -> None:
    page.wait_for_function("() => document.getElementById('saving').textContent === 'Saved'")


def hold_saves(page):
    """Keeps saves from the server until the function that is returned is called."""
    held = []
    page.route("**/api/save", lambda route: route.continue_() if held is None else held.append(route))

    def release() -> None:
        nonlocal held
        routes, held = held, None
        for route in routes:
            route.continue_()

    return release


def test_a_queue_is_labelled_by_keys_alone(site, visit, out):
    page = visit(site)
    expect(page, "#1", "current")
    press(page, "1", "3")
    expect(page, "#1", "positive", "negative")
    press(page, "Enter")
    expect(page, "#2", "current")
    press(page, "+", "+", "Enter")
    expect(page, "#3", "current")
    press(page, "ArrowRight", "0", "k", "Enter")
    expect(page, "#4", "current")
    press(page, "l", "j", " ")
    page.wait_for_selector("#empty")
    assert "All solutions are labelled" in page.locator("#empty").inner_text()
    assert [solution.labels for solution in read_back(out)] == [[1, 0], [1, 1], [1, None, 1], [None, 0]]
    assert [row["label"]["finish_reason"] for row in rows(out)] == [
        "found_error",
        "solution",
        "solution",
        "found_error",
    ]
    assert all(row["label"]["total_time"] > 0 for row in rows(out))


def test_a_queue_is_labelled_by_mouse_alone(site, visit, out):
    page = visit(site)
    for button in (".positive", ".neutral", ".negative"):
        page.click(f".rate{button}")
    page.click("#next")
    expect(page, "#2", "current")
    page.click("#bad-problem")
    page.click("#next")
    expect(page, "#3", "current")
    page.click(".rate.positive")
    page.click("#give-up")
    page.click("#undo")
    expect(page, "#3", "positive", "current")
    page.click("#undo")
    expect(page, "#3", "current")
    when_saved(page)
    assert [row["label"]["finish_reason"] for row in rows(out)] == ["found_error", "bad_problem"]


def test_steps_come_one_at_a_time_and_later_ones_are_not_on_the_page(site, visit):
    page = visit(site)
    assert page.locator(".step .prose").all_inner_texts() == ["3 * 4 = 12"]
    assert "2 + 12 = 15" not in page.content()
    press(page, "1")
    assert page.locator(".step .prose").all_inner_texts() == ["3 * 4 = 12", "2 + 12 = 15"]
    assert page.locator("#place").inner_text() == "step 2 of 3"


def test_it_ends_at_the_first_negative_step(site, visit, out):
    page = visit(site)
    press(page, "3")
    page.wait_for_selector("#end")
    assert page.locator("#end-text").inner_text() == "First error at step 1."
    press(page, "1", "2", "g", "b")
    when_saved(page)
    assert shown(page) == ("#1", ["negative"])
    assert page.locator(".rate:enabled, .ends:enabled").count() == 0
    assert [row["label"]["finish_reason"] for row in rows(out)] == ["found_error"]


def test_undo_by_keys_goes_back_across_solutions(site, visit, out):
    page = visit(site)
    press(page, "1", "2", "u")
    expect(page, "#1", "positive", "current")
    press(page, "3")
    press(page, "u")  # at once, while the end is perhaps still on its way
    expect(page, "#1", "positive", "current")
    assert rows(out) == []
    press(page, "3", "Enter")
    expect(page, "#2", "current")
    press(page, "Backspace")
    expect(page, "#1", "positive", "current")
    press(page, "g", "Enter")
    expect(page, "#2", "current")
    assert [row["label"]["finish_reason"] for row in rows(out)] == ["give_up"]


def test_nothing_to_undo_is_said(site, visit):
    page = visit(site)
    press(page, "u")
    page.wait_for_selector("#banner")
    assert "nothing to undo" in page.locator("#banner").inner_text()
    page.click("#banner-action")
    press(page, "1")
    expect(page, "#1", "positive", "current")


def test_a_key_that_is_held_down_marks_one_step(site, visit):
    page = visit(site)
    for _ in range(4):
        page.keyboard.down("1")  # the second and later ones are repeats
    page.keyboard.up("1")
    expect(page, "#1", "positive", "current")


def test_keys_with_control_are_the_browsers(site, visit):
    page = visit(site)
    press(page, "Control+1", "Alt+3")
    expect(page, "#1", "current")


def test_no_step_waits_for_the_server(site, visit, out):
    """A mark shows the next step while it is saved, and Enter shows a solution that is here already."""
    page = visit(site)
    release = hold_saves(page)
    press(page, "1", "1")
    expect(page, "#1", "positive", "positive", "current")
    assert page.locator("#saving").inner_text() == "Saving"
    release()
    press(page, "1")
    when_saved(page)
    page.route("**/*", lambda route: route.abort())
    press(page, "Enter")
    expect(page, "#2", "current")
    page.unroute("**/*")
    assert len(rows(out)) == 1


def test_enter_that_comes_before_the_answer_is_not_lost(site, visit):
    page = visit(site)
    release = hold_saves(page)
    press(page, "3", "Enter")
    assert shown(page) == ("#1", ["negative"])
    release()
    expect(page, "#2", "current")


def test_a_reload_goes_on_where_it_was(site, visit):
    page = visit(site)
    press(page, "1", "2")
    when_saved(page)
    page.reload()
    expect(page, "#1", "positive", "neutral", "current")
    press(page, "u")
    expect(page, "#1", "positive", "current")


def test_marks_wait_for_a_server_that_has_gone(site, visit, out):
    page = visit(site)
    press(page, "1")
    when_saved(page)
    site.stop()
    press(page, "1", "3")
    page.wait_for_selector("#banner")
    assert "Not saved yet" in page.locator("#banner").inner_text()
    site.start()
    when_saved(page)
    page.wait_for_selector("#banner", state="hidden")
    press(page, "Enter")
    expect(page, "#2", "current")
    assert [row["label"]["finish_reason"] for row in rows(out)] == ["found_error"]


def test_an_answer_that_is_lost_is_no_second_row(site, visit, out):
    page = visit(site)
    lost = []

    def lose(route):
        if not lost:
            lost.append(route.fetch())  # the server has taken it
            route.abort()
        else:
            route.continue_()

    page.route("**/api/save", lose)
    press(page, "3")
    when_saved(page)
    press(page, "Enter")
    expect(page, "#2", "current")
    assert lost[0].status == 200
    assert len(rows(out)) == 1


def test_an_undo_whose_answer_is_lost_undoes_one_solution(site, visit, out):
    page = visit(site)
    press(page, "3", "Enter")
    expect(page, "#2", "current")
    press(page, "3", "Enter")
    expect(page, "#3", "current")
    lost = []

    def lose(route):
        lost.append(route.fetch())  # the server has taken it
        route.abort()

    page.route("**/api/reopen", lose, times=1)
    press(page, "u")
    page.wait_for_selector("#banner")
    assert "not reached" in page.locator("#banner").inner_text()
    press(page, "u")
    expect(page, "#2", "current")
    page.wait_for_selector("#banner", state="hidden")
    assert lost[0].status == 200
    assert [row["label"]["finish_reason"] for row in rows(out)] == ["found_error"]


def test_two_browsers_on_one_solution(site, visit, out):
    old = visit(site)
    press(old, "1")
    when_saved(old)
    new = visit(site)
    expect(new, "#1", "positive", "current")
    press(old, "1")
    old.wait_for_selector("#banner")
    assert "another browser or tab" in old.locator("#banner").inner_text()
    assert old.locator(".rate:enabled").count() == 0
    press(new, "2")
    when_saved(new)
    old.click("#banner-action")
    expect(old, "#1", "positive", "neutral", "current")
    press(old, "3", "Enter")
    expect(old, "#2", "current")
    press(new, "1")
    new.wait_for_selector("#banner")
    assert [row["label"]["finish_reason"] for row in rows(out)] == ["found_error"]


def test_two_labellers_and_their_agreement(serve, visit):
    with serve(labellers=("ada", "ben"), overlap=1.0) as site:
        ada, ben = visit(site, "ada"), visit(site, "ben")
        for page, keys in ((ada, "13"), (ben, "13")):
            press(page, *keys, "Enter")
            expect(page, "#2", "current")
            assert page.locator("#who").inner_text() in ("ada", "ben")
        for page, keys in ((ada, "11"), (ben, "3")):
            press(page, *keys, "Enter")
            expect(page, "#3", "current")
        ada.click("#show-agreement")
        ada.wait_for_selector("#agreement[open] table >> nth=1")
        pace, pairs = ada.locator("#agreement table").all()
        assert [row.split("\t")[:3] for row in pace.locator("tbody tr").all_inner_texts()] == [
            ["ada", "2", "4"], ["ben", "2", "3"],
        ]  # fmt: skip
        # Places 1, -1 and 1, 0: p_o = 1/2, p_e = 1/4. Ratings 1 -1 1 and 1 -1 -1: p_o = 2/3, p_e = 4/9.
        assert pairs.locator("tbody tr").all_inner_texts() == ["ada, ben\t2\t50%\t0.33\t0.40"]
        assert ada.locator("#count").inner_text() == "3 of 8 done, 2 by you"


def test_a_name_is_asked_for_where_there_are_several(serve, visit):
    with serve(labellers=("ada", "ben")) as site:
        page = visit(site, None, wait="#sign-in")
        page.get_by_role("radio", name="ben").check()
        page.click("#sign-in-submit")
        expect(page, "#1", "current")
        assert page.url.endswith("?labeller=ben")


def test_one_labeller_needs_no_name(site, visit):
    page = visit(site, None)
    assert page.locator("#who").inner_text() == "ada"


def test_an_unknown_labeller_is_told_who_there_is(site, visit):
    page = visit(site, "eve", wait="#sign-in")
    assert "'eve' is no labeller of this server; it was started for ada." in page.locator("#banner").inner_text()
    page.get_by_role("radio", name="ada").check()
    page.click("#sign-in-submit")
    expect(page, "#1", "current")


def test_the_token_leaves_the_address(serve, visit):
    with serve(token="a/b c") as site:
        page = visit(site, fragment="#token=a%2Fb%20c")
        assert page.url == f"{site.url}/?labeller=ada"
        press(page, "1")
        when_saved(page)
        page.reload()
        expect(page, "#1", "positive", "current")


def test_a_wrong_token_is_asked_for_again(serve, visit):
    with serve(token="right") as site:
        page = visit(site, fragment="#token=wrong", wait="#token")
        assert "The token is wrong." in page.locator("#banner").inner_text()
        page.fill("#token", "right")
        page.keyboard.press("Enter")
        page.wait_for_selector("#token", state="hidden")
        expect(page, "#1", "current")
        press(page, "1")
        expect(page, "#1", "positive", "current")


def test_keys_are_explained_and_do_nothing_meanwhile(site, visit):
    page = visit(site)
    press(page, "?")
    page.wait_for_selector("#help[open]")
    press(page, "1", "Escape")
    page.wait_for_selector("#help", state="hidden")
    expect(page, "#1", "current")


def test_the_reference_is_shown_or_hidden(serve, visit):
    with serve() as site:
        assert visit(site).locator("#reference").inner_text() == "14"
    with serve(show_reference=False) as site:
        assert not visit(site).locator("#reference-line").is_visible()


ATTACKS = [
    "<img src=x onerror=alert(1)>", "<script>alert(2)</script>", "</div><iframe src=//evil.example></iframe>",
    "$\\href{javascript:alert(3)}{x}$", "$\\includegraphics{http://evil.example/x.png}$", "$\\url{http://evil.example}$",
    "$\\htmlData{a=b}{x}$ $\\htmlStyle{position:fixed}{x}$", "$<img src=x onerror=alert(4)>$",
    "\\begin{align}<b>x</b>\\end{align}", "$\\text{<svg onload=alert(5)>}$",
]  # fmt: skip


def one_solution(tmp_path, problem: str, *steps: str, reference: str = "") -> Path:
    """A file with a solution of these steps, whatever line breaks they have."""
    spans, text = [], ""
    for step in steps:
        spans.append((len(text), len(text) + len(step)))
        text += step
    write_solutions(tmp_path / "one.jsonl", [Solution("p", problem, text, reference, steps=spans)])
    return tmp_path / "one.jsonl"


def test_model_text_is_never_html(serve, visit, tmp_path):
    with serve(one_solution(tmp_path, "\n".join(ATTACKS), *ATTACKS, "end", reference=ATTACKS[0])) as site:
        page = visit(site)
        press(page, *"1" * len(ATTACKS))
        page.wait_for_function(f"() => document.querySelectorAll('.step').length === {len(ATTACKS) + 1}")
        inside = ".prose :is(img, script, iframe, a, b, object), #reference img"
        assert page.locator(inside).count() == 0
        assert page.locator(".prose [style*='fixed'], .prose [data-a]").count() == 0
        assert page.locator(".step .prose").all_inner_texts()[:3] == ATTACKS[:3]
        assert page.locator("#reference").inner_text() == ATTACKS[0]


ALIGNED = "\\begin{align*}\na &= b \\\\\nc &= d\n\\end{align*}"
TEXTS = [
    # text, formulas (the source that KaTeX was given, and whether it is a display), what else is read
    ("Let $x^2$ be $\\frac{1}{2}$.", ["x^2", "\\frac{1}{2}"], "Let "),
    ("So \\(a+b\\) and\n\\[c = d\\]\nhold.", ["a+b", "c = d"], "hold."),
    ("$$x = 1$$", ["x = 1"], ""),
    (f"We get\n{ALIGNED}", [ALIGNED], "We get"),
    ("Therefore \\boxed{\\frac{3}{4}}.", ["\\boxed{\\frac{3}{4}}"], "Therefore "),
    ("Points $AB, CD$ and $5 \\text{ of the } n$", ["AB, CD", "5 \\text{ of the } n"], "Points "),
    ("She has $5 and gets $10 more, or $15.", [], "She has $5 and gets $10 more, or $15."),
    ("He pays $N for apples and $M for pears.", [], "He pays $N for apples and $M for pears."),
    ("Notes of $5, $10, $20", [], "Notes of $5, $10, $20"),
    ("It costs $3 per kilo and $x$ is the weight.", ["x"], "It costs $3 per kilo and "),
    ("It costs \\$4.50, 20\\% off", [], "It costs $4.50, 20% off"),
    ("a lone $ sign", [], "a lone $ sign"),
    ("$\\$5 + \\$7$", ["\\$5 + \\$7"], ""),
    ("$\\frac{1}{$ is broken", [], "$\\frac{1}{$ is broken"),
    ("$\\unknowncommand{1}$ is unknown", [], "$\\unknowncommand{1}$ is unknown"),
    ("[asy]\ndraw((0,0)--(1,1));\n[/asy]", [], "draw((0,0)--(1,1));"),
]  # fmt: skip


@pytest.mark.parametrize("part", ["$5 ", "\\[", "\\boxed{", "{$", "[asy]", "\\begin{align}"])
def test_a_text_that_repeats_the_beginning_of_a_formula_is_shown(serve, visit, tmp_path, part):
    """As small models write. Searched to its end for each beginning, it would hold the page up for minutes."""
    with serve(one_solution(tmp_path, "Q", part * 3000, "end")) as site:
        page = visit(site)
        assert page.locator(".step .prose").first.inner_text() == (part * 3000).strip()


def test_latex_is_typeset_and_money_is_not(serve, visit, tmp_path):
    with serve(one_solution(tmp_path, "Q", *(text for text, _, _ in TEXTS), "end")) as site:
        page = visit(site)
        for place, (text, formulas, words) in enumerate(TEXTS):
            step = page.locator(".step .prose").nth(place)
            actual = step.locator("annotation").all_text_contents()
            assert actual == formulas, text
            assert words in step.inner_text(), text
            press(page, "1")


def test_published_problems_are_typeset(serve, visit, real_data, tmp_path):
    """Real solutions of MATH, phases 1 and 2 of PRM800K: hardly a formula of them is shown as it is written."""
    solutions = {}
    for row in iter_rows(real_data / "prm800k" / "phase2_rows.jsonl"):
        question = row.values["question"]
        text = "".join(f"{step}\n" for step in question["pre_generated_steps"])
        ends = [0]
        for step in question["pre_generated_steps"]:
            ends.append(ends[-1] + len(step) + 1)
        spans = list(zip(ends, ends[1:], strict=False))
        solutions[text] = Solution("p", question["problem"], text, question["ground_truth_answer"] or "", steps=spans)
    write_solutions(tmp_path / "real.jsonl", solutions.values())
    formulas = unreadable = 0
    with serve(tmp_path / "real.jsonl") as site:
        page = visit(site)
        for number, solution in enumerate(solutions.values(), start=1):
            expect(page, f"#{number}", "current")
            press(page, *"1" * (len(solution.steps) - 1))
            expect(page, f"#{number}", *["positive"] * (len(solution.steps) - 1), "current")
            formulas += page.locator(".formula").count()
            unreadable += page.locator(".formula.unreadable").count()
            press(page, "1", "Enter")
        page.wait_for_selector("#empty")
    assert formulas > 200
    assert unreadable <= 0.01 * formulas
    (first, *_) = read_back(site.out)
    assert len(read_back(site.out)) == len(solutions)
    assert first.labels == [1] * len(next(iter(solutions.values())).steps)


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("viewport", [WIDE, NARROW], ids=["wide", "narrow"])
def test_it_fits_the_screen_and_can_be_read(serve, visit, tmp_path, viewport, scheme):
    wide = "$$" + " + ".join(f"x_{{{k}}}" for k in range(60)) + " = 1$$"
    with serve(one_solution(tmp_path, "What is " + "very " * 80 + "$x$?", wide, *["A step. " * 20] * 9)) as site:
        page = visit(site, viewport=viewport, color_scheme=scheme, has_touch=viewport is NARROW)
        press(page, *"112211")
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
        for inside in (*page.locator(".rate").all(), page.locator("#undo"), page.locator(".step.current")):
            box = inside.bounding_box()
            assert box["x"] >= 0
            assert box["x"] + box["width"] <= viewport["width"]
            assert box["y"] >= 0
            assert box["y"] + box["height"] <= viewport["height"]
        # Not hidden below the bar of buttons.
        bar, step = page.locator(".bar").bounding_box(), page.locator(".step.current").bounding_box()
        assert step["y"] + step["height"] <= bar["y"]
        for pair in page.evaluate(CONTRASTS):
            assert pair["contrast"] >= 4.5, pair


# WCAG's contrast of what is read against what is behind it.
CONTRASTS = """() => {
  const parts = (color) => color.match(/[0-9.]+/g).map(Number);
  const light = (color) => {
    const linear = (c) => (c <= 0.03928 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4);
    const [r, g, b] = parts(color).slice(0, 3).map((c) => linear(c / 255));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const behind = (node) => {
    for (; node; node = node.parentElement) {
      const color = getComputedStyle(node).backgroundColor;
      if ((parts(color)[3] ?? 1) === 1) return color;
    }
    return getComputedStyle(document.body).backgroundColor;
  };
  const names = ".rate, .others button, .quiet, .step .prose, .step .sign, #problem, .top button";
  return [...document.querySelectorAll(names)].filter((node) => node.offsetParent && !node.disabled).map((node) => {
    const [a, b] = [light(getComputedStyle(node).color), light(behind(node))];
    return { what: node.className || node.id, contrast: (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05) };
  });
}"""


def test_it_says_to_screen_readers_what_it_shows(site, visit):
    page = visit(site)
    said = page.locator("[role=status]")
    assert said.inner_text() == "Step 1 of 3. 3 * 4 = 12"
    press(page, "1")
    assert said.inner_text() == "Step 2 of 3. 2 + 12 = 15"
    assert page.get_by_role("img", name="Step 1, positive").count() == 1
    assert page.locator("[aria-current=step]").count() == 1
    press(page, "3")
    assert said.inner_text().startswith("First error at step 2.")
    assert page.get_by_role("button", name=re.compile("Next solution")).evaluate(
        "node => node === document.activeElement"
    )
    for button in page.locator("button:visible").all():
        assert button.inner_text().strip()


def test_focus_can_be_seen(site, visit):
    page = visit(site)
    page.keyboard.press("Tab")
    style = page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
    assert style == "solid"


def test_the_time_is_that_on_the_screen(site, visit, out):
    page = visit(site)
    page.clock.install(time=0)
    page.clock.pause_at(60_000)
    page.reload()
    expect(page, "#1", "current")
    page.clock.fast_forward(7_000)
    press(page, "1")
    when_saved(page)
    page.reload()
    expect(page, "#1", "positive", "current")
    page.clock.fast_forward(5_000)
    press(page, "3")
    when_saved(page)
    assert [row["label"]["total_time"] for row in rows(out)] == [12_000]
