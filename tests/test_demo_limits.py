"""What visitors may send and keep: bounded whatever they say of it, and gone afterwards."""

import asyncio
import json
import logging
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import httpx
import pytest

from lora_deploy.demo import door, server
from lora_deploy.demo.server import serving
from lora_deploy.demo.settings import DemoSettings
from lora_deploy.demo.uploads import settle
from lora_deploy.web.bodies import Body
from lora_deploy.web.watch import Watch
from tests.demo_visitor import as_file, call, finish, start, upload, visitors_files
from tests.small_page import SmallPage
from tests.test_demo_watch import numbers

MOST = 200_000


@contextmanager
def visiting(
    page: SmallPage | None = None, watch: Watch | None = None, **settings: Any
) -> Iterator[httpx.Client]:
    page = page or SmallPage()
    chosen = DemoSettings(port=0, **{"max_upload_bytes": MOST, **settings})
    with (
        serving(page.blocks, chosen, watch or Watch()) as url,
        httpx.Client(base_url=url, timeout=30) as visitor,
    ):
        yield visitor


@pytest.fixture(scope="module")
def shared() -> Iterator[httpx.Client]:
    with visiting() as visitor:
        yield visitor


def form(content: bytes, name: str = "clip.mp4") -> tuple[bytes, dict[str, str]]:
    """An upload as it goes over the wire."""
    head = f'--edge\r\ncontent-disposition: form-data; name="files"; filename="{name}"\r\n\r\n'
    return head.encode() + content + b"\r\n--edge--\r\n", {
        "content-type": "multipart/form-data; boundary=edge"
    }


def in_parts(body: bytes, size: int = 10_000) -> Iterator[bytes]:
    """Makes httpx send it without saying how long it is."""
    for begin in range(0, len(body), size):
        yield body[begin : begin + size]


def told_too_large(answer: httpx.Response) -> bool:
    return answer.status_code == 413 and "at most 200 kB can be uploaded" in answer.json()["detail"]


def test_a_file_may_be_as_large_as_was_said(shared: httpx.Client) -> None:
    kind, (answer, _) = call(shared, "classify", as_file(upload(shared, b"x" * MOST)), "x")
    assert (kind, answer["size"]) == ("complete", MOST)
    body, headers = form(b"x" * MOST)
    answer = shared.post("/gradio_api/upload", content=in_parts(body), headers=headers)
    assert answer.status_code == 200


def test_a_larger_one_is_refused(shared: httpx.Client) -> None:
    before = set(visitors_files(settle()))
    for size in (MOST + 1, MOST * 2, MOST * 30):
        body, headers = form(b"y" * size)
        for content in (body, in_parts(body)):  # with its length, and without
            answer = shared.post("/gradio_api/upload", content=content, headers=headers)
            assert answer.status_code == 413
        assert set(visitors_files(settle())) == before


def test_a_refusal_says_how_much_is_allowed(shared: httpx.Client) -> None:
    body, headers = form(b"y" * MOST * 2)
    assert told_too_large(shared.post("/gradio_api/upload", content=body, headers=headers))
    assert told_too_large(
        shared.post("/gradio_api/upload", content=in_parts(body), headers=headers)
    )


def test_a_page_tells_its_browser_the_limit(shared: httpx.Client) -> None:
    assert shared.get("/config").json()["max_file_size"] == MOST


