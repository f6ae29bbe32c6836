"""How much the service takes, from whom, and how it says no: cleanly, soon, and with the time to try again."""

import os
import resource
import signal
import socket
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest

from lora_deploy.cli import run
from lora_deploy.serve import shapes
from tests.serving import Asking, Service, ask, is_ready, serving

TOKEN = "a token of sixteen signs or more".replace(" ", "-")
MOST = 1_000_000


@pytest.fixture(scope="module")
def clip(media: Path) -> bytes:
    return min((media / "clips" / "asl").glob("*.mkv")).read_bytes()


@pytest.fixture(scope="module")
def service() -> Iterator[Service]:
    changes = (
        "lora_deploy.serve.receiving.IDLE_SECONDS=0.6;lora_deploy.serve.launch.REQUEST_SECONDS=0.6"
    )
    with serving("--max-upload-mb", "1", changes=changes) as running:
        yield running


def refused(answer: httpx.Response, status: int, kind: str) -> None:
    """It is that refusal, in our shape."""
    assert (answer.status_code, answer.json()["error"]["kind"]) == (status, kind), answer.text
    if "model" not in answer.json():
        shapes.Refusal.model_validate(answer.json())
    if status == 503:
        assert int(answer.headers["retry-after"]) >= 1


# Size and speed ----------------------------------------------------------------------------------


def test_what_is_too_large_is_refused_whatever_was_told(service: Service) -> None:
    address = f"{service.url}/v1/classify"
    large = bytes(MOST + 1)
    headers = {"content-type": "video/mp4"}
    refused(httpx.post(address, content=large, headers=headers), 413, "too_large")
    refused(httpx.post(address, content=iter([large]), headers=headers), 413, "too_large")
    refused(httpx.post(address, files={"file": large}), 413, "too_large")
    refused(httpx.post(address, files={"file": bytes(3 * MOST)}), 413, "too_large")
    answer = httpx.post(address, content=bytes(MOST), headers=headers)
    assert (answer.status_code, answer.json()["error"]["kind"]) == (422, "unreadable")
    service.until(lambda: service.numbers()["lora_deploy_upload_bytes_under_way",] == 0)


def test_who_sends_all_before_listening_is_told_why(service: Service) -> None:
    turned = ("lora_deploy_rejected_total", "content_type")
    before = service.numbers().get(turned, 0)
    with connected(service) as connection:
        connection.sendall(
            b"POST /v1/classify HTTP/1.1\r\nhost: localhost\r\ncontent-type: image/png\r\n"
            b"connection: close\r\n"
            b"content-length: 200000\r\n\r\n"
        )
        service.until(lambda: service.numbers().get(turned, 0) > before)
        for _ in range(20):
            connection.sendall(bytes(10_000))
        assert heard(connection).startswith(b"HTTP/1.1 415 ")


def test_a_length_that_is_too_large_is_refused_before_anything_is_sent(service: Service) -> None:
    told = talk(
        service,
        b"POST /v1/classify HTTP/1.1\r\nhost: localhost\r\ncontent-type: video/mp4\r\n"
        b"expect: 100-continue\r\ncontent-length: 99999999\r\n\r\n",
    )
    assert told.startswith(b"HTTP/1.1 413 ")
    assert b"100 Continue" not in told


def test_a_body_that_does_not_arrive_is_given_up(service: Service) -> None:
    begun = time.monotonic()
    told = talk(
        service,
        b"POST /v1/classify HTTP/1.1\r\nhost: localhost\r\ncontent-type: video/mp4\r\n"
        b"content-length: 1000\r\n\r\nabc",
    )
    assert told.startswith(b"HTTP/1.1 408 ")
    assert b'"slow"' in told
    assert time.monotonic() - begun < 10


