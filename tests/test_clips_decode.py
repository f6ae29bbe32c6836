"""Real and broken files through the decoder."""

import csv
import ctypes
import os
import struct
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from fractions import Fraction
from pathlib import Path
from typing import cast

import av
import numpy as np
import pytest

from lora_deploy.clips import decode as decode_module
from lora_deploy.clips import guard
from lora_deploy.clips.clip import Effort, Frames
from lora_deploy.clips.contract import PixelContract
from lora_deploy.clips.decode import decode
from lora_deploy.clips.picture import picture
from lora_deploy.clips.sampling import TIE_SECONDS
from lora_deploy.clips.transforms import resize_and_crop
from lora_deploy.errors import ClipError

MEDIA = Path(__file__).parents[2] / "shared" / "media"
pytestmark = pytest.mark.skipif(not MEDIA.is_dir(), reason="needs ../shared/media")

CONTRACT = PixelContract(frames=16, short_side=32, crop_height=32, crop_width=32)
NATIVE = PixelContract(frames=8, short_side=240, crop_height=240, crop_width=320)
"""At the size of ``derived/book_*``, so nothing is resized."""

EFFORTS: tuple[Effort, ...] = ("exact", "fast", "whole")

ALSO_WARNED = {"hostile/mkv_trunc.mkv"}
"""Breaks off after 0.73 of the 2 seconds that its header promises; expected.csv asks no warning."""

PICTURES = {
    # The list counts its first video stream; decoded is the one that FFmpeg calls the best.
    "formats/nasa_two_video_streams.mp4": 390,
    # The list stops at the first packet that fails; what comes after it decodes as well.
    "derived/book_bitflips_200.mp4": 61,
    "derived/book_truncated_60pct_moov_first.mp4": 26,
    "malformed/decord_corrupted.mp4": 49,
    "hostile/mdat_corrupt.mp4": 42,
}
"""Where the number of pictures that decode is another than in expected.csv."""


