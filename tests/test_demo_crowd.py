"""Fifty visitors at once: each is answered or told that the page is busy, and nothing piles up."""

import asyncio
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from tests.demo_crowd import Crowd, visit
from tests.demo_visitor import visitors_files

ROOT = Path(__file__).parents[1]

PROGRAM = """
import json, sys
from lora_deploy.demo.uploads import settle
folder = settle()
from lora_deploy.demo import server
from lora_deploy.demo.settings import DemoSettings
from lora_deploy.web.watch import Watch
from tests.small_page import SmallPage
server._SWEEP_SECONDS = 1.0
keep, seconds = sys.argv[1:]
settings = DemoSettings(port=0, keep_files_seconds=int(keep), max_upload_bytes=1 << 20, waiting=10)
def ready(url):
    print(json.dumps({"url": url, "folder": str(folder)}), flush=True)
server.serve(SmallPage(seconds=float(seconds)).blocks, settings, Watch(), ready=ready)
"""


@contextmanager
def page_of_its_own(keep_files_seconds: int, answer_seconds: float) -> Iterator[tuple[str, Path]]:
    """The small page in a process: its address and its upload folder."""
    command = [sys.executable, "-c", PROGRAM, str(keep_files_seconds), str(answer_seconds)]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert process.stdout
    with process, process.stdout:
        try:
            told = json.loads(process.stdout.readline())
            yield told["url"], Path(told["folder"])
        finally:
            process.terminate()
            process.wait(60)


def metric(url: str, name: str) -> float:
    text = httpx.get(f"{url}/metrics").text
    (value,) = re.findall(rf"^{name} ([0-9.e+]+)$", text, re.MULTILINE)
    return float(value)


def crowd(url: str, *, rounds: int) -> Crowd:
    return asyncio.run(visit(url, users=50, rounds=rounds))


def check(found: Crowd, *, rounds: int) -> None:
    assert found.wrong == []
    assert found.answered + found.busy.total() == 50 * rounds
    assert found.answered > 0
    assert found.busy["Queue is full"] > 0  # else it was no crowd


async def emptied(folder: Path) -> None:
    async with asyncio.timeout(60):
        while visitors_files(folder):
            await asyncio.sleep(0.1)


def test_fifty_at_once_are_answered_or_told_that_it_is_busy() -> None:
    with page_of_its_own(600, 0.3) as (url, folder):
        check(crowd(url, rounds=3), rounds=3)
        before = metric(url, "process_resident_memory_bytes")
        files = metric(url, "process_open_fds")
        check(crowd(url, rounds=3), rounds=3)
        assert metric(url, "process_resident_memory_bytes") - before < 30e6
        assert metric(url, "process_open_fds") <= files + 5
        assert metric(url, "lora_deploy_queue_length") == 0
        assert visitors_files(folder)
    assert not folder.exists()


@pytest.mark.soak
def test_fifty_at_once_for_long_leave_memory_flat() -> None:
    """Grows by less than a kilobyte a request, over 15,000 of them after the first 20,000.

    Before, what Gradio keeps of the last 2,000 sessions and the allocator's arenas fill.
    """
    with page_of_its_own(30, 0.02) as (url, folder):
        check(crowd(url, rounds=100), rounds=100)
        held = [metric(url, "process_resident_memory_bytes")]
        for part in range(6):
            check(crowd(url, rounds=100), rounds=100)
            held.append(metric(url, "process_resident_memory_bytes"))
            print(f"after {5000 * (part + 2)} requests {(held[-1] - held[0]) / 1e6:+.1f} MB")
        assert held[-1] - held[3] < 1000 * 15_000
        asyncio.run(emptied(folder))
    assert not folder.exists()