def test_a_body_that_trickles_is_given_up(service: Service) -> None:
    def trickle() -> Iterator[bytes]:
        for _ in range(200):
            yield b"x" * 100
            time.sleep(0.05)

    slow = ("lora_deploy_rejected_total", "slow")
    before, begun = service.numbers().get(slow, 0), time.monotonic()
    with suppress(httpx.WriteError):  # some programs see the end of the connection first
        answer = httpx.post(
            f"{service.url}/v1/classify",
            content=trickle(),
            headers={"content-type": "video/mp4"},
            timeout=30,
        )
        refused(answer, 408, "slow")
    assert time.monotonic() - begun < 8
    assert service.numbers()[slow] == before + 1


def test_a_connection_that_asks_nothing_is_closed(service: Service) -> None:
    for said in (b"", b"GET /healthz HTTP/1.1\r\nhost: loc"):
        begun = time.monotonic()
        assert talk(service, said) == b""
        assert time.monotonic() - begun < 8


def test_a_connection_that_was_answered_may_ask_again_later(service: Service) -> None:
    with connected(service) as connection:
        for _ in range(2):
            connection.sendall(b"GET /healthz HTTP/1.1\r\nhost: localhost\r\n\r\n")
            assert heard(connection).startswith(b"HTTP/1.1 200 ")
            time.sleep(1.5)  # longer than for a first request


def test_who_reads_no_answer_is_cut_off() -> None:
    with serving(changes="lora_deploy.web.server.UNREAD_SECONDS=0.5") as service:
        connection, deadline = connected(service), time.monotonic() + 20
        with connection, pytest.raises(ConnectionError):
            connection.settimeout(0.5)
            while time.monotonic() < deadline:
                with suppress(TimeoutError):
                    connection.sendall(b"GET /docs HTTP/1.1\r\nhost: localhost\r\n\r\n" * 100)
        assert is_ready(service.url)


def test_an_answer_may_take_longer_than_an_upload_may_pause(service: Service, clip: bytes) -> None:
    gate = service.shut("model")
    asked = Asking(service.url, clip)
    service.until(lambda: service.numbers()["lora_deploy_queue_length",] == 1)
    time.sleep(1.5)
    gate.unlink()
    assert asked.answer().status_code == 200


def test_headers_without_end_are_refused(service: Service) -> None:
    told = talk(service, b"GET /healthz HTTP/1.1\r\n" + b"x: " + b"y" * 200_000 + b"\r\n\r\n")
    assert told == b"" or told.startswith(b"HTTP/1.1 400 ")
    assert is_ready(service.url)


# Room --------------------------------------------------------------------------------------------


def test_a_full_queue_is_told_at_once_and_before_the_upload(clip: bytes) -> None:
    with serving("--workers", "1", "--queue", "1") as service:
        gate = service.shut("model")
        late = connected(service)  # let in while there is room, and whole when there is none
        late.sendall(
            b"POST /v1/classify HTTP/1.1\r\nhost: localhost\r\ncontent-type: video/mp4\r\n"
            b"content-length: 4\r\n\r\nabc"
        )
        service.until(lambda: service.numbers()["lora_deploy_upload_bytes_under_way",] == 4)
        inside = [Asking(service.url, clip) for _ in range(3)]  # a decoder, the model, the queue
        service.until(lambda: service.numbers()["lora_deploy_queue_length",] == 3)
        begun = time.monotonic()
        refused(ask(service.url, clip), 503, "busy")
        assert time.monotonic() - begun < 5
        late.sendall(b"d")
        assert heard(late).startswith(b"HTTP/1.1 503 ")
        late.close()
        told = talk(
            service,
            b"POST /v1/classify HTTP/1.1\r\nhost: localhost\r\ncontent-type: video/mp4\r\n"
            b"expect: 100-continue\r\ncontent-length: 9999\r\n\r\n",
        )
        assert told.startswith(b"HTTP/1.1 503 ")
        assert b"100 Continue" not in told
        gate.unlink()
        assert [one.answer().status_code for one in inside] == [200] * 3
        assert ask(service.url, clip).status_code == 200


