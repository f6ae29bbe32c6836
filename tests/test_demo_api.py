"""The page for programs: the lines of docs/demo.md as they stand, and what endpoints say of good and bad clips."""

import json
import re
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

from lora_deploy.artifact import bundle
from lora_deploy.clips.dataset import find_videos
from lora_deploy.clips.example import write_example, write_sequence
from lora_deploy.runtime.load import load
from tests.browser import demo
from tests.demo_visitor import as_file, call, finish, upload
from tests.loopback_web import VIDEO, Servers, Web

DOCS = Path(__file__).parents[1] / "docs" / "demo.md"
ADDRESS = "http://127.0.0.1:7860"


@pytest.fixture(scope="module")
def page() -> Iterator[str]:
    with demo([bundle.EXAMPLE], waiting=60) as url:
        yield url


@pytest.fixture
def visitor(page: str) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=page, timeout=60) as client:
        yield client


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three gestures, two seconds each."""
    path = tmp_path_factory.mktemp("gestures") / "clip.mp4"
    write_sequence(path, ("nod_up", "wave_left", "circle_right"), seed=5)
    return path


def block(language: str) -> str:
    """The one block of code of ``docs/demo.md`` in a language that talks to the page."""
    blocks = re.findall(rf"```{language}\n(.*?)```", DOCS.read_text(encoding="utf-8"), re.DOTALL)
    (found,) = [one for one in blocks if ADDRESS in one]
    return str(found)


def ask(visitor: httpx.Client, endpoint: str, *data: Any) -> dict[str, Any]:
    kind, answer = call(visitor, endpoint, *data)
    assert kind == "complete", answer
    (row,) = answer
    assert isinstance(row, dict)
    return row


def test_the_python_lines_of_the_docs_work(page: str, clip: Path, tmp_path: Path) -> None:
    shutil.copy(clip, tmp_path / "clip.mp4")
    lines = block("python").replace(ADDRESS, page)
    said = subprocess.run(
        [sys.executable, "-c", lines], cwd=tmp_path, capture_output=True, text=True, check=True
    ).stdout.splitlines()
    expected = load(bundle.EXAMPLE).classify(clip)
    answer = next(line for line in said if line.startswith(expected.label))
    assert float(answer.split()[1]) == pytest.approx(expected.score, abs=1e-6)
    assert "nod_up" in said[-3] or "nod_up" in "".join(said)
    assert said[-1].split()[1] == "6.0"


def test_the_curl_lines_of_the_docs_work(page: str, clip: Path, tmp_path: Path) -> None:
    shutil.copy(clip, tmp_path / "clip.mp4")
    lines = block("bash").replace(ADDRESS, page)
    said = subprocess.run(
        ["bash", "-euc", lines], cwd=tmp_path, capture_output=True, text=True, check=True
    ).stdout
    assert "event: complete" in said
    (row,) = json.loads(said.split("data: ")[-1])
    expected = load(bundle.EXAMPLE).classify(clip)
    assert row["label"] == expected.label
    assert row["score"] == pytest.approx(expected.score, abs=1e-6)
    assert len(row["top_k"]) == 3


def test_a_part_is_asked_for_by_its_seconds(visitor: httpx.Client, clip: Path) -> None:
    name = upload(visitor, clip.read_bytes())
    row = ask(visitor, "classify", as_file(name), "merged", 1, 2, 4)
    assert row["label"] == "wave_left"
    assert row["is_unknown"] is False
    assert all(2 <= seconds < 4 for seconds in row["frames_seconds"])
    assert row["duration_seconds"] == pytest.approx(2)


def test_segments_cover_the_whole_video(visitor: httpx.Client, clip: Path) -> None:
    name = upload(visitor, clip.read_bytes())
    row = ask(visitor, "timeline", as_file(name), "merged", 2, 2)
    assert [one["label"] for one in row["segments"]] == ["nod_up", "wave_left", "circle_right"]
    assert row["segments"][0]["start_seconds"] == 0
    assert row["segments"][-1]["end_seconds"] == row["duration_seconds"] == pytest.approx(6)


def test_every_form_answers_under_its_name(visitor: httpx.Client, clip: Path) -> None:
    name = upload(visitor, clip.read_bytes())
    rows = {
        form: ask(visitor, "classify", as_file(name), form, 6, 0, 0)
        for form in ("merged", "unmerged", "base", "openvino-fp32")
    }
    assert all(row["form"] == form for form, row in rows.items())
    scores = {form: dict(row["top_k"]) for form, row in rows.items()}
    for form in ("unmerged", "openvino-fp32"):
        assert scores[form] == pytest.approx(scores["merged"], abs=1e-5)
    assert scores["base"] != pytest.approx(scores["merged"], abs=1e-2)


@pytest.mark.parametrize("form", ["", "best", "../merged", "merged; rm -rf /", "x" * 150])
def test_a_form_that_is_not_there_is_never_replaced(
    visitor: httpx.Client, clip: Path, form: str
) -> None:
    row = ask(visitor, "classify", as_file(upload(visitor, clip.read_bytes())), form, 1, 0, 0)
    assert row["status"] == "error"
    assert row["error"]["kind"] == "NoSuchChoiceError"


def test_a_link_is_fetched_and_classified(
    visitor: httpx.Client, web: Web, link_servers: Servers
) -> None:
    row = ask(visitor, "classify_link", f"{VIDEO}&t=2&end=4", "merged", 1)
    assert row["status"] == "ok"
    assert all(2 <= seconds < 4 for seconds in row["frames_seconds"])


@pytest.mark.parametrize(
    ("window", "stride"), [(0, 1), (-1, 1), (2, 0), (1e-9, 1e-9), (1e308, 1e308), (2, 1e9)]
)
def test_odd_windows_get_an_answer_or_a_reason(
    visitor: httpx.Client, clip: Path, window: float, stride: float
) -> None:
    row = ask(
        visitor, "timeline", as_file(upload(visitor, clip.read_bytes())), "merged", window, stride
    )
    assert row["status"] in ("ok", "error")
    if row["status"] == "error":
        assert row["error"]["kind"] != "fault", row


@pytest.mark.parametrize("top_k", [0, -5, 10**9])
def test_any_number_of_labels_may_be_asked_for(
    visitor: httpx.Client, clip: Path, top_k: int
) -> None:
    row = ask(
        visitor, "classify", as_file(upload(visitor, clip.read_bytes())), "merged", top_k, 0, 0
    )
    assert row["status"] == "error" or 1 <= len(row["top_k"]) <= 6


VIDEO_HERE = "the video that was uploaded"


@pytest.mark.parametrize(
    ("endpoint", "data", "says"),
    [
        ("classify", [VIDEO_HERE, "merged", None, 0, 0], "top_k is no number"),
        ("classify", [VIDEO_HERE, "merged", "5", 0, 0], "top_k is no number"),
        ("classify", [VIDEO_HERE, "merged", [5], 0, 0], "top_k is no number"),
        ("classify", [VIDEO_HERE, "merged", True, 0, 0], "top_k is no number"),
        ("classify", [VIDEO_HERE, "merged", 10**400, 0, 0], "top_k is no number"),
        ("classify", [VIDEO_HERE, "merged", 2.5, 0, 0], "top_k is no whole number"),
        ("classify", [VIDEO_HERE, "merged", 1, "abc", 0], "start_seconds is no number"),
        ("classify", [VIDEO_HERE, "merged", 1, 0, {}], "end_seconds is no number"),
        ("classify", [VIDEO_HERE, "merged"], "top_k is no number"),
        ("classify_link", [None, "merged", 1], "link is no text"),
        ("classify_link", [], "top_k is no number"),
        ("timeline", [VIDEO_HERE, "merged", None, 2], "window_seconds is no number"),
        ("timeline", [VIDEO_HERE, "merged", 2], "stride_seconds is no number"),
        ("timeline", [VIDEO_HERE, "merged", 1e-300, 2], "window_seconds is less than 0.01"),
    ],
)
def test_what_no_client_of_the_page_sends_is_refused_by_the_name_of_the_value(
    visitor: httpx.Client, clip: Path, endpoint: str, data: list[Any], says: str
) -> None:
    file = as_file(upload(visitor, clip.read_bytes()))
    row = ask(visitor, endpoint, *[file if one == VIDEO_HERE else one for one in data])
    assert row["error"] == {"kind": "bad_request", "message": f"{says}."}


def test_a_request_without_times_is_about_the_whole_video(
    visitor: httpx.Client, clip: Path
) -> None:
    row = ask(visitor, "classify", as_file(upload(visitor, clip.read_bytes())), "merged", 1)
    assert row["duration_seconds"] == pytest.approx(6)


def test_fifty_at_once_with_real_clips_are_answered_or_told_that_it_is_busy(tmp_path: Path) -> None:
    clips = find_videos(write_example(tmp_path, train_clips=0, val_clips=0, test_clips=1))
    recogniser = load(bundle.EXAMPLE)
    expected = [recogniser.classify(clip).label for clip in clips]

    def visit(url: str, user: int) -> str:
        clip = user % len(clips)
        with httpx.Client(base_url=url, timeout=120) as visitor:
            name = upload(visitor, clips[clip].read_bytes(), f"{user}.mp4")
            data = [as_file(name), "merged", 1, 0, 0]
            asked = visitor.post("/gradio_api/call/classify", json={"data": data})
            if asked.status_code == 503:
                return "busy" if "Queue is full" in asked.text else asked.text
            _, (row,) = finish(visitor, "classify", asked.json()["event_id"])
            return "right" if row["label"] == expected[clip] else f"wrong: {row}"

    with demo([bundle.EXAMPLE], waiting=10) as url, ThreadPoolExecutor(50) as users:
        told = Counter(users.map(lambda user: visit(url, user), range(50)))
    assert told["right"] >= 10
    assert told["right"] + told["busy"] == 50, told


def test_nothing_that_is_said_names_a_place_on_the_server(
    visitor: httpx.Client, clip: Path, page: str
) -> None:
    name = upload(visitor, clip.read_bytes())
    texts = [
        json.dumps(ask(visitor, "classify", as_file(name), "merged", 1, 0, 0)),
        json.dumps(ask(visitor, "classify", as_file(name), "best", 1, 0, 0)),
        json.dumps(ask(visitor, "classify", None, "merged", 1, 0, 0)),
        visitor.get("/").text,
        visitor.get("/config").text,
        visitor.get("/gradio_api/info").text,
        json.dumps(name),
    ]
    root = str(Path(__file__).parents[1])
    for text in texts:
        assert root not in text
        assert "/tmp" not in text
        assert str(Path.home()) + "/" not in text
