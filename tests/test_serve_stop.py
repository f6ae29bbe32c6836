"""The service's life: it listens before the model is open, stops in order, and leaves nothing behind."""

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import httpx
import pytest

from lora_deploy.artifact.bundle import EXAMPLE
from lora_deploy.cli import run
from tests.serving import ROOT, Asking, Service, ask, is_alive, is_ready, serving


@pytest.fixture(scope="module")
def clip(media: Path) -> bytes:
    return min((media / "clips" / "asl").glob("*.mkv")).read_bytes()


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGINT])
def test_what_is_under_way_is_finished_first(how: signal.Signals, clip: bytes) -> None:
    with serving("--workers", "1") as service:
        gate = service.shut("model")
        asked = [Asking(service.url, clip) for _ in range(4)]
        service.until(lambda: service.numbers()["lora_deploy_queue_length",] == 4)
        workers = service.workers()
        os.kill(service.process.pid, how)
        service.until(lambda: not is_ready(service.url))
        state = httpx.get(f"{service.url}/readyz")
        assert (state.status_code, state.json()) == (503, {"status": "stopping"})
        assert httpx.get(f"{service.url}/healthz").status_code == 200
        more = ask(service.url, clip)
        assert (more.status_code, more.json()["error"]["kind"]) == (503, "stopping")
        assert int(more.headers["retry-after"]) >= 1
        gate.unlink()
        assert [one.answer().status_code for one in asked] == [200] * 4
        assert service.end() == (0, "no torch\n")
        assert workers
        assert not any(map(is_alive, workers))


def test_an_upload_that_is_arriving_is_finished_too(clip: bytes) -> None:
    half = len(clip) // 2
    with serving() as service:
        where = httpx.URL(service.url)
        with socket.create_connection((where.host, where.port or 0), timeout=30) as connection:
            head = (
                "POST /v1/classify HTTP/1.1\r\nhost: localhost\r\ncontent-type: video/mp4\r\n"
                f"content-length: {len(clip)}\r\n\r\n"
            )
            connection.sendall(head.encode() + clip[:half])
            service.until(
                lambda: service.numbers()["lora_deploy_upload_bytes_under_way",] == len(clip)
            )
            os.kill(service.process.pid, signal.SIGTERM)
            service.until(lambda: not is_ready(service.url))
            connection.sendall(clip[half:])
            assert connection.recv(1000).startswith(b"HTTP/1.1 200 ")
        assert service.end()[0] == 0


def test_after_the_grace_those_who_wait_are_told(clip: bytes) -> None:
    with serving("--grace", "1") as service:
        service.shut("model")
        asked = Asking(service.url, clip)
        service.until(lambda: service.numbers()["lora_deploy_queue_length",] == 1)
        begun = time.monotonic()
        os.kill(service.process.pid, signal.SIGTERM)
        answer = asked.answer()
        assert (answer.status_code, answer.json()["error"]["kind"]) == (503, "stopping")
        assert 0.9 < time.monotonic() - begun < 10
        assert service.end()[0] == 1
        assert '"unanswered": 1' in service.log.read_text()


def test_after_the_grace_who_is_still_sending_is_told() -> None:
    with serving("--grace", "1") as service:
        sending = begun_upload(service, "/v1/classify")
        service.until(lambda: service.numbers()["lora_deploy_upload_bytes_under_way",] == 1000)
        os.kill(service.process.pid, signal.SIGTERM)
        refused(sending, "stopping")
        assert service.end()[0] == 1
        log = service.log.read_text()
        assert '"unanswered": 1' in log
        assert "Traceback" not in log


def test_who_was_refused_does_not_hold_the_end_up(tmp_path: Path) -> None:
    (tmp_path / "tokens").write_text("a-token-of-sixteen-signs-or-more\n")
    with serving("--grace", "1", "--token-file", str(tmp_path / "tokens")) as service:
        strangers = [begun_upload(service, path) for path in ("/v1/classify", "/healthz")]
        turned = {("lora_deploy_rejected_total", kind) for kind in ("token", "method")}
        service.until(lambda: turned <= set(service.numbers()))
        os.kill(service.process.pid, signal.SIGTERM)
        for stranger in strangers:
            refused(stranger, "stopping")
        assert service.end()[0] == 0
        log = service.log.read_text()
        assert '"unanswered": 0' in log
        assert "Traceback" not in log


def begun_upload(service: Service, path: str) -> socket.socket:
    """Of which only the beginning is sent."""
    where = httpx.URL(service.url)
    connection = socket.create_connection((where.host, where.port or 0), timeout=30)
    connection.sendall(
        f"POST {path} HTTP/1.1\r\nhost: localhost\r\ncontent-type: video/mp4\r\n"
        "content-length: 1000\r\n\r\nabc".encode()
    )
    return connection


