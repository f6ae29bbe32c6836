"""Servers on loopback that stand for YouTube and for other hosts, with real clips; TLS as on the web."""

import json
import re
import shutil
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from lora_deploy.links import errand

PUBLIC = "93.184.215.14"
"""A public address that a fetching process of a test reaches these servers by."""

VIDEO_ID = "abcDEF_12-3"
VIDEO = f"https://www.youtube.com/watch?v={VIDEO_ID}"

NAMES = (
    "www.youtube.com",
    "youtube.com",
    "r1.googlevideo.com",
    "r2.googlevideo.com",
    "videos.example.org",
    "other.example.org",
    "evil.example.com",
)

Reply = Callable[["Handler"], None]


class Handler(BaseHTTPRequestHandler):
    """One request; what it is answered is the web's to say."""

    protocol_version = "HTTP/1.1"
    web: "Web"

    def do_GET(self) -> None:
        self.answer()

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length", "0")))
        self.answer()

    def answer(self) -> None:
        host = self.headers.get("Host", "").partition(":")[0]
        self.web.requests.append((host, self.path))
        self.web.headers.append(dict(self.headers))
        with suppress(OSError):  # whoever asked has gone
            self.web.reply_to(host, self.path)(self)

    def log_message(self, format: str, *arguments: object) -> None:
        pass

    def send(self, content: bytes, status: int = 200, **headers: str) -> None:
        self.send_response(status)
        sent = {"Content_Type": "video/mp4", "Content_Length": str(len(content)), **headers}
        for name, value in sent.items():
            if value:
                self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(content)


def status(number: int) -> Reply:
    return lambda handler: handler.send(b"<html>no</html>", number, Content_Type="text/html")


def redirect(location: str, number: int = 302) -> Reply:
    return lambda handler: handler.send(b"", number, Location=location)


def content(body: bytes, **headers: str) -> Reply:
    return lambda handler: handler.send(body, 200, **headers)


def page() -> Reply:
    body = b"<!doctype html><html><body>This is not a video</body></html>"
    return content(body, Content_Type="text/html; charset=utf-8")


def ranges(body: bytes) -> Reply:
    """As YouTube's media servers: the range that was asked for."""

    def reply(handler: Handler) -> None:
        asked = re.fullmatch(r"bytes=(\d+)-(\d*)", handler.headers.get("Range", ""))
        if asked is None:
            handler.send(body)
            return
        first = int(asked[1])
        last = min(int(asked[2] or len(body)), len(body) - 1)
        place = f"bytes {first}-{last}/{len(body)}"
        handler.send(body[first : last + 1], 206, Content_Range=place)

    return reply


def endless(block: bytes = bytes(1 << 16), pause_seconds: float = 0.0) -> Reply:
    """A body with neither an announced length nor an end."""

    def reply(handler: Handler) -> None:
        handler.send_response(200)
        handler.send_header("Content-Type", "video/mp4")
        handler.send_header("Connection", "close")
        handler.end_headers()
        while True:
            handler.wfile.write(block)
            handler.wfile.flush()
            time.sleep(pause_seconds)

    return reply


def short(body: bytes, announced: int) -> Reply:
    """Announces more than it sends."""

    def reply(handler: Handler) -> None:
        handler.send(body, Content_Length=str(announced), Connection="close")
        handler.close_connection = True

    return reply


def media(itag: int, **fields: Any) -> dict[str, Any]:
    """One format as YouTube's player tells it."""
    host = fields.pop("host", "r1.googlevideo.com")
    codecs = fields.pop("codecs", "avc1.4d401e")
    kind = fields.pop("kind", "video/mp4")
    return {
        "itag": itag,
        "url": f"https://{host}/videoplayback?itag={itag}",
        "mimeType": f'{kind}; codecs="{codecs}"',
        "bitrate": 500_000,
        "fps": 30,
        "quality": "medium",
        "approxDurationMs": "10000",
        **fields,
    }


SOUND = media(140, codecs="mp4a.40.2", kind="audio/mp4", audioQuality="AUDIO_QUALITY_MEDIUM")
COMBINED = media(18, width=640, height=360, codecs="avc1.42001E, mp4a.40.2")


def ladder(codecs: str, first_itag: int, kind: str = "video/mp4") -> list[dict[str, Any]]:
    """Pictures without sound from 144 to 1080 lines."""
    heights = (144, 240, 360, 480, 720, 1080)
    return [
        media(
            first_itag + at, width=height * 16 // 9, height=height, codecs=codecs, kind=kind,
            contentLength=str(height * 1000),
        )
        for at, height in enumerate(heights)
    ]  # fmt: skip


AVC1 = ladder("avc1.4d401e", 1000)
VP9 = ladder("vp9", 2000, "video/webm")
AV01 = ladder("av01.0.05M.08", 3000)


_CONTEXT = {"client": {"clientName": "WEB", "clientVersion": "2.20261001.00.00"}}
_PAGE = (
    "<!doctype html><html><script>"
    f"ytcfg.set({json.dumps({'INNERTUBE_CONTEXT': _CONTEXT})});</script></html>"
).encode()
"""As much of a page of YouTube's as yt-dlp looks for."""


