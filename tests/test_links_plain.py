"""Plain files of listed hosts: fetched through safehttpx before loopback servers, or refused."""

import time
from pathlib import Path

import pytest

from lora_deploy.errors import LinkError
from lora_deploy.links import Fetched, LinkLimits, errand, fetch
from tests import loopback_web as loopback
from tests.loopback_web import PUBLIC, Servers, Web

HOST = "videos.example.org"
LINK = f"https://{HOST}/clip.mp4"
LIMITS = LinkLimits(hosts=(HOST,), deadline_seconds=20.0)
BOTH = LinkLimits(hosts=(HOST, "other.example.org"), deadline_seconds=20.0)


@pytest.fixture
def out(tmp_path: Path) -> Path:
    folder = tmp_path / "out"
    folder.mkdir()
    return folder


def refusal(out: Path, link: str = LINK, limits: LinkLimits = LIMITS) -> LinkError:
    """What ``fetch`` raises; it has left nothing behind."""
    with pytest.raises(LinkError) as caught:
        fetch(link, out, limits=limits)
    assert list(out.iterdir()) == []
    return caught.value


def only_file(out: Path, fetched: Fetched) -> bytes:
    assert list(out.iterdir()) == [fetched.path]
    return fetched.path.read_bytes()


@pytest.mark.parametrize("scheme", ["https", "http"])
def test_a_file_comes_whole(web: Web, out: Path, link_clip: bytes, scheme: str) -> None:
    parts: list[float] = []
    fetched = fetch(f"{scheme}://{HOST}/clip.mp4#t=1,2", out, limits=LIMITS, progress=parts.append)
    assert only_file(out, fetched) == link_clip
    assert fetched.title == "clip.mp4"
    assert (fetched.start_seconds, fetched.end_seconds) == (1.0, 2.0)
    assert web.requests == [(HOST, "/clip.mp4")]
    assert all(0 <= part <= 1 for part in parts)


def test_the_name_of_the_file_is_ours(web: Web, out: Path, link_clip: bytes) -> None:
    web.files["/a/..%2f..%2fevil%0a.sh"] = loopback.content(link_clip)
    fetched = fetch(f"https://{HOST}/a/..%2f..%2fevil%0a.sh", out, limits=LIMITS)
    assert fetched.path.parent == out
    assert fetched.path.suffix == ".mp4"
    assert fetched.title == "../../evil .sh"
    web.files["/clip.mkv"] = loopback.content(link_clip)
    assert fetch(f"https://{HOST}/clip.mkv", out, limits=LIMITS).path.suffix == ".mkv"


@pytest.mark.parametrize(
    "kind", ["video/mp4", "VIDEO/X-MATROSKA; a=b", "image/gif", "application/octet-stream", ""]
)
def test_types_of_videos_and_types_that_say_nothing_are_taken(
    web: Web, out: Path, link_clip: bytes, kind: str
) -> None:
    web.files["/clip.mp4"] = loopback.content(link_clip, Content_Type=kind)
    fetch(LINK, out, limits=LIMITS)


@pytest.mark.parametrize(
    "kind",
    ["text/html", "text/plain", "image/png", "audio/mp4", "application/vnd.apple.mpegurl",
     "application/json", "application/dash+xml", "application/pdf"],
)  # fmt: skip
def test_other_types_are_no_video(web: Web, out: Path, link_clip: bytes, kind: str) -> None:
    web.files["/clip.mp4"] = loopback.content(link_clip, Content_Type=kind)
    assert refusal(out).kind == "not_video"


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"<!doctype html><html></html>",
        b"#EXTM3U\n#EXT-X-VERSION:3\nfile:///etc/passwd\n",
        b"ffconcat version 1.0\nfile /etc/passwd\n",
        b"just words, and no picture at all",
    ],
)
def test_what_calls_itself_a_video_and_is_none_is_refused(web: Web, out: Path, body: bytes) -> None:
    web.files["/clip.mp4"] = loopback.content(body, Content_Type="video/mp4")
    assert refusal(out).kind == "not_video"


def test_every_playlist_that_attacks_a_loader_is_refused(web: Web, out: Path, media: Path) -> None:
    attacks = [path for path in (media / "attack").iterdir() if path.suffix == ".mp4"]
    assert len(attacks) > 3
    for path in attacks:
        web.files["/clip.mp4"] = loopback.content(path.read_bytes())
        assert refusal(out).kind == "not_video", path.name


@pytest.mark.parametrize(
    ("number", "kind"),
    [(401, "refused"), (403, "refused"), (404, "not_found"), (410, "not_found"), (429, "busy"),
     (500, "refused"), (206, "refused"), (204, "refused")],
)  # fmt: skip
def test_what_a_host_refuses(web: Web, out: Path, number: int, kind: str) -> None:
    web.files["/clip.mp4"] = loopback.status(number)
    assert refusal(out).kind == kind


