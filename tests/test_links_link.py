"""What a link asks for: shapes that are taken, and everything else refused before any connection."""

import dataclasses
import re
import socket
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lora_deploy.errors import LinkError, LinkTimesError, ListedHostError
from lora_deploy.links import LinkLimits, fetch
from lora_deploy.links.link import File, LinkTimes, Video, read_link, seconds_of
from tests.sockets import watched

ID = "dQw4w9WgXcQ"
HOSTS = ("videos.example.org", "xn--bcher-kva.example")


@pytest.fixture
def listener() -> Iterator[int]:
    """The port of a socket on loopback that must see nothing."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0.0)
        yield server.getsockname()[1]
        with pytest.raises(BlockingIOError):
            server.accept()


def refused(link: str, out: Path, hosts: tuple[str, ...] = HOSTS) -> str:
    """The kind of the refusal, during which nothing was connected to, looked up or started."""
    with watched() as seen, pytest.raises(LinkError) as caught:
        fetch(link, out, limits=LinkLimits(hosts=hosts))
    assert seen == []
    assert list(out.iterdir()) == []
    text = str(caught.value)
    assert text.isprintable()
    assert len(text) < 400
    return caught.value.kind


def test_the_watch_sees_what_is_begun(listener: int, tmp_path: Path) -> None:
    with watched() as seen, pytest.raises(urllib.error.URLError):
        urllib.request.urlopen("http://localhost:1/", timeout=1)
    assert "socket.connect" in seen
    assert "socket.getaddrinfo" in seen


@pytest.mark.parametrize(
    "link",
    [
        f"https://www.youtube.com/watch?v={ID}",
        f"http://www.youtube.com/watch?v={ID}",
        f"https://youtube.com/watch?v={ID}",
        f"https://m.youtube.com/watch?v={ID}&pp=abc",
        f"https://music.youtube.com/watch?v={ID}&feature=share",
        f"https://www.youtube.com/watch/?v={ID}",
        f"https://www.youtube.com/watch?app=desktop&v={ID}",
        f"https://www.youtube.com/watch?v={ID}&list=PLabcdef&index=3",
        f"https://youtu.be/{ID}",
        f"https://youtu.be/{ID}?si=abcdefgh",
        f"https://www.youtube.com/shorts/{ID}",
        f"https://youtube.com/shorts/{ID}?feature=share",
        f"https://www.youtube.com/embed/{ID}",
        f"https://www.youtube-nocookie.com/embed/{ID}",
        f"https://www.youtube.com/live/{ID}?feature=shared",
        f"https://www.youtube.com/v/{ID}",
        f"https://www.youtube.com/e/{ID}",
        f"HTTPS://WWW.YouTube.COM/watch?v={ID}",
        f"  https://youtu.be/{ID}  ",
        f"youtu.be/{ID}",
        f"www.youtube.com/watch?v={ID}",
    ],
)
def test_every_shape_of_a_video_becomes_the_one_address(link: str) -> None:
    target = read_link(link)
    assert isinstance(target, Video)
    assert target.url == f"https://www.youtube.com/watch?v={ID}"
    assert target.times == LinkTimes()


@pytest.mark.parametrize(
    "link",
    [
        "https://www.youtube.com/",
        "https://www.youtube.com",
        "https://youtu.be/",
        "https://www.youtube.com/playlist?list=PLabcdefghijk",
        "https://www.youtube.com/watch?list=PLabcdefghijk",
        "https://www.youtube.com/watch",
        "https://www.youtube.com/watch?v=",
        "https://www.youtube.com/watch?v=short",
        f"https://www.youtube.com/watch?v={ID}x",
        f"https://www.youtube.com/watch?v={ID}&v=abcdefghijk",
        "https://www.youtube.com/watch?v=--exec+id+x",
        "https://www.youtube.com/watch?v=%2e%2e%2fetc%2fpa",
        "https://www.youtube.com/results?search_query=cats",
        "https://www.youtube.com/channel/UCabcdefghijklmnopqrstuv",
        "https://www.youtube.com/@someone",
        "https://www.youtube.com/c/someone",
        "https://www.youtube.com/user/someone",
        "https://www.youtube.com/feed/trending",
        "https://www.youtube.com/embed/videoseries?list=PLabcdefghijk",
        "https://www.youtube.com/embed/live_stream?channel=UCabc",
        "https://www.youtube.com/live/live_stream",
        "https://youtu.be/videoseries",
        "https://www.youtube.com/watch?v=live_stream",
        "https://www.youtube.com/clip/UgkxAbcdefghijk",
        f"https://www.youtube.com/redirect?q=https://youtu.be/{ID}",
        f"https://www.youtube.com/attribution_link?u=/watch?v={ID}",
        f"https://youtu.be/{ID}/{ID}",
        "https://www.youtube.com/watch?v=ytsearch:ab",
    ],
)
def test_a_link_to_no_single_video_is_refused(link: str, tmp_path: Path, listener: int) -> None:
    assert refused(link, tmp_path) == "not_one_video"


@pytest.mark.parametrize(
    "link",
    [
        "https://example.com/clip.mp4",
        f"https://youtube.com.evil.example/watch?v={ID}",
        f"https://evilyoutube.com/watch?v={ID}",
        f"https://www-youtube.com/watch?v={ID}",
        f"https://youtu.be.evil.example/{ID}",
        f"https://youtube.co/watch?v={ID}",
        f"https://studio.youtube.com/watch?v={ID}",
        f"https://xn--yutube-wqf.com/watch?v={ID}",
        f"https://hooktube.com/watch?v={ID}",
        f"https://www.youtubekids.com/watch?v={ID}",
        "https://sub.videos.example.org/clip.mp4",
        "https://example.org/clip.mp4",
        "https://videos.example.org.evil.example/clip.mp4",
        "https://xvideos.example.org/clip.mp4",
        "https://metadata.google.com/computeMetadata/v1/",
    ],
)
def test_a_host_that_only_looks_like_one_is_refused(
    link: str, tmp_path: Path, listener: int
) -> None:
    assert refused(link, tmp_path) == "host"


def _numbers(port: int) -> list[str]:
    here = [
        "127.0.0.1", "127.1", "127.0.1", "2130706433", "017700000001", "0x7f000001", "0x7f.1",
        "0177.0.0.1", "0x7f.0x0.0x0.0x1", "127.0.0.1.", "0", "0.0.0.0", "127.127.127.127",
    ]  # fmt: skip
    v6 = [
        "[::1]", "[::]", "[::ffff:127.0.0.1]", "[::ffff:7f00:1]", "[0:0:0:0:0:ffff:7f00:1]",
        "[64:ff9b::127.0.0.1]", "[64:ff9b::7f00:1]", "[64:ff9b:1::1]", "[2002:7f00:1::]",
        "[2001::1]", "[fe80::1]", "[fe80::1%25eth0]", "[fc00::1]", "[fd00:ec2::254]", "[ff02::1]",
        "[fec0::1]", "[::127.0.0.1]",
    ]  # fmt: skip
    elsewhere = [
        "10.0.0.1", "172.16.0.1", "192.168.0.1", "169.254.169.254", "2852039166", "0xa9fea9fe",
        "0251.0376.0251.0376", "100.64.0.1", "100.100.100.200", "168.63.129.16", "224.0.0.1",
        "255.255.255.255", "198.18.0.1", "192.0.0.192", "8.8.8.8", "[2606:4700::1111]",
    ]  # fmt: skip
    names = ["localhost", "LOCALHOST", "a.localhost", "printer.local", "metadata.google.internal"]
    return [
        *(f"http://{host}:{port}/clip.mp4" for host in [*here, *v6]),
        *(f"http://{host}/clip.mp4" for host in [*here, *v6, *elsewhere, *names]),
    ]


def test_a_computer_named_by_its_number_is_refused_in_every_spelling(
    tmp_path: Path, listener: int
) -> None:
    links = _numbers(listener)
    assert len(links) > 80
    kinds = {link: refused(link, tmp_path) for link in links}
    assert {link: kind for link, kind in kinds.items() if kind != "address"} == {}


@pytest.mark.parametrize("host", ["127.0.0.1", "2130706433", "0x7f000001", "localhost", "a.local"])
def test_numbers_and_local_names_stay_refused_where_they_are_listed(host: str) -> None:
    with pytest.raises(LinkError) as caught:
        read_link(f"http://{host}/clip.mp4", hosts=(host,))
    assert caught.value.kind == "address"


@pytest.mark.parametrize(
    "host",
    ["", "127.0.0.1", "[::1]", "::1", "localhost", "0x7f000001", "intranet", "*.example.org",
     "https://videos.example.org", "videos.example.org/", "videos.example.org:443", "a@b.example",
     "videos.example.org.", "b\u00fccher.example", "youtu.be", "www.youtube.com"],
)  # fmt: skip
def test_a_host_that_no_link_could_have_can_not_be_listed(host: str) -> None:
    with pytest.raises(ListedHostError, match="can't be listed"):
        LinkLimits(hosts=("videos.example.org", host))


def test_a_host_may_be_listed_in_any_case() -> None:
    limits = LinkLimits(hosts=("Videos.Example.org",))
    assert isinstance(read_link("https://videos.example.org/a.mp4", hosts=limits.hosts), File)


@pytest.mark.parametrize(
    "link",
    [
        "",
        " ",
        "cats",
        f"{ID}",
        "ytsearch:cats",
        "-o/tmp/x",
        "--exec=id",
        "--config-location=/tmp/x https://youtu.be/dQw4w9WgXcQ",
        "file:///etc/passwd",
        "file://localhost/etc/passwd",
        "/etc/passwd",
        "ftp://videos.example.org/clip.mp4",
        "gopher://videos.example.org/",
        "data:video/mp4;base64,AAAA",
        "javascript:alert(1)",
        "rtsp://videos.example.org/clip",
        "concat:a.mp4|b.mp4",
        "view-source:https://youtu.be/dQw4w9WgXcQ",
        "blob:https://youtu.be/dQw4w9WgXcQ",
        "//youtu.be/dQw4w9WgXcQ",
        "https:youtu.be/dQw4w9WgXcQ",
        "https:/youtu.be/dQw4w9WgXcQ",
        "https:///youtu.be/dQw4w9WgXcQ",
        "https:\\\\youtu.be\\dQw4w9WgXcQ",
        "https://youtu.be\\@evil.example/dQw4w9WgXcQ",
        "https://evil.example\\youtu.be/dQw4w9WgXcQ",
        "https://user@youtu.be/dQw4w9WgXcQ",
        "https://user:password@youtu.be/dQw4w9WgXcQ",
        "https://youtu.be@evil.example/dQw4w9WgXcQ",
        "https://youtu.be:443@evil.example/dQw4w9WgXcQ",
        "https://youtu.be%40evil.example/dQw4w9WgXcQ",
        "https://youtu.be:443/dQw4w9WgXcQ",
        "https://youtu.be:8443/dQw4w9WgXcQ",
        "https://youtu.be:/dQw4w9WgXcQ",
        "https://youtu.be:x/dQw4w9WgXcQ",
        "https://videos.example.org:22/clip.mp4",
        "https://youtu.be./dQw4w9WgXcQ",
        "https://videos.example.org./clip.mp4",
        "https://.youtu.be/dQw4w9WgXcQ",
        "https://youtu..be/dQw4w9WgXcQ",
        "https://youtu.be%2fx/dQw4w9WgXcQ",
        "https://youtu%2ebe/dQw4w9WgXcQ",
        "https://youtu.be%00/dQw4w9WgXcQ",
        "https://y\u043eutube.com/watch?v=dQw4w9WgXcQ",
        "https://youtube\u3002com/watch?v=dQw4w9WgXcQ",
        "https://\uff59outube.com/watch?v=dQw4w9WgXcQ",
        "https://b\u00fccher.example/clip.mp4",
        "https://youtu.be/dQw4w9WgXcQ\n",
        "https://youtu.be/dQw4w9\nWgXcQ",
        "https://youtu.be/dQw4w9WgXcQ\r\nHost: evil.example",
        "https://you\ttu.be/dQw4w9WgXcQ",
        "https://youtu.be/dQw4w9WgXcQ\x00",
        "https://youtu.be/dQw4w9WgXcQ https://evil.example/",
        "https://youtu.be/dQw4w9WgXcQ\u200b",
        "\ufeffhttps://youtu.be/dQw4w9WgXcQ",
        "https://videos.example.org/a\\b.mp4",
        'https://videos.example.org/a"b.mp4',
        "https://videos.example.org/<b>.mp4",
        "https://videos.example.org/{a}.mp4",
        "https://[youtu.be/dQw4w9WgXcQ",
        "https://youtu.be]/dQw4w9WgXcQ",
        "https://intranet/clip.mp4",
        "https://-a.example/clip.mp4",
        "https://" + "a" * 64 + ".example/clip.mp4",
        "https://videos.example.org/" + "a" * 2048,
        "https://www.youtube.com/watch?" + "&".join("a=1" for _ in range(60)),
    ],
)
def test_what_is_no_plain_web_address_is_refused(link: str, tmp_path: Path, listener: int) -> None:
    assert refused(link, tmp_path) in ("malformed", "address")


@pytest.mark.parametrize(
    ("link", "reason"),
    [
        ("https://user@youtu.be/dQw4w9WgXcQ", "a user name"),
        ("https://youtu.be:8443/dQw4w9WgXcQ", "a port"),
        ("https://youtu.be./dQw4w9WgXcQ", "no host"),
        ("https://youtu.be/" + "a" * 2048, "2,065 characters"),
        ("https://youtu.be/a b", "characters that no address"),
        ("ftp://youtu.be/dQw4w9WgXcQ", "does not begin with"),
        ("https://127.0.0.1/", "by its number"),
        ("https://example.com/", "only to YouTube, videos.example.org"),
        ("https://www.youtube.com/@someone", "a channel"),
        ("https://www.youtube.com/playlist?list=PL1", "a playlist"),
        ("https://www.youtube.com/results?search_query=cats", "a search"),
        ("https://www.youtube.com/feed/trending", "no video"),
        ("https://youtu.be/dQw4w9WgXcQ?t=9&end=3", "ends at 3 and begins at 9"),
    ],
)
def test_the_reason_is_told(link: str, reason: str) -> None:
    with pytest.raises(LinkError, match=re.escape(reason)):
        read_link(link, hosts=("videos.example.org",))


def test_files_of_listed_hosts_are_taken() -> None:
    link = read_link("HTTPS://Videos.Example.ORG/a/b.mp4?x=1#t=10,20", hosts=HOSTS)
    assert link == File(
        "https://videos.example.org/a/b.mp4?x=1", "videos.example.org", LinkTimes(10.0, 20.0)
    )
    plain = read_link("http://xn--bcher-kva.example/x.mp4?t=5", hosts=HOSTS)
    assert plain.times == LinkTimes()  # that question is the host's own


def test_youtube_can_be_switched_off(tmp_path: Path) -> None:
    with pytest.raises(LinkError) as caught:
        read_link(f"https://youtu.be/{ID}", youtube=False)
    assert caught.value.kind == "host"
    assert "YouTube" not in str(caught.value)


@pytest.mark.parametrize(
    ("times", "start", "end"),
    [
        ("t=90", 90, None),
        ("t=90s", 90, None),
        ("t=1m30s", 90, None),
        ("t=1m30", 90, None),
        ("t=2m", 120, None),
        ("t=1h2m3s", 3723, None),
        ("t=1h", 3600, None),
        ("t=1:30", 90, None),
        ("t=1:02:03", 3723, None),
        ("t=12.5", 12.5, None),
        ("t=0", 0, None),
        ("start=5&end=9", 5, 9),
        ("end=9", None, 9),
        ("t=5&end=1m", 5, 60),
        ("time_continue=7", 7, None),
        ("t=", None, None),
    ],
)
def test_start_and_end_of_a_link_are_honoured(
    times: str, start: float | None, end: float | None
) -> None:
    for link in (
        f"https://youtu.be/{ID}?{times}",
        f"https://www.youtube.com/watch?v={ID}&{times}",
        f"https://www.youtube.com/embed/{ID}?{times}",
        f"https://youtu.be/{ID}#{times}",
    ):
        assert read_link(link).times == LinkTimes(start, end)


@pytest.mark.parametrize(
    "times",
    ["t=abc", "t=-5", "t=1e9", "t=nan", "t=inf", "t=9999999999", "t=5&end=5", "start=9&end=3", "end=0",
     "t=1s1m", "t=%0a5", "t=٣", "t=%D9%A3", "t=s"],
)  # fmt: skip
def test_times_that_are_none_are_refused(times: str, tmp_path: Path) -> None:
    assert refused(f"https://youtu.be/{ID}?{times}", tmp_path) in ("times", "malformed")


@pytest.mark.parametrize("text", ["", "s", "m", "h", ":", "1:", ":30", "1:5", "1:2:3:04"])
def test_a_time_without_its_numbers_is_none(text: str) -> None:
    with pytest.raises(LinkTimesError):
        seconds_of(text)


@given(st.integers(0, 276), st.integers(0, 59), st.integers(0, 59))
def test_all_ways_to_write_a_time_mean_the_same(hours: int, minutes: int, seconds: int) -> None:
    total = 3600 * hours + 60 * minutes + seconds
    assert seconds_of(f"{hours}h{minutes}m{seconds}s") == total
    assert seconds_of(f"{hours}:{minutes}:{seconds:02}") == total
    assert seconds_of(str(total)) == total


@given(st.text(max_size=60))
def test_no_text_does_more_than_being_refused(text: str) -> None:
    for link in (text, f"https://{text}", f"https://youtu.be/{text}", f"https://{text}.org/"):
        with suppress(LinkError):
            target = read_link(link, hosts=HOSTS)
            assert isinstance(target, Video) or target.host in HOSTS


def test_the_limits_in_the_documentation_are_the_real_ones() -> None:
    page = (Path(__file__).parents[1] / "docs" / "links.md").read_text(encoding="utf-8")
    said = dict(re.findall(r"^\| `(\w+)` \| ([^|]+) \|", page, flags=re.MULTILINE))
    real = {field.name: field.default for field in dataclasses.fields(LinkLimits)}
    assert set(said) == set(real)
    for name, value in real.items():
        told = (
            "none"
            if value == ()
            else f"{value:,}"
            if type(value) is int
            else f"{value:g}"
            if type(value) is float
            else str(value)
        )
        assert said[name].strip("`") == told, name
