"""Messages carry public names of files, and nothing in them leads elsewhere."""

import json
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from lora_deploy.demo.opaque import ForeignFileError, PublicNames, trimmed_info, with_real_files
from lora_deploy.demo.uploads import Uploads


@pytest.fixture
def uploads(tmp_path: Path) -> Uploads:
    folder = tmp_path.resolve() / "odd é 'name"
    (folder / "a").mkdir(parents=True)
    (folder / "a" / "clip.mp4").write_bytes(b"clip")
    return Uploads(folder, most_bytes=1000, keep_seconds=600)


def test_a_message_gets_the_real_path_and_loses_what_could_stand_for_it(uploads: Uploads) -> None:
    real = str(uploads.folder / "a" / "clip.mp4")
    sent = {
        "path": "uploads/a/clip.mp4",
        "url": "http://x/",
        "is_stream": True,
        "orig_name": "c.mp4",
    }
    assert with_real_files(sent, uploads) == {"path": real, "orig_name": "c.mp4"}
    nested = {"data": ["x", 1, None, [sent], {"video": sent}], "fn_index": 3}
    mapped = with_real_files(nested, uploads)
    assert mapped["data"][:3] == ["x", 1, None]
    assert mapped["data"][3][0]["path"] == mapped["data"][4]["video"]["path"] == real


@pytest.mark.parametrize(
    "path",
    [
        "/etc/passwd",
        "http://127.0.0.1/",
        "",
        None,
        7,
        ["uploads/a/clip.mp4"],
        {"path": "uploads/a/clip.mp4"},
    ],
)
def test_whatever_else_stands_where_a_path_should_is_refused(path: Any, uploads: Uploads) -> None:
    for message in ({"path": path}, [[{"x": {"path": path}}]]):
        with pytest.raises(ForeignFileError):
            with_real_files(message, uploads)


def test_the_folder_has_its_public_name_in_every_spelling(uploads: Uploads) -> None:
    public = PublicNames(uploads.folder)
    file = str(uploads.folder / "a" / "clip.mp4")
    for ascii_only in (True, False):
        told = public(json.dumps({"path": file}, ensure_ascii=ascii_only).encode())
        assert json.loads(told) == {"path": "uploads/a/clip.mp4"}

    assert public(quote(file).encode()) == b"uploads/a/clip.mp4"
    assert public(f"File not allowed: {file}.".encode()) == b"File not allowed: uploads/a/clip.mp4."


def test_an_error_in_place_of_the_interface_stays(uploads: Uploads) -> None:
    for body in (b'{"detail": "x"}', b"[]", b"no json", b'{"named_endpoints": 1}'):
        assert trimmed_info(body) == body