# Size and time ------------------------------------------------------------------------------------


def test_an_announced_size_is_believed_before_anything_is_read(web: Web, out: Path) -> None:
    web.files["/clip.mp4"] = loopback.short(b"", announced=300 << 20)
    error = refusal(out)
    assert error.kind == "too_large"
    assert "has 315 MB" in str(error)


def test_a_body_without_end_is_cut_off_at_the_limit(
    web: Web, out: Path, link_servers: Servers
) -> None:
    web.files["/clip.mp4"] = loopback.endless(pause_seconds=0.005)
    link_servers.change = "child._ROOM_BYTES = 1 << 40"  # not by the kernel
    limits = LinkLimits(hosts=(HOST,), max_bytes=1_000_000, deadline_seconds=15)
    assert refusal(out, limits=limits).kind == "too_large"


def test_exactly_the_limit_is_fetched(web: Web, out: Path, link_clip: bytes) -> None:
    limits = LinkLimits(hosts=(HOST,), max_bytes=len(link_clip), deadline_seconds=20)
    fetch(LINK, out, limits=limits)
    for one in out.iterdir():
        one.unlink()
    less = LinkLimits(hosts=(HOST,), max_bytes=len(link_clip) - 1, deadline_seconds=20)
    assert refusal(out, limits=less).kind == "too_large"


def test_less_than_was_announced_is_refused(web: Web, out: Path, link_clip: bytes) -> None:
    web.files["/clip.mp4"] = loopback.short(link_clip[:1000], announced=2000)
    assert refusal(out).kind == "refused"


def test_a_compressed_body_is_refused(web: Web, out: Path) -> None:
    web.files["/clip.mp4"] = loopback.content(bytes(100), Content_Encoding="gzip")
    assert refusal(out).kind == "refused"
    assert web.headers[0]["Accept-Encoding"] == "identity"


@pytest.mark.parametrize("block", [b"", b"x"], ids=["silent", "a byte now and then"])
def test_a_slow_server_ends_at_the_deadline(web: Web, out: Path, block: bytes) -> None:
    web.files["/clip.mp4"] = loopback.endless(block, pause_seconds=0.2)
    started = time.monotonic()
    limits = LinkLimits(hosts=(HOST,), deadline_seconds=3.0)
    assert refusal(out, limits=limits).kind == "timeout"
    assert time.monotonic() - started < 5


def test_a_name_server_that_never_answers_ends_at_the_deadline(
    web: Web, out: Path, link_servers: Servers
) -> None:
    link_servers.change = (
        "import time; resolve = lambda *a, **k: time.sleep(600)\nsocket.getaddrinfo = resolve"
    )
    started = time.monotonic()
    limits = LinkLimits(hosts=(HOST,), deadline_seconds=3.0)
    assert refusal(out, limits=limits).kind == "timeout"
    assert time.monotonic() - started < 5


# Addresses ----------------------------------------------------------------------------------------

PRIVATE = [
    "127.0.0.1", "10.0.0.8", "192.168.1.1", "172.16.0.1", "169.254.169.254", "100.64.0.1",
    "100.100.100.200", "168.63.129.16", "0.0.0.0", "224.0.0.1", "::1", "::", "fd00:ec2::254",
    "fe80::1", "::ffff:127.0.0.1", "64:ff9b::7f00:1", "2002:7f00:1::",
]  # fmt: skip


@pytest.mark.parametrize("address", PRIVATE)
def test_a_listed_name_that_means_a_private_address_is_not_connected_to(
    web: Web, out: Path, link_servers: Servers, address: str
) -> None:
    link_servers.names[HOST] = [[address]]
    error = refusal(out)
    assert error.kind == "address"
    assert address not in str(error)
    assert link_servers.events("connect") == []


@pytest.mark.parametrize("addresses", [[PUBLIC, "127.0.0.1"], ["127.0.0.1", PUBLIC]])
def test_one_private_address_among_public_ones_is_enough(
    web: Web, out: Path, link_servers: Servers, addresses: list[str]
) -> None:
    link_servers.names[HOST] = [addresses]
    assert refusal(out).kind == "address"
    assert link_servers.events("connect") == []


def test_a_name_that_means_something_else_the_second_time_gains_nothing(
    web: Web, out: Path, link_servers: Servers
) -> None:
    link_servers.names[HOST] = [[PUBLIC], ["127.0.0.1"]]
    fetch(LINK, out, limits=LIMITS)
    assert len(link_servers.events("resolve")) == 1  # what was checked is what is connected to
    assert [event["address"] for event in link_servers.events("connect")] == [PUBLIC]


