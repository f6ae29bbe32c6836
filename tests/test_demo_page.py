"""The demo as a command: without PyTorch, without a network, several models, and what it says when it can't."""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from lora_deploy.artifact import bundle
from lora_deploy.cli import run
from tests.demo_visitor import as_file, call, upload

ROOT = Path(__file__).parents[1]

BARE = """
import importlib.machinery, json, sys
found = importlib.machinery.PathFinder.find_spec
def find_spec(name, path=None, target=None):
    absent = name.partition(".")[0] in ("torch", "transformers", "peft")
    return None if absent else found(name, path, target)
importlib.machinery.PathFinder.find_spec = find_spec
def alone(event, arguments):
    if event == "socket.connect" and arguments[0].family != 1 and not str(arguments[1][0]).startswith("127."):
        print(json.dumps({"connects": str(arguments[1])}), flush=True)
        raise OSError("no network")
    if event == "socket.getaddrinfo" and str(arguments[0]) not in ("127.0.0.1", "localhost"):
        print(json.dumps({"resolves": str(arguments[0])}), flush=True)
        raise OSError("no network")
sys.addaudithook(alone)
from lora_deploy.cli import main
sys.argv[0] = "lora-deploy"
main()
"""
"""The command on a computer that has neither PyTorch nor a network; each try to reach one is told."""


@contextmanager
def started(command: Sequence[str]) -> Iterator[tuple[str, "subprocess.Popen[str]"]]:
    """The page's address, once it says it, and the process."""
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert process.stdout is not None
    try:
        line = process.stdout.readline()
        found = re.search(r"http://[\d.:]+", line)
        assert found, (line, process.stderr.read() if process.stderr else "")
        yield found[0], process
    finally:
        process.kill()
        process.communicate()


def test_it_works_without_pytorch_and_without_any_network(media: Path) -> None:
    clip = media / "clips" / "arm_wrestling.mp4"
    command = [sys.executable, "-c", BARE, "demo", "--port", "0"]
    with started(command) as (url, process), httpx.Client(base_url=url, timeout=60) as visitor:
        page = visitor.get("/")
        assert page.status_code == 200
        rows = {}
        for form in ("merged", "openvino-fp32", "unmerged"):
            name = upload(visitor, clip.read_bytes())
            kind, (rows[form],) = call(visitor, "classify", as_file(name), form, 6, 0, 0)
            assert kind == "complete"
        assert rows["merged"]["status"] == rows["openvino-fp32"]["status"] == "ok"
        assert rows["merged"]["label"] == rows["openvino-fp32"]["label"]
        # The example bundle has no graph that takes adapters, so this needs PyTorch; nothing stands in.
        assert rows["unmerged"]["status"] == "error"
        assert "PyTorch" in rows["unmerged"]["error"]["message"]
        process.send_signal(signal.SIGTERM)
        said, _ = process.communicate(timeout=60)
    assert "connects" not in said
    assert "resolves" not in said


def test_it_ends_in_order_when_it_is_asked_to() -> None:
    with started([sys.executable, "-m", "lora_deploy", "demo", "--port", "0"]) as (url, process):
        assert httpx.get(f"{url}/health").json() == {"status": "ok"}
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=60)
        assert process.returncode == 0, errors
        assert "Traceback" not in errors


def test_several_models_stand_side_by_side(bundle: Path, lora_run: Path, media: Path) -> None:
    clip = media / "dataset" / "weizmann4" / "bend" / "s0_orig.mp4"
    command = [
        sys.executable,
        "-m",
        "lora_deploy",
        "demo",
        str(bundle),
        str(lora_run),
        "--port",
        "0",
    ]
    with started(command) as (url, _), httpx.Client(base_url=url, timeout=120) as visitor:
        answers = {}
        for form in (f"{bundle.name}: merged", f"{lora_run.name}: unmerged"):
            name = upload(visitor, clip.read_bytes())
            _, (row,) = call(visitor, "classify", as_file(name), form, 2, 0, 0)
            assert row["status"] == "ok", row
            answers[form] = dict(row["top_k"])
        first, second = answers.values()
        assert first == pytest.approx(second, abs=1e-4)  # the bundle was made of the run


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--host", "0.0.0.0"], "--login-file"),
        (["--share"], "--login-file"),
        (["/nowhere"], "does not exist"),
        (["--link-host", "127.0.0.1"], "127.0.0.1"),
        (["--login-file", "/nowhere"], "/nowhere"),
    ],
)
def test_what_can_not_be_served_is_told_in_one_line(
    arguments: list[str], told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    begun = time.monotonic()
    assert run(["demo", "--port", "0", *arguments]) == 2
    said = capsys.readouterr().err
    assert told in said
    assert said.count("\n") == 1
    assert time.monotonic() - begun < 30


def test_a_taken_port_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    import socket

    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert run(["demo", "--port", str(port)]) == 2
    assert str(port) in capsys.readouterr().err


def test_the_example_bundle_is_what_is_shown_without_a_model() -> None:
    assert bundle.read_bundle_manifest(bundle.EXAMPLE).labels


@pytest.mark.parametrize("in_space", [False, True])
def test_the_file_of_the_space_starts(in_space: bool) -> None:
    environment = {"PORT": "0", **({"SPACE_ID": "someone/clips"} if in_space else {})}
    before = {name: os.environ.get(name) for name in environment}
    os.environ.update(environment)
    try:
        with started([sys.executable, "demo/app.py"]) as (url, _):
            port = url.rpartition(":")[2]
            answer = httpx.get(f"http://127.0.0.1:{port}/")
            assert answer.status_code == 200
            frames = "frame-ancestors 'self' https://huggingface.co"
            assert (frames in answer.headers["content-security-policy"]) == in_space
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
