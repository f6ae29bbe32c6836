"""The web page as people use it: a real browser, a real server, real clips, every form of a proved model."""

import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser

from lora_deploy.artifact import bundle
from lora_deploy.clips import decode
from lora_deploy.clips.example import write_sequence
from lora_deploy.clips.pool import DecodePool
from lora_deploy.demo import views
from lora_deploy.demo.examples import Example, read_examples
from lora_deploy.demo.handlers import CHOOSE_FIRST, Handlers, Part
from lora_deploy.demo.models import About, Choices
from lora_deploy.runtime.base import UNKNOWN, Prediction, Recogniser
from lora_deploy.runtime.load import load
from tests.browser import Visitor, demo, visiting
from tests.loopback_web import VIDEO, Servers, Web

MERGED = "Merged, ONNX Runtime, float32"
UNMERGED = "Unmerged, PyTorch, float32"
OPENVINO = "Merged, OpenVINO, float32"
BASE = "Adapter off, trained head on, PyTorch, float32"


@pytest.fixture(scope="module")
def named(media: Path, full_bundle: Path) -> dict[str, Path]:
    """By what the model of `full_bundle` says outside of the page: a real clip of somebody bending."""
    recogniser = load(full_bundle)
    folder = media / "dataset" / "weizmann4" / "bend"
    return {recogniser.classify(path).label: path for path in sorted(folder.iterdir())}


@pytest.fixture(scope="module")
def clip(named: dict[str, Path]) -> Path:
    return named["bend"]


@pytest.fixture(scope="module")
def examples(clip: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Example, ...]:
    folder = tmp_path_factory.mktemp("examples")
    (folder / "bending_0001.mp4").write_bytes(clip.read_bytes())
    with DecodePool(1, proof=False) as pool:
        return read_examples(folder, pool)


@pytest.fixture(scope="module")
def page(full_bundle: Path, examples: tuple[Example, ...]) -> Iterator[str]:
    """The page of a bundle with every form."""
    with demo([full_bundle], examples=examples) as url:
        yield url


@pytest.fixture(scope="module")
def gestures() -> Iterator[str]:
    """The page of the example bundle."""
    with demo([bundle.EXAMPLE], max_upload_bytes=300_000) as url:
        yield url


def test_an_upload_is_named_rightly_with_the_very_frames_that_the_model_saw(
    chromium: Browser, page: str, clip: Path, full_bundle: Path
) -> None:
    contract = bundle.read_bundle_manifest(full_bundle).contract
    seen = decode.decode(clip, contract)
    with visiting(chromium, page) as visitor:
        visitor.upload(clip)
        assert visitor.text("ld-answer", ".ld-label") == "bend"
        assert visitor.pictures("ld-frames") == [views.picture_address(one) for one in seen.frames]
        times = [one.inner_text() for one in visitor.at("ld-frames", "figcaption").all()]
        assert times == [views.clock(seconds) for seconds in seen.times_seconds]
        bars = visitor.at("ld-answer", "li").all_inner_texts()
        assert len(bars) == len(bundle.read_bundle_manifest(full_bundle).labels)


def test_a_clip_that_is_nothing_the_model_knows_is_called_unknown(
    chromium: Browser, page: str, named: dict[str, Path]
) -> None:
    with visiting(chromium, page) as visitor:
        visitor.upload(named[UNKNOWN])
        assert visitor.text("ld-answer", ".ld-label") == "Unknown"
        assert "the nearest is" in visitor.text("ld-answer", ".ld-soft")


def test_every_form_gives_the_same_label_and_says_which_one_it_was(
    chromium: Browser, page: str, clip: Path
) -> None:
    with visiting(chromium, page) as visitor:
        visitor.upload(clip)
        assert visitor.text("ld-answer", ".ld-label") == "bend"
        for title in (UNMERGED, OPENVINO, "Merged, ONNX Runtime, int8", "Merged, PyTorch, float32"):
            visitor.choose_form(title)
            visitor.at("ld-answer").get_by_text(title).wait_for()
            assert visitor.text("ld-answer", ".ld-label") == "bend", title
        assert visitor.at("ld-form-problem", ".ld-problem").count() == 0


