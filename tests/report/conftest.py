import os
import shutil

import pytest

CHROMIUMS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")


@pytest.fixture(scope="module")
def browser():
    """A headless browser: RLSTEP_CHROMIUM names one, else the system's is taken."""
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed; `make setup` does it")
    path = os.environ.get("RLSTEP_CHROMIUM") or next(filter(None, map(shutil.which, CHROMIUMS)), None)
    if path is None:
        pytest.skip("no Chromium on this machine; set RLSTEP_CHROMIUM to one")
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield browser
        browser.close()