def expected_rows() -> list[dict[str, str]]:
    if not MEDIA.is_dir():
        return []
    with (MEDIA / "expected.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def all_frames(path: Path) -> list[tuple[float, Frames]]:
    """The plain way: every frame with its time, upright."""
    frames = []
    with av.open(str(path)) as container:
        for frame in container.decode(video=0):
            pixels = cast(Frames, frame.to_ndarray(format="rgb24"))
            assert frame.time is not None
            frames.append((frame.time, np.rot90(pixels, k=frame.rotation // 90)))
    return frames


@pytest.mark.parametrize("row", expected_rows(), ids=lambda row: row["file"])
def test_every_file_gets_what_it_deserves(
    row: dict[str, str], capfd: pytest.CaptureFixture[str]
) -> None:
    if row["status"] == "error":
        for effort in EFFORTS:
            with pytest.raises(ClipError) as caught:
                decode(MEDIA / row["file"], CONTRACT, effort)
            assert caught.value.kind == row["kind"]
            assert "/" not in str(caught.value)
            assert "Errno" not in str(caught.value)
    else:
        clip = decode(MEDIA / row["file"], CONTRACT, "whole")
        assert clip.file_frames == PICTURES.get(row["file"], int(row["decodable_frames"]))
        assert clip.frames.shape == CONTRACT.frames_shape
        assert clip.frames.dtype == np.uint8
        assert list(clip.times_seconds) == sorted(clip.times_seconds)
        assert 0 <= clip.times_seconds[0] < clip.duration_seconds < 60
        partly_lost = row["note"].startswith("part of it is lost")
        assert (clip.warning is not None) == (partly_lost or row["file"] in ALSO_WARNED)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    "name",
    [
        "clips/asl/book.mkv",
        "derived/book_h264.ts",
        "derived/book_pts_near_33bit_wrap.ts",
        "derived/book_start_at_1000s.mkv",
        "derived/book_vfr_gap_5s.mkv",
        "derived/book_live_no_duration_no_cues.webm",
        "derived/book_h264_bframes_openGOP_negdts.mp4",
        "formats/phone_rot90.mov",
        "hostile/elst_mid.mp4",
        "hostile/vfr.mp4",
        "hostile/rot90.mp4",
    ],
)
def test_frames_are_those_on_the_screen_at_evenly_spread_times(name: str) -> None:
    plain = all_frames(MEDIA / name)
    clip = decode(MEDIA / name, CONTRACT)
    start_seconds = plain[0][0]
    for at in range(CONTRACT.frames):
        wanted = (at + 0.5) * clip.duration_seconds / CONTRACT.frames
        shown = [frame for time, frame in plain if time - start_seconds <= wanted + TIE_SECONDS][-1]
        assert np.array_equal(clip.frames[at], resize_and_crop(shown, CONTRACT)[0])
        assert clip.times_seconds[at] <= wanted + TIE_SECONDS


def test_swapped_timestamps_keep_the_order_of_the_pictures() -> None:
    plain = [frame for _, frame in all_frames(MEDIA / "clips/apply_eye_makeup.avi")]
    every_frame = CONTRACT.model_copy(update={"frames": len(plain)})
    clip = decode(MEDIA / "clips/apply_eye_makeup.avi", every_frame)
    assert np.array_equal(clip.frames, resize_and_crop(plain, CONTRACT))


@pytest.mark.parametrize(
    "name", ["book_h264.ts", "book_av1.mkv", "book_vp9.webm", "book_flv1.flv", "book_wmv2.wmv"]
)
def test_the_container_does_not_change_which_frames_are_chosen(name: str) -> None:
    base = decode(MEDIA / "derived/book_base_h264.mp4", CONTRACT)
    other = decode(MEDIA / "derived" / name, CONTRACT)
    assert other.times_seconds == pytest.approx(base.times_seconds, abs=TIE_SECONDS)


@pytest.mark.parametrize("degrees", [90, 180, 270])
def test_a_rotated_file_comes_out_upright(degrees: int) -> None:
    base = decode(MEDIA / "derived/book_base_h264.mp4", NATIVE)
    turned = decode(MEDIA / f"derived/book_rot{degrees}_upright_when_applied.mp4", NATIVE)
    difference = np.abs(base.frames.astype(int) - turned.frames.astype(int)).mean()
    sideways = np.abs(base.frames.astype(int) - base.frames[:, ::-1, ::-1].astype(int)).mean()
    assert difference < 3 < sideways


def test_wide_pixels_are_shown_wide() -> None:
    base = decode(MEDIA / "derived/book_base_h264.mp4", NATIVE)
    # Stored as 160×240, to be shown as 320×240.
    wide = decode(MEDIA / "derived/book_sar_2to1.mp4", NATIVE)
    assert np.abs(wide.frames.astype(int) - base.frames).mean() < 4  # half the pixels were coded


def test_an_absurd_pixel_is_square() -> None:
    frame = av.VideoFrame.from_ndarray(np.zeros((60, 80, 3), np.uint8), format="rgb24")
    plain = picture(frame, CONTRACT)
    for aspect in (Fraction(65535), Fraction(1, 65535), Fraction(0), Fraction(-1), None):
        assert np.array_equal(picture(frame, CONTRACT, pixel_aspect=aspect), plain)


def test_one_wrong_guess_costs_a_second_pass_and_no_frame(monkeypatch: pytest.MonkeyPatch) -> None:
    path = MEDIA / "derived/book_base_h264.mp4"
    right = decode(path, CONTRACT)
    monkeypatch.setattr(decode_module, "_guess", lambda packets, contract, stretch: set())
    assert np.array_equal(decode(path, CONTRACT, "whole").frames, right.frames)


def test_the_middle_frame_is_one_frame_repeated() -> None:
    contract = CONTRACT.model_copy(update={"sampling": "middle_frame"})
    clip = decode(MEDIA / "derived/book_base_h264.mp4", contract)
    assert len(set(clip.times_seconds)) == 1
    assert abs(clip.times_seconds[0] - clip.duration_seconds / 2) < 0.05
    assert (clip.frames == clip.frames[0]).all()


def test_a_picture_that_changes_its_size_is_brought_to_one_size() -> None:
    clip = decode(MEDIA / "derived/book_resolution_change_midstream.ts", CONTRACT)
    assert clip.duration_seconds == pytest.approx(2.0, abs=0.05)
    assert clip.frames[0].any()
    assert clip.frames[-1].any()


def test_the_largest_allowed_picture_is_a_limit_of_the_decoder_too(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(guard, "CODEC_OPTIONS", {"max_pixels": "1000"})
    for effort in EFFORTS:
        with pytest.raises(ClipError):
            decode(MEDIA / "derived/book_base_h264.mp4", CONTRACT, effort)


def write_streams(path: Path, count: int) -> None:
    with av.open(str(path), "w", format="matroska") as out:
        streams = [out.add_stream("mjpeg", rate=25) for _ in range(count)]
        for stream in streams:
            stream.width, stream.height, stream.pix_fmt = 16, 16, "yuvj420p"
        for stream in streams:
            frame = av.VideoFrame(16, 16, "yuvj420p")
            frame.pts = 0
            out.mux(stream.encode(frame))
            out.mux(stream.encode(None))


@pytest.mark.parametrize("more", [1, 2, 60])
def test_too_many_streams_are_refused(more: int, tmp_path: Path) -> None:
    write_streams(tmp_path / "most.mkv", guard.MAX_STREAMS)
    assert decode(tmp_path / "most.mkv", CONTRACT).warning is None
    write_streams(tmp_path / "more.mkv", guard.MAX_STREAMS + more)
    with pytest.raises(ClipError) as caught:
        decode(tmp_path / "more.mkv", CONTRACT)
    assert caught.value.kind == "too_large"
    assert "64 streams" in str(caught.value)


def test_a_video_longer_than_allowed_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guard, "MAX_DURATION_SECONDS", 1.0)
    for name in ("derived/book_base_h264.mp4", "derived/book_live_no_duration_no_cues.webm"):
        with pytest.raises(ClipError) as caught:
            decode(MEDIA / name, CONTRACT)
        assert caught.value.kind == "too_long"


def test_too_many_frames_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guard, "MAX_FRAMES", 63)
    with pytest.raises(ClipError) as caught:
        decode(MEDIA / "derived/book_base_h264.mp4", CONTRACT)
    assert caught.value.kind == "too_long"


PLAYLISTS = [row["file"] for row in expected_rows() if "playlist" in row["note"]]


@contextmanager
def opened_files(*folders: Path) -> Iterator[list[str]]:
    """Names of the files in ``folders`` that anything opens meanwhile, as the kernel tells."""
    libc = ctypes.CDLL(None, use_errno=True)
    descriptor = libc.inotify_init1(os.O_NONBLOCK)
    for folder in folders:
        assert libc.inotify_add_watch(descriptor, os.fsencode(folder), 0x20) > 0  # IN_OPEN
    names: list[str] = []
    try:
        yield names
        with suppress(BlockingIOError):
            while events := os.read(descriptor, 65536):
                while events:
                    _, mask, _, length = struct.unpack_from("iIII", events)
                    if not mask & 0x40000000:  # IN_ISDIR
                        names.append(events[16 : 16 + length].rstrip(b"\0").decode())
                    events = events[16 + length :]
    finally:
        os.close(descriptor)


@pytest.mark.parametrize("sniffed", [True, False], ids=["whole guard", "whitelist alone"])
@pytest.mark.parametrize("name", PLAYLISTS)
def test_a_playlist_opens_no_other_file(
    name: str, sniffed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not sniffed:
        monkeypatch.setattr(guard, "_check_content", lambda head: None)
    path = MEDIA / name
    folders = (path.parent, MEDIA / "attack/elsewhere", Path("/etc"))
    with opened_files(*folders) as opened, pytest.raises(ClipError) as caught:
        decode(path, CONTRACT)
    assert caught.value.kind in ({"forbidden"} if sniffed else {"forbidden", "unreadable"})
    assert opened == [path.name]


@pytest.fixture
def absolute_playlist(tmp_path: Path) -> Path:
    """Names the canary by its absolute path, so it is live wherever FFmpeg believes to be."""
    path = tmp_path / "clip.mp4"
    canary = (MEDIA / "attack/elsewhere/private.ts").resolve()
    path.write_text(f"ffconcat version 1.0\nfile {canary}\n", encoding="utf-8")
    return path


def test_without_the_guard_the_canary_is_read(
    absolute_playlist: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """That the playlist is live and an opening by FFmpeg is seen; the guard is what prevents it."""
    monkeypatch.setattr(guard, "_check_content", lambda head: None)
    monkeypatch.setattr(guard, "OPEN_OPTIONS", {"safe": "0"})
    with opened_files(MEDIA / "attack/elsewhere") as opened:
        decode(absolute_playlist, CONTRACT)
    assert "private.ts" in opened


@pytest.mark.parametrize("left", ["sniffing", "format_whitelist", "protocol_whitelist"])
def test_each_part_of_the_guard_stops_a_playlist_alone(
    left: str, absolute_playlist: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = {name: value for name, value in guard.OPEN_OPTIONS.items() if name == left}
    monkeypatch.setattr(guard, "OPEN_OPTIONS", {"safe": "0", **options})
    if left != "sniffing":
        monkeypatch.setattr(guard, "_check_content", lambda head: None)
    with opened_files(MEDIA / "attack/elsewhere") as opened, pytest.raises(ClipError):
        decode(absolute_playlist, CONTRACT)
    assert opened == []
