"""One child process: started, told what to do, heard, and ended whatever happens."""

import json
import os
import select
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lora_deploy.bench.forms import MeasuredForm

COMMAND = (sys.executable, "-P", "-m", "lora_deploy.bench.child")

_PACKAGE_ROOT = Path(__file__).parents[2]

DEADLINE_SECONDS = 900.0
"""For opening, and for one turn."""


class ChildDied(Exception):
    """A child is gone, or says that it can't; the text is the reason."""


class Child:
    """A process that holds one form. Use it as a context manager, or `end` it."""

    def __init__(self, form: MeasuredForm, *, threads: int, clips: list[str]) -> None:
        """Start it; `opened` waits until it has answered once."""
        self.form = form
        job = {
            **form.job,
            "threads": threads,
            "clips": clips,
            "parent_pid": os.getpid(),
            "started": time.monotonic(),
        }
        self._said = tempfile.TemporaryFile()  # noqa: SIM115 (closed in `end`)
        self._process = subprocess.Popen(
            [*COMMAND, json.dumps(job)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._said,
            env={**environment(threads), "HF_HUB_OFFLINE": "1"},
            start_new_session=True,  # Ctrl-C is for the process that asks, which then ends this one
        )
        self._unread = b""

    @property
    def pid(self) -> int:
        """Of the process."""
        return self._process.pid

    def opened(self) -> dict[str, Any]:
        """What it said once it had answered for the first time.

        Raises:
            ChildDied: It can't open the form, or is gone.
        """
        return self._answer()

    def ask(self, do: str, **details: Any) -> dict[str, Any]:
        """Give an order and wait for the answer.

        Raises:
            ChildDied: It can't, or is gone.
        """
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps({"do": do, **details}).encode() + b"\n")
            self._process.stdin.flush()
        except OSError:
            raise ChildDied(self._reason()) from None
        return self._answer()

    def end(self) -> None:
        """Kill it; nothing of it is left."""
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout, self._said):
            try:
                if pipe is not None:
                    pipe.close()
            except BrokenPipeError:
                pass

    def __enter__(self) -> "Child":
        return self

    def __exit__(self, *_: object) -> None:
        self.end()

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        descriptor = self._process.stdout.fileno()
        until = time.monotonic() + DEADLINE_SECONDS
        poll = select.poll()
        poll.register(descriptor, select.POLLIN)
        while b"\n" not in self._unread:
            if not poll.poll(max(0.0, until - time.monotonic()) * 1000):
                raise ChildDied(f"gave no answer within {DEADLINE_SECONDS:.0f} seconds")
            some = os.read(descriptor, 1 << 16)
            if not some:
                raise ChildDied(self._reason())
            self._unread += some
        line, _, self._unread = self._unread.partition(b"\n")
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise ChildDied(answer["error"])
        return answer

    def _reason(self) -> str:
        code = self._process.wait()
        self._said.seek(0)
        return reason_of_end(code, self._said.read().decode(errors="replace"))


def reason_of_end(code: int, said: str) -> str:
    """Why a process is gone, from its exit code and what it said on stderr."""
    if code == -signal.SIGKILL:
        return "its process was killed (SIGKILL), most likely for want of memory"
    if code < 0:
        return f"its process ended with {signal.Signals(-code).name}"
    lines = said.strip().splitlines()
    return f"its process ended with code {code}{f': {lines[-1]}' if lines else ''}"


def environment(threads: int) -> Mapping[str, str]:
    """As ours, with the number of threads that was asked for, whatever stands there."""
    places = [*os.environ.get("PYTHONPATH", "").split(os.pathsep), str(_PACKAGE_ROOT)]
    return {
        **os.environ,
        **dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS"), str(threads)),
        "PYTHONPATH": os.pathsep.join(place for place in places if place),
    }
