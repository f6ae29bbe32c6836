"""The page's server: what it answers, what it does not, and that no path or address gets through."""

import json
import re
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from urllib.parse import quote

import gradio
import httpx
import pytest
from gradio.routes import file_upload_statuses

from lora_deploy.demo import server
from lora_deploy.demo.server import serving
from lora_deploy.demo.settings import DemoSettings
from lora_deploy.demo.uploads import keep, settle
from lora_deploy.web.watch import Watch
from tests import demo_visitor
from tests.demo_visitor import as_file, call, listening, start, upload
from tests.small_page import SmallPage

MOST = 100_000
LOGIN = (("ada", "correct horse"), ("bob", "another one"))


@pytest.fixture(scope="module")
def page() -> SmallPage:
    return SmallPage()


@pytest.fixture(scope="module")
def url(page: SmallPage) -> Iterator[str]:
    with serving(page.blocks, DemoSettings(port=0, max_upload_bytes=MOST), Watch()) as address:
        yield address


@pytest.fixture
def visitor(url: str) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=url, timeout=30) as client:
        yield client


def secrets_of_this_computer() -> list[str]:
    """What no reply may hold: the folders that everything is in."""
    places = {settle(), Path.home(), Path.cwd(), Path(sys.prefix), Path(__file__).parents[1]}
    return [str(place) for place in places if len(str(place)) > 1]


# What there is -----------------------------------------------------------------------------------


def test_a_file_is_uploaded_and_classified_by_name(visitor: httpx.Client, page: SmallPage) -> None:
    public = upload(visitor, b"x" * 1234)
    kind, (answer, copy) = call(visitor, "classify", as_file(public), "wave")
    assert kind == "complete"
    assert answer == {"size": 1234, "word": "wave"}
    assert Path(page.seen[-1]).parent.parent == settle()
    assert visitor.get(copy["url"]).content == b"x" * 1234


def test_gradios_own_client_works(url: str, tmp_path: Path) -> None:
    gradio_client = pytest.importorskip("gradio_client")
    clip = tmp_path / "a clip.mp4"
    clip.write_bytes(b"y" * 99)
    client = gradio_client.Client(
        url, verbose=False, analytics_enabled=False, download_files=str(tmp_path / "out")
    )
    try:
        answer, copy = client.predict(
            gradio_client.handle_file(str(clip)), "wave", api_name="/classify"
        )
        assert "/classify" in client.view_api(return_format="dict")["named_endpoints"]
    finally:
        client.close()
    assert answer == {"size": 99, "word": "wave"}
    assert Path(copy).read_bytes() == b"y" * 99


def test_files_of_the_page_are_shown(tmp_path: Path) -> None:
    example = tmp_path / "example.mp4"
    example.write_bytes(b"example")
    public = f"uploads/{keep(example).relative_to(settle())}"
    with (
        serving(SmallPage().blocks, DemoSettings(port=0, keep_files_seconds=1), Watch()) as address,
        httpx.Client(base_url=address) as visitor,
    ):
        shown = visitor.get(f"/gradio_api/file={public}", headers={"range": "bytes=0-3"})
        assert (shown.status_code, shown.content) == (206, b"exam")
        kind, (answer, _) = call(visitor, "classify", as_file(public), "")
        assert (kind, answer["size"]) == ("complete", 7)


def test_health_and_metrics(visitor: httpx.Client) -> None:
    assert visitor.get("/health").json() == {"status": "ok"}
    upload(visitor)
    text = visitor.get("/metrics").text
    assert re.search(r"^lora_deploy_uploads_total [1-9]", text, re.MULTILINE)
    assert "lora_deploy_queue_length 0.0" in text
    assert "process_resident_memory_bytes" in text


# What there is not -------------------------------------------------------------------------------

