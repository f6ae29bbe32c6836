"""A real browser with the page: it asks no other host, and its policy lets the page work."""

import shutil
from pathlib import Path

import pytest

from lora_deploy.demo.server import serving
from lora_deploy.demo.settings import DemoSettings
from lora_deploy.web.watch import Watch
from tests.small_page import SmallPage

sync_api = pytest.importorskip("playwright.sync_api")
CHROMIUM = shutil.which("chromium")


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here")
@pytest.mark.parametrize("login", [(), (("ada", "correct horse"),)])
def test_a_browser_asks_this_server_alone(
    login: tuple[tuple[str, str], ...], tmp_path: Path
) -> None:
    clip = tmp_path / "my clip.mp4"
    clip.write_bytes(b"x" * 777)
    asked: list[str] = []
    wrong: list[str] = []
    with (
        serving(SmallPage().blocks, DemoSettings(port=0, login=login), Watch()) as url,
        sync_api.sync_playwright() as playwright,
    ):
        browser = playwright.chromium.launch(
            executable_path=CHROMIUM,
            args=["--no-sandbox", "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1"],
        )
        page = browser.new_page()
        page.on("request", lambda request: asked.append(request.url))
        page.on("console", lambda line: wrong.append(line.text) if line.type == "error" else None)
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.goto(url)
        if login:
            assert page.get_by_label("User").is_visible()
            page.get_by_label("User").fill("ada")
            page.get_by_label("Password").fill("correct horse")
            wrong.clear()  # the browser notes that it was told to log in
            page.get_by_role("button", name="Log in").click()
        page.get_by_role("button", name="Classify").wait_for(timeout=60_000)
        page.set_input_files("input[type=file] >> nth=-1", clip)
        page.get_by_text("my clip").wait_for(timeout=30_000)
        page.get_by_role("button", name="Classify").click()
        page.get_by_test_id("json").get_by_text("777").wait_for(timeout=30_000)
        with page.expect_download() as download:
            page.locator("a[download]").first.click()
        assert Path(download.value.path()).read_bytes() == clip.read_bytes()
        browser.close()
    assert wrong == []
    assert [address for address in asked if not address.startswith((url, "blob:", "data:"))] == []
