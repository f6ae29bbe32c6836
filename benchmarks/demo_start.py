"""From the start of the demo to its first page, beside the import of Gradio that it needs.

Each way is a fresh Python process; they take turns. ``bare`` is an empty page behind the same server;
the rest is what the demo's own page costs. The models are opened after the page is up, so they do not
count; whether PyTorch was imported by then is told.

    python benchmarks/demo_start.py --repeats 7
"""

import json
import os
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path

import click

from lora_deploy.bench.turns import turns
from lora_deploy.processor import read_processor

IMPORT = "import gradio"
BARE = "bare"
DEMO = "demo"

_BARE = """
import sys
from lora_deploy.demo.uploads import settle
settle()
import gradio
from lora_deploy.demo.server import serve
from lora_deploy.demo.settings import DemoSettings
from lora_deploy.web.watch import Watch
with gradio.Blocks() as blocks:
    gradio.Markdown("nothing")
serve(blocks, DemoSettings(port=int(sys.argv[1])), Watch())
"""


def free_port() -> int:
    """One that is free now."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
    return port


def command(way: str, port: int, models: tuple[str, ...]) -> list[str]:
    """What to start."""
    if way == IMPORT:
        return [sys.executable, "-c", "import gradio"]
    if way == BARE:
        return [sys.executable, "-c", _BARE, str(port)]
    return [sys.executable, "-m", "lora_deploy", "demo", *models, "--port", str(port)]


def first_page(process: subprocess.Popen[bytes], port: int) -> None:
    """Wait until the page can be read."""
    while process.poll() is None:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/") as page:
                assert b"gradio" in page.read()
                return
        except (urllib.error.URLError, ConnectionError):
            time.sleep(0.01)
    raise click.ClickException(f"it ended with code {process.returncode}")


def has_torch(process: subprocess.Popen[bytes]) -> bool:
    """Whether a process has PyTorch's library in its memory."""
    return "libtorch" in Path(f"/proc/{process.pid}/maps").read_text()


def start_once(way: str, models: tuple[str, ...]) -> dict[str, float]:
    """Seconds of one fresh process, and whether PyTorch was there."""
    port = free_port()
    environment = {**os.environ, "GRADIO_ANALYTICS_ENABLED": "False", "HF_HUB_OFFLINE": "1"}
    begun = time.monotonic()
    with (
        tempfile.TemporaryFile() as told,
        subprocess.Popen(
            command(way, port, models), env=environment, stdout=told, stderr=told
        ) as process,
    ):
        try:
            if way == IMPORT:
                assert process.wait() == 0
                return {"seconds": time.monotonic() - begun, "torch": False}
            first_page(process, port)
            return {"seconds": time.monotonic() - begun, "torch": has_torch(process)}
        finally:
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
                process.wait(60)


@click.command()
@click.argument("models", nargs=-1)
@click.option("--repeats", type=click.IntRange(min=1), default=7, show_default=True)
@click.option("--without-demo", is_flag=True, help="Only the server with an empty page.")
@click.option("--json", "as_json", is_flag=True, help="All measurements.")
def main(models: tuple[str, ...], repeats: int, without_demo: bool, as_json: bool) -> None:
    """Print a table, and whether the demo needs at most 1.5 times what the import does."""
    ways = [IMPORT, BARE, *([] if without_demo else [DEMO])]
    heard: dict[str, list[dict[str, float]]] = {way: [] for way in ways}
    for repeat in range(repeats + 1):
        for way in turns(ways, repeat):
            answer = start_once(way, models)
            if repeat:  # the first one reads the files from the disk
                heard[way].append(answer)
    if as_json:
        print(json.dumps(heard))
        return
    print(f"{read_processor()}, load {os.getloadavg()[0]:.1f} at the end, {repeats} repeats\n")
    print(
        "| to | s: median (min to max) | of the import: median (min to max) | PyTorch |\n|---|---|---|---|"
    )
    for way, mine in heard.items():
        seconds = [one["seconds"] for one in mine]
        parts = [
            one["seconds"] / base["seconds"] for one, base in zip(mine, heard[IMPORT], strict=True)
        ]
        print(
            f"| {way} | {statistics.median(seconds):.2f} ({min(seconds):.2f} to {max(seconds):.2f}) | "
            f"{statistics.median(parts):.2f} ({min(parts):.2f} to {max(parts):.2f}) | "
            f"{'yes' if any(one['torch'] for one in mine) else 'no'} |"
        )
    last = statistics.median(one["seconds"] for one in heard[ways[-1]])
    assert last <= 1.5 * statistics.median(one["seconds"] for one in heard[IMPORT])


if __name__ == "__main__":
    main()