SHUT = (
    "/openapi.json", "/docs", "/redoc", "/monitoring", "/monitoring/summary", "/monitoring/x",
    "/gradio_api/openapi.json", "/gradio_api/runs", "/gradio_api/run-history/records",
    "/gradio_api/queue/status", "/gradio_api/app_id", "/gradio_api/token", "/gradio_api/user",
    "/gradio_api/deep_link?session_hash=x", "/gradio_api/dev/reload", "/gradio_api/vibe-code",
    "/gradio_api/startup-events", "/gradio_api/proxy=https://example.hf.space/", "/pwa_icon",
    "/gradio_api/custom_component/a/client/component/x.js", "/manifest.json", "/robots.txt",
    "/gradio_api/stream/a/b/1/playlist.m3u8", "/gradio_api/profiling/traces", "/gradio_api/mcp/sse",
    "/static/ffmpeg/ffmpeg-core.wasm", "/gradio_api/call/hidden/1", "/login", "/logout",
)  # fmt: skip


@pytest.mark.parametrize("path", SHUT)
def test_what_the_page_does_not_need_is_not_there(path: str, visitor: httpx.Client) -> None:
    answer = visitor.get(path)
    assert answer.status_code == 404
    assert answer.json() == answer.json() | {"detail": answer.json()["detail"]}


@pytest.mark.parametrize(
    "path",
    [
        "/gradio_api/component_server",
        "/gradio_api/process_recording",
        "/gradio_api/run/classify",
        "/gradio_api/api/classify",
        "/gradio_api/call/hidden",
        "/gradio_api/call/v2/classify",
        "/gradio_api/vibe-edit",
        "/gradio_api/stream/1",
        "/gradio_api/run-history/connect",
    ],
)
def test_nothing_else_can_be_sent(path: str, visitor: httpx.Client) -> None:
    assert visitor.post(path, json={"data": ["x"]}).status_code in (404, 405)


def test_a_queued_endpoint_can_not_be_run_past_the_queue(
    visitor: httpx.Client, page: SmallPage
) -> None:
    for index in page.blocks.fns:
        body = {"data": ["x"], "fn_index": index, "session_hash": "s"}
        assert visitor.post("/gradio_api/run/predict", json=body).status_code == 404


