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
from lora_deploy.clips.clip import DecodedClip
from lora_deploy.clips.contract import PixelContract
from lora_deploy.clips.decode import decode
from lora_deploy.clips.pool import DecodePool
from lora_deploy.errors import ClipError, FrameCacheFolderError, FrameCacheFullError

MEDIA = Path(__file__).parents[2] / "shared" / "media"
pytestmark = pytest.mark.skipif(not MEDIA.is_dir(), reason="needs ../shared/media")

CONTRACT = PixelContract(frames=4, short_side=24, crop_height=20, crop_width=24)
SOUND = MEDIA / "derived/book_base_h264.mp4"
BROKEN = MEDIA / "derived/book_truncated_no_moov.mp4"
PARTIAL = MEDIA / "derived/book_truncated_60pct_moov_first.mp4"


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
    paths = [SOUND, BROKEN, PARTIAL, tmp_path / "gone.mp4", MEDIA / "clips/asl/book.mkv"]
    with DecodePool(workers) as pool:
        cache = build_cache(paths, CONTRACT, tmp_path / "cache", pool=pool)
    for path in (SOUND, PARTIAL, paths[-1]):
        assert np.array_equal(cache.frames(path), decode(path, CONTRACT).frames)
    assert {path: error.kind for path, error in cache.errors.items()} == {
        BROKEN: "unreadable",
        tmp_path / "gone.mp4": "not_found",
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
    paths = [SOUND, PARTIAL, BROKEN, MEDIA / "clips/asl/book.mkv", MEDIA / "formats/gif_vfr.gif",
             MEDIA / "formats/start_8_3s.mp4", MEDIA / "formats/phone_rot180_10fps.mp4"]  # fmt: skip
    paths += sorted((MEDIA / "dataset/weizmann4/bend").glob("*.mp4"))
    plain = build_cache(paths, CONTRACT, tmp_path)
    wide = build_cache(paths, CONTRACT, tmp_path, oversample=oversample)
    assert wide.contract == CONTRACT
    assert wide.errors.keys() == plain.errors.keys() == {BROKEN}
    for path in set(paths) - {BROKEN}:
        assert np.array_equal(wide.frames(path), plain.frames(path))
        choices = wide.choices(path)
        assert choices.shape == (4, oversample, 20, 24, 3)
        every = CONTRACT.model_copy(update={"frames": 4 * oversample})
        assert np.array_equal(choices.reshape(-1, 20, 24, 3), decode(path, every).frames)
    with pytest.raises(ClipError):
        wide.choices(BROKEN)


def test_without_more_moments_each_frame_has_only_itself(tmp_path: Path) -> None:
    cache = build_cache([SOUND], CONTRACT, tmp_path)
    assert cache.choices(SOUND).shape == (4, 1, 20, 24, 3)
    assert np.array_equal(cache.choices(SOUND)[:, 0], cache.frames(SOUND))


def test_each_file_is_decoded_once_whatever_it_is_called(
    tmp_path: Path, decoded: list[str]
) -> None:
    (tmp_path / "link.mp4").symlink_to(SOUND)
    calls: list[tuple[int, int]] = []
    cache = build_cache(
        [SOUND, SOUND, tmp_path / "link.mp4", PARTIAL],
        CONTRACT,
        tmp_path / "cache",
        on_clip=lambda done, total: calls.append((done, total)),
    )
    assert sorted(decoded) == sorted([SOUND.name, PARTIAL.name])
    assert calls == [(1, 2), (2, 2)]
    assert np.array_equal(cache.frames(SOUND), cache.frames(tmp_path / "link.mp4"))


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
    path = tmp_path / "clip.mp4"
    shutil.copyfile(SOUND, path)
    build_cache([path], CONTRACT, tmp_path / "cache")
    shutil.copyfile(PARTIAL, path)
    changed = build_cache([path], CONTRACT, tmp_path / "cache")
    assert np.array_equal(changed.frames(path), decode(PARTIAL, CONTRACT).frames)
    other = build_cache([path], CONTRACT.model_copy(update={"frames": 2}), tmp_path / "cache")
    assert other.frames(path).shape == (2, 20, 24, 3)
    build_cache([path, SOUND], CONTRACT, tmp_path / "cache")
    assert decoded[:3] == ["clip.mp4"] * 3
    assert sorted(decoded[3:]) == sorted([SOUND.name, "clip.mp4"])


def test_another_effort_or_decoder_has_frames_of_its_own(
    tmp_path: Path, decoded: list[str]
) -> None:
    for effort in ("exact", "fast", "exact", "fast"):
        with DecodePool(1, effort=effort) as pool:
            build_cache([SOUND], CONTRACT, tmp_path / "cache", pool=pool)
    with DecodePool(1, decoder="decord") as pool:
        build_cache([SOUND], CONTRACT, tmp_path / "cache", pool=pool)
    assert decoded == [SOUND.name] * 3


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
    assert decoded == [SOUND.name] * 2
    assert np.array_equal(cache.frames(SOUND), decode(SOUND, CONTRACT).frames)


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
