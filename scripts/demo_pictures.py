"""Takes the pictures of the web page that are in docs/pictures, with the example model and Chromium.

python -m scripts.demo_pictures
"""

import io
import shutil
import tempfile
from pathlib import Path

from PIL import Image
from playwright.sync_api import Page, sync_playwright

from lora_deploy.artifact.bundle import EXAMPLE
from lora_deploy.clips.pool import DecodePool
from lora_deploy.demo.answers import Studio
from lora_deploy.demo.examples import draw_examples
from lora_deploy.demo.models import Choices
from lora_deploy.demo.page import make_page
from lora_deploy.demo.server import in_a_loop, serving
from lora_deploy.demo.settings import DemoSettings
from lora_deploy.web.watch import Watch

PICTURES = Path(__file__).parents[1] / "docs" / "pictures"

COLOURS = 128
"""Of a picture's palette: a page has few, and the file becomes a third."""


def classify(page: Page) -> None:
    """A clip with its answer."""
    page.locator("#ld-examples button", has_text="wave left").click()
    page.locator("#ld-answer .ld-label").wait_for()
    page.locator("#ld-frames img").last.wait_for()


def compare(page: Page) -> None:
    """Merged beside unmerged."""
    classify(page)
    page.get_by_role("tab", name="Compare").click()
    page.locator("#ld-compare").click()
    page.locator("#ld-comparison .ld-column").last.wait_for()


def timeline(page: Page) -> None:
    """A longer clip, and the frames of one of its segments."""
    page.locator("#ld-examples button", has_text="several").click()
    page.locator("#ld-answer .ld-label").wait_for()
    page.get_by_role("tab", name="Timeline").click()
    page.locator("#ld-label-video").click()
    page.locator("#ld-timeline .ld-strip button").nth(2).click()
    page.locator("#ld-segment img").last.wait_for()


SCENES = (
    ("demo-classify", classify, 1280, "light"),
    ("demo-compare", compare, 1280, "light"),
    ("demo-timeline-dark", timeline, 1280, "dark"),
    ("demo-phone", classify, 400, "light"),
)


def main() -> None:
    """Write them all."""
    PICTURES.mkdir(exist_ok=True)
    settings, watch = DemoSettings(port=0), Watch()
    with DecodePool() as pool, tempfile.TemporaryDirectory() as folder, sync_playwright() as driver:
        examples = draw_examples(Path(folder), pool)
        studio = Studio(Choices([EXAMPLE]), pool)
        blocks = in_a_loop(lambda: make_page(studio, settings, watch, examples=lambda: examples))
        browser = driver.chromium.launch(
            executable_path=shutil.which("chromium"), args=["--no-sandbox"]
        )
        with serving(blocks, settings, watch) as url:
            for name, scene, width, scheme in SCENES:
                context = browser.new_context(
                    viewport={"width": width, "height": 900},
                    color_scheme="dark" if scheme == "dark" else "light",
                )
                page = context.new_page()
                page.set_default_timeout(60_000)
                page.goto(url)
                page.locator("#ld-examples button").first.wait_for()
                scene(page)
                page.wait_for_timeout(800)  # until nothing moves any more
                picture = Image.open(io.BytesIO(page.screenshot(full_page=True)))
                picture.convert("RGB").quantize(COLOURS).save(
                    PICTURES / f"{name}.png", optimize=True
                )
                context.close()
        browser.close()


if __name__ == "__main__":
    main()