@pytest.mark.parametrize("method", ["PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "POST"])
def test_the_page_and_its_files_are_only_read(method: str, visitor: httpx.Client) -> None:
    for path in ("/", "/theme.css", f"/gradio_api/file={upload(visitor)}"):
        assert visitor.request(method, path).status_code == 405


def test_no_reply_tells_a_path_of_the_server(visitor: httpx.Client) -> None:
    public = upload(visitor)
    replies = [
        visitor.get(path)
        for path in ("/", "/config", "/gradio_api/info", "/gradio_api/info?all_endpoints=1",
                     "/theme.css", "/metrics", "/health", f"/gradio_api/file={public}x", *SHUT)
    ]  # fmt: skip
    replies += [
        visitor.post("/gradio_api/upload", files={"files": ("a\x00b/../c.mp4", b"1")}),
        visitor.post("/gradio_api/upload", files={"files": ("..", b"1")}),
        visitor.post("/gradio_api/upload", content=b"torn", headers={"content-type": "multipart/form-data"}),
        visitor.post("/gradio_api/call/classify", json={"data": [as_file("/etc/passwd"), "x"]}),
        visitor.post("/gradio_api/call/classify", json={"data": []}),
        visitor.post("/gradio_api/call/classify", content=b"{"),
        visitor.post("/gradio_api/queue/join", json={"data": [as_file(public), "x"], "fn_index": 99}),
    ]  # fmt: skip
    texts = [reply.text for reply in replies]
    texts.append(json.dumps(call(visitor, "classify", as_file(public), "x")))
    texts.append(json.dumps(call(visitor, "classify", 7, "not a file")))
    texts.append(json.dumps(call(visitor, "leak", "/etc/passwd")))
    for secret in secrets_of_this_computer():
        assert [text for text in texts if secret in text] == []


def test_the_page_names_no_other_host(visitor: httpx.Client, url: str) -> None:
    page = visitor.get("/").text
    texts = [page, visitor.get("/theme.css").text, visitor.get("/gradio_api/info").text]
    sheets = re.findall(r'(?:src|href)="([^"]+\.(?:js|css))"', page)
    assert sheets
    texts += [visitor.get(sheet).text for sheet in sheets if sheet.endswith(".css")]
    ours = {url, "http://www.w3.org"}  # a name of SVG's, not an address
    found = {address for text in texts for address in re.findall(r"https?://[\w.:-]+", text)}
    assert found <= ours, found - ours


def test_each_script_of_the_page_bears_the_mark_of_its_policy(visitor: httpx.Client) -> None:
    first, second = visitor.get("/"), visitor.get("/")
    marks = set()
    for page in (first, second):
        policy = page.headers["content-security-policy"]
        (mark,) = re.findall(r"'nonce-([\w-]{20,})'", policy)
        assert page.text.count("<script") == page.text.count(f'<script nonce="{mark}"') > 0
        assert "unsafe-inline" not in re.findall(r"script-src[^;]*", policy)[0]
        marks.add(mark)
    assert len(marks) == 2


def test_texts_become_functions_only_where_the_page_needs_it(visitor: httpx.Client) -> None:
    assert "unsafe-eval" not in visitor.get("/").headers["content-security-policy"]
    with serving(SmallPage(html=True).blocks, DemoSettings(port=0), Watch()) as address:
        policy = httpx.get(address).headers["content-security-policy"]
        assert "script-src 'self' 'unsafe-eval' 'nonce-" in policy
        assert (
            "unsafe-eval" not in httpx.get(f"{address}/health").headers["content-security-policy"]
        )


@pytest.mark.parametrize("path", ["/", "/health", "/theme.css", "/gradio_api/runs", "/config"])
def test_every_answer_has_the_safe_headers(path: str, visitor: httpx.Client) -> None:
    headers = visitor.get(path).headers
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["x-frame-options"] == "SAMEORIGIN"
    assert "frame-ancestors 'self'" in headers["content-security-policy"]
    assert "default-src 'self'" in headers["content-security-policy"]
    assert not any(name.startswith("access-control") for name in headers)
    assert "server" not in headers


def test_a_frame_is_allowed_to_whom_the_operator_names() -> None:
    settings = DemoSettings(port=0, framed_by=("https://huggingface.co",))
    with serving(SmallPage().blocks, settings, Watch()) as address:
        headers = httpx.get(address).headers
    assert "frame-ancestors 'self' https://huggingface.co" in headers["content-security-policy"]
    assert "x-frame-options" not in headers


def test_a_visitor_can_not_tell_others_where_the_page_is() -> None:
    settings = DemoSettings(port=0, without_login=True)
    with (
        serving(SmallPage().blocks, settings, Watch()) as address,
        httpx.Client(base_url=address) as visitor,
    ):
        for header in ("x-forwarded-host", "host", "x-gradio-server"):
            for path in ("/gradio_api/info", "/config", "/", "/theme.css"):
                told = visitor.get(path, headers={header: "evil.example"})
                assert told.status_code == 200
        texts = [visitor.get(path).text for path in ("/gradio_api/info", "/config", "/")]
        assert not any("evil.example" in text for text in texts)
        spoofed = visitor.get("/config", headers={"x-gradio-server": "http://evil.example"})
        assert "evil.example" not in spoofed.text


def test_more_connections_than_are_taken_are_told_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "CONNECTIONS", 5)
    with serving(SmallPage().blocks, DemoSettings(port=0), Watch()) as address:
        host, port = address.removeprefix("http://").split(":")
        held = [socket.create_connection((host, int(port))) for _ in range(8)]
        assert httpx.get(address).status_code == 503
        for connection in held:
            connection.close()
        time.sleep(0.2)
        assert httpx.get(address).status_code == 200


REQUEST = b"GET /health HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n"


@pytest.mark.parametrize("sent", [(), (REQUEST[:20],), (REQUEST, REQUEST[:1])])
def test_who_sends_no_whole_request_locks_nobody_out(
    sent: tuple[bytes, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "CONNECTIONS", 5)
    monkeypatch.setattr(server, "REQUEST_SECONDS", 0.5)
    with (
        serving(SmallPage().blocks, DemoSettings(port=0), Watch()) as address,
        ExitStack() as stack,
    ):
        host, port = address.removeprefix("http://").split(":")
        held = [
            stack.enter_context(socket.create_connection((host, int(port)), timeout=5))
            for _ in range(4)
        ]
        for connection in held:
            for part in sent:
                connection.sendall(part)
                if part == REQUEST:
                    assert b"HTTP/1.1 " in connection.recv(1 << 16)
                    time.sleep(0.05)
        for connection in held:
            while connection.recv(1 << 16):  # until the server closes it
                pass
        assert httpx.get(f"{address}/health").status_code == 200


def test_an_answer_that_takes_its_time_is_no_silence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "REQUEST_SECONDS", 0.3)
    page = SmallPage(seconds=1.0)
    with (
        serving(page.blocks, DemoSettings(port=0), Watch()) as address,
        httpx.Client(base_url=address, timeout=30) as visitor,
    ):
        for _ in range(2):  # the second on the same connection
            kind, _answer = call(visitor, "classify", None, "x")
            assert kind == "complete"
            time.sleep(0.6)  # an open connection between two requests


def test_what_gradio_would_remember_for_ever_is_forgotten(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(server, "_SWEEP_SECONDS", 0.1)
    page = SmallPage()
    with (
        serving(page.blocks, DemoSettings(port=0), Watch()) as address,
        httpx.Client(base_url=address, timeout=30) as visitor,
    ):
        queue = page.blocks._queue
        queue.pending_messages_per_session.max_size = 2
        for number in range(5):
            call(visitor, "classify", None, str(number))
            start(visitor, "classify", None, "never asked for")
            form = {"files": ("a.mp4", b"1")}
            visitor.post("/gradio_api/upload", params={"upload_id": f"id{number}"}, files=form)
        time.sleep(1)
        assert len(queue.pending_event_ids_session) <= 2
        assert len(queue.event_analytics) <= 1
        assert file_upload_statuses._statuses == {}


# Files -------------------------------------------------------------------------------------------


@pytest.fixture
def canary(tmp_path: Path) -> Path:
    file = tmp_path / "canary.txt"
    file.write_text("the canary sings")
    return file


@pytest.fixture
def link(canary: Path) -> Iterator[str]:
    """A link in the upload folder that leads out of it, and its public name."""
    place = settle() / "0123456789abcdef" / "link.mp4"
    place.parent.mkdir()
    place.symlink_to(canary)
    yield "uploads/0123456789abcdef/link.mp4"
    place.unlink()
    place.parent.rmdir()


def spellings(target: Path, public: str) -> Iterator[str]:
    """Names that would lead to ``target`` if anything took them apart carelessly."""
    whole = str(target)
    up = "../" * 12 + whole.lstrip("/")
    yield from (
        whole,
        whole[1:],
        f"/{whole}",
        f"file://{whole}",
        up,
        f"uploads/{up}",
        f"uploads{whole}",
    )
    yield from (
        f"uploads/{whole}",
        f"{public}/../../{up}",
        f"{public}\x00{whole}",
        f"{whole}\x00.mp4",
    )
    yield from (
        up.replace("/", "\\"),
        f"uploads\\..\\{up}",
        f"./uploads/../{up}",
        f"uploads/./{public[8:]}/.",
    )
    yield from (
        f"uploads//{public[8:]}",
        f"UPLOADS/{public[8:]}",
        f"uploads/{settle().name}",
        "uploads/",
        "uploads",
    )
    yield from (
        "/proc/self/environ",
        "/dev/stdin",
        "~/.ssh/id_rsa",
        "C:\\boot.ini",
        "\\\\host\\share\\x",
        "",
    )
    yield from (
        str(settle() / public[8:]),
        f"{public}/",
        f"{public}?",
        f"{public}%00",
        "http:" + whole,
    )


ROUTES_OF_FILES = (
    "/gradio_api/file=", "/gradio_api/file/", "/file=", "/file/", "/static/", "/assets/", "/svelte/",
    "/theme", "/gradio_api/stream/", "/gradio_api/proxy=", "/gradio_api/custom_component/", "/",
)  # fmt: skip


def raw_get(url: str, target: str) -> tuple[int, bytes]:
    """Ask for ``target`` as it stands: programs like httpx tidy a path up before they send it."""
    host, port = url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=10) as connection:
        request = f"GET {target} HTTP/1.1\r\nHost: {host}:{port}\r\nConnection: close\r\n\r\n"
        connection.sendall(request.encode("latin-1"))
        answer = b""
        while part := connection.recv(1 << 16):
            answer += part
    return int(answer.split(b" ", 2)[1]), answer


def encodings(name: str) -> Iterator[str]:
    """A path in the spellings that a network takes."""
    once = quote(name, safe="/:")
    yield once
    yield quote(name, safe="")
    yield quote(quote(name, safe=""), safe="")
    yield once.replace(".", "%2e")
    yield once.replace("/", "%2f").replace("..", "%2e%2e")
    yield once.replace("..", "%c0%ae%c0%ae").replace("..", "..;")


@pytest.mark.parametrize("route", ROUTES_OF_FILES)
def test_no_spelling_leads_out_of_the_folder(
    route: str, url: str, visitor: httpx.Client, canary: Path, link: str
) -> None:
    public = upload(visitor, b"mine")
    for name in (*spellings(canary, public), link):
        for spelled in encodings(name):
            status, answer = raw_get(url, route + spelled)
            assert b"the canary sings" not in answer, spelled
            assert b"SHELL=" not in answer
            if status == 200:  # nothing, or the page itself
                assert (route, spelled) == ("/", "")


def test_files_of_gradio_can_not_be_read_either(url: str) -> None:
    package = Path(gradio.__file__)
    for name in (package, package.parent / "templates" / "frontend" / "index.html"):
        for route in ("/static/", "/assets/", "/svelte/", "/gradio_api/file="):
            for up in ("../" * depth for depth in range(1, 6)):
                for spelled in encodings(up + name.name):
                    status, _ = raw_get(url, route + spelled)
                    assert status in (400, 404), spelled


def test_a_message_can_name_uploaded_files_only(
    visitor: httpx.Client, page: SmallPage, canary: Path, link: str
) -> None:
    public = upload(visitor)
    before = list(page.seen)
    for name in (*spellings(canary, public), link):
        for message in (
            as_file(name),
            {"path": name},
            as_file(name, url=name),
            {"video": as_file(name)},
            [as_file(name)],
        ):
            for path, body in (
                ("/gradio_api/call/classify", {"data": [message, "x"]}),
                ("/gradio_api/queue/join", {"data": [message], "fn_index": 1, "session_hash": "s"}),
                ("/gradio_api/queue/join", {"data": [], "event_data": message, "fn_index": 0, "session_hash": "s"}),
                ("/gradio_api/run/predict", {"data": [message, "x"], "fn_index": 0}),
            ):  # fmt: skip
                answer = visitor.post(path, json=body)
                assert answer.status_code == 400, (name, path)
                assert answer.json() == {"detail": "a file must be uploaded first"}
    assert page.seen == before


ADDRESSES = (
    "http://127.0.0.1:{port}/x.mp4", "http://localhost:{port}/x.mp4", "http://[::1]:{port}/x.mp4",
    "http://127.1:{port}/", "http://2130706433:{port}/", "http://0x7f000001:{port}/", "http://0:{port}/",
    "http://[::ffff:127.0.0.1]:{port}/", "http://0177.0.0.1:{port}/", "HTTP://127.0.0.1:{port}/",
    "//127.0.0.1:{port}/", "http:127.0.0.1:{port}", "http://a@127.0.0.1:{port}/", "ftp://127.0.0.1:{port}/",
    "http://169.254.169.254/latest/meta-data/", "http://10.0.0.1/", "http://example.com/x.mp4",
)  # fmt: skip


@pytest.mark.parametrize("address", ADDRESSES)
def test_an_address_in_place_of_a_file_is_not_asked(
    address: str, visitor: httpx.Client, page: SmallPage, asked: list[Any]
) -> None:
    public = upload(visitor)
    before = list(page.seen)
    with listening() as listener:
        named = address.format(port=listener.port)
        asked.clear()
        for message in (
            as_file(named),
            {"path": named},
            {"path": named, "url": named},
            [as_file(named)],
        ):
            answer = visitor.post("/gradio_api/call/classify", json={"data": [message, "x"]})
            assert answer.status_code == 400
            body = {"data": [message], "fn_index": 1, "session_hash": "s"}
            assert visitor.post("/gradio_api/queue/join", json=body).status_code == 400
        # an address beside a sound path is not looked at
        for more in ({"url": named}, {"url": named, "is_stream": True}, {"orig_name": named}):
            kind, _ = call(visitor, "classify", as_file(public, **more), "x")
            assert kind == "complete"
        # an address alone is no file
        for alone in ({"url": named, "meta": demo_visitor.FILE_META}, named):
            kind, _ = call(visitor, "classify", alone, "x")
            assert kind == "error"
        for route in ("/gradio_api/file=", "/gradio_api/proxy=", "/gradio_api/file/", "/file="):
            assert visitor.get(route + named).status_code == 404
        time.sleep(0.05)
        assert listener.connections == 0
    assert asked == []
    assert all(Path(seen).is_relative_to(settle()) for seen in page.seen[len(before) :])


@pytest.fixture(scope="module")
def asked_for_ever() -> list[Any]:
    """Every name that is looked up and every connection of this process, but to our servers."""
    noted: list[Any] = []

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if (event == "socket.getaddrinfo" and arguments[0] not in (None, "127.0.0.1")) or (
            event == "socket.connect" and arguments[1][0] != "127.0.0.1"
        ):
            noted.append(arguments)

    sys.addaudithook(hook)
    return noted


@pytest.fixture
def asked(asked_for_ever: list[Any]) -> list[Any]:
    asked_for_ever.clear()
    return asked_for_ever


@pytest.mark.parametrize(
    "name", ["/etc/passwd", "/proc/self/environ", "/dev/zero", "http://127.0.0.1:9/x"]
)
def test_even_a_handler_with_a_mistake_gives_no_file_out(name: str, visitor: httpx.Client) -> None:
    kind, answer = call(visitor, "leak", name)
    assert kind == "error"
    assert "passwd" not in json.dumps(answer)


@pytest.mark.parametrize("ending", ["html", "svg", "xml", "js", "txt", "pdf", "mp4.html", ""])
def test_what_a_browser_could_run_it_may_only_save(ending: str, visitor: httpx.Client) -> None:
    public = upload(visitor, b"<script>alert(1)</script>", f"x.{ending}")
    answer = visitor.get(f"/gradio_api/file={public}")
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "application/octet-stream"
    assert answer.headers["content-disposition"].startswith("attachment")


def test_odd_names_of_files_stay_in_the_folder(visitor: httpx.Client) -> None:
    for name in (
        "../../x.mp4",
        "/etc/x.mp4",
        "a\\..\\x.mp4",
        "x\n.mp4",
        "é ü.mp4",
        "a" * 400 + ".mp4",
        "%2e%2e%2fx",
    ):
        public = upload(visitor, b"odd", name)
        assert visitor.get(f"/gradio_api/file={quote(public)}").content == b"odd"