def test_forms_are_compared_side_by_side(chromium: Browser, page: str, clip: Path) -> None:
    with visiting(chromium, page) as visitor:
        visitor.upload(clip)
        visitor.tab("Compare")
        for title in (MERGED, UNMERGED, OPENVINO):
            visitor.at("ld-forms").get_by_label(title, exact=True).check()
        visitor.at("ld-compare").click()
        assert "All give the same label" in visitor.text("ld-comparison", ".ld-good")
        columns = visitor.at("ld-comparison", ".ld-column")
        assert [one.inner_text().splitlines()[0] for one in columns.all()] == [
            MERGED,
            UNMERGED,
            OPENVINO,
        ]
        assert all("bend" in text and "ms" in text for text in columns.all_inner_texts())


def test_one_form_can_not_be_compared(chromium: Browser, page: str, clip: Path) -> None:
    with visiting(chromium, page) as visitor:
        visitor.upload(clip)
        visitor.tab("Compare")
        for box in visitor.at("ld-forms", "input").all():
            box.uncheck()
        visitor.at("ld-compare").click()
        assert "two forms" in visitor.text("ld-compare-problem", ".ld-problem")


def test_a_long_video_becomes_a_strip_whose_segments_show_their_frames(
    chromium: Browser, gestures: str, tmp_path: Path
) -> None:
    several = tmp_path / "several.mp4"
    write_sequence(several, ("nod_up", "wave_left", "circle_right"), seed=5)
    with visiting(chromium, gestures) as visitor:
        visitor.upload(several)
        visitor.tab("Timeline")
        visitor.at("ld-label-video").click()
        visitor.at("ld-timeline", ".ld-strip").wait_for()
        pieces = visitor.at("ld-timeline", ".ld-strip button").all_inner_texts()
        assert pieces == ["nod_up", "wave_left", "circle_right"]
        visitor.at("ld-timeline", ".ld-segments button").nth(1).press("Enter")  # by keyboard
        assert visitor.text("ld-segment", "h2").startswith("wave_left, 0:02.0 – 0:04.0")
        times = visitor.at("ld-segment", "figcaption").all_inner_texts()
        assert all("0:02.0" <= time < "0:04.0" for time in times)
        pressed = visitor.at("ld-timeline", ".ld-strip [aria-pressed=true]")
        assert pressed.all_inner_texts() == ["wave_left"]
        visitor.at("ld-timeline", ".ld-strip button").nth(2).click()
        visitor.at("ld-segment").get_by_text("circle_right, 0:04.0").wait_for()


def test_a_part_of_a_video_is_answered_from_frames_of_that_part(
    chromium: Browser, gestures: str, tmp_path: Path
) -> None:
    several = tmp_path / "several.mp4"
    write_sequence(several, ("nod_up", "wave_left", "circle_right"), seed=5)
    with visiting(chromium, gestures) as visitor:
        visitor.upload(several)
        visitor.at("ld-answer", ".ld-label").wait_for()
        visitor.page.get_by_text("Only a part of it").click()
        visitor.at("ld-start", "input").fill("2")
        visitor.at("ld-end", "input").fill("4")
        visitor.at("ld-classify").click()
        visitor.at("ld-frames").get_by_text("0:02.1").wait_for()
        assert visitor.text("ld-answer", ".ld-label") == "wave_left"
        visitor.at("ld-start", "input").fill("90")
        visitor.at("ld-end", "input").fill("")
        visitor.at("ld-classify").click()
        assert "6" in visitor.text("ld-clip-problem", ".ld-problem")  # how long it is
        assert visitor.at("ld-answer", ".ld-label").count() == 0


def test_an_example_is_one_click_away(chromium: Browser, page: str) -> None:
    with visiting(chromium, page) as visitor:
        example = visitor.at("ld-examples", "button")
        assert example.inner_text() == "bending"
        example.click()
        assert visitor.text("ld-answer", ".ld-label") == "bend"


def seen_seconds(visitor: Visitor) -> float:
    """For how long the camera's picture has been shown."""
    seconds: float = visitor.at("ld-video", "video").first.evaluate("video => video.currentTime")
    return seconds


