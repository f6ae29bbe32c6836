"""What docs/serving.md shows is run: its curl lines, its client, its units, and the words of its tables."""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import httpx
import pytest
import yaml

from lora_deploy.errors import CLIP_ERROR_KINDS
from lora_deploy.serve.refusals import REFUSALS
from tests.serving import Service, serving
from tests.test_docs import refusal

PAGE = Path(__file__).parents[1] / "docs" / "serving.md"
ADDRESS = "http://127.0.0.1:8000"


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)


@pytest.fixture(scope="module")
def service() -> Iterator[Service]:
    with serving() as running:
        yield running


@pytest.fixture
def folder(tmp_path: Path, media: Path) -> Path:
    """With the clip that the page speaks of, and one that is none."""
    shutil.copyfile(min((media / "clips" / "asl").glob("*.mkv")), tmp_path / "clip.mp4")
    (tmp_path / "bad.mp4").write_bytes(b"no video")
    return tmp_path


@pytest.fixture(scope="module")
def curl() -> str:
    """The program; where it is missing, that is a failure in CI."""
    found = shutil.which("curl")
    if found is None:
        if os.environ.get("CI") == "true":
            pytest.fail("curl is not installed (Debian's package curl)")
        pytest.skip("curl is not installed (Debian's package curl)")
    return found


def test_each_curl_line_answers(service: Service, folder: Path, curl: str) -> None:
    (script,) = blocks("bash")
    lines = [line for line in script.splitlines() if line]
    assert len(lines) >= 5
    answers = []
    for line in lines:
        assert shlex.split(line)[0] == "curl"
        done = subprocess.run(
            ["bash", "-c", line.replace(ADDRESS, service.url)],
            cwd=folder,
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert done.returncode == 0, (line, done.stderr)
        answers.append(json.loads(done.stdout))
    form, body, part, model, ready = answers
    assert (form["status"], len(form["top_k"])) == ("ok", len(model["labels"][:5]))
    assert (body["label"], len(body["top_k"])) == (form["label"], min(3, len(model["labels"])))
    assert part["status"] == "ok"
    assert part["duration_seconds"] < form["duration_seconds"]
    assert model["model"] == form["model"]
    assert ready == {"status": "ready"}
    shown = json.loads(blocks("json")[0].replace("…", ""))
    assert list(shown) == list(form)


def test_the_python_client_answers(service: Service, folder: Path) -> None:
    (program,) = blocks("python")
    (folder / "client.py").write_text(program.replace(ADDRESS, service.url), encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-I", "client.py", "clip.mp4", "bad.mp4"],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    label = httpx.post(
        f"{service.url}/v1/classify", files={"file": (folder / "clip.mp4").read_bytes()}
    ).json()["label"]
    assert done.stdout == f"clip.mp4 {label}\nbad.mp4 unreadable\n"


def test_the_client_waits_as_it_is_told(folder: Path) -> None:
    (program,) = blocks("python")
    with serving("--workers", "1", "--queue", "0", wait=False, shut=("opening",)) as service:
        (folder / "client.py").write_text(program.replace(ADDRESS, service.url), encoding="utf-8")
        client = subprocess.Popen(
            [sys.executable, "-I", "client.py", "clip.mp4"],
            cwd=folder,
            stdout=subprocess.PIPE,
            text=True,
        )
        service.until(
            lambda: service.numbers().get(("lora_deploy_rejected_total", "opening"), 0) >= 1
        )
        (service.gate / "opening").unlink()
        said, _ = client.communicate(timeout=60)
    assert client.returncode == 0
    assert said.startswith("clip.mp4 ")
    assert "opening" not in said


def test_the_client_waits_where_a_proxy_does_not_say_how_long(folder: Path) -> None:
    (program,) = blocks("python")
    told = iter([(503, {}), (200, {"label": "book"})])

    class Proxy(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["content-length"]))
            status, said = next(told)
            self.send_response(status)
            self.end_headers()
            self.wfile.write(json.dumps(said).encode())

    with ThreadingHTTPServer(("127.0.0.1", 0), Proxy) as proxy:
        threading.Thread(target=proxy.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{proxy.server_port}"
        (folder / "client.py").write_text(program.replace(ADDRESS, address), encoding="utf-8")
        done = subprocess.run(
            [sys.executable, "-I", "client.py", "clip.mp4"],
            cwd=folder,
            capture_output=True,
            text=True,
            timeout=60,
        )
        proxy.shutdown()
    assert (done.returncode, done.stdout) == (0, "clip.mp4 book\n"), done.stderr


def test_the_commands_of_the_units_are_taken() -> None:
    (unit,) = blocks("ini")
    (started,) = re.findall(r"^ExecStart=\S+ (.*)$", unit, re.MULTILINE)
    assert refusal(shlex.split(started)) is None
    (pod,) = blocks("yaml")
    container = yaml.safe_load(pod)["containers"][0]
    assert refusal([str(word) for word in container["args"]]) is None
    probes = [container[name]["httpGet"]["path"] for name in container if name.endswith("Probe")]
    assert probes == ["/readyz", "/readyz", "/healthz"]


def test_the_time_to_stop_is_longer_than_the_grace() -> None:
    from lora_deploy.serve.settings import ServeSettings

    page = PAGE.read_text(encoding="utf-8")
    for pattern in (r"TimeoutStopSec=(\d+)", r"terminationGracePeriodSeconds: (\d+)"):
        (seconds,) = re.findall(pattern, page)
        assert int(seconds) > ServeSettings().grace_seconds


def test_every_kind_of_refusal_is_in_the_table() -> None:
    page = PAGE.read_text(encoding="utf-8")
    for kind in set(REFUSALS) - {"left"}:
        assert f"`{kind}`" in page, kind
    assert not set(REFUSALS) & (set(CLIP_ERROR_KINDS) - {"too_large"})


def test_every_metric_is_in_the_table_and_no_other(service: Service) -> None:
    for query in ("", "?top_k=0"):  # an error row, and a refusal
        httpx.post(f"{service.url}/v1/classify{query}", files={"file": b"no video"})
    found = {name[0] for name in service.numbers() if name[0].startswith("lora_deploy_")}
    plain = {re.sub(r"_(count|sum|bucket|created|total)$", "", name) for name in found}
    told = re.findall(r"`(lora_deploy_[a-z_]+)`", PAGE.read_text(encoding="utf-8"))
    assert {name.removesuffix("_total") for name in told} == plain - {"lora_deploy_deleted_files"}
