"""Hostile files and links given to the page: what they name is neither opened nor connected to."""

import csv
import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest

from lora_deploy.artifact import bundle
from lora_deploy.web.watch import Watch
from tests.browser import demo
from tests.demo_visitor import as_file, call, listening, upload
from tests.loopback_web import Servers, Web, content, redirect


@dataclass
class Witness:
    """What this process opened, resolved and connected to while `watching`."""

    watching: bool = False
    events: list[tuple[str, str]] = field(default_factory=list)

    def see(self, event: str, arguments: tuple[Any, ...]) -> None:
        if not self.watching:
            return
        if event == "open" and isinstance(arguments[0], str | bytes):
            self.events.append((event, str(arguments[0])))
        elif event in ("socket.connect", "socket.getaddrinfo", "socket.sendto"):
            self.events.append((event, str(arguments[1:3])))


@pytest.fixture(scope="module")
def witness() -> Witness:
    witness = Witness()
    sys.addaudithook(witness.see)  # for the rest of the process, but silent
    return witness


@pytest.fixture(scope="module")
def page(web_host: str) -> Iterator[str]:
    with demo([bundle.EXAMPLE], waiting=60, link_hosts=(web_host,)) as url:
        yield url


@pytest.fixture(scope="module")
def web_host() -> str:
    """A host that the operator lists."""
    return "videos.example.org"


@pytest.fixture
def visitor(page: str) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=page, timeout=90) as client:
        yield client


def expected(media: Path) -> dict[str, tuple[str, str]]:
    """By file: ``ok`` or ``error``, and the kind."""
    with (media / "expected.csv").open(newline="") as table:
        return {row["file"]: (row["status"], row["kind"]) for row in csv.DictReader(table)}


def ask(visitor: httpx.Client, endpoint: str, *data: Any) -> dict[str, Any]:
    kind, answer = call(visitor, endpoint, *data)
    assert kind == "complete", answer
    (row,) = answer
    assert isinstance(row, dict)
    return row


def classify(visitor: httpx.Client, path: Path) -> dict[str, Any]:
    name = upload(visitor, path.read_bytes(), path.name)
    return ask(visitor, "classify", as_file(name), "merged", 1, 0, 0)


def test_every_hostile_file_gets_what_it_deserves(
    visitor: httpx.Client, media: Path, witness: Witness, page: str
) -> None:
    port = httpx.URL(page).port
    deserved = {
        name: outcome
        for name, outcome in expected(media).items()
        if name.startswith(("attack/", "hostile/"))
    }
    assert len(deserved) > 30
    witness.events.clear()
    for name, (status, kind) in deserved.items():
        witness.watching = True
        try:
            row = classify(visitor, media / name)
        finally:
            witness.watching = False
        assert row["status"] == status, name
        if status == "error":
            assert row["error"]["kind"] == kind, name
            assert str(media) not in row["error"]["message"]
    opened = [name for event, name in witness.events if event == "open"]
    assert not [name for name in opened if name == "/etc/passwd" or name.endswith("canary.txt")]
    reached = [name for event, name in witness.events if event != "open"]
    assert all(str(port) in name for name in reached), reached


def test_what_a_playlist_names_by_its_full_path_is_not_opened(
    visitor: httpx.Client, media: Path, tmp_path: Path
) -> None:
    secret = tmp_path / "secret" / "private.ts"
    secret.parent.mkdir()
    secret.write_bytes((media / "hostile" / "ok.ts").read_bytes())
    before = secret.stat().st_atime_ns
    script = media / "attack" / "make_attack.py"
    out = tmp_path / "playlists"
    subprocess.run([sys.executable, script, out, secret], check=True)
    for playlist in sorted(out.iterdir()):
        row = classify(visitor, playlist)
        assert row["error"]["kind"] == "forbidden", playlist.name
    assert secret.stat().st_atime_ns == before


def test_what_a_playlist_names_on_the_network_is_not_connected_to(
    visitor: httpx.Client, tmp_path: Path
) -> None:
    with listening() as listener:
        address = f"http://127.0.0.1:{listener.port}/x.ts"
        texts = {
            "hls.mp4": f"#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\n{address}\n#EXT-X-ENDLIST\n",
            "concat.mp4": f"ffconcat version 1.0\nfile '{address}'\n",
            "page.mp4": f"<html><video src='{address}'></html>",
            "session.mp4": f"v=0\r\no=- 0 0 IN IP4 127.0.0.1\r\nc=IN IP4 127.0.0.1\r\n"
            f"m=video {listener.port} RTP/AVP 96\r\n",
        }
        for name, text in texts.items():
            (tmp_path / name).write_text(text)
            row = classify(visitor, tmp_path / name)
            assert row["status"] == "error", name
        assert listener.connections == 0


