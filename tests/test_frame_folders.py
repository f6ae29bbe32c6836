"""A folder of numbered pictures as a clip: decoded behind the fence, and what is refused."""

import io
import os
import shutil
from pathlib import Path
from typing import BinaryIO

import av
import numpy as np
import pytest
from PIL import Image

from lora_deploy.clips import frame_folder, guard, pool
from lora_deploy.clips.cache import build_cache
from lora_deploy.clips.clip import Footage, Stretch
from lora_deploy.clips.contract import PixelContract
from lora_deploy.clips.dataset import LabelledClip
from lora_deploy.clips.frame_folder import pictures_of
from lora_deploy.clips.pool import DecodePool
from lora_deploy.errors import ClipError, ClipErrorKind
from lora_deploy.proof.answers import Clips

CONTRACT = PixelContract(frames=4, short_side=24, crop_height=20, crop_width=24)


def video(media: Path) -> Path:
    return media / "dataset/weizmann4/bend/s0_orig.mp4"


@pytest.fixture
def pictures(tmp_path: Path, media: Path) -> Path:
    """Every picture of a real clip of 25 pictures a second, without loss."""
    folder = tmp_path / "clip"
    folder.mkdir()
    with av.open(str(video(media))) as container:
        for number, frame in enumerate(container.decode(video=0), start=8):
            picture = Image.fromarray(frame.to_ndarray(format="rgb24"))
            picture.save(folder / f"img_{number}.png")  # 8, 9, 10: no order of texts
    return folder


def refusal(folder: Path, stretch: Stretch | None = None) -> tuple[ClipErrorKind, str]:
    with pytest.raises(ClipError) as caught:
        pool.shared().decode(folder, CONTRACT, stretch)
    return caught.value.kind, str(caught.value)


@pytest.mark.parametrize("sampling", ["uniform", "middle_frame"])
@pytest.mark.parametrize("frames", [1, 4, 200])
def test_pictures_give_what_the_video_gives_that_they_are_of(
    pictures: Path, media: Path, sampling: str, frames: int
) -> None:
    contract = CONTRACT.model_copy(update={"frames": frames, "sampling": sampling})
    of_pictures = pool.shared().decode(pictures, contract)
    of_video = pool.shared().decode(video(media), contract)
    assert np.array_equal(of_pictures.frames, of_video.frames)
    assert of_pictures.times_seconds == pytest.approx(of_video.times_seconds)
    assert of_pictures.duration_seconds == pytest.approx(of_video.duration_seconds)


def test_decord_and_other_efforts_give_the_same(pictures: Path) -> None:
    expected = pool.shared().decode(pictures, CONTRACT).frames
    for options in ({"decoder": "decord"}, {"effort": "fast"}, {"effort": "whole"}):
        with DecodePool(1, **options) as running:  # type: ignore[arg-type]
            assert np.array_equal(running.decode(pictures, CONTRACT).frames, expected)


def test_no_picture_is_opened_in_the_process_that_asks(
    pictures: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*_: object, **__: object) -> None:
        raise AssertionError("a stranger's picture was opened here")

    with DecodePool(1) as running:
        assert running.fence().missing == ()
        for name in ("open", "frombytes", "frombuffer"):
            monkeypatch.setattr(Image, name, never)
        assert running.decode(pictures, CONTRACT).frames.any()


