"""Frames decoded once and read many times."""

import shutil
from concurrent.futures import Future
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from lora_deploy.clips import cache as cache_module
from lora_deploy.clips.cache import build_cache
from lora_deploy.clips.clip import WHOLE_FILE, DecodedClip, Footage, Stretch
from lora_deploy.clips.contract import PixelContract
from lora_deploy.clips.decode import decode
from lora_deploy.clips.pool import DecodePool
from lora_deploy.errors import ClipError, FrameCacheFolderError, FrameCacheFullError

MEDIA = Path(__file__).parents[2] / "shared" / "media"
pytestmark = pytest.mark.skipif(not MEDIA.is_dir(), reason="needs ../shared/media")

CONTRACT = PixelContract(frames=4, short_side=24, crop_height=20, crop_width=24)
SOUND = Footage(MEDIA / "derived/book_base_h264.mp4")
BROKEN = Footage(MEDIA / "derived/book_truncated_no_moov.mp4")
PARTIAL = Footage(MEDIA / "derived/book_truncated_60pct_moov_first.mp4")


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the files that are really decoded, as it happens."""
    names: list[str] = []
    fenced = DecodePool.submit

    def counting(pool: DecodePool, path: Path, *job: Any) -> Future[DecodedClip]:
        names.append(path.name)
        return fenced(pool, path, *job)

    monkeypatch.setattr(DecodePool, "submit", counting)
    return names


@pytest.mark.parametrize("workers", [1, 2])
def test_frames_errors_and_warnings_are_those_of_the_decoder(tmp_path: Path, workers: int) -> None:
    gone, other = Footage(tmp_path / "gone.mp4"), Footage(MEDIA / "clips/asl/book.mkv")
    clips = [SOUND, BROKEN, PARTIAL, gone, other]
    with DecodePool(workers) as pool:
        cache = build_cache(clips, CONTRACT, tmp_path / "cache", pool=pool)
    for clip in (SOUND, PARTIAL, other):
        assert np.array_equal(cache.frames(clip), decode(clip.path, CONTRACT).frames)
    assert {clip: error.kind for clip, error in cache.errors.items()} == {
        BROKEN: "unreadable",
        gone: "not_found",
    }
    assert list(cache.warnings) == [PARTIAL]
    with pytest.raises(ClipError) as caught:
        cache.frames(BROKEN)
    assert str(caught.value) == str(cache.errors[BROKEN])
    with pytest.raises(ValueError, match="read-only"):
        cache.frames(SOUND)[0] = 0


@pytest.mark.parametrize("oversample", [3, 5])
def test_more_moments_are_kept_around_the_very_frames_of_before(
    tmp_path: Path, oversample: int
) -> None:
    paths = [MEDIA / "clips/asl/book.mkv", MEDIA / "formats/gif_vfr.gif",
             MEDIA / "formats/start_8_3s.mp4", MEDIA / "formats/phone_rot180_10fps.mp4",
             *sorted((MEDIA / "dataset/weizmann4/bend").glob("*.mp4"))]  # fmt: skip
    clips = [SOUND, PARTIAL, BROKEN, *map(Footage, paths)]
    clips += [Footage(SOUND.path, Stretch(0.4, 1.3)), Footage(paths[0], Stretch(0.5))]
    plain = build_cache(clips, CONTRACT, tmp_path)
    wide = build_cache(clips, CONTRACT, tmp_path, oversample=oversample)
    assert wide.contract == CONTRACT
    assert wide.errors.keys() == plain.errors.keys() == {BROKEN}
    for clip in set(clips) - {BROKEN}:
        assert np.array_equal(wide.frames(clip), plain.frames(clip))
        choices = wide.choices(clip)
        assert choices.shape == (4, oversample, 20, 24, 3)
        every = CONTRACT.model_copy(update={"frames": 4 * oversample})
        slow = decode(clip.path, every, stretch=clip.stretch or WHOLE_FILE)
        assert np.array_equal(choices.reshape(-1, 20, 24, 3), slow.frames)
    with pytest.raises(ClipError):
        wide.choices(BROKEN)


def test_without_more_moments_each_frame_has_only_itself(tmp_path: Path) -> None:
    cache = build_cache([SOUND], CONTRACT, tmp_path)
    assert cache.choices(SOUND).shape == (4, 1, 20, 24, 3)
    assert np.array_equal(cache.choices(SOUND)[:, 0], cache.frames(SOUND))


def test_each_file_is_decoded_once_whatever_it_is_called(
    tmp_path: Path, decoded: list[str]
) -> None:
    link = Footage(tmp_path / "link.mp4")
    link.path.symlink_to(SOUND.path)
    calls: list[tuple[int, int]] = []
    cache = build_cache(
        [SOUND, SOUND, link, PARTIAL],
        CONTRACT,
        tmp_path / "cache",
        on_clip=lambda done, total: calls.append((done, total)),
    )
    assert sorted(decoded) == sorted([SOUND.path.name, PARTIAL.path.name])
    assert calls == [(1, 2), (2, 2)]
    assert np.array_equal(cache.frames(SOUND), cache.frames(link))


def test_parts_of_a_file_are_clips_of_their_own(tmp_path: Path, decoded: list[str]) -> None:
    parts = [Footage(SOUND.path, Stretch(start, end)) for start, end in ((1.0, None), (0.0, 1.0))]
    late = Footage(SOUND.path, Stretch(99.0))
    cache = build_cache([*parts, late, SOUND], CONTRACT, tmp_path / "cache")
    for part in parts:
        expected = decode(part.path, CONTRACT, stretch=part.stretch or WHOLE_FILE).frames
        assert np.array_equal(cache.frames(part), expected)
    assert len({cache.frames(clip).tobytes() for clip in (*parts, SOUND)}) == 3
    assert {clip: error.kind for clip, error in cache.errors.items()} == {late: "not_found"}
    assert cache.named(str(parts[0])) == parts[0]
    decoded.clear()
    again = build_cache(parts[:1], CONTRACT, tmp_path / "cache")
    assert decoded == []
    assert np.array_equal(again.frames(parts[0]), cache.frames(parts[0]))
    build_cache([Footage(SOUND.path, Stretch(1.5))], CONTRACT, tmp_path / "cache")
    assert decoded == [SOUND.path.name]


def test_what_is_there_is_taken_again(tmp_path: Path, decoded: list[str]) -> None:
    first = build_cache([SOUND, BROKEN, PARTIAL], CONTRACT, tmp_path / "cache")
    decoded.clear()
    again = build_cache([PARTIAL, BROKEN], CONTRACT, tmp_path / "cache")
    assert decoded == []
    assert np.array_equal(again.frames(PARTIAL), first.frames(PARTIAL))
    assert [error.kind for error in again.errors.values()] == ["unreadable"]
    assert list(again.warnings) == [PARTIAL]


def test_a_changed_file_another_contract_or_a_new_file_is_decoded(
    tmp_path: Path, decoded: list[str]
) -> None:
    clip = Footage(tmp_path / "clip.mp4")
    shutil.copyfile(SOUND.path, clip.path)
    build_cache([clip], CONTRACT, tmp_path / "cache")
    shutil.copyfile(PARTIAL.path, clip.path)
    changed = build_cache([clip], CONTRACT, tmp_path / "cache")
    assert np.array_equal(changed.frames(clip), decode(PARTIAL.path, CONTRACT).frames)
    other = build_cache([clip], CONTRACT.model_copy(update={"frames": 2}), tmp_path / "cache")
    assert other.frames(clip).shape == (2, 20, 24, 3)
    build_cache([clip, SOUND], CONTRACT, tmp_path / "cache")
    assert decoded[:3] == ["clip.mp4"] * 3
    assert sorted(decoded[3:]) == sorted([SOUND.path.name, "clip.mp4"])


def test_another_effort_or_decoder_has_frames_of_its_own(
    tmp_path: Path, decoded: list[str]
) -> None:
    for effort in ("exact", "fast", "exact", "fast"):
        with DecodePool(1, effort=effort) as pool:
            build_cache([SOUND], CONTRACT, tmp_path / "cache", pool=pool)
    with DecodePool(1, decoder="decord") as pool:
        build_cache([SOUND], CONTRACT, tmp_path / "cache", pool=pool)
    assert decoded == [SOUND.path.name] * 3


@pytest.mark.parametrize("damage", ["index torn", "frames gone", "frames short"])
def test_a_damaged_cache_is_built_anew(tmp_path: Path, damage: str, decoded: list[str]) -> None:
    folder = tmp_path / "cache"
    build_cache([SOUND], CONTRACT, folder)
    (index,), (frames,) = folder.glob("index-*.json"), folder.glob("frames-*.npy")
    if damage == "index torn":
        index.write_bytes(index.read_bytes()[:50])
    elif damage == "frames gone":
        frames.unlink()
    else:
        frames.write_bytes(frames.read_bytes()[:-1])
    cache = build_cache([SOUND], CONTRACT, folder)
    assert decoded == [SOUND.path.name] * 2
    assert np.array_equal(cache.frames(SOUND), decode(SOUND.path, CONTRACT).frames)


def test_too_little_space_is_said_before_anything_is_decoded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, decoded: list[str]
) -> None:
    usage = SimpleNamespace(free=10**6)
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: usage)
    with pytest.raises(FrameCacheFullError, match="has 1 MB free; free some space"):
        build_cache([SOUND], CONTRACT, tmp_path / "cache")
    assert decoded == []


def test_a_disk_that_fills_up_leaves_no_torn_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(descriptor: int, pixels: bytes, offset: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(cache_module, "_write_all", full)
        with pytest.raises(FrameCacheFullError, match="is full"):
            build_cache([SOUND, PARTIAL], CONTRACT, tmp_path / "cache")
    assert list((tmp_path / "cache").iterdir()) == []
    build_cache([SOUND], CONTRACT, tmp_path / "cache").frames(SOUND)


def test_a_folder_that_cannot_be_made_is_a_clear_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(FrameCacheFolderError, match=r"Not a directory.*--cache"):
        build_cache([SOUND], CONTRACT, tmp_path / "file" / "cache")


def test_no_files_give_an_empty_cache(tmp_path: Path) -> None:
    assert build_cache([], CONTRACT, tmp_path / "cache").array.shape == (0, 4, 20, 24, 3)
