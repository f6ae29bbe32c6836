"""A part of a file is the clip that the same part, cut out without loss, would be."""

import math
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import cast, get_args

import av
import numpy as np
import pytest
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from lora_deploy.clips import decode as decode_module
from lora_deploy.clips import packets as packets_module
from lora_deploy.clips import sparse, wire
from lora_deploy.clips.clip import WHOLE_FILE, DecodedClip, Effort, Stretch
from lora_deploy.clips.contract import PixelContract
from lora_deploy.clips.decode import decode
from lora_deploy.clips.numbered import read_number
from lora_deploy.clips.packets import opened, read_packets, seconds
from lora_deploy.clips.pool import DecodePool, Decoder
from lora_deploy.clips.sampling import mend_timeline, part_of
from lora_deploy.clips.units import VideoPacket
from lora_deploy.errors import ClipError
from lora_deploy.extras import is_installed
from lora_deploy.runtime.base import Recogniser
from tests.test_clips_decode import MEDIA, expected_rows
from tests.truth_clips import CONTRACTS as TRUTH
from tests.truth_clips import Recipe, recipes, write_truth_clip

CONTRACT = PixelContract(frames=8, short_side=64, crop_height=64, crop_width=64)
EFFORTS: tuple[Effort, ...] = get_args(Effort)

OK_FILES = [row["file"] for row in expected_rows() if row["status"] == "ok"]

needs_media = pytest.mark.skipif(not MEDIA.is_dir(), reason="needs ../shared/media")
needs_decord = pytest.mark.skipif(
    not is_installed("decord") and os.environ.get("REQUIRE_SHARED") != "1",
    reason="decord is not installed; pip install 'lora-deploy[decord]'",
)
DECODERS = ["av", pytest.param("decord", marks=needs_decord)]


@pytest.fixture(scope="module")
def pools() -> Iterator[dict[tuple[str, str], DecodePool]]:
    """A pool of one worker by decoder and effort, each started when it is first asked."""
    made: dict[tuple[str, str], DecodePool] = {}
    for decoder in get_args(Decoder):
        if is_installed(decoder):
            for effort in EFFORTS:
                made[decoder, effort] = DecodePool(1, decoder=decoder, effort=effort, proof=False)
    yield made
    for one in made.values():
        one.close()


def same(one: DecodedClip, other: DecodedClip) -> bool:
    """The same pictures at the same times."""
    return (
        np.array_equal(one.frames, other.frames)
        and one.times_seconds == pytest.approx(other.times_seconds, abs=1e-9)
        and one.duration_seconds == pytest.approx(other.duration_seconds, abs=1e-9)
    )


def clip_or_refusal(
    running: DecodePool, path: Path, contract: PixelContract, stretch: Stretch
) -> DecodedClip | None:
    """A clip, or None where decord says that it can't."""
    try:
        return running.decode(path, contract, stretch)
    except ClipError as error:
        if running.options.decoder != "decord" or "decoder av" not in str(error):
            raise
        return None


# What a stretch is ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("start", "end", "says"),
    [
        (-1.0, None, "from -1 seconds to its end"),
        (-0.5, 3.0, "from -0.5 seconds to 3 seconds"),
        (math.nan, None, "from nan seconds"),
        (0.0, math.nan, "to nan seconds"),
        (math.inf, None, "from inf seconds"),
        (0.0, math.inf, "to inf seconds"),
        (2e9, None, "from 2e+09 seconds"),
        (0.0, 2e9, "to 2e+09 seconds"),
        (90.0, 30.0, "from 90 seconds to 30 seconds"),
        (5.0, 5.0, "from 5 seconds to 5 seconds"),
        (0.0, -1.0, "to -1 seconds"),
    ],
)
def test_a_stretch_that_no_video_has_is_refused_in_one_line(
    start: float, end: float | None, says: str
) -> None:
    with pytest.raises(ClipError, match=re.escape(says)) as caught:
        Stretch(start, end)
    assert caught.value.kind == "not_found"
    assert "\n" not in str(caught.value)
    assert "the end after the start" in str(caught.value)


