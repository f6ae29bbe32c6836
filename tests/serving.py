"""The service as operations run it: a process of its own, asked over loopback."""

import json
import os
import re
import subprocess
import sys
import tempfile
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
from prometheus_client.parser import text_string_to_metric_families

from lora_deploy.artifact.bundle import EXAMPLE

ROOT = Path(__file__).parents[1]

PROGRAM = """
import importlib, json, os, resource, sys, time
if limits := json.loads(os.environ["OPEN_FILES"]):
    resource.setrlimit(resource.RLIMIT_NOFILE, limits)
for change in filter(None, os.environ.get("CHANGES", "").split(";")):
    place, value = change.split("=")
    module, name = place.rsplit(".", 1)
    setattr(importlib.import_module(module), name, float(value))

def shut(gate):
    while os.path.exists(os.environ.get("GATE", "/nowhere") + gate):
        time.sleep(0.01)

def behind(owner, name, gate):
    real = getattr(owner, name)
    def held(*arguments, **named):
        shut(gate)
        return real(*arguments, **named)
    setattr(owner, name, held)

from lora_deploy.clips.pool import DecodePool
from lora_deploy.classify.terms import Model
from lora_deploy.runtime.base import Recogniser
behind(Recogniser, "logits", "/model")
behind(DecodePool, "_decode", "/decoders")
behind(Model, "open", "/opening")

def broken(real):
    def logits(*arguments):
        if os.path.exists(os.environ.get("GATE", "/nowhere") + "/broken"):
            raise RuntimeError("secret words of " + os.getcwd())
        return real(*arguments)
    return logits
Recogniser.logits_of_batch = broken(Recogniser.logits_of_batch)

from lora_deploy.cli import run
code = run(["serve", *sys.argv[1:]])
print("torch is there" if "torch" in sys.modules else "no torch", flush=True)
sys.exit(code)
"""
"""The command as it is, whose parts wait while there is a file of their name in the folder GATE."""


@dataclass
class Service:
    """One that runs."""

    process: subprocess.Popen[str]
    url: str
    log: Path
    gate: Path
    """A folder: ``model``, ``decoders`` or ``opening`` in it hold that up; ``broken`` breaks the model."""

    def shut(self, what: str) -> Path:
        """Hold a part up; whoever deletes the file opens it."""
        file = self.gate / what
        file.touch()
        return file

    def numbers(self) -> dict[tuple[str, ...], float]:
        """Every metric by its name and the values of its labels."""
        text = httpx.get(f"{self.url}/metrics", timeout=30).text
        return {
            (sample.name, *sample.labels.values()): sample.value
            for family in text_string_to_metric_families(text)
            for sample in family.samples
        }

    def workers(self) -> list[int]:
        """Processes that decode."""
        found = []
        for place in Path("/proc").glob("[0-9]*/stat"):
            try:
                fields = place.read_text().rpartition(")")[2].split()
            except OSError:
                continue
            if int(fields[1]) == self.process.pid and fields[0] != "Z":
                found.append(int(place.parent.name))
        return found

    def end(self, seconds: float = 30) -> tuple[int, str]:
        """Exit code, and what was said on stdout after the address."""
        assert self.process.stdout
        code = self.process.wait(seconds)
        return code, self.process.stdout.read()

    def until(self, holds: Callable[[], bool], seconds: float = 20) -> None:
        """Wait until something holds."""
        deadline = time.monotonic() + seconds
        while not holds():
            assert time.monotonic() < deadline, self.log.read_text()[-2000:]
            assert self.process.poll() is None, self.log.read_text()[-2000:]
            time.sleep(0.02)


def is_alive(pid: int) -> bool:
    """Whether there is such a process, and it has not ended."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"


@contextmanager
def serving(
    *options: str,
    model: Path = EXAMPLE,
    changes: str = "",
    open_files: tuple[int, int] | None = None,
    wait: bool = True,
    shut: tuple[str, ...] = (),
) -> Iterator[Service]:
    """Serve a model with the command's own options, until the block ends.

    Args:
        options: Of the command.
        model: The example bundle by default.
        changes: Constants of modules, as in ``module.NAME=0.5;…``.
        open_files: How many it may have, and may raise that to.
        wait: Until it is ready.
        shut: What is held up from the beginning.
    """
    with tempfile.TemporaryDirectory() as folder:
        log, gate = Path(folder, "log"), Path(folder, "gate")
        gate.mkdir()
        for what in shut:
            (gate / what).touch()
        with log.open("w") as stderr:
            process = subprocess.Popen(
                [sys.executable, "-c", textwrap.dedent(PROGRAM), str(model), "--port", "0", *options],
                cwd=ROOT,
                env={
                    **os.environ, "PYTHONPATH": str(ROOT), "GATE": str(gate), "CHANGES": changes,
                    "OPEN_FILES": json.dumps(open_files),
                },
                stdout=subprocess.PIPE,
                stderr=stderr,
                text=True,
            )  # fmt: skip
        assert process.stdout
        with process, process.stdout:
            try:
                told = process.stdout.readline()
                found = re.search(r"http://\S+", told)
                assert found, log.read_text()
                url = found[0].replace("0.0.0.0", "127.0.0.1")
                service = Service(process, url, log, gate)
                if wait:
                    service.until(lambda: is_ready(url), 60)
                yield service
            finally:
                process.kill()


def is_ready(url: str) -> bool:
    """Whether a clip would be answered."""
    return httpx.get(f"{url}/readyz", timeout=30).status_code == 200


class Asking(threading.Thread):
    """A request in a thread of its own, whose answer is looked at later."""

    def __init__(self, url: str, clip: bytes) -> None:
        super().__init__(daemon=True)
        self._url, self._clip = url, clip
        self._answer: httpx.Response | Exception | None = None
        self.start()

    def run(self) -> None:
        """Ask."""
        try:
            self._answer = ask(self._url, self._clip, patience=90)
        except httpx.HTTPError as error:
            self._answer = error

    def answer(self, seconds: float = 60) -> httpx.Response:
        """What was answered."""
        self.join(seconds)
        assert isinstance(self._answer, httpx.Response), repr(self._answer)
        return self._answer


def ask(address: str, clip: bytes, /, *, patience: float = 60, **query: object) -> httpx.Response:
    """Ask about a video that is sent as the file of a form."""
    return httpx.post(
        f"{address}/v1/classify",
        files={"file": ("clip.mp4", clip)},
        params={name: str(value) for name, value in query.items()},
        timeout=patience,
    )