def test_many_files_count_together(shared: httpx.Client) -> None:
    before = set(visitors_files(settle()))
    files = [("files", (f"{number}.mp4", b"z" * (MOST // 2))) for number in range(4)]
    assert shared.post("/gradio_api/upload", files=files).status_code == 413
    assert set(visitors_files(settle())) == before


def send_raw(visitor: httpx.Client, headers: dict[str, str], body: bytes) -> socket.socket:
    host, port = visitor.base_url.host, visitor.base_url.port
    assert port is not None
    connection = socket.create_connection((host, port), timeout=20)
    head = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    start_line = f"POST /gradio_api/upload HTTP/1.1\r\nhost: {host}:{port}\r\n{head}\r\n"
    connection.sendall(start_line.encode() + body)
    return connection


def status_of(connection: socket.socket) -> int:
    return int(connection.recv(1 << 16).split(b" ", 2)[1])


def test_a_length_that_is_a_lie_helps_nobody(
    shared: httpx.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(door, "IDLE_SECONDS", 0.4)
    before = set(visitors_files(settle()))
    body, headers = form(b"x" * MOST * 3)
    # less was said than is sent: the rest is no part of it
    with send_raw(shared, {**headers, "content-length": "1000"}, body) as connection:
        assert status_of(connection) in (200, 400, 413)
    # more was said than ever comes
    with send_raw(shared, {**headers, "content-length": str(MOST)}, body[:1000]) as connection:
        assert status_of(connection) == 408
    # far more than is allowed was said: the answer comes before the body, once it stops coming
    monkeypatch.setattr(door, "_DRAIN_SECONDS", 0.2)
    with send_raw(shared, {**headers, "content-length": "9" * 19}, body[:1000]) as connection:
        assert status_of(connection) == 413
    for odd in ("-1", "1e9", "abc", "1, 2"):
        with send_raw(shared, {**headers, "content-length": odd}, body[:1000]) as connection:
            assert status_of(connection) == 400
    assert set(visitors_files(settle())) == before


def test_an_upload_that_trickles_gives_its_room_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(door, "IDLE_SECONDS", 1.0)
    body, headers = form(b"x" * MOST)
    with (
        visiting(max_folder_bytes=MOST + 1_000) as visitor,
        send_raw(visitor, {**headers, "content-length": str(MOST)}, body[:200]) as connection,
    ):
        connection.settimeout(0.1)  # it goes on sending, a byte at a time: never idle, never done
        answer = b""
        begun = time.monotonic()
        while not answer and time.monotonic() - begun < 10:
            connection.sendall(b"x")
            with suppress(TimeoutError):
                answer = connection.recv(1 << 16)
        assert answer.split(b" ", 2)[1] == b"408"
        answer_of_next = visitor.post("/gradio_api/upload", content=body, headers=headers)
        assert answer_of_next.status_code == 200


def test_an_upload_that_arrives_fast_enough_may_take_long() -> None:
    async def steady() -> dict[str, Any]:
        await asyncio.sleep(0.02)
        return {"type": "http.request", "body": b"x" * 1_000, "more_body": True}

    async def waited(least_bytes_per_second: float) -> bool:
        body = Body(steady)
        body.limit(10**9, 0.2, least_bytes_per_second=least_bytes_per_second)
        for _ in range(30):  # 0.6 s and more
            await body()
        return not body.cut

    assert asyncio.run(waited(100.0))
    assert not asyncio.run(waited(1e6))


def test_who_leaves_in_the_middle_leaves_nothing(shared: httpx.Client) -> None:
    before = set(visitors_files(settle()))
    body, headers = form(b"x" * MOST)
    with send_raw(shared, {**headers, "content-length": str(len(body))}, body[: MOST // 2]):
        deadline = time.monotonic() + 5
        while set(visitors_files(settle())) == before and time.monotonic() < deadline:
            time.sleep(0.01)
        assert set(visitors_files(settle())) != before  # it is arriving
    deadline = time.monotonic() + 5
    while set(visitors_files(settle())) != before and time.monotonic() < deadline:
        time.sleep(0.01)
    assert set(visitors_files(settle())) == before


def test_the_folder_is_bounded_and_has_room_again() -> None:
    with visiting(max_folder_bytes=MOST, keep_files_seconds=1) as visitor:
        upload(visitor, b"x" * (MOST // 2))
        body, headers = form(b"y" * MOST)
        answer = visitor.post("/gradio_api/upload", content=body, headers=headers)
        assert answer.status_code == 503
        assert answer.json()["detail"].startswith("many files are here already")
        answer = visitor.post("/gradio_api/upload", content=in_parts(body), headers=headers)
        assert answer.status_code == 503


def test_uploads_are_deleted_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "_SWEEP_SECONDS", 0.1)
    page, watch = SmallPage(), Watch()
    with visiting(page, watch, keep_files_seconds=1) as visitor:
        public = upload(visitor)
        call(visitor, "classify", as_file(public), "x")
        remembered = [names for names in page.blocks.temp_file_sets if names]
        assert remembered
        assert visitor.get(f"/gradio_api/file={public}").status_code == 200
        deadline = time.monotonic() + 10
        while visitor.get(f"/gradio_api/file={public}").status_code != 404:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        time.sleep(0.3)
        assert not any(page.blocks.temp_file_sets)
        assert numbers(watch)["lora_deploy_deleted_files_total",] >= 1
        kind, _ = call(visitor, "classify", None, "still there")
        assert kind == "complete"
        body = {"data": [as_file(public), "x"]}
        assert visitor.post("/gradio_api/call/classify", json=body).status_code == 400


def test_the_end_of_the_server_deletes_all() -> None:
    before = visitors_files(settle())
    with visiting() as visitor:
        upload(visitor, b"a clip of its own")
        assert visitors_files(settle()) != before
    assert visitors_files(settle()) == before


@pytest.mark.parametrize(
    "path", ["/gradio_api/call/classify", "/gradio_api/queue/join", "/gradio_api/cancel"]
)
def test_a_message_is_bounded(
    path: str, shared: httpx.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    large = json.dumps({"data": ["x" * door.MOST_JSON_BYTES]}).encode()
    for content in (large, in_parts(large)):
        answer = shared.post(path, content=content, headers={"content-type": "application/json"})
        assert answer.status_code == 413
    for torn in (b"", b"{", b"[" * 100_000, b"\xff", b'{"data": ' + b'{"a":' * 50_000):
        assert shared.post(path, content=torn).status_code == 400


def test_a_message_that_does_not_arrive_is_given_up(
    shared: httpx.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(door, "_JSON_SECONDS", 0.2)
    host, port = shared.base_url.host, shared.base_url.port
    with socket.create_connection((host, port or 0), timeout=10) as connection:
        connection.sendall(
            b"POST /gradio_api/call/classify HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-length: 50\r\n\r\n{"
        )
        monkeypatch.setattr(door, "_DRAIN_SECONDS", 0.2)
        assert status_of(connection) == 408


def test_a_message_that_trickles_is_given_up() -> None:
    async def trickle() -> dict[str, Any]:
        await asyncio.sleep(0.02)
        return {"type": "http.request", "body": b"x", "more_body": True}

    body = Body(trickle)
    begun = time.monotonic()
    assert asyncio.run(body.whole(1_000_000, 0.2)) is None
    assert body.cut == "slow"
    assert time.monotonic() - begun < 5


def test_who_sends_all_before_reading_is_told_what_was_wrong(shared: httpx.Client) -> None:
    body, headers = form(b"x" * MOST * 2)
    headers |= {"content-length": str(len(body)), "connection": "close"}
    host, port = shared.base_url.host, shared.base_url.port or 0
    with socket.create_connection((host, port), timeout=20) as connection:
        head = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        line = f"POST /gradio_api/upload HTTP/1.1\r\nhost: {host}:{port}\r\n{head}\r\n"
        connection.sendall(line.encode())
        for part in in_parts(body):
            connection.sendall(part)
            time.sleep(0.005)  # else it may all have arrived before anybody looks
        assert status_of(connection) == 413


def test_so_many_work_at_once_and_so_many_wait() -> None:
    page, watch = SmallPage(), Watch()
    with visiting(page, watch, waiting=3, at_once=2) as visitor:
        events = []
        answers = []
        for number in range(12):
            answer = visitor.post("/gradio_api/call/timeline", json={"data": [str(number)]})
            answers.append(answer.status_code)
            if answer.status_code == 200:
                events.append(answer.json()["event_id"])
            else:
                assert "Queue is full" in answer.json()["detail"]
            time.sleep(0.05)  # for the queue to hand it on
        assert answers == [200] * 5 + [503] * 7
        counted = numbers(watch)
        assert counted["lora_deploy_rejected_total", "busy"] == 7
        assert counted["lora_deploy_queue_length",] == 3
        page.gate.set()
        for number, event in enumerate(events):
            assert finish(visitor, "timeline", event) == ("complete", [{"word": str(number)}])


def test_one_line_is_for_all_endpoints_together() -> None:
    page = SmallPage(seconds=0.2)
    page.gate.set()
    with visiting(page, waiting=20, at_once=2) as visitor:
        events = [start(visitor, "classify", None, "x") for _ in range(6)]
        for event in events:
            finish(visitor, "classify", event)
    assert page.most_at_once == 2
    limits = {fn.concurrency_id for fn in page.blocks.fns.values()}
    assert len(limits) == 1


def test_the_log_tells_no_names_and_no_contents(
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # As for whoever uses the library: a command that ran in this process has set up a log of its own.
    monkeypatch.setattr(logging.getLogger("lora_deploy"), "handlers", [])
    monkeypatch.setattr(logging.getLogger("lora_deploy"), "propagate", True)
    with caplog.at_level(logging.INFO, "lora_deploy"), visiting() as visitor:
        public = upload(visitor, b"c0ntent", "holiday of ada.mp4")
        assert call(visitor, "classify", "holiday", "what is no file") == ("error", {"error": None})
        assert call(visitor, "leak", "/etc/passwd")[0] == "error"
        call(visitor, "classify", as_file(public), "my secret words")
        visitor.get("/gradio_api/file=uploads/holiday.mp4", headers={"user-agent": "netscape"})
        visitor.post("/gradio_api/call/classify", json={"data": [as_file("/etc/passwd"), "words"]})
        visitor.get("/no/such/place?with=words")
    ours = [
        record.getMessage() for record in caplog.records if record.name.startswith("lora_deploy")
    ]
    assert ours
    events = [json.loads(line) for line in ours]
    assert {event["event"] for event in events} == {"rejected", "fault"}
    reasons = [event["reason"] for event in events if event["event"] == "rejected"]
    assert reasons == ["not_found", "foreign_file", "not_found"]
    faults = [event["error"] for event in events if event["event"] == "fault"]
    assert faults == ["ValidationError", "InvalidPathError"]
    assert "".join(capfd.readouterr()) == ""  # nor is anything printed
    for word in ("holiday", "words", "passwd", "127.0.0.1", "netscape", "such", str(settle())):
        assert word not in "\n".join(ours)
