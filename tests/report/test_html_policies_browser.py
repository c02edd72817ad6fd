"""The browser of solutions in a real browser, where the run kept what its policies wrote during PPO."""

import pytest

from rlstep.report.one_run import report_run
from tests.report.runs import make_run, write_completions
from tests.report.test_html_browser import cards, opened

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    run = make_run(tmp_path_factory.mktemp("runs") / "run", arms=("process", "outcome"))
    write_completions(run / "ppo_process")
    write_completions(run / "ppo_outcome", prm=False)
    report_run(run, run / "report")
    return run / "report" / "report.html"


def options(page, label) -> list[str]:
    return page.get_by_label(label, exact=True).locator("option").all_inner_texts()


def test_the_policies_completions_are_further_sets(browser, path):
    with opened(browser, path) as page:
        assert options(page, "Solutions of") == [
            "seed 0: test problems",
            "seed 0: process + outcome, during PPO",
            "seed 0: outcome only, during PPO",
        ]
        assert not page.get_by_label("Update", exact=True).is_visible()
        page.get_by_label("Solutions of").select_option(label="seed 0: process + outcome, during PPO")
        assert page.locator(".status").inner_text() == "1 to 10 of 12 solutions"
        assert "PPO keeps a few completions of an update" in page.locator("#browser").inner_text()
        assert page.locator(".scale").inner_text().startswith("PRM score of the step; r its reward; ✓ ✗ its label.")
        card = cards(page).nth(1)
        assert "update-1-problem-0, sample 1" in card.locator("header").inner_text()
        assert card.locator(".first-error .text").inner_text() == "1 + 1 = 3"
        assert card.locator(".tags").inner_text().split() == (
            ["answer", "right", "wrong", "step", "1", "PRM", "0.16", "process", "+1.00", "outcome", "+1.00"]
        )
        second = card.locator(".step").nth(1)
        assert second.locator(".facts").inner_text().split() == ["repeats", "0.20", "r", "-0.60", "✗"]
        assert second.get_attribute("title") == (
            "step 2, score 0.2000, labelled wrong, withheld by guard repeats, paid -0.6000"
        )
        tints = [
            card.locator(".step").nth(k).evaluate("node => getComputedStyle(node).getPropertyValue('--tint')")
            for k in (0, 1)
        ]
        assert tints[0] != tints[1]


def test_updates_kinds_and_orders_are_offered_as_the_set_has_them(browser, path):
    with opened(browser, path) as page:
        page.get_by_label("Order").select_option(label="lowest PRM score first")
        page.get_by_label("Solutions of").select_option(label="seed 0: process + outcome, during PPO")
        assert page.get_by_label("Order").input_value() == "lowest PRM score first"
        assert options(page, "Update") == ["every update", "update 1", "update 2", "update 3"]
        page.get_by_label("Update", exact=True).select_option(label="update 2")
        assert page.locator(".status").inner_text() == "1 to 4 of 4 solutions"
        page.get_by_label("Show").select_option(label="a guard fires (3 of 3)")
        assert cards(page).locator("header").all_inner_texts() == ["1 update-2-problem-0, sample 1; right answer 3"]
        page.get_by_label("Update", exact=True).select_option(label="every update")
        page.get_by_label("Order").select_option(label="latest update first")
        assert "update-3" in cards(page).first.locator("header").inner_text()
        page.get_by_label("Show").select_option(label="PRM mistake: a wrong step scored 0.5 or more (3 of 3)")
        # Without a PRM there are no mistakes of one to show, nor an order by its scores.
        page.get_by_label("Solutions of").select_option(label="seed 0: outcome only, during PPO")
        assert options(page, "Show") == [
            "every solution",
            "right answer on a wrong step (6 of 6)",
            "a guard fires (3 of 3)",
            "wrong answer, or none (3 of 3)",
            "answer and every step right (3 of 3)",
        ]
        assert page.get_by_label("Show").input_value() == "-1"
        assert page.locator(".status").inner_text() == "1 to 10 of 12 solutions"
        assert options(page, "Order") == [
            "in the file's order",
            "latest update first",
            "earliest wrong step first",
            "longest first",
        ]
        assert page.get_by_label("Order").input_value() == "latest update first"
        assert "PRM" not in cards(page).first.inner_text()
        assert page.locator(".scale").inner_text().strip() == "✓ ✗ its label."
        page.get_by_label("Solutions of").select_option(label="seed 0: test problems")
        assert page.get_by_label("Order").input_value() == "in the file's order"
        assert "latest update first" not in options(page, "Order")