@pytest.mark.parametrize(
    "spelling",
    [
        "http://127.0.0.1:{port}/clip.mp4", "http://127.1:{port}/clip.mp4", "http://2130706433:{port}/",
        "http://0x7f000001:{port}/", "http://0177.0.0.1:{port}/", "http://[::1]:{port}/clip.mp4",
        "http://[::ffff:127.0.0.1]:{port}/", "http://[64:ff9b::7f00:1]:{port}/", "http://0:{port}/",
        "http://localhost:{port}/clip.mp4", "http://localhost.:{port}/", "http://①②⑦.⓪.⓪.①:{port}/",
        "http://169.254.169.254/latest/meta-data/", "http://[fd00:ec2::254]/latest/",
        "http://metadata.google.internal/computeMetadata/v1/", "http://10.0.0.1/", "http://192.168.1.1/",
        "http://172.16.0.1/", "http://100.64.0.1/", "http://224.0.0.1/", "http://0.0.0.0:{port}/",
        "file:///etc/passwd", "file://localhost/etc/passwd", "ftp://127.0.0.1/", "gopher://127.0.0.1:{port}/",
        "data:video/mp4;base64,AAAA", "javascript:alert(1)", "//127.0.0.1:{port}/", "\\\\127.0.0.1\\clip",
        "https://www.youtube.com@127.0.0.1:{port}/watch?v=abcDEF_12-3",
        "https://www.youtube.com.127.0.0.1.nip.io/watch?v=abcDEF_12-3",
        "https://videos.example.org@127.0.0.1:{port}/clip.mp4",
        "https://videos.example.org:{port}/clip.mp4", "--exec=id", "ytsearch:cats", "/etc/passwd",
    ],
)  # fmt: skip
def test_a_link_to_this_computer_or_network_is_refused_before_any_connection(
    visitor: httpx.Client, link_servers: Servers, witness: Witness, page: str, spelling: str
) -> None:
    with listening() as listener:
        witness.events.clear()
        witness.watching = True
        try:
            row = ask(visitor, "classify_link", spelling.format(port=listener.port), "merged", 1)
        finally:
            witness.watching = False
        assert row["status"] == "error"
        assert listener.connections == 0
    assert link_servers.events("connect") == []  # in the process that would fetch
    port = str(httpx.URL(page).port)
    assert all(port in name for event, name in witness.events if event.startswith("socket.")), (
        witness.events
    )
    message = row["error"]["message"]
    assert "passwd" not in message
    assert "Traceback" not in message


def test_a_listed_host_that_sends_on_to_a_private_one_is_not_followed(
    visitor: httpx.Client, web: Web, link_servers: Servers
) -> None:
    with listening() as listener:
        for target in (
            f"http://127.0.0.1:{listener.port}/clip.mp4",
            f"https://localhost:{listener.port}/clip.mp4",
            "http://169.254.169.254/latest/meta-data/",
            "file:///etc/passwd",
        ):
            web.files["/clip.mp4"] = redirect(target)
            row = ask(visitor, "classify_link", "https://videos.example.org/clip.mp4", "merged", 1)
            assert row["status"] == "error", target
        assert listener.connections == 0
    connected = {event["address"] for event in link_servers.events("connect")}
    assert len(connected) == 1, connected  # the listed host itself


def test_a_listed_host_whose_name_means_a_private_address_is_not_connected_to(
    visitor: httpx.Client, web: Web, link_servers: Servers
) -> None:
    for address in ("127.0.0.1", "10.1.2.3", "169.254.169.254", "::1", "::ffff:10.0.0.1"):
        link_servers.names["videos.example.org"] = [[address]]
        row = ask(visitor, "classify_link", "https://videos.example.org/clip.mp4", "merged", 1)
        assert row["error"]["kind"] == "address", address
    assert link_servers.events("connected") == []
    assert web.requests == []


def test_hostile_files_behind_a_link_get_the_same_as_uploaded_ones(
    visitor: httpx.Client, media: Path, web: Web, link_servers: Servers
) -> None:
    for name, (status, _) in expected(media).items():
        if not name.startswith(("attack/", "hostile/")):
            continue
        web.files["/clip.mp4"] = content((media / name).read_bytes())
        row = ask(visitor, "classify_link", "https://videos.example.org/clip.mp4", "merged", 1)
        assert row["status"] == status, (name, row)
        assert str(media) not in json.dumps(row)


def test_files_of_fetched_links_are_not_left_behind(
    visitor: httpx.Client, web: Web, link_servers: Servers, monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:  # fmt: skip
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    row = ask(visitor, "classify_link", "https://videos.example.org/clip.mp4", "merged", 1)
    assert row["status"] == "ok"
    row = ask(visitor, "classify_link", "https://videos.example.org/none.mp4", "merged", 1)
    assert row["status"] == "error"
    assert list(tmp_path.iterdir()) == [tmp_path / "world"]


def test_the_log_holds_neither_names_nor_links(
    media: Path, web: Web, link_servers: Servers, caplog: pytest.LogCaptureFixture
) -> None:
    watch = Watch()
    with (
        caplog.at_level("INFO"),
        demo([bundle.EXAMPLE], watch=watch, link_hosts=("videos.example.org",)) as url,
        httpx.Client(base_url=url, timeout=60) as visitor,
    ):
        classify(visitor, media / "attack" / "hls_passwd_named.mp4")
        ask(visitor, "classify_link", "https://videos.example.org/secret-name.mp4", "merged", 1)
        metrics = visitor.get("/metrics").text
    lines = [record.getMessage() for record in caplog.records if record.name == "lora_deploy.demo"]
    assert any('"kind": "forbidden"' in line for line in lines)
    for text in (*lines, metrics):
        assert "secret-name" not in text
        assert "passwd" not in text
        assert "example.org" not in text
    assert 'outcome="error"' in metrics
    assert 'stage="decode"' in metrics