COUNT_WHAT_IS_RECORDED = """() => {
    window.recordedBytes = 0;
    const start = MediaRecorder.prototype.start;
    MediaRecorder.prototype.start = function (...given) {
        this.addEventListener("dataavailable", event => { window.recordedBytes += event.data.size; });
        return start.apply(this, given);
    };
}"""


def test_what_a_camera_records_is_answered(chromium: Browser, gestures: str) -> None:
    with visiting(chromium, gestures, permissions=["camera", "microphone"]) as visitor:
        visitor.page.get_by_label("Capture from camera").click()
        visitor.page.get_by_text("Click to Access Webcam").click()
        record = visitor.at("ld-video").get_by_label("start recording")
        visitor.page.evaluate(COUNT_WHAT_IS_RECORDED)
        record.click()
        # Gradio sends what the recorder has handed over when it is stopped, and does not wait for the
        # rest: on a busy computer that may be nothing long after the camera's picture is shown.
        while visitor.page.evaluate("window.recordedBytes") < 1000:
            visitor.page.wait_for_timeout(100)
        begun = seen_seconds(visitor)
        while seen_seconds(visitor) < begun + 1.5:
            visitor.page.wait_for_timeout(100)
        record.click()
        assert (
            visitor.text("ld-answer", ".ld-label")
            in bundle.read_bundle_manifest(bundle.EXAMPLE).labels
        )
        assert len(visitor.pictures("ld-frames")) == 8