def test_fifty_at_once_get_an_answer_or_a_clean_refusal(clip: bytes) -> None:
    with serving("--workers", "2", "--queue", "8") as service, ThreadPoolExecutor(50) as crowd:
        right = ask(service.url, clip).json()
        asked = [crowd.submit(ask, service.url, clip, patience=120) for _ in range(150)]
        outcomes: Counter[int] = Counter()
        for one in asked:
            answer = one.result()
            outcomes[answer.status_code] += 1
            if answer.status_code == 200:
                assert answer.json() == right
            else:
                refused(answer, 503, "busy")
        assert outcomes[200] >= 10, outcomes
        assert sum(outcomes.values()) == 150
        assert service.numbers()["lora_deploy_queue_length",] == 0
        assert len(service.workers()) <= 2


def test_there_is_room_for_so_many_large_uploads(clip: bytes) -> None:
    with serving("--max-upload-mb", "1") as service:
        held = []
        for _ in range(8):  # of unknown length, so room for the largest is set apart
            connection = connected(service)
            connection.sendall(
                b"POST /v1/classify HTTP/1.1\r\nhost: localhost\r\ncontent-type: video/mp4\r\n"
                b"transfer-encoding: chunked\r\n\r\n3\r\nabc\r\n"
            )
            held.append(connection)
        service.until(lambda: service.numbers()["lora_deploy_upload_bytes_under_way",] >= 8 * MOST)
        refused(httpx.post(f"{service.url}/v1/classify", content=iter([clip]),
                           headers={"content-type": "video/mp4"}), 503, "no_room")  # fmt: skip
        for connection in held:
            connection.close()
        service.until(lambda: service.numbers()["lora_deploy_upload_bytes_under_way",] == 0)
        assert ask(service.url, clip).status_code == 200


def test_who_leaves_gives_their_place_away(clip: bytes) -> None:
    with serving("--workers", "1", "--queue", "0") as service:
        gate = service.shut("decoders")
        for _ in range(2):
            with pytest.raises(httpx.TimeoutException):
                ask(service.url, clip, patience=0.5)
        service.until(lambda: service.numbers()["lora_deploy_queue_length",] == 0)
        numbers = service.numbers()
        assert numbers["lora_deploy_requests_total", "classify", "cancelled"] == 2
        gate.unlink()
        assert ask(service.url, clip).status_code == 200


def test_a_clip_that_waits_too_long_for_a_decoder_may_try_again(clip: bytes) -> None:
    with serving("--workers", "1", "--timeout", "1") as service:
        gate = service.shut("decoders")
        first, second = Asking(service.url, clip), Asking(service.url, clip)
        service.until(lambda: service.numbers().get(("lora_deploy_rejected_total", "busy"), 0) == 1)
        gate.unlink()
        statuses = sorted(one.answer().status_code for one in (first, second))
        assert statuses == [200, 503]


def test_a_decoder_that_hangs_is_cut_off(media: Path, clip: bytes) -> None:
    with serving("--workers", "1", "--timeout", "1") as service:
        (before,) = service.workers()
        os.kill(before, signal.SIGSTOP)
        answer = ask(service.url, clip)
        assert (answer.status_code, answer.json()["error"]["kind"]) == (422, "timeout")
        shapes.ErrorRow.model_validate(answer.json())
        assert ask(service.url, clip).status_code == 200
        assert service.workers() != [before]


@pytest.mark.parametrize(
    "requests", [300, pytest.param(20_000, marks=pytest.mark.soak)], ids=["short", "long"]
)
def test_memory_and_files_do_not_grow(requests: int, clip: bytes, media: Path) -> None:
    bad = (media / "malformed").glob("*.mp4")
    contents = [clip, *(file.read_bytes() for file in sorted(bad)[:3])]
    with serving("--workers", "2") as service, ThreadPoolExecutor(4) as several:

        def ask_for(number: int) -> int:
            return ask(service.url, contents[number % len(contents)]).status_code

        assert set(several.map(ask_for, range(100))) <= {200, 422, 503}
        before = service.numbers()
        assert set(several.map(ask_for, range(requests))) <= {200, 422, 503}
        after = service.numbers()
        grown = after["process_resident_memory_bytes",] - before["process_resident_memory_bytes",]
        assert grown < 24_000_000
        assert after["process_open_fds",] - before["process_open_fds",] <= 8  # kept connections


