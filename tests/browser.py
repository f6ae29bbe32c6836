"""The real page in a real browser: a visitor who clicks, uploads and reads. Chromium comes from the system."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from playwright.sync_api import Browser, Error, Locator, Page, Request

from lora_deploy.clips.pool import DecodePool
from lora_deploy.demo.answers import Studio
from lora_deploy.demo.examples import Example
from lora_deploy.demo.models import Choices
from lora_deploy.demo.page import make_page
from lora_deploy.demo.server import in_a_loop, serving
from lora_deploy.demo.settings import DemoSettings
from lora_deploy.web.watch import Watch

WAIT_MS = 60_000.0


@contextmanager
def demo(
    models: list[Path],
    *,
    examples: tuple[Example, ...] = (),
    watch: Watch | None = None,
    **settings: Any,
) -> Iterator[str]:
    """The page of some models on a free port; its address."""
    chosen = DemoSettings(port=0, **settings)
    watching = watch or Watch()
    with DecodePool(2, proof=False) as pool:
        studio = Studio(Choices(models, most_opened=3), pool)
        given = (lambda: examples) if examples else None
        page = in_a_loop(lambda: make_page(studio, chosen, watching, examples=given))
        with serving(page, chosen, watching) as url:
            yield url


class Visitor:
    """One tab of a browser on the page."""

    def __init__(self, page: Page, url: str) -> None:
        self.page = page
        self.foreign: list[str] = []
        """Addresses elsewhere that the page asked for."""
        self.complaints: list[str] = []
        """Errors of scripts."""
        self._url = url
        page.set_default_timeout(WAIT_MS)
        page.on("request", self._note)
        page.on("pageerror", self._hear)
        page.goto(url)
        self.at("ld-video").wait_for()

    def _note(self, request: Request) -> None:
        # file: is what a browser itself refuses, in a playlist of its visitor's own.
        if not request.url.startswith((self._url, "data:", "blob:", "file:")):
            self.foreign.append(request.url)

    def _hear(self, error: Error) -> None:
        # Gradio's video converter, which this server does not serve: 30 MB for a button that is hidden.
        if "dynamically imported module: blob:" not in error.message:
            self.complaints.append(error.message)

    def at(self, identifier: str, inside: str = "") -> Locator:
        """An element by the identifier of its part of the page, and by CSS within that."""
        return self.page.locator(f"#{identifier} {inside}".strip())

    def upload(self, path: Path) -> None:
        """Give the page a video, by the control that a click on it opens."""
        self.at("ld-video", "input[type=file]").set_input_files(path)

    def tab(self, name: str) -> None:
        """Turn to a tab."""
        self.page.get_by_role("tab", name=name).click()

    def choose_form(self, title: str, control: str = "ld-form") -> None:
        """Choose in a drop-down list, as a keyboard or a mouse does."""
        self.at(control, "input").click()
        self.page.get_by_role("option", name=title, exact=True).click()

    def text(self, identifier: str, inside: str) -> str:
        """What stands there, once it does."""
        place = self.at(identifier, inside).first
        place.wait_for()
        return place.inner_text()

    def pictures(self, identifier: str) -> list[str]:
        """Sources of the pictures there."""
        self.at(identifier, "img").first.wait_for()
        return [str(one.get_attribute("src")) for one in self.at(identifier, "img").all()]


@contextmanager
def visiting(browser: Browser, url: str, *, width: int = 1280, **options: Any) -> Iterator[Visitor]:
    """A new visitor, who leaves at the end and has met nothing foreign and no error."""
    context = browser.new_context(viewport={"width": width, "height": 900}, **options)
    try:
        visitor = Visitor(context.new_page(), url)
        yield visitor
        assert visitor.foreign == [], "; ".join(visitor.foreign)
        assert visitor.complaints == [], "; ".join(visitor.complaints)
    finally:
        context.close()