def test_a_stretch_is_cut_off_where_the_file_ends() -> None:
    part = part_of(Stretch(2.0, 9.0), 8.0)
    assert (part.start_seconds, part.duration_seconds, part.end_seconds) == (2.0, 6.0, 8.0)
    assert part.shortfall() == [
        "the video ends after 8.00 seconds, before the end of the part that was asked for "
        "(9.00 seconds)"
    ]
    assert part_of(Stretch(2.0, 8.5), 8.0).shortfall() == []  # rounded, not wrong
    assert part_of(Stretch(2.0), 8.0).shortfall() == []


def test_the_frames_that_begin_in_a_part_are_those_from_its_start_on_and_before_its_end() -> None:
    timeline = [0.0, 0.5, 1.0, 1.5, 2.0]
    assert part_of(Stretch(0.5, 1.5), 2.5).begun(timeline) == range(1, 3)
    assert part_of(Stretch(0.5), 2.5).begun(timeline) == range(1, 5)
    assert part_of(Stretch(0.6, 0.7), 2.5).begun(timeline) == range(2, 2)
    assert part_of(WHOLE_FILE, 2.5).begun(timeline) == range(5)


def test_a_start_beyond_the_end_of_the_file_is_told_with_both_times() -> None:
    with pytest.raises(
        ClipError, match=r"begins after 90\.00 seconds.*ends after 60\.00"
    ) as caught:
        part_of(Stretch(90.0), 60.0)
    assert caught.value.kind == "not_found"


# Which frames it gives --------------------------------------------------------------------------


@needs_media
@pytest.mark.parametrize("name", OK_FILES)
def test_the_stretch_of_the_whole_file_is_the_whole_file(name: str) -> None:
    # The many pictures of real footage are decoded as ``whole`` decodes them often enough below.
    for effort in EFFORTS[: 2 if name.startswith("clips/") else 3]:
        plain = decode(MEDIA / name, CONTRACT, effort)
        clip = decode(MEDIA / name, CONTRACT, effort, Stretch(0.0, plain.duration_seconds))
        np.testing.assert_array_equal(clip.frames, plain.frames)
        assert clip.times_seconds == plain.times_seconds
        assert clip.duration_seconds == plain.duration_seconds
        assert (clip.warning, clip.file_frames) == (plain.warning, plain.file_frames)
        assert clip.start_seconds == 0.0


@needs_media
@pytest.mark.parametrize("name", OK_FILES)
def test_exact_gives_what_decoding_everything_gives(name: str) -> None:
    length_seconds = decode(MEDIA / name, CONTRACT).duration_seconds
    parts = ((0.3, 0.6), (0.71, 0.72), (0.9, 1.0))
    for start, end in parts[: 1 if name.startswith("clips/") else 3]:
        stretch = Stretch(start * length_seconds, end * length_seconds)
        whole = decode(MEDIA / name, CONTRACT, "whole", stretch)
        exact = decode(MEDIA / name, CONTRACT, "exact", stretch)
        np.testing.assert_array_equal(exact.frames, whole.frames)
        assert exact.times_seconds == whole.times_seconds
        assert exact.duration_seconds == whole.duration_seconds
        assert exact.start_seconds == whole.start_seconds == stretch.start_seconds
        assert exact.warning in (None, whole.warning)  # of damage elsewhere only ``whole`` tells


def awkward_recipes() -> list[Recipe]:
    """One of each codec, container, rate and edit list of the matrix, which is larger."""
    seen: set[str] = set()
    kept = []
    for recipe in recipes():
        news = {recipe.codec, recipe.container, recipe.rate, f"cut{recipe.cut_head}"}
        news |= {f"start{recipe.start_seconds}", f"open{recipe.open_gop}-{recipe.codec}"}
        news |= {f"refresh{recipe.intra_refresh}", f"laced{recipe.interlaced}"}
        if news - seen:
            kept.append(recipe)
            seen |= news
    return kept