def test_a_name_that_turns_private_at_a_redirect_is_not_connected_to(
    web: Web, out: Path, link_servers: Servers
) -> None:
    link_servers.names[HOST] = [[PUBLIC], ["169.254.169.254"]]
    web.files["/clip.mp4"] = loopback.redirect(f"https://{HOST}/second.mp4")
    assert refusal(out).kind == "address"
    assert [event["address"] for event in link_servers.events("connect")] == [PUBLIC]


def test_the_gate_holds_where_the_check_before_it_fails(
    web: Web, out: Path, link_servers: Servers
) -> None:
    link_servers.names[HOST] = [["127.0.0.1"]]
    link_servers.change = (
        "from lora_deploy.links import plain; plain.is_public = lambda address: True"
    )
    assert refusal(out).kind == "address"
    assert link_servers.events("connect") != []
    assert link_servers.events("connected") == []


def test_a_name_that_nobody_knows(web: Web, out: Path, link_servers: Servers) -> None:
    del link_servers.names[HOST]
    assert refusal(out).kind == "no_network"
    assert [event["name"] for event in link_servers.events("resolve")] == [HOST]  # no third party


def test_a_certificate_of_another_host_is_not_taken(
    web: Web, out: Path, link_servers: Servers
) -> None:
    link_servers.names["unknown.example.org"] = [[PUBLIC]]
    limits = LinkLimits(hosts=("unknown.example.org",), deadline_seconds=20)
    assert refusal(out, "https://unknown.example.org/clip.mp4", limits).kind == "no_network"
    assert web.requests == []


# Redirects ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "where",
    ["second.mp4", "/second.mp4", f"https://{HOST}/second.mp4", "//other.example.org/second.mp4",
     "https://OTHER.example.org/second.mp4#t=5"],
)  # fmt: skip
def test_redirects_to_listed_hosts_are_followed(
    web: Web, out: Path, link_clip: bytes, where: str
) -> None:
    web.files["/clip.mp4"] = loopback.redirect(where)
    web.files["/second.mp4"] = loopback.content(link_clip)
    fetched = fetch(LINK, out, limits=BOTH)
    assert only_file(out, fetched) == link_clip
    assert fetched.title == "second.mp4"
    assert fetched.start_seconds is None


def test_from_http_to_https_is_followed(web: Web, out: Path, link_clip: bytes) -> None:
    web.files["/first.mp4"] = loopback.redirect(LINK)
    fetch(f"http://{HOST}/first.mp4", out, limits=LIMITS)


@pytest.mark.parametrize(
    "where",
    [
        f"http://{HOST}/second.mp4",
        "https://evil.example.com/clip.mp4",
        f"https://{HOST}.evil.example.com/clip.mp4",
        f"https://sub.{HOST}/clip.mp4",
        f"https://{HOST}:8443/clip.mp4",
        f"https://{HOST}@evil.example.com/clip.mp4",
        "https://evil.example.com\\@videos.example.org/clip.mp4",
        "http://127.0.0.1/clip.mp4",
        "https://127.0.0.1/clip.mp4",
        "https://2130706433/clip.mp4",
        "https://0x7f.1/clip.mp4",
        "https://[::1]/clip.mp4",
        "https://[::ffff:127.0.0.1]/clip.mp4",
        "http://169.254.169.254/latest/meta-data/",
        "https://localhost/clip.mp4",
        "https://www.youtube.com/watch?v=dQw4w9WgXcQ",
        "file:///etc/passwd",
        "ftp://videos.example.org/clip.mp4",
        "data:video/mp4;base64,AAAA",
        "javascript:alert(1)",
    ],
)
def test_redirects_to_elsewhere_are_not_followed(
    web: Web, out: Path, link_servers: Servers, where: str
) -> None:
    web.files["/clip.mp4"] = loopback.redirect(where)
    assert refusal(out).kind == "redirect"
    assert len(web.requests) == 1
    assert [event["name"] for event in link_servers.events("resolve")] == [HOST]
    assert [event["address"] for event in link_servers.events("connect")] == [PUBLIC]


def test_a_redirect_without_end_is_given_up(web: Web, out: Path) -> None:
    web.files["/clip.mp4"] = loopback.redirect(LINK)
    assert refusal(out).kind == "redirect"
    assert len(web.requests) == 6


def test_a_redirect_to_nowhere_is_given_up(web: Web, out: Path) -> None:
    web.files["/clip.mp4"] = lambda handler: handler.send(b"", 302)
    assert refusal(out).kind == "redirect"
    assert len(web.requests) == 1


# What the user has set ----------------------------------------------------------------------------


def test_proxies_are_not_used(
    web: Web, out: Path, link_servers: Servers, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("http_proxy", "https_proxy", "all_proxy", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    fetch(LINK, out, limits=LIMITS)
    assert [event["address"] for event in link_servers.events("connect")] == [PUBLIC]


def test_where_safehttpx_is_not_installed_links_are_unavailable(
    out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(errand, "is_installed", lambda package: package != "safehttpx")
    assert refusal(out).kind == "unavailable"
