"""decord gives the frames that PyAV gives, or says that it can't; each exception is named here.

decord never returns from some files, so it runs in a process that is killed when it takes too long.
"""

import csv
import importlib.util
import io
import itertools
import os
import select
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import cast

import av
import numpy as np
import pytest
from av.video.stream import VideoStream

from lora_deploy.clips import decode as pyav
from lora_deploy.clips.clip import DecodedClip, Effort
from lora_deploy.clips.contract import PixelContract
from lora_deploy.clips.numbered import read_number
from lora_deploy.clips.units import VideoPacket
from lora_deploy.errors import ClipError
from tests.truth_clips import Recipe, draw_number, recipes, write_truth_clip

INSTALLED = importlib.util.find_spec("decord") is not None
MEDIA = Path(__file__).parents[2] / "shared" / "media"
pytestmark = pytest.mark.skipif(
    not INSTALLED and os.environ.get("REQUIRE_SHARED") != "1",
    reason="decord is not installed; pip install 'lora-deploy[decord]'",
)

CONTRACT = PixelContract(frames=16, short_side=128, crop_height=128, crop_width=128)
TRUTH = [
    PixelContract(frames=frames, short_side=48, crop_height=48, crop_width=64)
    for frames in (1, 3, 8, 10)
]

LARGEST_DIFFERENCE = 1
"""Of 255: what counts as equal. Measured: 0."""

LARGEST_COLOUR_DIFFERENCE, MEAN_COLOUR_DIFFERENCE = 32, 1.5
"""Of 255: where decord converts colours another way. Measured: 30 and 1.3."""

PATIENCE_SECONDS = 60.0

DAMAGED = "damaged: decord stops where PyAV passes over it"
STREAM = "MPEG program and transport streams: decord does not find their first frame again"
HDR = "HDR: decord does not tone-map"
NO_DURATION = "no duration and no frame count in the header: decord gives up"
SAME_TIME = "frames that share one time: decord may wait for ever for the second"

REFUSED = {
    "attack/elsewhere/private.ts": STREAM,
    "derived/book_bitflips_200.mp4": DAMAGED,
    "derived/book_h264.ts": STREAM,
    "derived/book_hevc10_pq_tagged.mp4": HDR,
    "derived/book_live_no_duration_no_cues.webm": NO_DURATION,
    "derived/book_mpeg2.mpg": STREAM,
    "derived/book_pts_near_33bit_wrap.ts": STREAM,
    "derived/book_resolution_change_midstream.ts": STREAM,
    "derived/book_truncated_60pct_moov_first.mp4": DAMAGED,
    "formats/nasa_hdr10_hevc.mp4": HDR,
    "hostile/mdat_corrupt.mp4": DAMAGED,
    "hostile/mkv_corrupt.mkv": DAMAGED,
    "hostile/ok.ts": STREAM,
    "hostile/secret.ts": STREAM,
    "hostile/ts_trunc.ts": STREAM,
    "malformed/chained.ogv": SAME_TIME,
    "malformed/decord_corrupted.mp4": DAMAGED,
    "malformed/insane_pts.ogv": NO_DURATION,
}
"""Files that PyAV decodes and decord does not, and why."""

OTHER_COLOURS = {
    "derived/book_h264_high10.mp4": "10 bits",
    "derived/book_odd_161x119.webm": "an odd width and height with halved colour",
    "formats/lavafalls_indeo4.avi": "colour at a quarter of the size (yuv410p)",
    "formats/odd_vp9_10bit_pattern.mp4": "10 bits",
}
"""Files whose frames are the right ones in slightly other colours."""


