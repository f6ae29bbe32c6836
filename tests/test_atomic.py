"""Files and folders appear whole or not at all."""

import os
from pathlib import Path

import pytest

from lora_deploy import atomic


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


def test_a_folder_is_replaced_and_nothing_is_left_beside_it(tmp_path: Path) -> None:
    target = tmp_path / "folder"
    for content in ("one", "two"):
        with atomic.replacing_folder(target) as stage:
            (stage / content).write_text(content)
    assert [path.name for path in target.iterdir()] == ["two"]
    assert list(tmp_path.iterdir()) == [target]


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
