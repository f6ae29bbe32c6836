"""What is refused before FFmpeg sees it."""

import errno
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from lora_deploy.clips import guard
from lora_deploy.clips.frame_folder import pictures_of
from lora_deploy.errors import ClipError, ClipErrorKind


def refusal(path: Path) -> ClipError:
    with pytest.raises(ClipError) as caught:
        guard.open_clip(path).close()
    assert str(path) not in str(caught.value)
    assert path.name not in str(caught.value)
    return caught.value


def test_what_is_no_regular_file_is_forbidden(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.mp4")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "s.mp4"))
        for path in (tmp_path, tmp_path / "pipe.mp4", tmp_path / "s.mp4", Path("/dev/zero")):
            assert refusal(path).kind == "forbidden", path


def test_a_missing_file_is_not_found(tmp_path: Path) -> None:
    (tmp_path / "to_nowhere.mp4").symlink_to(tmp_path / "nowhere.mp4")
    for name in ("missing.mp4", "to_nowhere.mp4", "nul\0.mp4"):
        assert refusal(tmp_path / name).kind == "not_found", name


@pytest.mark.parametrize(
    "name",
    [
        "http://127.0.0.1:9/a.mp4",
        "concat:a.mp4|b.mp4",
        "file:/etc/passwd",
        "frame%03d.png",
        "pipe:0",
    ],
)
def test_a_name_is_only_ever_a_file_name(
    name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    assert refusal(Path(name)).kind == "not_found"


def test_a_link_to_a_regular_file_is_opened_from_its_start(tmp_path: Path) -> None:
    (tmp_path / "real").write_bytes(b"\0\1\2")
    (tmp_path / "-link.mp4").symlink_to(tmp_path / "real")
    with guard.open_clip(tmp_path / "-link.mp4") as file:
        assert file.read() == b"\0\1\2"


@pytest.mark.parametrize(
    ("content", "kind", "says"),
    [
        (b"", "unreadable", "empty"),
        (b"#EXTM3U\nsecret.ts\n", "forbidden", "playlist"),
        (b"\xef\xbb\xbf \n#EXTM3U\n", "forbidden", "playlist"),
        (b"ffconcat version 1.0\nfile 'secret.ts'\n", "forbidden", "playlist"),
        (b"file secret.ts\n", "forbidden", "playlist"),
        (b"v=0\r\no=- 0 0 IN IP4 127.0.0.1\r\n", "forbidden", "playlist"),
        (b"<?xml version='1.0'?>\n<!-- x -->\n<MPD></MPD>", "forbidden", "playlist"),
        (b"#EXTM3U\n\x00\x01binary after all", "forbidden", "playlist"),
        (b"<!DOCTYPE html><html>403</html>", "unreadable", "web page"),
        (b"version https://git-lfs.github.com/spec/v1\n", "unreadable", "git lfs pull"),
        (b"just words\n", "unreadable", "text"),
    ],
)
def test_texts_are_refused_by_content(
    tmp_path: Path, content: bytes, kind: ClipErrorKind, says: str
) -> None:
    (tmp_path / "clip.mp4").write_bytes(content)
    error = refusal(tmp_path / "clip.mp4")
    assert error.kind == kind
    assert says in str(error)


@pytest.fixture
def ordinary_user() -> Iterator[None]:
    """Root may read everything, so where the tests run as root, be somebody else for a while."""
    is_root = os.geteuid() == 0
    if is_root:
        os.seteuid(65534)
    yield
    if is_root:
        os.seteuid(0)


def test_an_unreadable_file_says_so(ordinary_user: None) -> None:
    error = refusal(Path("/etc/shadow"))
    assert error.kind == "unreadable"
    assert "Permission denied" in str(error)


@pytest.mark.parametrize("number", [errno.EMFILE, errno.ENFILE])
def test_a_file_is_not_to_blame_where_no_more_may_be_open(
    number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "1.jpg").write_bytes(b"x")

    def full(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "open", full)
    monkeypatch.setattr(os, "scandir", full)
    for look in (guard.open_clip, guard.open_regular):
        with pytest.raises(OSError, match="Too many open files"):
            look(tmp_path / "1.jpg")
    with pytest.raises(OSError, match="Too many open files"):
        pictures_of(tmp_path)


def test_limits_hold_at_their_edge() -> None:
    guard.check_picture_size(4096, 4096)
    guard.check_duration(guard.MAX_DURATION_SECONDS)
    guard.check_duration(1e12)  # no honest header says so; frames are counted instead
    guard.check_frame_count(guard.MAX_FRAMES)
    guard.check_stream_count(guard.MAX_STREAMS)
    with pytest.raises(ClipError, match="more than 64 streams") as too_wide:
        guard.check_stream_count(guard.MAX_STREAMS + 1)
    assert too_wide.value.kind == "too_large"
    with pytest.raises(ClipError, match="4097×4096") as too_large:
        guard.check_picture_size(4097, 4096)
    with pytest.raises(ClipError, match="lasts 14401 seconds") as too_long:
        guard.check_duration(guard.MAX_DURATION_SECONDS + 1)
    with pytest.raises(ClipError, match="frames") as too_many:
        guard.check_frame_count(guard.MAX_FRAMES + 1)
    kinds = [error.value.kind for error in (too_large, too_long, too_many)]
    assert kinds == ["too_large", "too_long", "too_long"]


def test_containers_that_name_other_files_are_not_on_the_list() -> None:
    allowed = guard.OPEN_OPTIONS["format_whitelist"].split(",")
    assert not {"hls", "concat", "dash", "sdp", "image2", "lavfi", "rtsp", "imf"} & set(allowed)


@pytest.mark.parametrize("lead", [b"", b"<?xml version='1.0'?>"])
@pytest.mark.parametrize("tail", [b"\0", b"<", b"<!--", b"-->", b"x"])
def test_a_flood_of_comments_takes_no_time(tmp_path: Path, lead: bytes, tail: bytes) -> None:
    # A backtracking pattern would take 2 to the power of their number.
    script = "import sys; from pathlib import Path; from lora_deploy.clips import guard; guard.open_clip(Path(sys.argv[1]))"
    path = tmp_path / "comments.mp4"
    path.write_bytes(lead + b"<!---->" * 585 + tail)
    finished = subprocess.run(
        [sys.executable, "-c", script, path], timeout=20, capture_output=True, check=False
    )
    assert finished.returncode == 0 or b"ClipError" in finished.stderr