class Web:
    """What the servers answer; a test changes it as it likes."""

    def __init__(self, clip: bytes) -> None:
        self.requests: list[tuple[str, str]] = []
        self.headers: list[dict[str, str]] = []
        self.details: dict[str, Any] = {
            "videoId": VIDEO_ID,
            "title": "Two people wrestle",
            "lengthSeconds": "10",
            "isLiveContent": False,
        }
        self.playability: dict[str, Any] = {"status": "OK"}
        self.adaptive: list[dict[str, Any]] = [*AVC1, *VP9, *AV01, SOUND]
        self.combined: list[dict[str, Any]] = [COMBINED]
        self.streaming: dict[str, Any] = {}
        self.player_status = 200
        self.player: dict[str, Any] = {}
        self.media: Reply = ranges(clip)
        self.files: dict[str, Reply] = {"/clip.mp4": content(clip)}
        """Of every host that is not YouTube's, by path."""

    def reply_to(self, host: str, path: str) -> Reply:
        if host.endswith("googlevideo.com"):
            return self.media
        if not host.endswith("youtube.com"):
            return self.files.get(urlsplit(path).path, status(404))
        if "/youtubei/v1/player" in path:
            return self._json(self._player(), self.player_status)
        if "/youtubei/v1/next" in path:
            return self._json({"contents": {"a": 1}})
        if path.startswith(("/watch", "/embed/")):
            return content(_PAGE, Content_Type="text/html")
        return status(404)

    def media_requests(self) -> list[str]:
        """The itags of what was fetched."""
        return [
            parse_qs(urlsplit(path).query)["itag"][0]
            for host, path in self.requests
            if host.endswith("googlevideo.com")
        ]

    def _player(self) -> dict[str, Any]:
        streaming = {"formats": self.combined, "adaptiveFormats": self.adaptive, **self.streaming}
        return {
            "playabilityStatus": self.playability,
            "videoDetails": self.details,
            "streamingData": streaming,
            **self.player,
        }

    def _json(self, value: dict[str, Any], number: int = 200) -> Reply:
        body = json.dumps(value).encode()
        return lambda handler: handler.send(body, number, Content_Type="application/json")


class Servers:
    """The running servers, and how a fetching process is put before them."""

    def __init__(self, web: Web, folder: Path, ports: tuple[int, int]) -> None:
        self.web = web
        self.names: dict[str, list[list[str]]] = {name: [[PUBLIC]] for name in NAMES}
        self.change = ""
        """Lines that are run in the fetching process before it begins."""
        self._folder = folder
        self._ports = ports

    @property
    def log(self) -> Path:
        """What the fetching process looked up and connected to."""
        return self._folder / "connections.jsonl"

    def command(self) -> tuple[str, ...]:
        """Of the fetching process."""
        world = {
            "names": self.names,
            "public": PUBLIC,
            "tls_port": self._ports[0],
            "plain_port": self._ports[1],
            "certificate": str(self._folder / "certificate.pem"),
            "log": str(self.log),
            "change": self.change,
        }
        door = Path(__file__).with_name("links_door.py")
        return (sys.executable, "-P", str(door), json.dumps(world))

    def events(self, kind: str) -> list[dict[str, Any]]:
        """Of the fetching process, in order: ``resolve``, ``connect`` (tried), ``connected`` (let through)."""
        if not self.log.exists():
            return []
        events = [json.loads(line) for line in self.log.read_text().splitlines()]
        return [event for event in events if event["event"] == kind]


def make_certificate(folder: Path) -> Path:
    """A certificate, its own authority, for all names of these servers; with its key."""
    names = ",".join(f"DNS:{name}" for name in NAMES)
    subprocess.run(
        [
            "openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1",
            "-nodes", "-days", "3", "-subj", "/CN=loopback", "-addext", f"subjectAltName={names}",
            "-keyout", str(folder / "key.pem"), "-out", str(folder / "certificate.pem"),
        ],
        check=True,
        capture_output=True,
    )  # fmt: skip
    return folder / "certificate.pem"


@contextmanager
def serving(web: Web, folder: Path) -> Iterator[Servers]:
    """Serve with TLS and without on two loopback ports; ``folder`` has the certificate."""
    handler = type("BoundHandler", (Handler,), {"web": web})
    servers = [_Quiet(("127.0.0.1", 0), handler) for _ in range(2)]
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "certificate.pem", folder / "key.pem")
    servers[0].socket = context.wrap_socket(
        servers[0].socket, server_side=True, do_handshake_on_connect=False
    )
    threads = [
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        for server in servers
    ]
    try:
        for thread in threads:
            thread.start()
        ports = (servers[0].server_address[1], servers[1].server_address[1])
        yield Servers(web, folder, (int(ports[0]), int(ports[1])))
    finally:
        for server in servers:
            server.shutdown()
            server.server_close()


class _Quiet(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that hangs up is what some tests are about."""


@pytest.fixture(scope="session")
def link_certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Made once for all tests."""
    return make_certificate(tmp_path_factory.mktemp("certificate"))


@pytest.fixture(scope="session")
def link_clip(media: Path) -> bytes:
    """The real clip that links lead to."""
    return (media / "clips" / "arm_wrestling.mp4").read_bytes()


@pytest.fixture
def link_servers(
    link_certificate: Path, link_clip: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Servers]:
    """YouTube and other hosts on loopback, before which every fetching process of a test is put."""
    folder = tmp_path / "world"
    shutil.copytree(link_certificate.parent, folder)
    with serving(Web(link_clip), folder) as servers:
        monkeypatch.setattr(errand, "_child_command", servers.command)
        yield servers


@pytest.fixture
def web(link_servers: Servers) -> Web:
    """What those servers answer."""
    return link_servers.web