@pytest.mark.parametrize("decoder", DECODERS)
@pytest.mark.parametrize("recipe", awkward_recipes(), ids=lambda recipe: recipe.name)
def test_every_picture_of_a_stretch_is_the_one_on_the_screen_then(
    recipe: Recipe,
    decoder: str,
    tmp_path: Path,
    pools: dict[tuple[str, str], DecodePool],
) -> None:
    clip = write_truth_clip(tmp_path, recipe)
    offsets = [time - clip.times[0] for time in clip.times]
    step = Fraction(1, 300)  # beside the frames, so that no rounding decides
    read = 0
    for start, end in ((9, 21), (14, 26), (len(offsets) - 7, None)):
        first = offsets[start] + step
        last = None if end is None else offsets[end] + step
        stretch = Stretch(float(first), None if last is None else float(last))
        for contract in TRUTH[1:3]:
            try:
                expected = clip.expected(contract, first, last)
            except AssertionError:
                continue  # a tie, where either of two pictures would do
            for effort in ("exact", "whole"):
                got = clip_or_refusal(pools[decoder, effort], clip.path, contract, stretch)
                if got is None:
                    continue
                assert [read_number(frame) for frame in got.frames] == expected
                assert got.start_seconds == stretch.start_seconds
                read += 1
    assert read or decoder == "decord"


def test_a_stretch_without_a_new_picture_shows_the_one_that_stands(tmp_path: Path) -> None:
    clip = write_truth_clip(tmp_path, Recipe("libx264", "mp4", rate="gap"))
    standing = next(
        at for at, time in enumerate(clip.times[1:]) if time - clip.times[at] > 1
    )  # the picture before the gap of three seconds
    begins = float(clip.times[standing] - clip.times[0])
    for effort in EFFORTS:
        got = decode(clip.path, TRUTH[2], effort, Stretch(begins + 1.0, begins + 2.0))
        assert {read_number(frame) for frame in got.frames} == {clip.numbers[standing]}
        assert got.times_seconds == (0.0,) * TRUTH[2].frames
        assert got.duration_seconds == 1.0


@needs_media
@pytest.mark.parametrize("decoder", DECODERS)
@pytest.mark.parametrize("effort", EFFORTS)
def test_a_stretch_comes_through_the_pool_as_it_is_decoded_here(
    decoder: str, effort: Effort, pools: dict[tuple[str, str], DecodePool]
) -> None:
    path, stretch = MEDIA / "derived/book_base_h264.mp4", Stretch(0.5, 1.5)
    clip = pools[decoder, effort].decode(path, CONTRACT, stretch)
    here = decode(path, CONTRACT, effort, stretch)
    if decoder == "av" or effort != "fast":
        np.testing.assert_array_equal(clip.frames, here.frames)
        assert clip.times_seconds == here.times_seconds
    assert clip.duration_seconds == here.duration_seconds == 1.0
    assert clip.start_seconds == here.start_seconds == 0.5
    assert max(clip.times_seconds) < 1.0


@needs_media
@pytest.mark.parametrize("decoder", DECODERS)
@pytest.mark.parametrize("effort", EFFORTS)
def test_a_link_to_a_time_beyond_the_end_is_one_clear_line(
    decoder: str, effort: Effort, pools: dict[tuple[str, str], DecodePool]
) -> None:
    running = pools[decoder, effort]
    path = MEDIA / "derived/book_base_h264.mp4"
    with pytest.raises(
        ClipError, match=r"90\.00 seconds, and the video ends after 2\.13"
    ) as caught:
        running.decode(path, CONTRACT, Stretch(90.0))
    assert caught.value.kind == "not_found"
    with pytest.raises(ClipError):
        running.decode(path, CONTRACT, Stretch(running.decode(path, CONTRACT).duration_seconds))
    early = running.decode(path, CONTRACT, Stretch(1.0, 90.0))
    assert early.warning is not None
    assert "ends after 2.13 seconds" in early.warning


@needs_media
def test_a_damaged_file_ends_where_its_pictures_end() -> None:
    path = MEDIA / "derived/book_truncated_60pct_moov_first.mp4"
    length_seconds = decode(path, CONTRACT).duration_seconds
    with pytest.raises(ClipError, match="choose an earlier one") as caught:
        decode(path, CONTRACT, "exact", Stretch(length_seconds + 0.5))
    assert caught.value.kind == "not_found"
    clip = decode(path, CONTRACT, "exact", Stretch(length_seconds / 2))
    assert clip.warning == decode(path, CONTRACT).warning


def test_only_what_decodes_says_where_a_file_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clip = write_truth_clip(tmp_path, Recipe("libx264", "mp4"))
    late = Stretch(1.0)
    expected = decode(clip.path, TRUTH[2], "whole", late)
    real = packets_module.read_packets

    def half_known(*arguments: object) -> packets_module.PacketList:
        found = real(*arguments)  # type: ignore[arg-type]
        found.ticks[20:] = [None] * (len(found.ticks) - 20)
        return found

    monkeypatch.setattr(decode_module, "read_packets", half_known)
    assert same(decode(clip.path, TRUTH[2], "whole", late), expected)


