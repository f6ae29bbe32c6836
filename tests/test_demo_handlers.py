"""What a control does, without a page: work has bounds, and a visitor is told no more than is theirs."""

import json
import logging
import pickle
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from lora_deploy.artifact import bundle
from lora_deploy.clips.clip import Stretch
from lora_deploy.clips.example import write_sequence
from lora_deploy.clips.pool import DecodePool
from lora_deploy.demo import uploads, views
from lora_deploy.demo.answers import Comparison, Studio
from lora_deploy.demo.handlers import Handlers, Part, Problem
from lora_deploy.demo.models import Choices
from lora_deploy.demo.settings import DemoSettings
from lora_deploy.links import Fetched
from lora_deploy.web.watch import Watch

WHOLE = Part(None, None)


@pytest.fixture(scope="module")
def studio() -> Iterator[Studio]:
    with DecodePool(1) as pool:
        yield Studio(Choices([bundle.EXAMPLE]), pool)


@pytest.fixture
def handlers(studio: Studio) -> Handlers:
    return Handlers(studio, DemoSettings(), Watch(), str)


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Three gestures, two seconds each."""
    path = tmp_path_factory.mktemp("gestures") / "clip.mp4"
    write_sequence(path, ("nod_up", "wave_left", "circle_right"), seed=5)
    return str(path)


def problem_of(handlers: Handlers, clip: str | None, name: str = "merged") -> Problem:
    with pytest.raises(Problem) as caught:
        handlers.ask(clip, name, WHOLE)
    return caught.value


def test_forms_that_are_named_again_are_compared_once(handlers: Handlers, clip: str) -> None:
    comparison, _ = handlers.compare(clip, ["merged", "unmerged"] * 20, WHOLE)
    assert comparison.count("<section") == 2


def test_one_form_named_twice_is_no_comparison(handlers: Handlers, clip: str) -> None:
    with pytest.raises(Problem) as caught:
        handlers.compare(clip, ["merged", "merged"], WHOLE)
    assert caught.value.kind == "too_few_forms"


def test_no_more_forms_are_compared_than_there_are(handlers: Handlers, clip: str) -> None:
    names = [f"form {number}" for number in range(len(handlers.studio.choices.all) + 1)]
    with pytest.raises(Problem) as caught:
        handlers.compare(clip, names, WHOLE)
    assert caught.value.kind == "too_many_forms"


def test_a_timeline_that_takes_too_long_is_ended_and_nothing_more_is_decoded(
    handlers: Handlers, studio: Studio, clip: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    decoded = []
    submit = studio._pool.submit

    def counted(*arguments: Any) -> Any:
        decoded.append(arguments)
        return submit(*arguments)

    monkeypatch.setattr(studio._pool, "submit", counted)
    monkeypatch.setattr("lora_deploy.demo.handlers.MOST_TIMELINE_SECONDS", 0.0)
    with pytest.raises(Problem, match="longer pieces") as caught:
        handlers.timeline(clip, "merged", 0.5, 0.05)
    assert caught.value.kind == "too_slow"
    assert len(decoded) < 20  # of 111


def test_a_timeline_that_is_done_is_shown_even_if_it_is_late(
    handlers: Handlers, clip: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lora_deploy.demo.handlers.MOST_TIMELINE_SECONDS", 0.0)
    assert len(handlers.timeline(clip, "merged", 20, 20).segments) == 1


def test_links_are_fetched_only_where_the_folder_has_room(
    studio: Studio, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = DemoSettings(max_upload_bytes=100_000, max_folder_bytes=150_000)
    fetched = Fetched(tmp_path / "linked.mp4", "", None, None)
    monkeypatch.setattr("lora_deploy.demo.handlers.fetch", lambda *_, **__: fetched)
    handlers = Handlers(studio, settings, Watch(), str)
    kept = uploads.settle() / "another visitor's.mp4"
    kept.write_bytes(bytes(60_000))
    try:
        with pytest.raises(Problem) as caught:
            handlers.fetch("https://youtu.be/x", lambda _: None)
    finally:
        kept.unlink()
    assert caught.value.kind == "no_room"
    again = Handlers(studio, settings, Watch(), str)
    assert again.fetch("https://youtu.be/x", lambda _: None)[0] == str(fetched.path)


def test_room_for_a_link_is_set_apart_until_its_video_is_kept(
    studio: Studio, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = DemoSettings(max_upload_bytes=100_000, max_folder_bytes=150_000)
    handlers = Handlers(studio, settings, Watch(), str)
    told = []

    def slow(*_: object, **__: object) -> Fetched:
        with pytest.raises(Problem) as caught:
            handlers.fetch("https://youtu.be/x", lambda _: None)
        told.append(caught.value.kind)
        return Fetched(tmp_path / "linked.mp4", "", None, None)

    monkeypatch.setattr("lora_deploy.demo.handlers.fetch", slow)
    handlers.fetch("https://youtu.be/x", lambda _: None)
    handlers.fetch("https://youtu.be/x", lambda _: None)  # what was set apart is given back
    assert told == ["no_room", "no_room"]


def test_the_frames_of_a_segment_are_those_of_its_clearest_window(
    handlers: Handlers, studio: Studio, clip: str
) -> None:
    found = handlers.timeline(clip, "merged", 2, 0.2)
    lengths = [one.end_seconds - one.start_seconds for one in found.segments]
    longest = lengths.index(max(lengths))
    segment = found.segments[longest]
    start, end = segment.best_start_seconds, segment.best_end_seconds
    assert (start, end) != pytest.approx((segment.start_seconds, segment.end_seconds))
    assert end - start == pytest.approx(2, abs=0.1)
    seen = studio.classify(Path(clip), "merged", stretch=Stretch(start, end))
    html = handlers.segment_frames(clip, "merged", found, longest)
    assert views.strip(seen.clip.frames, seen.times_in_file_seconds) in html
    assert f"most probable from {views.clock(start)} to {views.clock(end)}" in html


def test_a_timeline_that_the_page_keeps_has_no_windows_and_its_segments_can_still_be_looked_at(
    handlers: Handlers, clip: str
) -> None:
    found = handlers.timeline(clip, "merged", 2, 0.2)
    assert found.windows == ()
    assert len(pickle.dumps(found)) < 500 * (len(found.segments) + 1)  # whatever their number
    assert "<figure>" in handlers.segment_frames(clip, "merged", found, 1)


# A label that is called unknown -------------------------------------------------------------------


def called_unknown(studio: Studio, threshold: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """The example under the one word for each of its labels, as a model may have been taught."""
    recogniser = studio.choices.open("merged")
    labels = ("unknown", *(f"unknown {number}" for number in range(1, len(recogniser.labels))))
    best = recogniser.labels.index("wave_left")
    swapped = (*labels[1 : best + 1], labels[0], *labels[best + 1 :])
    named = replace(recogniser, labels=swapped, unknown_threshold=threshold)
    monkeypatch.setattr(studio.choices, "open", lambda _: named)


@pytest.mark.parametrize(("threshold", "is_unknown"), [(0.0, False), (1.0, True)])
def test_a_label_of_the_model_that_is_called_unknown_is_a_label(
    handlers: Handlers,
    studio: Studio,
    clip: str,
    threshold: float,
    is_unknown: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    called_unknown(studio, threshold, monkeypatch)
    part = Part(2, 4)
    found = handlers.ask(clip, "merged", part)
    assert found.prediction.label == "unknown"
    assert found.prediction.is_unknown is is_unknown
    html, _ = handlers.classify(clip, "merged", part)
    assert ("Nothing this model knows" in html) is is_unknown
    told = handlers.timeline(clip, "merged", 2, 2)
    assert told.segments[1 if len(told.segments) > 1 else 0].label == "unknown"
    assert {one.is_unknown for one in told.segments} == {is_unknown}
    grey = "--hue:0;--much:0%" in views.timeline(told, "chooser", "Merged")
    assert grey is is_unknown


def test_unknown_and_a_label_that_is_called_so_are_no_agreement(
    handlers: Handlers, clip: str
) -> None:
    one = handlers.ask(clip, "merged", WHOLE)
    other = replace(one, prediction=replace(one.prediction, is_unknown=True))
    assert Comparison((one, one)).same_label
    assert not Comparison((one, other)).same_label


# What is told of errors ---------------------------------------------------------------------------


def test_no_place_on_the_server_is_told_of_a_model_that_is_damaged(
    studio: Studio, clip: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    model = tmp_path / "model"
    shutil.copytree(bundle.EXAMPLE, model)
    graph = next(model.rglob("*.onnx"))
    graph.write_bytes(graph.read_bytes() + b"x")
    damaged = Studio(Choices([model]), studio._pool)
    with caplog.at_level(logging.INFO, "lora_deploy.demo"):
        problem = problem_of(Handlers(damaged, DemoSettings(), Watch(), str), clip)
    assert problem.kind == "FileChangedError"
    assert str(problem).startswith("This model can't be asked")
    assert "/" not in str(problem)
    assert graph.name not in str(problem)
    assert str(graph.name) in caplog.text  # the operator is told


def test_what_a_visitor_can_mend_is_told_in_its_own_words(handlers: Handlers, clip: str) -> None:
    assert "'best'" in str(problem_of(handlers, clip, "best"))
    with pytest.raises(Problem, match="The window is -1 seconds long"):
        handlers.timeline(clip, "merged", -1, 1)
    with pytest.raises(Problem, match="There is no such file"):
        handlers.ask(f"{clip}.gone", "merged", WHOLE)


def test_a_fault_of_ours_is_found_in_the_log_by_its_type_and_place_and_not_its_words(
    handlers: Handlers, clip: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object, **__: object) -> None:
        raise ZeroDivisionError("holiday of ada.mp4")

    monkeypatch.setattr("lora_deploy.demo.answers.softmax", broken)
    with caplog.at_level(logging.INFO, "lora_deploy"):
        assert problem_of(handlers, clip).kind == "fault"
    events = [json.loads(record.getMessage()) for record in caplog.records]
    (fault,) = [event for event in events if event["event"] == "fault"]
    assert fault["error"] == "ZeroDivisionError"
    place, line, function = fault["place"].split(":")
    assert (place, function) == ("demo/answers.py", "_ask")
    assert line.isdigit()
    assert "holiday" not in caplog.text
