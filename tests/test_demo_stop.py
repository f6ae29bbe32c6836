"""The server's life: it starts with no network and no PyTorch, says where it is, and stops in order."""

import json
import os
import signal
import socket
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from lora_deploy.demo.server import serve, serving
from lora_deploy.demo.settings import DemoSettings
from lora_deploy.errors import AddressTakenError, NoPublicLinkError
from lora_deploy.web.watch import Watch
from tests.demo_visitor import start, upload, visitors_files
from tests.small_page import SmallPage

ROOT = Path(__file__).parents[1]

PROGRAM = """
import json, logging, os, sys, threading, time
noted = []
def hook(event, arguments):
    if event == "socket.getaddrinfo" and arguments[0] not in (None, "127.0.0.1"):
        noted.append(["looked up", str(arguments[0])])
    elif event == "socket.connect" and isinstance(arguments[1], tuple):
        noted.append(["connected", str(arguments[1])])
    elif event in ("subprocess.Popen", "os.exec", "os.posix_spawn", "os.system"):
        noted.append(["started", str(arguments[0])])
sys.addaudithook(hook)
from lora_deploy.demo.uploads import settle
folder = settle()
from lora_deploy.demo.server import serve
from lora_deploy.demo.settings import DemoSettings
from lora_deploy.web.watch import Watch
from tests.small_page import SmallPage
logging.basicConfig(level=logging.INFO, format="%(message)s")
page = SmallPage()
def watch_gate():
    while not os.path.exists(os.environ["GATE"]):
        time.sleep(0.02)
    page.gate.set()
threading.Thread(target=watch_gate, daemon=True).start()
def ready(url):
    print(json.dumps({"url": url, "folder": str(folder)}), flush=True)
serve(page.blocks, DemoSettings(port=0), Watch(), ready=ready)
print(json.dumps({"noted": noted, "torch": "torch" in sys.modules}), flush=True)
"""


@contextmanager
def running(gate: Path | str = "/") -> Iterator[tuple[subprocess.Popen[str], str, Path]]:
    """The small page in a process of its own: the process, its address and its upload folder.

    The slow endpoint answers when there is something at ``gate``.
    """
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(PROGRAM)],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT), "GATE": str(gate)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout
    assert process.stderr
    with process, process.stdout, process.stderr:
        try:
            told = json.loads(process.stdout.readline())
            yield process, told["url"], Path(told["folder"])
        finally:
            process.kill()


def until(process: subprocess.Popen[str]) -> dict[str, object]:
    """What the process says at its end."""
    assert process.wait(30) == 0
    assert process.stdout
    said: dict[str, object] = json.loads(process.stdout.readlines()[-1])
    return said


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGINT])
def test_what_is_being_worked_on_is_finished_first(how: signal.Signals, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    with (
        running(gate) as (process, url, folder),
        httpx.Client(base_url=url, timeout=30) as visitor,
    ):
        upload(visitor)
        event = start(visitor, "timeline", "wave")
        with visitor.stream("GET", f"/gradio_api/call/timeline/{event}") as answer:
            lines = answer.iter_lines()
            os.kill(process.pid, how)
            time.sleep(0.3)
            health = httpx.get(f"{url}/health")
            assert (health.status_code, health.json()) == (503, {"status": "stopping"})
            more = httpx.post(f"{url}/gradio_api/call/timeline", json={"data": ["x"]})
            assert (more.status_code, "stopping" in more.text) == (503, True)
            assert httpx.get(f"{url}/").status_code == 200  # pages are still read
            gate.touch()
            said = [line for line in lines if line]
        assert said[-2:] == ["event: complete", 'data: [{"word": "wave"}]']
        until(process)
        assert not folder.exists()


def test_a_second_signal_is_obeyed_at_once(tmp_path: Path) -> None:
    with (
        running(tmp_path / "gate") as (process, url, folder),
        httpx.Client(base_url=url) as visitor,
    ):
        upload(visitor)
        start(visitor, "timeline", "wave")
        os.kill(process.pid, signal.SIGINT)
        time.sleep(0.3)
        assert process.poll() is None
        os.kill(process.pid, signal.SIGINT)
        deadline = time.monotonic() + 5
        while time.monotonic() < deadline:
            try:
                httpx.get(f"{url}/health", timeout=1)
            except httpx.HTTPError:
                break
            time.sleep(0.05)
        else:
            raise AssertionError("the server still answers")
        while visitors_files(folder):
            assert time.monotonic() < deadline
            time.sleep(0.05)


def test_nothing_leaves_this_computer_and_torch_is_not_there() -> None:
    with running() as (process, url, _):
        for path in ("/", "/config", "/gradio_api/info", "/theme.css", "/metrics", "/health"):
            assert httpx.get(f"{url}{path}").status_code == 200
        time.sleep(0.5)  # threads that report something begin at the start
        os.kill(process.pid, signal.SIGTERM)
        assert until(process) == {"noted": [], "torch": False}


def test_an_idle_page_does_not_hold_the_end_up() -> None:
    with running() as (process, url, _), httpx.Client(base_url=url) as visitor:
        with visitor.stream("GET", "/gradio_api/heartbeat/abc") as beats:
            next(beats.iter_lines())
            begun = time.monotonic()
            os.kill(process.pid, signal.SIGTERM)
            until(process)
        assert time.monotonic() - begun < 10


def test_a_port_that_is_taken_is_named() -> None:
    page = SmallPage()
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        with pytest.raises(AddressTakenError, match=f"127.0.0.1, port {port}: Address already"):
            serve(page.blocks, DemoSettings(port=port), Watch())


def test_an_address_of_another_computer_is_named() -> None:
    settings = DemoSettings(host="192.0.2.1", port=0, without_login=True)
    with pytest.raises(AddressTakenError, match=r"192[.]0[.]2[.]1"):
        serve(SmallPage().blocks, settings, Watch())


def test_ipv6_has_its_brackets() -> None:
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        pytest.skip("no IPv6 here")
    with serving(SmallPage().blocks, DemoSettings(host="::1", port=0), Watch()) as url:
        assert url.startswith("http://[::1]:")
        assert httpx.get(f"{url}/health").status_code == 200


def test_a_public_link_that_is_not_to_be_had_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    import gradio.networking

    def refuse(*_: object) -> str:
        raise RuntimeError("the relay at 192.0.2.7 is down")

    monkeypatch.setattr(gradio.networking, "setup_tunnel", refuse)
    settings = DemoSettings(port=0, share=True, login=(("ada", "correct horse"),))
    with pytest.raises(NoPublicLinkError, match="RuntimeError"):
        serve(SmallPage().blocks, settings, Watch())


def test_a_public_link_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    import gradio.networking

    asked: list[tuple[object, ...]] = []
    told: list[str] = []

    def give(*arguments: object) -> str:
        asked.append(arguments)
        return "https://link.example"

    monkeypatch.setattr(gradio.networking, "setup_tunnel", give)

    def ready(url: str) -> None:
        told.append(url)
        os.kill(os.getpid(), signal.SIGINT)

    settings = DemoSettings(port=0, share=True, login=(("ada", "correct horse"),))
    serve(SmallPage().blocks, settings, Watch(), ready=ready)
    assert told == ["https://link.example"]
    assert asked[0][0] == "127.0.0.1"


def test_two_servers_one_after_the_other_in_one_process() -> None:
    page = SmallPage()
    for _ in range(2):
        with (
            serving(page.blocks, DemoSettings(port=0), Watch()) as url,
            httpx.Client(base_url=url) as visitor,
        ):
            assert start(visitor, "classify", None, "x")
