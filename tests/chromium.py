"""A browser for the tests of the page; it comes from the system, and Playwright drives it."""

import os
import shutil
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from playwright.sync_api import Browser


@pytest.fixture(scope="module")
def chromium() -> Iterator["Browser"]:
    """A headless browser; without one the test skips, but not where one was promised.

    For one module only: while Playwright runs, no other event loop can be started in its thread.
    """
    program = shutil.which("chromium") or shutil.which("chromium-browser")
    if program is None:
        reason = "no Chromium on this computer; on Debian and Ubuntu type: apt-get install chromium"
        if os.environ.get("REQUIRE_BROWSER") == "1":
            pytest.fail(reason)
        pytest.skip(reason)
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=program,
            args=[
                "--no-sandbox",  # Chromium's own fence needs a user other than root; the page is ours
                "--use-fake-device-for-media-stream",  # a camera that shows a test picture
                "--use-fake-ui-for-media-stream",
            ],
        )
        yield browser
        browser.close()