def refused(connection: socket.socket, kind: str) -> None:
    """It is told so, with the time to ask again, before it is closed."""
    with connection, connection.makefile("rb") as said:
        told = said.read()
    assert told.startswith(b"HTTP/1.1 503 ")
    assert b"retry-after: " in told
    assert f'"kind":"{kind}"'.encode() in told


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGINT])
def test_a_second_signal_ends_it_at_once(how: signal.Signals, clip: bytes) -> None:
    with serving("--grace", "60") as service:
        service.shut("model")
        asked = Asking(service.url, clip)
        service.until(lambda: service.numbers()["lora_deploy_queue_length",] == 1)
        workers = service.workers()
        os.kill(service.process.pid, how)
        service.until(lambda: not is_ready(service.url))
        begun = time.monotonic()
        os.kill(service.process.pid, how)
        assert service.end()[0] == 128 + how
        assert time.monotonic() - begun < 8
        asked.join(10)
        assert not asked.is_alive()
        assert not any(map(is_alive, workers))


def test_decoders_do_not_outlive_it_even_when_it_is_killed(clip: bytes) -> None:
    with serving("--workers", "2") as service:
        workers = service.workers()
        assert len(workers) == 2
        files = set(Path(f"/proc/{service.process.pid}/fd").parent.glob("fd"))
        assert files
        service.process.kill()
        service.process.wait(10)
        deadline = time.monotonic() + 10
        while any(map(is_alive, workers)):
            assert time.monotonic() < deadline
            time.sleep(0.05)


def test_it_listens_before_the_model_is_open(clip: bytes) -> None:
    with serving(wait=False, shut=("opening",)) as service:
        assert httpx.get(f"{service.url}/healthz").status_code == 200
        state = httpx.get(f"{service.url}/readyz")
        assert (state.status_code, state.json()) == (503, {"status": "opening"})
        for answer in (ask(service.url, clip), httpx.get(f"{service.url}/v1/model")):
            assert (answer.status_code, answer.json()["error"]["kind"]) == (503, "opening")
            assert int(answer.headers["retry-after"]) >= 1
        (service.gate / "opening").unlink()
        service.until(lambda: is_ready(service.url), 60)
        assert ask(service.url, clip).status_code == 200


@pytest.mark.parametrize("where", ["opening", "decoders", "model"])
def test_it_can_be_stopped_while_the_model_opens(where: str) -> None:
    with serving(wait=False, shut=(where,)) as service:
        time.sleep(1)  # so that it is in the midst of it
        begun = time.monotonic()
        os.kill(service.process.pid, signal.SIGTERM)
        if where == "decoders":  # a real one would be killed, a gate can't be
            time.sleep(1)
            (service.gate / where).unlink()
        assert service.end()[0] == 0
        assert time.monotonic() - begun < 20


def test_an_idle_connection_does_not_hold_the_end_up() -> None:
    with serving() as service, httpx.Client(base_url=service.url) as visitor:
        assert visitor.get("/healthz").status_code == 200  # and the connection is kept
        begun = time.monotonic()
        os.kill(service.process.pid, signal.SIGTERM)
        assert service.end() == (0, "no torch\n")
        assert time.monotonic() - begun < 10


def test_the_command_itself_needs_no_torch_and_no_network(clip: bytes) -> None:
    process = subprocess.Popen(
        [sys.executable, "-X", "importtime", "-m", "lora_deploy", "serve", str(EXAMPLE), "--port", "0"],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )  # fmt: skip
    assert process.stdout
    url = "http:" + process.stdout.readline().partition("http:")[2].split()[0]
    deadline = time.monotonic() + 60
    while not is_ready(url):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    assert ask(url, clip).status_code == 200
    process.send_signal(signal.SIGTERM)
    _, said = process.communicate(timeout=30)
    assert process.returncode == 0
    loaded = {line.rpartition("| ")[2].strip().partition(".")[0] for line in said.splitlines()}
    assert "onnxruntime" in loaded
    assert loaded & {"torch", "transformers", "peft", "gradio", "httpx", "requests"} == set()


def test_a_folder_that_is_no_model_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["serve", str(tmp_path), "--port", "0"]) == 2
    told = capsys.readouterr()
    assert "[NotAModelError]" in told.err
    assert "the service is at" not in told.out + told.err


def test_a_port_that_is_taken_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        assert run(["serve", str(EXAMPLE), "--port", str(port)]) == 2
    assert "[AddressTakenError]" in capsys.readouterr().err


def test_a_certificate_that_was_changed_is_not_repeated(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import shutil

    bundle = tmp_path / "bundle"
    shutil.copytree(EXAMPLE, bundle)
    path = bundle / "certificate.json"
    path.write_text(path.read_text().replace('"passed": false', '"passed": true') + " ")
    assert run(["serve", str(bundle), "--port", "0"]) == 2
    assert "certificate.json" in capsys.readouterr().err
