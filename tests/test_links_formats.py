"""Which format is fetched: H.264 first, the smallest that suffices, one plain file of pictures."""

from typing import Any

import pytest

from lora_deploy.links import formats

LOTS = 1 << 30


def one(name: str, height: int, vcodec: str = "avc1.4d401e", **others: Any) -> dict[str, Any]:
    return {
        "format_id": name,
        "protocol": "https",
        "ext": "mp4",
        "vcodec": vcodec,
        "acodec": "none",
        "width": height * 16 // 9,
        "height": height,
        "url": "https://r1.googlevideo.com/x",
        **others,
    }


def chosen(*candidates: dict[str, Any], height: int = 480, max_bytes: int = LOTS) -> str:
    forwards = formats.choose(candidates, height=height, max_bytes=max_bytes)
    backwards = formats.choose(candidates[::-1], height=height, max_bytes=max_bytes)
    assert forwards == backwards
    return str(forwards["format_id"])


def test_the_smallest_sufficient_height() -> None:
    assert chosen(one("a", 360), one("b", 480), one("c", 720)) == "b"
    assert chosen(one("a", 360), one("c", 720), one("d", 1080)) == "c"


def test_the_largest_where_none_suffices() -> None:
    assert chosen(one("a", 144), one("b", 240)) == "b"


def test_h264_before_everything_else() -> None:
    assert chosen(one("a", 360), one("b", 480, "vp9"), one("c", 480, "av01.0.05M.08")) == "a"
    assert chosen(one("b", 480, "vp9"), one("c", 480, "av01.0.05M.08")) == "b"


def test_pictures_alone_before_pictures_with_sound() -> None:
    assert chosen(one("a", 480, acodec="mp4a.40.2", filesize=10), one("b", 480, filesize=20)) == "b"


def test_fewer_bytes_where_all_else_is_equal() -> None:
    assert chosen(one("a", 480, filesize=20), one("b", 480, filesize=10)) == "b"
    assert chosen(one("a", 480, filesize=20), one("b", 480, filesize_approx=10)) == "b"


def test_one_that_is_known_to_be_too_large_is_passed_over() -> None:
    assert chosen(one("a", 360, filesize=10), one("b", 480, filesize=200), max_bytes=100) == "a"
    with pytest.raises(formats.AllTooLarge):
        chosen(one("b", 480, filesize=101), max_bytes=100)
    assert chosen(one("b", 480, filesize=100), max_bytes=100) == "b"


@pytest.mark.parametrize(
    "flaw",
    [
        {"protocol": "m3u8_native"},
        {"protocol": "m3u8"},
        {"protocol": "http_dash_segments"},
        {"protocol": "mhtml"},
        {"protocol": "rtmp"},
        {"protocol": "file"},
        {"protocol": "http"},
        {"url": "http://r1.googlevideo.com/x"},
        {"protocol": None},
        {"fragments": [{"url": "https://x/1"}]},
        {"has_drm": True},
        {"has_drm": "maybe"},
        {"vcodec": "none"},
        {"vcodec": None},
        {"vcodec": "theora"},
        {"ext": "mhtml"},
        {"ext": "m3u8"},
        {"ext": "sh"},
        {"url": "file:///etc/passwd"},
        {"url": None},
    ],
    ids=str,
)
def test_what_is_no_plain_file_of_pictures_is_never_fetched(flaw: dict[str, Any]) -> None:
    assert (
        chosen(one("bad", 480, **(flaw if "vcodec" not in flaw else {})) | flaw, one("good", 144))
        == "good"
    )
    with pytest.raises(formats.NoneUsable):
        chosen(one("bad", 480) | flaw)


def test_heights_that_are_not_told_come_last_of_those_that_suffice_not() -> None:
    assert chosen(one("a", 480) | {"width": None, "height": None}, one("b", 144)) == "b"
    assert formats.short_side({"width": 480, "height": 854}) == 480