# Only what is needed ----------------------------------------------------------------------------


@pytest.fixture
def decoded_pictures(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Ticks of the pictures that come out of the sparse decoder."""
    ticks: list[int] = []
    real = sparse._decoded

    def watching(*arguments: object) -> Iterator[VideoFrame]:
        for frame in real(*arguments):  # type: ignore[arg-type]
            ticks.append(cast(int, frame.pts))
            yield frame

    monkeypatch.setattr(sparse, "_decoded", watching)
    return ticks


def test_nothing_is_decoded_before_the_key_frame_or_after_the_last_picture(
    tmp_path: Path, decoded_pictures: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    clip = write_truth_clip(tmp_path, Recipe("libx264", "mp4", gop=10))
    monkeypatch.setattr(decode_module, "_decode_whole", None)
    decode(clip.path, TRUTH[2], "exact", Stretch(24 / 25, 32 / 25))  # every picture of 24 to 31
    assert len(decoded_pictures) == 4 + 8  # and 20 to 23, from the key frame on


def test_fast_takes_no_neighbour_from_outside_of_the_stretch(tmp_path: Path) -> None:
    clip = write_truth_clip(tmp_path, Recipe("libx264", "mp4", gop=250, b_frames=2))
    for first in range(4, 10):
        for behind in range(first + 1, first + 9):
            stretch = Stretch((first - 0.01) / 25, (behind - 0.01) / 25)
            fast = decode(clip.path, TRUTH[2], "fast", stretch)
            numbers = [read_number(frame) for frame in fast.frames]
            assert all(at is not None and first <= at < behind for at in numbers)
            assert max(fast.times_seconds) < fast.duration_seconds


@pytest.mark.parametrize("container", ["mp4", "mkv", "ts"])
def test_a_stretch_of_a_file_too_large_to_keep_is_the_same(
    container: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clip = write_truth_clip(tmp_path, Recipe("libx264", container, b_frames=2))
    stretch = Stretch(0.51, 1.27)
    kept = decode(clip.path, TRUTH[2], "exact", stretch)
    monkeypatch.setattr(packets_module, "KEPT_BYTES", 0)
    for effort in ("exact", "whole"):
        assert same(decode(clip.path, TRUTH[2], effort, stretch), kept)


# The same part cut out --------------------------------------------------------------------------


@dataclass(frozen=True)
class Cut:
    """A part of a file as a file of its own."""

    path: Path
    stretch: Stretch


def cut_by_copying(source: Path, target: Path) -> Cut:
    """The packets of the second group of pictures to the last but one, as they are."""
    with source.open("rb") as file, opened(file) as (container, stream):
        found = read_packets(container, stream)
        assert found.kept is not None
        known = [tick for tick in found.ticks if tick is not None]
        assert len(known) == len(found.ticks)
        assert len(found.entries) > 2, "a file of fewer groups can't be cut so"
        first, behind = found.entries[1], found.entries[-1]
        copied = found.kept[first:behind]
        _copy(stream, copied, target)
        zero = mend_timeline([seconds(tick, found.time_base) for tick in sorted(known)])
        starts, ends = (zero[sorted(known).index(known[at])] for at in (first, behind))
    return Cut(target, Stretch(starts, ends))


def _copy(stream: VideoStream, packets: list[VideoPacket], target: Path) -> None:
    with av.open(str(target), "w") as out:
        into = out.add_stream_from_template(stream)
        begin = min(packet.pts for packet in packets if packet.pts is not None)
        for packet in packets:
            assert packet.pts is not None
            packet.pts -= begin
            if packet.dts is not None:
                packet.dts -= begin
            packet.stream = into
            out.mux(packet)


def cut_by_encoding(source: Path, target: Path, first: int, behind: int) -> Cut:
    """Pictures ``first`` to before ``behind``, coded anew without loss at their own times."""
    with source.open("rb") as file, opened(file) as (container, stream):
        frames = list(container.decode(stream))
        base = stream.time_base
        assert base is not None
        ticks = [frame.pts or 0 for frame in frames]
        assert ticks == sorted(ticks)
        # A file whose last picture is shown for less than half of the usual step is not believed.
        steps = [later - earlier for earlier, later in pairwise(ticks)]
        while steps[behind - 1] < median(steps[first:behind]):
            behind -= 1
        with av.open(
            str(target), "w", options={"video_track_timescale": str(base.denominator)}
        ) as out:
            into = out.add_stream("libx264", rate=stream.average_rate)
            into.width, into.height = frames[0].width, frames[0].height
            into.pix_fmt = frames[0].format.name
            if stream.sample_aspect_ratio:
                into.sample_aspect_ratio = stream.sample_aspect_ratio
            context, shown = into.codec_context, frames[0]
            context.time_base = into.time_base = base
            into.options = {"qp": "0", "preset": "ultrafast", "bf": "0"}  # qp 0: without loss
            context.color_range, context.colorspace = shown.color_range, shown.colorspace
            packets = []
            for at in range(first, behind):
                frames[at].pts, frames[at].time_base = ticks[at] - ticks[first], base
                frames[at].pict_type = 0
                packets += into.encode(frames[at])
            packets += into.encode(None)
            for packet, step in zip(packets, steps[first:], strict=False):
                packet.duration = step  # of the last one the encoder makes a guess
                out.mux(packet)
    timeline = [seconds(tick - ticks[0], base) for tick in ticks]
    return Cut(target, Stretch(timeline[first], timeline[behind]))


COPIED = [
    ("clips/arm_wrestling.mp4", "mp4"),
    ("clips/moving_bottles.mp4", "mp4"),
    ("clips/cars_from_above.mp4", "mkv"),
    ("clips/flipping_pancake.mkv", "mkv"),
    ("derived/book_mpeg2.mpg", "ts"),
    ("derived/book_fragmented.mp4", "mp4"),
    ("derived/book_mjpeg.avi", "mkv"),
    ("derived/book_prores.mov", "mov"),
    ("hostile/ok.ts", "ts"),
    ("hostile/vfr.mp4", "mp4"),
]


def check_cut(source: Path, cut: Cut, effort: Effort) -> None:
    assert cut.stretch.start_seconds > 0
    alone = decode(cut.path, CONTRACT, effort)
    part = decode(source, CONTRACT, effort, cut.stretch)
    np.testing.assert_array_equal(part.frames, alone.frames)
    assert part.times_seconds == pytest.approx(alone.times_seconds, abs=2e-3)
    assert part.duration_seconds == pytest.approx(alone.duration_seconds, abs=2e-3)


@needs_media
@pytest.mark.parametrize(("name", "ending"), COPIED)
@pytest.mark.parametrize("effort", EFFORTS)
def test_a_stretch_is_the_part_cut_out_by_copying(
    name: str, ending: str, effort: Effort, tmp_path: Path
) -> None:
    check_cut(MEDIA / name, cut_by_copying(MEDIA / name, tmp_path / f"cut.{ending}"), effort)


@pytest.mark.parametrize(
    "recipe",
    [
        Recipe("libx264", "mp4", rate="variable"),
        Recipe("libx264", "mkv", b_frames=2, rate="ntsc"),
        Recipe("libx265", "mp4"),
        Recipe("libvpx-vp9", "webm", rate="variable"),
        Recipe("libvpx", "webm"),
        Recipe("mpeg4", "mp4"),
        Recipe("ffv1", "mkv"),
    ],
    ids=lambda recipe: recipe.name,
)
@pytest.mark.parametrize("effort", EFFORTS)
def test_a_stretch_of_a_drawn_clip_is_the_part_cut_out_by_copying(
    recipe: Recipe, effort: Effort, tmp_path: Path
) -> None:
    clip = write_truth_clip(tmp_path, recipe)
    check_cut(clip.path, cut_by_copying(clip.path, tmp_path / f"cut.{recipe.container}"), effort)


ENCODED = [
    "clips/shuffling_cups.mp4",
    "clips/clean_and_jerk.mp4",
    "derived/book_base_h264.mp4",
    "derived/book_hevc8.mp4",
    "derived/book_av1.mp4",
    "derived/book_vp9.webm",
    "derived/book_vfr_irregular.mp4",
    "derived/book_vfr_gap_5s.mkv",
    "derived/book_start_at_1000s.mkv",
    "derived/book_sar_2to1.mp4",
    "derived/book_wmv2.wmv",
    "hostile/vfr.mp4",
]


@needs_media
@pytest.mark.parametrize("name", ENCODED)
@pytest.mark.parametrize("effort", ["exact", "whole"])
def test_a_stretch_is_the_part_cut_out_by_coding_without_loss(
    name: str, effort: Effort, tmp_path: Path
) -> None:
    frames = decode(MEDIA / name, CONTRACT, "whole").file_frames
    assert frames is not None
    cut = cut_by_encoding(MEDIA / name, tmp_path / "cut.mp4", frames // 3, frames * 3 // 4)
    check_cut(MEDIA / name, cut, effort)


@needs_media
@needs_decord
@pytest.mark.parametrize("name", ["clips/arm_wrestling.mp4", "hostile/vfr.mp4"])
@pytest.mark.parametrize("effort", EFFORTS)
def test_decord_too_gives_the_part_cut_out(
    name: str, effort: Effort, tmp_path: Path, pools: dict[tuple[str, str], DecodePool]
) -> None:
    cut = cut_by_copying(MEDIA / name, tmp_path / "cut.mp4")
    alone = pools["decord", effort].decode(cut.path, CONTRACT)
    part = pools["decord", effort].decode(MEDIA / name, CONTRACT, cut.stretch)
    np.testing.assert_array_equal(part.frames, alone.frames)


@needs_media
@needs_decord
@pytest.mark.parametrize("name", [*ENCODED, *(name for name, _ in COPIED)])
def test_decord_gives_the_frames_of_pyav_or_says_that_it_cannot(
    name: str, pools: dict[tuple[str, str], DecodePool]
) -> None:
    length_seconds = decode(MEDIA / name, CONTRACT).duration_seconds
    stretch = Stretch(length_seconds * 0.3, length_seconds * 0.7)
    clip = clip_or_refusal(pools["decord", "exact"], MEDIA / name, CONTRACT, stretch)
    if clip is None:
        return
    here = decode(MEDIA / name, CONTRACT, "exact", stretch)
    assert np.abs(clip.frames.astype(int) - here.frames.astype(int)).max() <= 1
    assert clip.times_seconds == pytest.approx(here.times_seconds, abs=1e-6)
    assert clip.duration_seconds == pytest.approx(here.duration_seconds, abs=1e-6)


# The wire and the doors -------------------------------------------------------------------------


def test_a_worker_that_answers_with_more_than_was_asked_for_is_not_believed(
    stubbed: DecodePool, tmp_path: Path
) -> None:
    path = tmp_path / "nothing.mp4"
    path.write_text('{"do": "nothing"}')  # the stub's clips last a second a frame
    frames = CONTRACT.frames
    clip = stubbed.decode(path, CONTRACT, Stretch(1.0, 1.0 + frames))
    assert (clip.start_seconds, clip.duration_seconds) == (1.0, frames)
    with pytest.raises(ClipError, match="broke down"):
        stubbed.decode(path, CONTRACT, Stretch(1.0, 0.5 + frames))


def test_a_job_takes_its_two_numbers_along_and_none_that_is_wrong() -> None:
    job = wire.Job(contract=CONTRACT, start_seconds=1.5, end_seconds=None)
    assert wire.Job.model_validate_json(job.model_dump_json()) == job
    for start, end in ((-1.0, None), (math.nan, None), (0.0, 2e9), ("0", None)):
        with pytest.raises(ValueError, match="validation error"):
            wire.Job.model_validate(
                {"contract": CONTRACT, "start_seconds": start, "end_seconds": end}
            )


def test_a_recogniser_answers_to_a_part_as_to_the_part_cut_out(
    lora_run: Path, media: Path, tmp_path: Path
) -> None:
    import lora_deploy

    recogniser: Recogniser = lora_deploy.load(lora_run)
    path = media / "clips/arm_wrestling.mp4"
    cut = cut_by_copying(path, tmp_path / "cut.mp4")
    part = recogniser.classify(path, stretch=cut.stretch)
    assert part.logits == recogniser.classify(cut.path).logits
    assert part.logits != recogniser.classify(path).logits
    assert part.duration_seconds == pytest.approx(cut.stretch.longest_seconds)
    assert recogniser.classify(path, stretch=Stretch()).logits == recogniser.classify(path).logits
