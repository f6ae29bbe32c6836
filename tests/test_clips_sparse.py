"""Decoding only what is needed gives what decoding everything gives."""

from collections.abc import Iterator
from pathlib import Path
from typing import cast

import numpy as np
import pytest
from av.video.frame import VideoFrame

from lora_deploy.clips import packets as packets_module
from lora_deploy.clips import sparse
from lora_deploy.clips.clip import DecodedClip
from lora_deploy.clips.contract import PixelContract
from lora_deploy.clips.decode import decode
from lora_deploy.clips.packets import opened, read_packets
from tests.test_clips_decode import MEDIA, expected_rows
from tests.truth_clips import Recipe, write_truth_clip

CONTRACTS = [
    PixelContract(frames=frames, short_side=48, crop_height=48, crop_width=64)
    for frames in (1, 3, 16)
]

OK_ROWS = [row for row in expected_rows() if row["status"] == "ok"]


def same(one: DecodedClip, other: DecodedClip) -> bool:
    return (
        np.array_equal(one.frames, other.frames)
        and one.times_seconds == other.times_seconds
        and one.duration_seconds == other.duration_seconds
    )


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


@pytest.mark.parametrize("row", OK_ROWS, ids=lambda row: row["file"])
def test_exact_gives_what_whole_gives(row: dict[str, str]) -> None:
    for contract in CONTRACTS[1:]:
        whole = decode(MEDIA / row["file"], contract, "whole")
        exact = decode(MEDIA / row["file"], contract, "exact")
        assert same(whole, exact)
        assert exact.warning == whole.warning


REAL = [row["file"] for row in OK_ROWS if row["file"].startswith("clips/")]


@pytest.mark.parametrize("name", REAL)
def test_fast_is_near_to_exact_on_real_footage(name: str) -> None:
    """Within one and a half steps in time; where the picture is the same, the mean difference is
    at most 2 of 255."""
    contract = PixelContract(frames=16, short_side=112, crop_height=112, crop_width=112)
    exact = decode(MEDIA / name, contract, "exact")
    fast = decode(MEDIA / name, contract, "fast")
    step = exact.duration_seconds / file_frames(MEDIA / name)
    moved = np.abs(np.subtract(exact.times_seconds, fast.times_seconds))
    assert moved.max() <= 1.5 * step
    assert fast.duration_seconds == exact.duration_seconds
    difference = np.abs(exact.frames.astype(int) - fast.frames).mean(axis=(1, 2, 3))
    assert difference[moved == 0].max(initial=0) <= 2
    assert difference.mean() <= 6


def file_frames(path: Path) -> int:
    with path.open("rb") as file, opened(file) as (container, stream):
        return len(read_packets(container, stream).ticks)


def test_fast_takes_a_neighbour_that_must_be_decoded_anyway(
    tmp_path: Path, decoded_pictures: list[int]
) -> None:
    clip = write_truth_clip(tmp_path, Recipe("libx264", "mp4", gop=250, b_frames=2))
    decode(clip.path, CONTRACTS[2], "exact")
    exact = len(decoded_pictures)
    decoded_pictures.clear()
    decode(clip.path, CONTRACTS[2], "fast")
    assert len(decoded_pictures) < exact


@pytest.mark.skipif(not MEDIA.is_dir(), reason="needs ../shared/media")
def test_only_whole_tells_of_damage_behind_the_last_wanted_picture() -> None:
    whole = decode(MEDIA / "malformed/decord_corrupted.mp4", CONTRACTS[0], "whole")
    exact = decode(MEDIA / "malformed/decord_corrupted.mp4", CONTRACTS[0], "exact")
    assert same(whole, exact)
    assert whole.warning
    assert exact.warning is None


def test_whole_groups_of_pictures_are_passed_over(
    tmp_path: Path, decoded_pictures: list[int]
) -> None:
    clip = write_truth_clip(tmp_path, Recipe("libx264", "mp4", gop=10))
    decode(clip.path, CONTRACTS[0])
    assert len(decoded_pictures) == 3  # 20, 21 and the middle one, 22
    decoded_pictures.clear()
    decode(clip.path, CONTRACTS[1])  # 7, 22, 36
    assert len(decoded_pictures) == 8 + 3 + 7


def test_pictures_that_no_other_needs_are_passed_over(
    tmp_path: Path, decoded_pictures: list[int]
) -> None:
    clip = write_truth_clip(tmp_path, Recipe("libx264", "mp4", gop=250, b_frames=2))
    decode(clip.path, CONTRACTS[1])  # the last one is 36
    assert len(decoded_pictures) <= 37 * 2 / 3 + 3  # of two B-frames one is not referred to


@pytest.mark.parametrize("container", ["mp4", "mkv", "ts", "frag.mp4"])
def test_a_file_too_large_to_keep_is_read_twice(
    container: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clip = write_truth_clip(tmp_path, Recipe("libx264", container, b_frames=2))
    kept = [decode(clip.path, contract, "exact") for contract in CONTRACTS]
    monkeypatch.setattr(packets_module, "KEPT_BYTES", 0)
    for contract, before in zip(CONTRACTS, kept, strict=True):
        assert same(decode(clip.path, contract, "exact"), before)
        assert same(decode(clip.path, contract, "whole"), before)


def entries(path: Path) -> list[int]:
    with path.open("rb") as file, opened(file) as (container, stream):
        return read_packets(container, stream).entries


@pytest.mark.parametrize("codec", ["libx264", "libx265"])
def test_entries_are_told_by_the_pictures_and_not_by_the_index(codec: str, tmp_path: Path) -> None:
    for recipe in (
        Recipe(codec, "mp4"),
        Recipe(codec, "mp4", no_index_of_keys=True),
        Recipe(codec, "ts"),
        Recipe(codec, "mkv"),
    ):
        assert entries(write_truth_clip(tmp_path, recipe).path) == [0, 10, 20, 30, 40]


def test_intra_refresh_has_no_entry_but_the_first(tmp_path: Path) -> None:
    for container in ("mp4", "ts", "mkv"):
        clip = write_truth_clip(tmp_path, Recipe("libx264", container, intra_refresh=True))
        assert entries(clip.path) == [0]


def test_a_false_entry_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where it is believed, other pixels come out: the check is what prevents that."""
    clip = write_truth_clip(tmp_path, Recipe("mpeg4", "mp4", no_index_of_keys=True))
    assert len(entries(clip.path)) == 44
    whole = decode(clip.path, CONTRACTS[1], "whole")
    assert same(decode(clip.path, CONTRACTS[1], "exact"), whole)
    monkeypatch.setattr(sparse, "_check", lambda *arguments: None)
    assert not same(decode(clip.path, CONTRACTS[1], "exact"), whole)
