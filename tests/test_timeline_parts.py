"""Many parts of a file in one go: the clips are those of the parts alone, and nothing is done twice."""

import errno
import gc
import math
import os
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import CancelledError
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from lora_deploy.classify.timeline import TimelineOptions, timeline, window_stretches
from lora_deploy.classify.timeline.windows import check_memory, step_seconds
from lora_deploy.clips import answers, shares, sparse, wire
from lora_deploy.clips import decode as decode_module
from lora_deploy.clips import decode_parts as parts_module
from lora_deploy.clips import packets as packets_module
from lora_deploy.clips import pool as pool_module
from lora_deploy.clips.clip import WHOLE_FILE, DecodedClip, Effort, Stretch
from lora_deploy.clips.contract import PixelContract
from lora_deploy.clips.decode import decode
from lora_deploy.clips.decode_parts import decode_parts
from lora_deploy.clips.guard import open_clip
from lora_deploy.clips.pool import DecodePool
from lora_deploy.clips.sampling import frames_shown, nearest_frames
from lora_deploy.errors import ClipError, TimelineOptionsError
from lora_deploy.memory import peak_memory_bytes
from lora_deploy.runtime.base import Recogniser
from lora_deploy.runtime.load import load
from tests.test_clips_pool import Order
from tests.test_timeline import CONTRACT, clips_in_memory, colour_recogniser, write_colours

VARIABLE = ("derived/book_vfr_irregular.mp4", "derived/book_vfr_gap_5s.mkv", "hostile/vfr.mp4")
TURNED = ("derived/book_rot90_upright_when_applied.mp4", "hostile/rot90.mp4")
FILES = (
    *VARIABLE,
    *TURNED,
    "clips/arm_wrestling.mp4",
    "clips/archery.avi",
    "clips/cricket_shot.gif",
    "derived/book_h264.ts",
    "derived/book_h264_bframes_openGOP_negdts.mp4",
    "derived/book_missing_index.avi",
    "derived/book_mpeg4_asp_bframes.avi",
    "derived/book_wmv2.wmv",
    "derived/book_start_at_1000s.mkv",
    "derived/book_truncated_60pct_moov_first.mp4",
    "derived/book_bitflips_200.mp4",
    "derived/book_resolution_change_midstream.ts",
)
SEVERAL = [Stretch(at / 4, at / 4 + 1) for at in range(0, 12, 2)]


def outcomes(
    path: Path, stretches: list[Stretch], effort: Effort = "exact"
) -> list[DecodedClip | ClipError]:
    with open_clip(path) as file:
        return list(decode_parts(file, CONTRACT, effort, stretches))


def alone(path: Path, stretch: Stretch, effort: Effort) -> DecodedClip | ClipError:
    try:
        return decode(path, CONTRACT, effort, stretch)
    except ClipError as error:
        return error


