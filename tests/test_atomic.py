"""Files and folders appear whole or not at all."""

import errno
import fcntl
import os
from concurrent.futures import ThreadPoolExecutor
from itertools import count
from pathlib import Path
from typing import Any, get_args

import pytest
from safetensors import SafetensorError

from lora_deploy import atomic
from lora_deploy.errors import DiskFullError, FileUnknownError, SaveUnfinishedError
from tests.faults import Mode, attempt
from tests.power_cut import out_of_order


def test_a_file_is_replaced_only_when_it_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    atomic.write_text(path, "old")
    with pytest.raises(ZeroDivisionError), atomic.replacing(path) as partial:
        partial.write_text("half")
        raise ZeroDivisionError
    assert path.read_text() == "old"
    atomic.write_text(path, "new")
    assert path.read_text() == "new"
    assert list(tmp_path.iterdir()) == [path]


def test_a_folder_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    target = tmp_path / "inner" / "folder"
    with pytest.raises(ZeroDivisionError), atomic.staged_folder(target) as stage:
        (stage / "half").write_text("x")
        raise ZeroDivisionError
    assert list((tmp_path / "inner").iterdir()) == []
    with atomic.staged_folder(target) as stage:
        (stage / "a").write_text("x")
        assert not target.exists()
    assert (target / "a").read_text() == "x"


def files_of(folder: Path) -> dict[str, str]:
    """Text by path, hidden ones too; folders count, as "/"."""
    return {
        path.relative_to(folder).as_posix(): "/" if path.is_dir() else path.read_text()
        for path in folder.rglob("*")
    }


def write_all(folder: Path, text: str) -> None:
    """Three files, one of them in a folder of its own."""
    (folder / "inner").mkdir(parents=True)
    for name in ("a", "b", "inner/c"):
        (folder / name).write_text(text)


def update_all(folder: Path, text: str) -> None:
    with atomic.updating(folder) as stage:
        write_all(stage, text)


def all_are(text: str) -> dict[str, str]:
    return {"inner": "/", "a": text, "b": text, "inner/c": text}


def test_files_of_a_folder_change_together_and_the_others_stay(tmp_path: Path) -> None:
    (tmp_path / "other").write_text("mine")
    for text in ("old", "new"):
        update_all(tmp_path, text)
        assert files_of(tmp_path) == {**all_are(text), "other": "mine"}
    with pytest.raises(ZeroDivisionError), atomic.updating(tmp_path) as stage:
        (stage / "a").write_text("half")
        raise ZeroDivisionError
    assert files_of(tmp_path) == {**all_are("new"), "other": "mine"}


def cut_off(folder: Path, text: str) -> None:
    """Leave an update of which the first file alone is at its place."""
    update_all(folder, text)
    (folder / atomic.UPDATE / "inner").mkdir(parents=True)
    for name in ("b", "inner/c"):
        (folder / name).rename(folder / atomic.UPDATE / name)


def test_a_folder_may_be_reached_by_a_link(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "folder")
    (tmp_path / "folder").mkdir()
    update_all(tmp_path / "link", "old")
    cut_off(tmp_path / "link", "new")
    atomic.settle(tmp_path / "link")
    assert files_of(tmp_path / "folder") == all_are("new")


def test_an_update_removes_what_a_killed_process_was_writing(tmp_path: Path) -> None:
    (tmp_path / ".run.json.abc.partial").write_text("half")
    (tmp_path / ".folder.abc.partial").mkdir()
    (tmp_path / ".mine").write_text("mine")
    update_all(tmp_path, "new")
    assert files_of(tmp_path) == {**all_are("new"), ".mine": "mine"}


def test_an_update_first_finishes_the_one_that_was_cut_off(tmp_path: Path) -> None:
    update_all(tmp_path, "old")
    cut_off(tmp_path, "new")
    with atomic.updating(tmp_path) as stage:
        (stage / "a").write_text("newer")
    assert files_of(tmp_path) == {**all_are("new"), "a": "newer"}