def test_who_asks_on_one_connection_too_many_may_try_again(clip: bytes) -> None:
    with serving(changes="lora_deploy.serve.launch.CONNECTIONS=3") as service:
        held = [connected(service) for _ in range(3)]
        answer = ask(service.url, clip)
        refused(answer, 503, "busy")
        assert answer.headers["connection"] == "close"
        assert httpx.get(f"{service.url}/healthz").status_code == 200
        assert service.numbers()["lora_deploy_rejected_total", "busy"] == 1
        held.pop().close()
        service.until(lambda: ask(service.url, clip).status_code == 200)
        for connection in held:
            connection.close()


def test_open_files_last_for_as_many_uploads_as_there_may_be_connections(clip: bytes) -> None:
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    with serving("--workers", "1", open_files=(200, hard)) as service:
        held = [begun_upload(service) for _ in range(120)]  # with two open files each
        service.until(lambda: service.numbers()["lora_deploy_upload_bytes_under_way",] == 120_000)
        assert ask(service.url, clip).status_code == 200
        for connection in held:
            connection.close()


def test_where_few_files_may_be_open_there_are_fewer_connections(clip: bytes) -> None:
    with serving("--workers", "1", open_files=(190, 190)) as service:
        under_way = "lora_deploy_upload_bytes_under_way"
        held = [begun_upload(service) for _ in range(22)]
        service.until(lambda: service.numbers()[under_way,] == 22_000)
        refused(ask(service.url, clip), 503, "busy")
        held += [begun_upload(service) for _ in range(100)]
        refused(ask(service.url, clip), 503, "busy")
        assert service.numbers()[under_way,] == 22_000  # of these, none gave way
        for connection in held:
            connection.close()
        service.until(lambda: ask(service.url, clip).status_code == 200)
        log = service.log.read_text()
        assert "fault" not in log
        assert "system resource" not in log


# Who may ask -------------------------------------------------------------------------------------


def test_a_token_is_needed_where_one_is_set(tmp_path: Path, clip: bytes) -> None:
    file = tmp_path / "tokens"
    file.write_text(f"{TOKEN}\n\n{TOKEN}-the-next-one\n")
    with serving("--token-file", str(file), "--host", "0.0.0.0") as service:
        for path in ("/v1/model", "/openapi.json", "/docs", "/nothing", "/v1/classify"):
            answer = httpx.get(f"{service.url}{path}")
            refused(answer, 401, "token")
            assert answer.headers["www-authenticate"] == "Bearer"
        for wrong in (
            f"Bearer {TOKEN}x",
            f"Bearer {TOKEN[:-1]}",
            f"Basic {TOKEN}",
            TOKEN,
            "Bearer",
            "",
        ):
            answer = httpx.get(f"{service.url}/v1/model", headers={"authorization": wrong})
            refused(answer, 401, "token")
        refused(ask(service.url, clip), 401, "token")
        for right in (f"Bearer {TOKEN}", f"bearer  {TOKEN}-the-next-one"):
            headers = {"authorization": right}
            assert httpx.get(f"{service.url}/v1/model", headers=headers).status_code == 200
            answer = httpx.post(f"{service.url}/v1/classify", files={"file": clip}, headers=headers)
            assert answer.status_code == 200
        assert httpx.get(f"{service.url}/healthz").status_code == 200
        assert is_ready(service.url)
        assert httpx.get(f"{service.url}/metrics").status_code == 200  # from this computer
        passed_on = {"x-forwarded-for": "192.0.2.7"}
        assert httpx.get(f"{service.url}/metrics", headers=passed_on).status_code == 401
        description = httpx.get(
            f"{service.url}/openapi.json", headers={"authorization": f"Bearer {TOKEN}"}
        ).json()
        assert description["paths"]["/v1/classify"]["post"]["security"] == [{"HTTPBearer": []}]
        assert TOKEN not in service.log.read_text()