SCRIPT = """
import sys
from pathlib import Path
import numpy as np
from lora_deploy.clips import guard
from lora_deploy.clips.contract import PixelContract
from lora_deploy.clips.decode_decord import decode_file
from lora_deploy.errors import ClipError

for line in sys.stdin:
    path, contract, effort, answer = line.rstrip("\\n").split("\\t")
    try:
        with guard.open_clip(Path(path)) as file:
            clip = decode_file(file, PixelContract.model_validate_json(contract), effort)
    except ClipError as error:
        np.savez(answer, error=[error.kind, str(error)])
    else:
        np.savez(
            answer, frames=clip.frames, times=clip.times_seconds, duration=clip.duration_seconds,
            warning=clip.warning or "", file_frames=clip.file_frames or 0,
        )
    print("done", flush=True)
"""


class Decord:
    """A process that decodes with decord, replaced when it hangs."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.said = folder / "stderr.txt"
        self.process: subprocess.Popen[str] | None = None

    def decode(self, path: Path, contract: PixelContract, effort: Effort = "exact") -> DecodedClip:
        answer = self.folder / "answer.npz"
        answer.unlink(missing_ok=True)
        if self.process is None:
            with self.said.open("a") as said:
                self.process = subprocess.Popen(
                    [sys.executable, "-c", SCRIPT],
                    stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=said, text=True,
                )  # fmt: skip
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        job = (str(path), contract.model_dump_json(), effort, str(answer))
        self.process.stdin.write("\t".join(job) + "\n")
        self.process.stdin.flush()
        if not select.select([self.process.stdout], [], [], PATIENCE_SECONDS)[0]:
            self.close()
            raise TimeoutError(f"decord hangs on {path.name}")
        assert self.process.stdout.readline() == "done\n", self.said.read_text()
        with np.load(answer) as found:
            if "error" in found:
                kind, text = found["error"]
                raise ClipError(kind, text)
            return DecodedClip(
                frames=found["frames"],
                times_seconds=tuple(found["times"]),
                duration_seconds=float(found["duration"]),
                warning=str(found["warning"]) or None,
                file_frames=int(found["file_frames"]) or None,
            )

    def close(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.communicate()
            self.process = None


@pytest.fixture(scope="module")
def decord(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Decord]:
    process = Decord(tmp_path_factory.mktemp("decord"))
    yield process
    process.close()


def expected_rows(status: str) -> list[str]:
    if not MEDIA.is_dir():
        return []
    with (MEDIA / "expected.csv").open(encoding="utf-8", newline="") as file:
        return [row["file"] for row in csv.DictReader(file) if row["status"] == status]


def dataset_sample() -> list[str]:
    """Every ninth and every twentieth clip of the two labelled sets."""
    names = []
    for manifest, step in (("weizmann4.csv", 9), ("fight300.csv", 20)):
        if MEDIA.is_dir():
            with (MEDIA / "dataset" / manifest).open(encoding="utf-8", newline="") as file:
                names += [f"dataset/{row['path']}" for row in csv.DictReader(file)][::step]
    return names


def largest_difference(one: DecodedClip, other: DecodedClip) -> int:
    return int(np.abs(one.frames.astype(int) - other.frames.astype(int)).max())


@pytest.mark.parametrize("name", [*expected_rows("ok"), *dataset_sample()])
def test_frames_and_times_are_those_of_pyav(name: str, decord: Decord) -> None:
    by_pyav = pyav.decode(MEDIA / name, CONTRACT)
    refusal = None
    try:
        clip = decord.decode(MEDIA / name, CONTRACT)
    except ClipError as error:
        refusal = error
    if name in REFUSED:
        # What decord makes of damage depends on what it decoded before.
        assert refusal is not None or REFUSED[name] == DAMAGED
        assert refusal is None or refusal.kind == "unreadable"
        assert refusal is None or "decoder av" in str(refusal)
        return
    assert refusal is None
    differences = np.abs(by_pyav.frames.astype(int) - clip.frames.astype(int))
    if name in OTHER_COLOURS:
        assert LARGEST_DIFFERENCE < differences.max() <= LARGEST_COLOUR_DIFFERENCE
        assert differences.mean(axis=(1, 2, 3)).max() <= MEAN_COLOUR_DIFFERENCE
    else:
        assert differences.max() <= LARGEST_DIFFERENCE
    assert clip.times_seconds == pytest.approx(by_pyav.times_seconds, abs=1e-6)
    assert clip.duration_seconds == pytest.approx(by_pyav.duration_seconds, abs=1e-6)
    assert clip.warning == by_pyav.warning


@pytest.mark.parametrize("name", expected_rows("error"))
def test_what_pyav_refuses_decord_refuses_alike(name: str, decord: Decord) -> None:
    with pytest.raises(ClipError) as by_pyav:
        pyav.decode(MEDIA / name, CONTRACT)
    with pytest.raises(ClipError) as caught:
        decord.decode(MEDIA / name, CONTRACT)
    assert caught.value.kind == by_pyav.value.kind
    assert "/" not in str(caught.value)


def test_every_exception_names_a_file_that_is_tried() -> None:
    tried = {*expected_rows("ok"), *dataset_sample()}
    assert not MEDIA.is_dir() or tried >= {*REFUSED, *OTHER_COLOURS}


def why_refused(recipe: Recipe) -> str | None:
    """The exceptions among the truth clips, and why."""
    if recipe.container in ("ts", "mpg"):
        return STREAM
    if recipe.mirrored:
        return "mirrored: decord passes over it"
    return None


def may_be_refused(recipe: Recipe) -> bool:
    """decord overfills its HEVC decoder where a closed group ends in B-frames; by chance, often."""
    return recipe.codec == "libx265" and recipe.b_frames > 0 and not recipe.open_gop


@pytest.mark.parametrize("recipe", recipes(), ids=lambda recipe: recipe.name)
def test_every_sampled_picture_of_a_truth_clip_is_the_right_one(
    recipe: Recipe, decord: Decord, tmp_path: Path
) -> None:
    clip = write_truth_clip(tmp_path, recipe)
    if why_refused(recipe):
        with pytest.raises(ClipError, match="decoder av"):
            decord.decode(clip.path, TRUTH[1])
        return
    efforts: tuple[Effort, ...] = ("exact", "whole")
    for contract, effort in itertools.product(TRUTH, efforts):
        try:
            decoded = decord.decode(clip.path, contract, effort)
        except ClipError:
            assert may_be_refused(recipe)
            continue
        assert [read_number(frame) for frame in decoded.frames] == clip.expected(contract)
        assert decoded.file_frames == (len(clip.numbers) if effort == "whole" else None)


@pytest.mark.parametrize(
    "name", ["clips/shuffling_cups.mp4", "derived/book_sar_2to1.mp4", "formats/phone_rot90.mov"]
)
def test_fast_scales_in_the_decoder_and_stays_near(name: str, decord: Decord) -> None:
    exact = decord.decode(MEDIA / name, CONTRACT)
    fast = decord.decode(MEDIA / name, CONTRACT, "fast")
    assert fast.times_seconds == exact.times_seconds
    assert 0 < np.abs(exact.frames.astype(int) - fast.frames.astype(int)).mean() < 3


@pytest.mark.parametrize("best", [0, 1])
def test_of_several_streams_both_take_the_same(best: int, decord: Decord, tmp_path: Path) -> None:
    path = tmp_path / "two.mkv"
    with av.open(str(path), "w") as out:
        streams = [out.add_stream("mjpeg", rate=25) for _ in range(2)]
        for number, stream in enumerate(streams):
            stream.width, stream.height = (96, 96) if number == best else (80, 80)
            stream.pix_fmt = "yuvj420p"
        for at in range(20):
            for number, stream in enumerate(streams):
                side = stream.width
                grey = np.full((side, side, 3), 40 + 150 * number + at, np.uint8)
                frame = av.VideoFrame.from_ndarray(grey, format="rgb24")
                frame.pts = at
                out.mux(stream.encode(frame))
        for stream in streams:
            out.mux(stream.encode(None))
    by_pyav = pyav.decode(path, CONTRACT)
    assert largest_difference(by_pyav, decord.decode(path, CONTRACT)) <= LARGEST_DIFFERENCE


def remuxed(path: Path, codec: str, change: Callable[[list[VideoPacket]], None]) -> Path:
    """A Matroska file of 20 numbered pictures whose packets were changed before they were written."""
    pictures = [av.VideoFrame.from_ndarray(draw_number(at), format="rgb24") for at in range(20)]
    with av.open(str(path), "w") as out:
        stream = cast(VideoStream, out.add_stream(codec, rate=25))
        stream.width, stream.height = pictures[0].width, pictures[0].height
        stream.pix_fmt = "yuvj420p" if codec == "mjpeg" else "yuv420p"
        stream.codec_context.gop_size, stream.codec_context.max_b_frames = 100, 0
        packets = [packet for picture in [*pictures, None] for packet in stream.encode(picture)]
        change(packets)
        out.mux(packets)
    return path


def test_a_frame_that_decord_repeats_is_an_error(decord: Decord, tmp_path: Path) -> None:
    def hide_one(packets: list[VideoPacket]) -> None:
        data, old = bytearray(bytes(packets[10])), packets[10]
        data[0] &= ~0x10  # show_frame of a VP8 frame tag (RFC 6386, 9.1)
        packets[10] = cast(VideoPacket, av.Packet(bytes(data)))
        packets[10].pts, packets[10].dts, packets[10].time_base = old.pts, old.dts, old.time_base
        packets[10].stream = old.stream

    path = remuxed(tmp_path / "hidden.mkv", "libvpx", hide_one)
    for contract in TRUTH:
        with pytest.raises(ClipError, match="decoder av"):
            decord.decode(path, contract)


def test_frames_of_one_time_are_refused(decord: Decord, tmp_path: Path) -> None:
    def stop_the_clock(packets: list[VideoPacket]) -> None:
        packets[10].pts, packets[10].dts = packets[9].pts, packets[9].dts

    path = remuxed(tmp_path / "standstill.mkv", "mjpeg", stop_the_clock)
    with pytest.raises(ClipError, match="share one time"):
        decord.decode(path, CONTRACT)


def test_a_file_too_large_for_memory_is_refused(
    monkeypatch: pytest.MonkeyPatch, media: Path
) -> None:
    from lora_deploy.clips import decode_decord

    monkeypatch.setattr(decode_decord, "MAX_FILE_BYTES", 1 << 10)
    content = io.BytesIO((media / "derived/book_base_h264.mp4").read_bytes())
    with pytest.raises(ClipError) as caught:
        decode_decord.decode_file(content, CONTRACT)
    assert caught.value.kind == "too_large"
    assert content.tell() <= (1 << 10) + 1


def test_a_file_reaches_decord_only_after_the_guard(
    monkeypatch: pytest.MonkeyPatch, media: Path
) -> None:
    from lora_deploy.clips import decode_decord

    def opened(*_: object, **__: object) -> None:
        raise AssertionError("decord was given the file")

    monkeypatch.setattr("decord.VideoReader", opened)
    for name in expected_rows("error"):
        # What opens and holds no picture that decodes may reach it; what is refused may not.
        with pytest.raises(ClipError) as by_pyav:
            pyav.decode_file(io.BytesIO((media / name).read_bytes()), CONTRACT)
        if by_pyav.value.kind in ("forbidden", "too_large", "no_video"):
            with pytest.raises(ClipError) as caught:
                decode_decord.decode_file(io.BytesIO((media / name).read_bytes()), CONTRACT)
            assert caught.value.kind == by_pyav.value.kind


def test_nothing_is_written_to_the_terminal(decord: Decord, media: Path, tmp_path: Path) -> None:
    cut = tmp_path / "cut.mp4"
    content = bytearray((media / "derived/book_base_h264.mp4").read_bytes())
    content[len(content) // 2 :] = bytes(len(content) - len(content) // 2)
    cut.write_bytes(content)
    for path in (cut, media / "derived/book_bitflips_200.mp4"):
        with pytest.raises(ClipError):
            decord.decode(path, CONTRACT)
    assert decord.said.read_text() == ""