@pytest.mark.parametrize("mode", get_args(Mode))
def test_whichever_call_of_an_update_fails_the_files_are_all_old_or_all_new(
    tmp_path: Path, mode: Mode, fault_injection: None
) -> None:
    seen = []
    for nth in count(1):
        folder = tmp_path / str(nth)
        update_all(folder, "old")
        came = attempt(lambda: update_all(folder, "new"), folder, nth=nth, mode=mode)  # noqa: B023
        if came.fault is None:
            break
        assert came.ended == ("raised" if mode == "fail" else "killed")
        atomic.settle(folder)
        left = files_of(folder)
        if mode == "fail":
            assert left in (all_are("old"), all_are("new"))
        seen.append(left["a"])
        assert all_are(left["a"]).items() <= left.items()
        update_all(folder, "newer")
        assert files_of(folder) == all_are("newer")
    assert seen == sorted(seen, reverse=True)
    assert set(seen) == {"old", "new"}


def test_nothing_counts_before_it_is_on_the_disk(tmp_path: Path, fault_injection: None) -> None:
    update_all(tmp_path, "old")
    for action in (
        lambda: atomic.write_text(tmp_path / "a", "new"),
        lambda: update_all(tmp_path, "new"),
    ):
        came = attempt(action, tmp_path)
        assert came.ended == "done"
        assert out_of_order(came.calls) == []


@pytest.mark.parametrize("mode", get_args(Mode))
def test_whichever_call_of_a_settling_fails_the_next_one_finishes_it(
    tmp_path: Path, mode: Mode, fault_injection: None
) -> None:
    for nth in count(1):
        folder = tmp_path / str(nth)
        update_all(folder, "old")
        cut_off(folder, "new")
        came = attempt(lambda: atomic.settle(folder), folder, nth=nth, mode=mode)  # noqa: B023
        if came.fault is None:
            break
        atomic.settle(folder)
        assert files_of(folder) == all_are("new")
    assert nth > 5


def test_several_readers_may_settle_at_once_and_each_finds_all_in_place(tmp_path: Path) -> None:
    names = [f"{number:03}" for number in range(100)]

    def settle_and_read(folder: Path) -> set[str]:
        atomic.settle(folder)
        return {(folder / name).read_text() for name in names}

    for attempts in range(10):
        folder = tmp_path / str(attempts)
        (folder / atomic.UPDATE).mkdir(parents=True)
        for name in names:
            (folder / name).write_text("old")
            (folder / atomic.UPDATE / name).write_text("new")
        with ThreadPoolExecutor(4) as threads:
            assert all(found == {"new"} for found in threads.map(settle_and_read, [folder] * 8))
        assert not (folder / atomic.UPDATE).exists()