def test_it_does_not_start_for_others_without_a_token(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["serve", "bundle", "--host", "0.0.0.0"]) == 2
    assert "[TokenNeededError]" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("content", "words"),
    [("", "holds no token"), ("\n\n", "holds no token"), ("short\n", "it needs 16 or more"),
     (f"{TOKEN}\ntwo words of a length\n", "without spaces"), (None, "No such file")],
)  # fmt: skip
def test_a_token_file_that_can_not_be_used_is_named(
    content: str | None, words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "tokens"
    if content is not None:
        file.write_text(content)
    assert run(["serve", "bundle", "--token-file", str(file)]) == 2
    said = capsys.readouterr().err
    assert words in said
    assert "[TokenFileError]" in said
    assert "two words" not in said


def test_other_names_of_this_computer_are_not_answered(service: Service, clip: bytes) -> None:
    for headers in (
        {"host": "rebound.example"},
        {"host": "[::1"},
        {"x-forwarded-for": "192.0.2.7"},
    ):
        for path in ("/v1/model", "/metrics", "/docs"):
            refused(httpx.get(f"{service.url}{path}", headers=headers), 403, "address")
        assert httpx.get(f"{service.url}/healthz", headers=headers).status_code == 200
    assert httpx.get(f"{service.url}/v1/model", headers={"host": "localhost:1"}).status_code == 200


def test_other_sites_pages_may_neither_ask_nor_read(service: Service, clip: bytes) -> None:
    for headers in (
        {"sec-fetch-site": "cross-site"},
        {"origin": "https://elsewhere.example"},
        {"origin": "null"},
        {"origin": "http://["},
    ):
        answer = httpx.post(f"{service.url}/v1/classify", files={"file": clip}, headers=headers)
        refused(answer, 403, "origin")
        read = httpx.get(f"{service.url}/v1/model", headers=headers)
        assert not [name for name in read.headers if name.startswith("access-control")]


def test_answers_are_not_kept_and_not_mistaken(service: Service) -> None:
    for path in ("/healthz", "/v1/model", "/nothing"):
        headers = httpx.get(f"{service.url}{path}").headers
        assert headers["cache-control"] == "no-store"
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["x-frame-options"] == "DENY"
        assert headers["referrer-policy"] == "no-referrer"
        assert headers["cross-origin-resource-policy"] == "same-origin"
        assert "server" not in headers


def test_below_a_path_of_a_proxy(clip: bytes) -> None:
    with serving("--root-path", "/clips", "--without-token") as service:
        for path in ("/clips/readyz", "/readyz", "/clips/v1/model", "/v1/model"):
            assert httpx.get(f"{service.url}{path}").status_code == 200
        assert ask(f"{service.url}/clips", clip).status_code == 200
        description = httpx.get(f"{service.url}/clips/openapi.json").json()
        assert description["servers"] == [{"url": "/clips"}]


# By hand -----------------------------------------------------------------------------------------


def connected(service: Service) -> socket.socket:
    where = urlsplit(service.url)
    assert where.hostname
    assert where.port
    return socket.create_connection((where.hostname, where.port), timeout=30)


def begun_upload(service: Service) -> socket.socket:
    connection = connected(service)
    connection.sendall(
        b"POST /v1/classify HTTP/1.1\r\nhost: localhost\r\ncontent-type: video/mp4\r\n"
        b"content-length: 1000\r\n\r\nabc"
    )
    return connection


def talk(service: Service, said: bytes) -> bytes:
    """Say something on a connection of its own, and hear what is answered."""
    with connected(service) as connection:
        with suppress(ConnectionError):
            connection.sendall(said)
        return heard(connection)


def heard(connection: socket.socket) -> bytes:
    """All that is answered until the connection is closed, or a whole answer."""
    answer = b""
    with suppress(ConnectionError):
        while part := connection.recv(65536):
            answer += part
            head, found, body = answer.partition(b"\r\n\r\n")
            if found and b"content-length: " in head:
                length = int(head.partition(b"content-length: ")[2].split(b"\r\n")[0])
                if len(body) >= length:
                    break
    return answer