def test_no_program_of_the_system_looks_at_a_video(
    chromium: Browser, page: str, link_servers: Servers, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked: list[str] = []
    monkeypatch.setattr("gradio.processing_utils.ffmpeg_installed", lambda: True)
    monkeypatch.setattr("gradio.processing_utils.video_is_playable", looked.append)
    with visiting(chromium, page) as visitor:
        visitor.at("ld-link", "input, textarea").first.fill("https://vimeo.com/1")
        visitor.at("ld-fetch").click()
        visitor.at("ld-link-problem", ".ld-problem").wait_for()  # after which Gradio remakes parts
        visitor.at("ld-examples", "button").click()
        assert visitor.text("ld-answer", ".ld-label") == "bend"
    assert looked == []


def test_about_tells_labels_forms_card_and_certificate(
    chromium: Browser, page: str, full_bundle: Path
) -> None:
    with visiting(chromium, page) as visitor:
        visitor.tab("About")
        text = visitor.text("ld-about", "")
        manifest = bundle.read_bundle_manifest(full_bundle)
        assert all(label in text for label in manifest.labels)
        assert "openvino-int8" in text
        assert manifest.base.fingerprint  # which is not what a reader wants, the digest is
        assert "sha256:" in text
        certificate = visitor.page.frame_locator("#ld-about iframe")
        assert "Proved" in certificate.locator("h1").inner_text()
        assert "Action recogniser" in visitor.text("ld-card", "h1")
        assert visitor.at("ld-about", "iframe").get_attribute("sandbox") == ""


def test_a_link_is_fetched_and_its_time_is_kept(
    chromium: Browser, page: str, web: Web, link_servers: Servers
) -> None:
    with visiting(chromium, page) as visitor:
        visitor.at("ld-link", "input, textarea").first.fill(f"{VIDEO}&t=2&end=7")
        visitor.at("ld-fetch").click()
        visitor.at("ld-answer", ".ld-label").wait_for()
        first = visitor.at("ld-frames", "figcaption").first.inner_text()
        assert first.startswith(("0:02", "0:03"))
        assert visitor.at("ld-link-problem", ".ld-problem").count() == 0
    assert web.media_requests()


@pytest.mark.parametrize(
    ("link", "told"),
    [
        ("http://127.0.0.1/clip.mp4", "only public addresses"),
        ("http://169.254.169.254/latest/meta-data", "only public addresses"),
        ("https://vimeo.com/1", "upload the file"),
        ("file:///etc/passwd", "https://"),
        ("https://www.youtube.com/playlist?list=PL1", "open one video"),
    ],
)
def test_a_link_that_is_refused_says_why_beside_the_link(
    chromium: Browser, page: str, link_servers: Servers, link: str, told: str
) -> None:
    with visiting(chromium, page) as visitor:
        visitor.at("ld-link", "input, textarea").first.fill(link)
        visitor.at("ld-fetch").click()
        sentence = visitor.text("ld-link-problem", ".ld-problem")
        assert told in sentence
        assert "Traceback" not in sentence
    assert link_servers.events("connect") == link_servers.events("resolve") == []


@pytest.mark.parametrize(
    "name", ["malformed/zero_byte_from_repo.webm", "attack/hls_passwd_named.mp4"]
)
def test_a_broken_file_says_so_beside_the_video(
    chromium: Browser, page: str, media: Path, name: str, clip: Path
) -> None:
    with visiting(chromium, page) as visitor:
        visitor.upload(clip)
        assert visitor.text("ld-answer", ".ld-label") == "bend"
        visitor.page.get_by_label("Clear").click()
        visitor.at("ld-answer", ".ld-empty").wait_for()
        visitor.upload(media / name)
        sentence = visitor.text("ld-clip-problem", ".ld-problem")
        assert str(media) not in sentence
        assert visitor.at("ld-answer", ".ld-label").count() == 0


def test_a_file_that_is_too_large_is_turned_away(
    chromium: Browser, gestures: str, media: Path
) -> None:
    large = media / "clips" / "playing_with_dog.mp4"
    assert large.stat().st_size > 300_000
    with visiting(chromium, gestures) as visitor:
        visitor.upload(large)
        visitor.page.get_by_text("exceed the maximum allowed size").first.wait_for()
        assert visitor.at("ld-answer", ".ld-label").count() == 0


def test_without_a_video_the_buttons_say_what_to_do(chromium: Browser, page: str) -> None:
    with visiting(chromium, page) as visitor:
        visitor.tab("Timeline")
        visitor.at("ld-label-video").click()
        assert visitor.text("ld-clip-problem", ".ld-problem") == CHOOSE_FIRST


def test_a_video_that_comes_while_another_is_asked_about_is_answered(
    chromium: Browser, page: str, named: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    ask, asked, may_answer = Handlers.classify, threading.Event(), threading.Event()

    def slow(self: Handlers, video: str | None, name: str, part: Part) -> tuple[str, str]:
        asked.set()
        may_answer.wait(60)
        return ask(self, video, name, part)

    monkeypatch.setattr(Handlers, "classify", slow)
    label, other = next((label, path) for label, path in named.items() if label != "bend")
    with visiting(chromium, page) as visitor:
        visitor.upload(named["bend"])
        while not asked.is_set():
            visitor.page.wait_for_timeout(50)
        visitor.page.get_by_label("Clear").first.click()
        visitor.upload(other)
        visitor.at("ld-video", "video").wait_for()
        visitor.page.wait_for_timeout(500)  # so that it would ask about this one, too
        may_answer.set()
        visitor.at("ld-answer", ".ld-label").get_by_text(label).wait_for()


def test_another_video_leaves_nothing_of_the_old_one(
    chromium: Browser, gestures: str, tmp_path: Path
) -> None:
    several, other = tmp_path / "several.mp4", tmp_path / "other.mp4"
    write_sequence(several, ("nod_up", "wave_left", "circle_right"), seed=5)
    write_sequence(other, ("nod_up", "nod_up"), seed=2)
    with visiting(chromium, gestures) as visitor:
        visitor.upload(several)
        visitor.at("ld-answer", ".ld-label").wait_for()
        visitor.page.get_by_text("Only a part of it").click()
        visitor.at("ld-start", "input").fill("2")
        visitor.at("ld-start", "input").press("Enter")
        visitor.at("ld-answer").get_by_text("Of the video from 0:02.0 to the end").wait_for()
        visitor.tab("Compare")
        visitor.at("ld-compare").click()
        visitor.at("ld-comparison", ".ld-column").first.wait_for()
        visitor.tab("Timeline")
        visitor.at("ld-label-video").click()
        visitor.at("ld-timeline", ".ld-strip").wait_for()
        visitor.page.get_by_label("Clear").first.click()
        visitor.at("ld-timeline", ".ld-empty").wait_for()
        visitor.upload(other)
        visitor.tab("Classify")
        visitor.at("ld-answer", ".ld-label").wait_for()
        assert visitor.at("ld-start", "input").input_value() == ""
        assert "Of the video" not in visitor.text("ld-answer", "")
        visitor.tab("Compare")
        assert visitor.at("ld-comparison", ".ld-column").count() == 0


def test_what_a_form_said_goes_with_the_form(
    chromium: Browser, gestures: str, tmp_path: Path
) -> None:
    several = tmp_path / "several.mp4"
    write_sequence(several, ("nod_up", "wave_left"), seed=5)
    with visiting(chromium, gestures) as visitor:
        visitor.upload(several)
        visitor.tab("Timeline")
        visitor.at("ld-label-video").click()
        visitor.at("ld-timeline").get_by_text(MERGED).wait_for()
        visitor.choose_form(OPENVINO, "ld-timeline-form")
        visitor.at("ld-timeline", ".ld-empty").wait_for()


HOSTILE = 'x\n\n[log in](https://evil.example/)\n\n![p](logout)\n\n# Big <img src=x onerror="document.title=1">'


def test_labels_and_cards_of_strangers_are_text(
    chromium: Browser, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    several = tmp_path / "several.mp4"
    write_sequence(several, ("nod_up", "wave_left"), seed=5)
    told, known = Recogniser.predict, Choices.about

    def predict(self: Recogniser, *arguments: Any, **options: Any) -> Prediction:
        return replace(told(self, *arguments, **options), label=HOSTILE, top_k=((HOSTILE, 0.9),))

    def about(self: Choices, name: str) -> About:
        style = "<div id=ld-video style='position:fixed;inset:0'>over</div>"
        return replace(known(self, name), labels=(HOSTILE,), card=f"{HOSTILE}\n\n{style}\n")

    monkeypatch.setattr(Recogniser, "predict", predict)
    monkeypatch.setattr(Choices, "about", about)
    with demo([bundle.EXAMPLE]) as url, visiting(chromium, url) as visitor:
        visitor.upload(several)
        assert "evil.example" in visitor.text("ld-answer", ".ld-label")
        assert visitor.at("ld-answer", ":is(a, img, h1, [onerror])").count() == 0
        visitor.tab("About")
        visitor.at("ld-about", "li").first.wait_for()
        assert visitor.at("ld-about", ":is(a, img, h1, [onerror])").count() == 0
        assert "evil.example" in visitor.text("ld-card", "")
        assert visitor.at("ld-card", ".md :is(a, img, [style], [id], [onerror])").count() == 0
        assert visitor.page.title() != "1"


@pytest.mark.parametrize("width", [360, 768, 1280])
def test_nothing_is_wider_than_the_screen(
    chromium: Browser, page: str, clip: Path, width: int
) -> None:
    with visiting(chromium, page, width=width) as visitor:
        visitor.upload(clip)
        visitor.at("ld-answer", ".ld-label").wait_for()
        for tab in ("Compare", "Timeline", "About", "Classify"):
            visitor.tab(tab)
            visitor.page.wait_for_timeout(300)
            assert visitor.page.evaluate("document.documentElement.scrollWidth") <= width, tab


def test_every_control_has_a_name_and_can_be_reached_by_keyboard(
    chromium: Browser, page: str
) -> None:
    with visiting(chromium, page) as visitor:
        nameless = visitor.page.evaluate(
            """() => [...document.querySelectorAll('button, input, textarea, select, [role=button]')]
                .filter(one => one.checkVisibility())
                .filter(one => !(one.getAttribute('aria-label') || one.labels?.[0]?.innerText.trim()
                    || one.innerText.trim() || one.title))
                .map(one => one.outerHTML.slice(0, 200))"""
        )
        assert nameless == []
        reached = set()
        for _ in range(60):
            visitor.page.keyboard.press("Tab")
            reached.add(
                visitor.page.evaluate(
                    "document.activeElement.closest('[id^=ld-]')?.id ?? document.activeElement.innerText"
                )
            )
        assert {
            "ld-video",
            "ld-link",
            "ld-fetch",
            "ld-examples",
            "ld-form",
            "ld-classify",
        } <= reached
        assert {"Classify", "ld-classify"} & reached
