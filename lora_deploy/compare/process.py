"""Starts the processes of a comparison, waits for them, and leaves none behind."""

import subprocess
import sys
import threading
from pathlib import Path
from types import TracebackType

from pydantic import BaseModel, ValidationError

from lora_deploy import atomic
from lora_deploy.bench.process import environment, reason_of_end
from lora_deploy.compare.outcome import FAILURE, JOB, LOG, Failure

COMMAND = (sys.executable, "-P", "-m", "lora_deploy.compare.child")


_INTERRUPTED = Failure(error="it was interrupted", name=None)


class Processes:
    """Children that are running; what they print goes to a log in their folder."""

    def __init__(self, threads: int) -> None:
        """``threads`` of each."""
        self._threads = threads
        self._running: set[subprocess.Popen[bytes]] = set()
        self._lock = threading.Lock()
        self._is_over = False

    def run(self, folder: Path, job: BaseModel) -> Failure | None:
        """Let a process do a job in its folder, and wait for its end.

        Returns:
            Why it could not, or None.
        """
        folder.mkdir(parents=True, exist_ok=True)
        (folder / FAILURE).unlink(missing_ok=True)
        atomic.write_text(folder / JOB, job.model_dump_json(indent=1) + "\n")
        with (folder / LOG).open("ab") as log:
            process = self._start(folder, log.fileno())
            if process is None:
                return _INTERRUPTED
            code = process.wait()
        with self._lock:
            self._running.discard(process)
            if self._is_over:
                return _INTERRUPTED
        if code == 0:
            return None
        failure = _failure(folder)
        if failure is None:
            failure = Failure(error=reason_of_end(code, _last(folder / LOG)), name=None)
            atomic.write_text(folder / FAILURE, failure.model_dump_json(indent=1) + "\n")
        return failure

    def _start(self, folder: Path, log: int) -> "subprocess.Popen[bytes] | None":
        with self._lock:
            if self._is_over:
                return None
            process = subprocess.Popen(
                [*COMMAND, str(folder)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=environment(self._threads),
                start_new_session=True,  # Ctrl-C is for the process that asks, which then ends this one
            )
            self._running.add(process)
            return process

    def __enter__(self) -> "Processes":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """As `end`."""
        self.end()

    def end(self) -> None:
        """Kill what still runs; a training goes on from its last checkpoint the next time."""
        with self._lock:
            self._is_over = True
            for process in self._running:
                process.kill()


def _failure(folder: Path) -> Failure | None:
    try:
        return Failure.model_validate_json((folder / FAILURE).read_bytes())
    except (FileNotFoundError, ValidationError):
        return None


def _last(log: Path) -> str:
    return log.read_text(encoding="utf-8", errors="replace")[-2000:]
