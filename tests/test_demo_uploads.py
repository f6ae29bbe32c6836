"""The upload folder: bounded, swept, and open to no name that leads out of it."""

import os
from pathlib import Path

import pytest

from lora_deploy.demo import uploads as module
from lora_deploy.demo.uploads import IDLE_SECONDS, Uploads


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path.resolve()


def put(folder: Path, name: str, size: int = 10, *, age: float = 0.0) -> Path:
    file = folder / name
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(b"x" * size)
    os.utime(file, (1000 - age, 1000 - age))
    os.utime(file.parent, (1000 - age, 1000 - age))
    return file


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


def uploads(
    folder: Path, *, most: int = 1000, keep: float = 600, clock: Clock | None = None
) -> Uploads:
    return Uploads(folder, most_bytes=most, keep_seconds=keep, clock=clock or Clock())


def test_what_is_too_old_goes_and_its_folder_after_it(folder: Path) -> None:
    ours = put(folder, "kept/a/example.mp4", age=5000)
    kept = uploads(folder)
    old, young = put(folder, "b/old.mp4", age=601), put(folder, "c/young.mp4", age=599)
    assert kept.sweep() == [old]
    os.utime(old.parent, (900, 900))  # it changed when the file went
    assert kept.sweep() == []
    assert not old.parent.exists()
    assert young.exists()
    assert ours.exists()


def test_an_upload_that_was_given_up_goes_soon(folder: Path) -> None:
    kept = uploads(folder)
    torn, arriving = put(folder, "tmpa", age=IDLE_SECONDS + 1), put(folder, "tmpb", age=1)
    assert kept.sweep() == [torn]
    assert arriving.exists()


def test_a_fresh_empty_folder_may_be_about_to_get_its_file(folder: Path) -> None:
    kept = uploads(folder)
    for name, age in (("fresh", 1), ("stale", IDLE_SECONDS + 1)):
        (folder / name).mkdir()
        os.utime(folder / name, (1000 - age, 1000 - age))
    kept.sweep()
    assert [path.name for path in folder.iterdir()] == ["fresh"]


def test_the_end_of_a_server_leaves_files_of_the_page_alone(folder: Path) -> None:
    ours = put(folder, "kept/a/example.mp4")
    kept = uploads(folder)
    put(folder, "b/clip.mp4")
    put(folder, "tmpa")
    kept.clear()
    assert [path for path in folder.rglob("*") if path.is_file()] == [ours]
    assert not (folder / "b").exists()


def test_room_is_bounded_by_what_is_there_and_what_arrives(folder: Path) -> None:
    clock = Clock()
    kept = uploads(folder, most=100, clock=clock)
    put(folder, "a/clip.mp4", 60)
    with kept.room_for(40) as first, kept.room_for(1) as second:
        assert first
        assert not second
    with kept.room_for(40) as again:  # for nothing arrived
        assert again
    for _ in range(40):  # small ones are added up, and looked at a second later
        with kept.room_for(1) as small:
            assert small
    with kept.room_for(1) as one_more:
        assert not one_more
    clock.now += 2
    with kept.room_for(1) as later:
        assert later


def test_room_is_bounded_by_the_number_of_files(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_MOST_FILES", 3)
    kept = uploads(folder)
    for name in "abc":
        put(folder, f"{name}/x", 0)
    with kept.room_for(1) as is_room:
        assert not is_room


def test_visitors_can_not_fill_the_disk(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Usage:
        free = module._SPARE_BYTES + 10

    monkeypatch.setattr("lora_deploy.demo.uploads.shutil.disk_usage", lambda _: Usage)
    kept = uploads(folder)
    with kept.room_for(10) as fits, kept.room_for(1) as too_much:
        assert fits
        assert not too_much


def test_torn_files_go_when_no_upload_is_under_way(folder: Path) -> None:
    kept = uploads(folder)
    torn, whole = put(folder, "tmpa"), put(folder, "b/clip.mp4")
    with kept.room_for(1):
        kept.clear_torn()
        assert torn.exists()
    kept.clear_torn()
    assert not torn.exists()
    assert whole.exists()


def test_a_public_name_is_one_file_in_the_folder(folder: Path, tmp_path: Path) -> None:
    kept = uploads(folder)
    clip = put(folder, "b/clip é.mp4")
    (folder / "b" / "link.mp4").symlink_to(clip)
    (folder / "way").symlink_to(clip.parent)
    assert kept.real("uploads/b/clip é.mp4") == clip
    for name in ("uploads/b", "uploads", "b/clip é.mp4", str(clip), "uploads/b/../b/clip é.mp4",
                 "uploads/b/./clip é.mp4", "uploads//b/clip é.mp4", "uploads/b/clip é.mp4/", "uploads/b/link.mp4",
                 "uploads/way/clip é.mp4", "uploads/b\\clip é.mp4", "uploads/b/clip é.mp4\x00", "uploads/b/none.mp4",
                 "uploads/" + "a" * 5000, "/uploads/b/clip é.mp4"):  # fmt: skip
        assert kept.real(name) is None, name