def test_only_the_pictures_that_are_shown_are_read(
    pictures: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[Path] = []
    open_regular = guard.open_regular

    def noting(path: Path) -> BinaryIO:
        opened.append(path)
        return open_regular(path)

    monkeypatch.setattr(guard, "open_regular", noting)
    pool.shared().decode(pictures, CONTRACT)
    assert [path.name for path in opened] == [f"img_{8 + at}.png" for at in (7, 22, 38, 53)]


def test_a_turned_grey_or_transparent_picture_becomes_upright_rgb(tmp_path: Path) -> None:
    pixels = np.zeros((24, 48, 3), np.uint8)
    pixels[:, :24] = 200
    upright = Image.fromarray(pixels)
    exif = Image.Exif()
    exif[0x0112] = 6  # shown after a quarter turn clockwise
    upright.rotate(90, expand=True).save(tmp_path / "1.png", exif=exif)
    upright.convert("L").save(tmp_path / "2.png")
    upright.convert("RGBA").save(tmp_path / "3.png")
    upright.quantize(2).save(tmp_path / "4.png")
    frames = pool.shared().decode(tmp_path, CONTRACT).frames
    assert all(np.array_equal(frame, frames[0]) for frame in frames)
    assert frames[0, :, :10].mean() == 200
    assert frames[0, :, 14:].mean() == 0


def png(width: int, height: int, mode: str = "RGB") -> bytes:
    content = io.BytesIO()
    Image.new(mode, (width, height)).save(content, "PNG")
    return content.getvalue()


def other_format(name: str) -> bytes:
    content = io.BytesIO()
    Image.new("RGB", (64, 64)).save(content, name)
    return content.getvalue()


@pytest.mark.parametrize(
    ("content", "kind", "says"),
    [
        (b"", "unreadable", "the file is empty"),
        (b"\x89PNG\r\n\x1a\nnothing", "unreadable", "picture 2 of the 4 that are shown"),
        (b"version https://git-lfs", "unreadable", "picture 2 of the 4 that are shown"),
        (png(64, 64)[:-40], "unreadable", "picture 2 of the 4 that are shown"),
        (other_format("GIF"), "unreadable", "(UnidentifiedImageError)"),
        (other_format("TIFF"), "unreadable", "(UnidentifiedImageError)"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "unreadable", "Unidentified"),
        (png(8, 8, "I;16"), "unreadable", "save it in 8 bits"),
        (png(1 << 14, (1 << 10) + 1), "too_large", "at most 16777216"),
    ],
    ids=["empty", "torn", "pointer", "short", "gif", "tiff", "eps", "16 bits", "bomb"],
)
def test_a_bad_picture_costs_its_clip_and_nothing_else(
    pictures: Path, content: bytes, kind: str, says: str
) -> None:
    (pictures / "img_30.png").write_bytes(content)  # the second of those that are shown
    found = refusal(pictures)
    assert found[0] == kind
    assert says in found[1]
    pictures.joinpath("img_30.png").write_bytes((pictures / "img_31.png").read_bytes())
    assert pool.shared().decode(pictures, CONTRACT).frames.any()


def test_a_torn_jpeg_is_no_grey_picture(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "1.jpg")
    content = (tmp_path / "1.jpg").read_bytes()
    assert pool.shared().decode(tmp_path, CONTRACT).frames.any()
    (tmp_path / "1.jpg").write_bytes(content[: len(content) // 2])
    assert refusal(tmp_path)[0] == "unreadable"


@pytest.mark.parametrize("what", ["pipe", "folder", "device"])
def test_what_is_no_file_is_not_opened(pictures: Path, what: str) -> None:
    place = pictures / "img_30.png"
    place.unlink()
    if what == "pipe":
        os.mkfifo(place)
    elif what == "folder":
        place.mkdir()
    else:
        place.symlink_to("/dev/zero")
    assert refusal(pictures)[0] == "forbidden"


def test_a_part_of_a_frame_folder_is_refused(pictures: Path) -> None:
    assert refusal(pictures, Stretch(1.0)) == (
        "not_found",
        "pictures have no times, so a part of a frame folder can't be told",
    )


def test_a_folder_without_pictures_is_refused_as_ever(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").touch()
    (tmp_path / "cover.jpg").touch()
    assert refusal(tmp_path) == ("forbidden", "this is a folder; only regular files are read")


def test_optical_flow_beside_the_pictures_is_passed_over(tmp_path: Path) -> None:
    for name in ("img_00002.jpg", "flow_x_00001.jpg", "flow_y_00001.jpg", "img_00001.JPG"):
        (tmp_path / name).touch()
    assert [path.name for path in pictures_of(tmp_path)] == ["img_00001.JPG", "img_00002.jpg"]


@pytest.mark.parametrize(
    ("names", "says"),
    [
        (("left_1.jpg", "right_1.jpg"), "2 series of pictures, such as left_1 and right_1"),
        (("1.jpg", "01.jpg", "2.jpg"), "two pictures of the number 1"),
        (("1.jpg", "1.png"), "two pictures of the number 1"),
    ],
)
def test_pictures_that_are_no_one_series_are_refused(
    tmp_path: Path, names: tuple[str, ...], says: str
) -> None:
    for name in names:
        (tmp_path / name).touch()
    with pytest.raises(ClipError, match=says):
        pictures_of(tmp_path)


def test_too_many_bytes_are_refused(pictures: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(frame_folder, "MOST_PICTURE_BYTES", 100)
    assert refusal(pictures)[0] == "too_large"
    monkeypatch.undo()
    monkeypatch.setattr(frame_folder, "MOST_PARCEL_BYTES", 10_000)
    assert refusal(pictures)[0] == "too_large"


def test_the_cache_sees_a_changed_picture(pictures: Path, tmp_path: Path) -> None:
    clip = Footage(pictures)
    before = build_cache([clip], CONTRACT, tmp_path / "cache").frames(clip).copy()
    shutil.copyfile(pictures / "img_50.png", pictures / "img_30.png")
    after = build_cache([clip], CONTRACT, tmp_path / "cache").frames(clip)
    changed = [at for at in range(4) if not np.array_equal(before[at], after[at])]
    assert changed == [1]


def test_a_proof_names_frame_folders_by_what_their_pictures_hold(
    pictures: Path, tmp_path: Path
) -> None:
    shutil.copytree(pictures, tmp_path / "other")
    clips = [LabelledClip(tmp_path / name, "bend", "val", None) for name in ("clip", "other")]
    with Clips(clips, CONTRACT) as decoded:
        same = {record.sha256 for record in decoded.records()}
    (pictures / "img_9.png").write_bytes((pictures / "img_8.png").read_bytes() + b"0")
    with Clips(clips, CONTRACT) as decoded:
        other = {record.sha256 for record in decoded.records()}
    assert len(same) == 1
    assert len(other) == 2