def test_a_slow_reader_takes_nothing_of_the_next_save_away(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    update_all(tmp_path, "old")
    cut_off(tmp_path, "new")
    remove = Path.rmdir

    def remove_late(path: Path) -> None:
        if path.name == atomic.UPDATE:
            (path / "a").write_text("newer")
        remove(path)

    monkeypatch.setattr(Path, "rmdir", remove_late)
    atomic.settle(tmp_path)
    monkeypatch.undo()
    atomic.settle(tmp_path)
    assert files_of(tmp_path) == {**all_are("new"), "a": "newer"}


@pytest.mark.parametrize("number", [errno.EROFS, errno.EACCES])
def test_where_nothing_may_be_written_an_update_that_was_cut_off_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    update_all(tmp_path, "old")
    cut_off(tmp_path, "new")

    def refuse(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(Path, "replace", refuse)
    monkeypatch.setattr(Path, "rmdir", refuse)
    with pytest.raises(SaveUnfinishedError, match=r"was cut off, .*; copy the folder"):
        atomic.settle(tmp_path)
    monkeypatch.undo()
    atomic.settle(tmp_path)
    # When all files are at their places, that the empty folder can't be removed is no matter.
    (tmp_path / atomic.UPDATE).mkdir()
    monkeypatch.setattr(Path, "rmdir", refuse)
    atomic.settle(tmp_path)
    assert files_of(tmp_path) == {**all_are("new"), atomic.UPDATE: "/"}


def test_a_strangers_folder_can_not_move_files_in_or_out_of_itself_by_links(
    tmp_path: Path,
) -> None:
    mine = tmp_path / "mine"
    write_all(mine, "mine")
    theirs = tmp_path / "theirs"
    theirs.mkdir()
    (theirs / atomic.UPDATE).symlink_to(mine)
    with pytest.raises(FileUnknownError, match="is a link"):
        atomic.settle(theirs)
    (theirs / atomic.UPDATE).unlink()
    (theirs / atomic.UPDATE / "inner").mkdir(parents=True)
    (theirs / atomic.UPDATE / "inner" / "c").write_text("theirs")
    (theirs / "inner").symlink_to(mine / "inner")
    with pytest.raises(FileUnknownError, match="is a link"):
        atomic.settle(theirs)
    assert files_of(mine) == all_are("mine")


def test_what_a_killed_process_staged_is_removed_by_the_next_but_not_what_one_is_at(
    tmp_path: Path,
) -> None:
    abandoned = tmp_path / ".folder.abc.partial"
    write_all(abandoned, "x")
    other = tmp_path / ".other.abc.partial"
    other.mkdir()
    with atomic.staged_folder(tmp_path / "folder") as stage:
        assert not abandoned.exists()
        with pytest.raises(ZeroDivisionError), atomic.staged_folder(tmp_path / "folder"):
            assert stage.exists()
            raise ZeroDivisionError
        (stage / "a").write_text("x")
    assert files_of(tmp_path) == {"folder": "/", "folder/a": "x", other.name: "/"}


def test_what_another_user_staged_is_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    theirs = tmp_path / ".folder.abc.partial"
    theirs.mkdir()
    open_plainly = os.open

    def open_mine(path: Path, *arguments: Any, **options: Any) -> int:
        if path == theirs:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        return open_plainly(path, *arguments, **options)

    monkeypatch.setattr(os, "open", open_mine)
    with atomic.staged_folder(tmp_path / "folder") as stage:
        (stage / "a").write_text("x")
    assert files_of(tmp_path) == {"folder": "/", "folder/a": "x", theirs.name: "/"}


@pytest.mark.parametrize(
    ("raised", "expected"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), DiskFullError),
        (OSError(errno.EDQUOT, "Disk quota exceeded"), DiskFullError),
        (SafetensorError("I/O error: No space left on device (os error 28)"), DiskFullError),
        (SafetensorError("I/O error: Input/output error (os error 5)"), OSError),
        (SafetensorError("something else"), SafetensorError),
        (PermissionError(errno.EACCES, "Permission denied"), PermissionError),
    ],
)
def test_a_full_disk_is_named_whichever_library_met_it(
    tmp_path: Path, raised: Exception, expected: type[Exception]
) -> None:
    for write in (atomic.replacing, atomic.staged_folder, atomic.updating):
        with pytest.raises(expected) as found, write(tmp_path / "place"):
            raise raised
        assert type(found.value) is expected
        if expected is DiskFullError:
            assert f"{tmp_path / 'place'} was not written; free some space" in str(found.value)
        assert not (tmp_path / "place").is_file()


def test_others_may_read_what_a_writer_kept_to_itself(tmp_path: Path) -> None:
    previous = os.umask(0o022)
    try:
        with atomic.staged_folder(tmp_path / "folder") as stage:
            (stage / "weights").write_text("x")
            (stage / "weights").chmod(0o600)
        assert (tmp_path / "folder" / "weights").stat().st_mode & 0o777 == 0o644
        assert (tmp_path / "folder").stat().st_mode & 0o777 == 0o755
    finally:
        os.umask(previous)


def test_what_is_free(tmp_path: Path) -> None:
    assert atomic.is_free(tmp_path / "nowhere")
    assert atomic.is_free(tmp_path)
    (tmp_path / "file").write_text("x")
    assert not atomic.is_free(tmp_path)
    assert not atomic.is_free(tmp_path / "file")


def test_a_stage_is_never_taken_away_in_the_moment_in_which_it_is_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another process looks for abandoned stages between the making of one and its lock."""
    lock = atomic._lock
    waited: list[bool] = []

    def look_meanwhile(folder: Path) -> int | None:
        if folder.name.startswith(".target."):
            monkeypatch.setattr(atomic, "_lock", lock)
            descriptor = os.open(tmp_path, os.O_RDONLY)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                waited.append(True)
            finally:
                os.close(descriptor)
        return lock(folder)

    monkeypatch.setattr(atomic, "_lock", look_meanwhile)
    with atomic.staged_folder(tmp_path / "target") as stage:
        (stage / "x").write_text("x")
    assert waited == [True]
    assert (tmp_path / "target" / "x").read_text() == "x"


def test_a_lock_that_somebody_holds_for_ever_is_waited_for_in_vain_only_for_a_while(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lora_deploy.atomic.time.sleep", lambda _: None)
    descriptor = os.open(tmp_path, os.O_RDONLY)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    try:
        with atomic.staged_folder(tmp_path / "target"):
            pass
    finally:
        os.close(descriptor)
    assert (tmp_path / "target").is_dir()