@pytest.fixture(scope="module")
def film(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twenty seconds, two hundred pictures, a key frame a second."""
    path = tmp_path_factory.mktemp("film") / "film.mp4"
    return write_colours(path, [("red", 8.0), ("blue", 7.0), ("green", 5.0)])


@pytest.mark.parametrize("effort", ["exact", "fast", "whole"])
@pytest.mark.parametrize("name", FILES)
def test_each_part_is_the_clip_that_decoding_it_alone_gives(
    media: Path, name: str, effort: Effort
) -> None:
    found = outcomes(media / name, SEVERAL, effort)
    assert len(found) == len(SEVERAL)
    for stretch, clip in zip(SEVERAL, found, strict=True):
        expected = alone(media / name, stretch, effort)
        if isinstance(expected, ClipError):
            assert isinstance(clip, ClipError)
            assert clip.kind == expected.kind
        else:
            assert isinstance(clip, DecodedClip)
            assert np.array_equal(clip.frames, expected.frames)
            assert clip.times_seconds == expected.times_seconds
            assert clip.duration_seconds == expected.duration_seconds
            assert clip.start_seconds == expected.start_seconds
            assert clip.file_frames == expected.file_frames
            assert clip.warning == expected.warning


@pytest.fixture(scope="module")
def recogniser(bundle: Path) -> Recogniser:
    return load(bundle)


@pytest.mark.parametrize("batch_size", [1, 3])
@pytest.mark.parametrize("name", [*VARIABLE, *TURNED, "clips/arm_wrestling.mp4"])
def test_each_window_has_the_bits_that_asking_of_it_alone_gives(
    bundle: Path, media: Path, name: str, batch_size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shares, "LEAST_SHARE", 5)  # so that two processes share the work
    asked = load(bundle, batch_size=batch_size)
    with DecodePool(2, proof=False) as running:
        found = timeline(asked, media / name, pool=running, options=TimelineOptions(0.8, 0.2))
    assert len(found.windows) > 3
    for window, stretch in zip(
        found.windows, window_stretches(found.duration_seconds, TimelineOptions(0.8, 0.2), 0.2)[1],
        strict=True,
    ):  # fmt: skip
        alone = asked.classify(media / name, top_k=99, stretch=stretch)
        assert dict(alone.top_k) == dict(zip(asked.labels, window.probabilities, strict=True))


def test_a_window_of_the_timeline_can_be_asked_again_by_its_times(
    recogniser: Recogniser, media: Path
) -> None:
    path = media / VARIABLE[0]
    found = timeline(recogniser, path, options=TimelineOptions(0.8, 0.2))
    for window in found.windows:
        part = Stretch(window.start_seconds, window.end_seconds)
        again = recogniser.classify(path, top_k=99, stretch=part)
        assert dict(again.top_k) == dict(zip(recogniser.labels, window.probabilities, strict=True))


# Nothing twice ----------------------------------------------------------------------------------


def count_calls(monkeypatch: pytest.MonkeyPatch, module: Any, name: str) -> list[Any]:
    real, calls = getattr(module, name), []

    def counted(*arguments: Any, **options: Any) -> Any:
        calls.append(arguments)
        return real(*arguments, **options)

    monkeypatch.setattr(module, name, counted)
    return calls


def test_windows_on_the_grid_convert_each_picture_once(
    film: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pictures = count_calls(monkeypatch, sparse, "picture")
    on_grid = [Stretch(at / 2, at / 2 + 2) for at in range(37)]
    assert len(outcomes(film, on_grid)) == 37
    assert len(pictures) == 40  # one every half second, and not 37 × 4


@pytest.mark.parametrize("windows", [10, 180])
def test_the_file_is_gone_through_twice_however_many_windows_there_are(
    film: Path, windows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    passes = count_calls(monkeypatch, packets_module, "stream_packets")
    decoded: list[object] = []
    real = sparse._decoded

    def counted(*arguments: Any) -> Iterator[Any]:
        for frame in real(*arguments):
            decoded.append(frame.pts)
            yield frame

    monkeypatch.setattr(sparse, "_decoded", counted)
    outcomes(film, [Stretch(at * 18 / windows, at * 18 / windows + 2) for at in range(windows)])
    assert len(passes) == 2
    assert len(decoded) == len(set(decoded)) <= 200


def test_what_can_be_relied_on_less_is_decoded_twice_however_many_windows_there_are(
    media: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    passes = count_calls(monkeypatch, parts_module, "passed_over")
    path = media / "derived/book_bitflips_200.mp4"
    outcomes(path, [Stretch(at / 20, at / 20 + 1) for at in range(20)], "whole")
    assert len(passes) == 2


def test_where_something_is_lost_everything_is_looked_at(
    film: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    passes = count_calls(monkeypatch, parts_module, "passed_over")
    monkeypatch.setattr(parts_module, "losses", lambda *_: ["the end is missing"])
    outcomes(film, SEVERAL)
    assert len(passes) == 2


def test_pictures_are_let_go_when_no_window_wants_them_more(
    film: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    held: list[int] = []
    real = parts_module._Cut.outcomes

    def watched(cut: Any, *arguments: Any) -> Iterator[Any]:
        yield from real(cut, *arguments)
        held.append(len(cut._held))

    monkeypatch.setattr(parts_module._Cut, "outcomes", watched)
    outcomes(film, [Stretch(at / 2, at / 2 + 2) for at in range(37)])
    assert max(held) <= CONTRACT.frames
    assert held[-1] == 0


def test_decoded_pictures_are_freed_before_they_are_many(
    film: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parts_module, "LEFT_BYTES", 4 * parts_module._LEAST_FRAME_BYTES)
    most = 0
    gc.collect()
    with open_clip(film) as file:
        for _ in decode_parts(file, CONTRACT, "exact", [Stretch(at, at + 2) for at in range(18)]):
            most = max(most, sum(type(one) is av.VideoFrame for one in gc.get_objects()))
    assert 0 < most <= 12


def test_the_worker_needs_no_more_memory_for_a_film_ten_times_as_long(tmp_path: Path) -> None:
    peaks = []
    for seconds in (60.0, 600.0):
        path = write_colours(tmp_path / f"{seconds}.mp4", [("red", seconds)])
        with DecodePool(1, proof=False) as running:
            stretches = [Stretch(at / 2, at / 2 + 2) for at in range(int(seconds * 2) - 4)]
            found = list(running.parts(path, CONTRACT, stretches))
            assert all(isinstance(clip, DecodedClip) for _, clip in found)
            (pid,) = [*running.worker_pids()]
            peaks.append(peak_memory_bytes(str(pid)))
    assert 0 < peaks[1] < 1.1 * peaks[0]


# The grid ---------------------------------------------------------------------------------------


@given(st.floats(0.05, 60), st.floats(0.01, 60), st.integers(1, 64), st.floats(0.1, 20000))
def test_a_stride_is_moved_to_where_windows_share_their_pictures(
    window: float, stride: float, frames: int, duration: float
) -> None:
    options, step = TimelineOptions(window, stride, at_most_windows=None), window / frames
    used, _ = window_stretches(min(duration, stride * 500), options, step)
    if duration > window and min(duration, stride * 500) > window:
        ratio = used / step if used >= step * (1 - 1e-9) else step / used
        assert ratio == pytest.approx(round(ratio), rel=1e-6)
        assert abs(used - stride) <= step / 2 * (1 + 1e-9)


@example(60.0, 0.05, 1, 431)  # two and a half strides are a step, and three would be too many
@given(st.floats(0.05, 60), st.floats(0.05, 60), st.integers(1, 64), st.integers(2, 400))
def test_moving_the_stride_makes_no_more_windows_than_are_allowed(
    window: float, stride: float, frames: int, most: int
) -> None:
    options = TimelineOptions(window, stride, most)
    _, stretches = window_stretches(10_000.0, options, window / frames)
    assert len(stretches) <= most


def test_a_stride_that_needs_no_moving_keeps_every_digit() -> None:
    for window, stride, frames in ((2.0, 1.0, 16), (1.44, 0.72, 16), (1.1, 0.3, 11), (0.9, 0.7, 9)):
        options = TimelineOptions(window, stride, None)
        assert window_stretches(30.0, options, window / frames)[0] == stride
    assert window_stretches(30.0, TimelineOptions(2.0, 0.7, None), 0.125)[0] == 0.75
    assert window_stretches(30.0, TimelineOptions(2.0, 0.04, None), 0.125)[0] == 0.125 / 3


def test_without_a_cap_there_is_a_window_for_every_stride() -> None:
    options = TimelineOptions(2.0, 0.5, at_most_windows=None)
    assert len(window_stretches(4 * 3600.0, options, 0.125)[1]) == 28_797


def test_one_picture_alone_is_shared_by_nobody() -> None:
    probe = CONTRACT.model_copy(update={"sampling": "middle_frame"})
    assert step_seconds(TimelineOptions(2.0, 1.0), probe) is None
    assert step_seconds(TimelineOptions(2.0, 1.0), CONTRACT) == 0.5


def test_windows_that_overlap_too_much_to_be_held_are_refused_with_the_least_stride(
    film: Path,
) -> None:
    large = PixelContract(frames=16, short_side=224, crop_height=224, crop_width=224)
    with pytest.raises(TimelineOptionsError, match=r"allowed: 0\.017 seconds and more"):
        check_memory(TimelineOptions(60.0, 0.001), large)
    check_memory(TimelineOptions(60.0, 0.017), large)
    with pytest.raises(TimelineOptionsError):
        timeline(colour_recogniser(), film, options=TimelineOptions(60.0, 1e-6))


@given(st.lists(st.floats(0, 100), min_size=1, max_size=50, unique=True), st.floats(-1, 101))
def test_times_that_rise_are_looked_up_as_any_others(times: list[float], time: float) -> None:
    rising = sorted(times)
    assert frames_shown([time], rising) == nearest_frames([time], rising)


# Processes --------------------------------------------------------------------------------------


def kinds(found: list[tuple[int, DecodedClip | ClipError]]) -> list[str]:
    by_number = dict(found)
    outcomes = [by_number[number] for number in range(len(found))]
    return [one.kind if isinstance(one, ClipError) else "ok" for one in outcomes]


def test_a_decoder_that_hangs_is_cut_off_and_given_up_after_a_few_parts(
    stubbed: DecodePool,
    order: Order,
) -> None:
    begun = time.monotonic()
    found = list(stubbed.parts(order("sleep"), CONTRACT, [WHOLE_FILE] * 20))
    assert kinds(found) == ["timeout"] * 20
    assert time.monotonic() - begun < 20 * stubbed.options.deadline_seconds
    assert "cut off" in str(dict(found)[0])


def test_a_decoder_that_breaks_down_costs_the_part_it_broke_down_over(
    stubbed: DecodePool,
    order: Order,
) -> None:
    path = order("die_at_the_second_clip")
    found = list(stubbed.parts(path, CONTRACT, [WHOLE_FILE] * 10))
    assert kinds(found) == ["ok", "unreadable"] * 5


def test_what_is_no_answer_ends_the_worker(
    stubbed: DecodePool,
    order: Order,
) -> None:
    found = list(stubbed.parts(order("say", content="nonsense"), CONTRACT, [WHOLE_FILE]))
    assert kinds(found) == ["unreadable"]


def test_nobody_waits_for_those_who_decode_parts(film: Path) -> None:
    with DecodePool(1, proof=False, deadline_seconds=5.0) as running:
        found = running.parts(film, CONTRACT, [Stretch(at / 8, at / 8 + 2) for at in range(140)])
        next(found)  # and then whoever asked takes no more
        begun = time.monotonic()
        for _ in range(3):
            running.decode(film, CONTRACT)
        assert time.monotonic() - begun < 5
        found.close()  # type: ignore[attr-defined]


def test_what_is_given_up_is_decoded_no_further(film: Path) -> None:
    with DecodePool(1, proof=False) as running:
        found = running.parts(film, CONTRACT, [Stretch(at / 8, at / 8 + 2) for at in range(140)])
        next(found)
        assert len(running.worker_pids()) == 1
        found.close()  # type: ignore[attr-defined]
        assert running.worker_pids() == []


def test_a_decoder_that_hangs_is_not_waited_for_by_those_who_give_up(
    stubbed: DecodePool,
    order: Order,
) -> None:
    waiting = shares.Shares(
        stubbed, order("sleep"), CONTRACT, [WHOLE_FILE], most_workers=1,
        deadline_seconds=30.0, patience_seconds=0.0, ahead=1,
    )  # fmt: skip
    time.sleep(2.0)  # it is asked, and hangs
    begun = time.monotonic()
    waiting.close()
    assert time.monotonic() - begun < 10
    assert stubbed.worker_pids() == []


def test_a_worker_is_used_again_though_the_thread_that_used_it_has_ended(film: Path) -> None:
    with DecodePool(1, proof=False) as running:
        seen = set()
        for _ in range(3):
            assert len(list(running.parts(film, CONTRACT, [Stretch(0, 2)]))) == 1
            time.sleep(0.2)
            seen |= set(running.worker_pids())
        assert len(seen) == 1


def test_no_more_parts_wait_decoded_than_clips_do(film: Path) -> None:
    with DecodePool(1, proof=False) as running:
        found = running.parts(film, CONTRACT, [Stretch(at / 8, at / 8 + 2) for at in range(140)])
        gc.collect()
        before = clips_in_memory()
        next(found)
        time.sleep(1.0)
        # Beside those: the one that was given, and one of the thread that waits for room.
        assert clips_in_memory() - before <= pool_module.DECODED_AHEAD + 2
        found.close()  # type: ignore[attr-defined]


def test_a_pool_that_is_closed_ends_those_who_wait_for_parts(film: Path) -> None:
    running = DecodePool(1, proof=False)
    found = running.parts(film, CONTRACT, [Stretch(at / 8, at / 8 + 2) for at in range(140)])
    next(found)
    running.close()
    with pytest.raises(CancelledError):
        list(found)
    assert running.worker_pids() == []


def test_parts_of_what_is_no_file_are_errors(tmp_path: Path) -> None:
    with DecodePool(1, proof=False) as running:
        found = list(running.parts(tmp_path / "gone.mp4", CONTRACT, SEVERAL))
    assert kinds(found) == ["not_found"] * len(SEVERAL)


def test_parts_are_no_errors_where_no_more_files_may_be_open(
    film: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_: Path) -> None:
        raise OSError(errno.EMFILE, "Too many open files")

    with DecodePool(1, proof=False) as running:
        monkeypatch.setattr("lora_deploy.clips.guard.open_clip", full)
        with pytest.raises(OSError, match="Too many open files"):
            list(running.parts(film, CONTRACT, SEVERAL))


# Messages ---------------------------------------------------------------------------------------


def talk(*answers: tuple[float, wire.Answer], patience: float) -> DecodedClip | wire.Answer:
    """What is received where these are sent, each after so many seconds, by a deadline of 0.3."""
    ours, theirs = socket.socketpair()

    def send() -> None:
        for seconds, answer in answers:
            time.sleep(seconds)
            wire.send(theirs, answer)

    thread = threading.Thread(target=send)
    with ours, theirs:
        thread.start()
        try:
            return wire.receive_part(ours, CONTRACT, WHOLE_FILE, 0.3, patience)
        finally:
            thread.join()


BUSY = wire.Answer(status="busy")
REFUSED = wire.Answer(status="error", error_kind="unreadable", error="No")


def test_a_sign_of_work_gives_time_to_those_who_are_patient_alone() -> None:
    assert talk((0.2, BUSY), (0.2, BUSY), (0.2, REFUSED), patience=10.0) == REFUSED
    with pytest.raises(wire.Deadline):
        talk((0.2, BUSY), (0.2, REFUSED), patience=0.0)
    with pytest.raises(wire.Deadline):
        talk((0.2, BUSY), (0.2, BUSY), (0.2, BUSY), (0.2, REFUSED), patience=0.1)


def test_a_sign_of_work_is_no_answer_to_a_single_clip() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        wire.send(theirs, BUSY)
        with pytest.raises(wire.WireError, match="no answer"):
            wire.receive_answer(ours, CONTRACT, WHOLE_FILE, time.monotonic() + 5)


@pytest.mark.parametrize("effort", ["exact", "fast", "whole"])
def test_it_is_seen_at_every_packet_that_the_work_goes_on(film: Path, effort: Effort) -> None:
    beats: list[int] = []
    with open_clip(film) as file:
        found = decode_parts(file, CONTRACT, effort, [Stretch(18, 20)], lambda: beats.append(1))
        next(found)
    assert len(beats) >= (3 if effort == "whole" else 2) * 180  # once a pass


def test_a_worker_says_that_it_is_busy_and_answers_then(
    film: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(answers, "BUSY_SECONDS", 0.0)
    answering = answers.Answering(decode_module, None, "exact")
    ours, theirs = socket.socketpair()
    with ours, theirs:
        file = os.open(film, os.O_RDONLY)
        order = wire.Order(CONTRACT, WHOLE_FILE, file, None, (Stretch(18, 20),))
        thread = threading.Thread(target=answering.answer, args=(theirs, order))
        thread.start()
        clip = wire.receive_part(ours, CONTRACT, Stretch(18, 20), 10.0, 10.0)
        thread.join()
    assert isinstance(clip, DecodedClip)


def test_many_parts_and_their_every_digit_travel_with_a_job(tmp_path: Path) -> None:
    stretches = [Stretch(at / 7, at / 7 + 1 / 3) for at in range(5000)] + [Stretch(math.pi, None)]
    ours, theirs = socket.socketpair()
    path = tmp_path / "file"
    path.write_bytes(b"x")
    got: list[Any] = []
    with ours, theirs, path.open("rb") as file:
        thread = threading.Thread(target=lambda: got.append(wire.receive_job(theirs)))
        thread.start()
        ours.settimeout(5)  # as it is after an answer
        wire.send_job(ours, CONTRACT, WHOLE_FILE, file.fileno(), parts=stretches)
        thread.join()
    os.close(got[0].descriptor)
    assert list(got[0].parts) == stretches


def test_decord_gives_the_same_parts_one_by_one(film: Path) -> None:
    pytest.importorskip("decord")
    with DecodePool(1, decoder="decord", proof=False) as running:
        found = dict(running.parts(film, CONTRACT, SEVERAL))
        for number, stretch in enumerate(SEVERAL):
            clip, expected = found[number], running.decode(film, CONTRACT, stretch)
            assert isinstance(clip, DecodedClip)
            assert np.array_equal(clip.frames, expected.frames)


def test_a_film_is_really_decoded(film: Path) -> None:
    """Else the tests above could pass over nothing."""
    with av.open(str(film)) as source:
        assert sum(1 for _ in source.decode(video=0)) == 200
