"""Trainings that may be killed: each a fork of one process that has imported everything once.

``python -m tests.nursery`` obeys one JSON document a line: ``{"start": {…}}`` is answered with a
process id, ``{"wait": id}`` with the exit code, negative for a signal.
"""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NoReturn

ROOT = Path(__file__).parents[1]

CHANGES = ("open", "os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.truncate")


@dataclass(frozen=True)
class Start:
    """One training to be started."""

    arguments: list[str]
    out: str
    """Its RUN folder."""
    log: str
    """Gets its stdout and stderr, appended."""
    kill_at_event: int = 0
    """It sends itself a signal before this change in its folder, or step, from 1; 0 never."""
    kill_at_step: int = 0
    """It kills itself before this step of its life, from 1; 0 never."""
    counts_from_checkpoint: bool = False
    """These are counted from when its first checkpoint stands."""
    signal: int = signal.SIGKILL
    count_events_to: str = ""
    """A file for the numbers of events before the first step and in all, of a life that ends by itself."""
    without: str = ""
    """A function, as ``module:name``, that does nothing this time."""
    kill_in: str = ""
    """A function, as ``module:name``, in which it kills itself."""
    kill_after_checkpoint: int = 0
    """It kills itself as soon as the checkpoint of this epoch stands; 0 never."""
    terminate_in_checkpoint: int = 0
    """It is sent SIGTERM while the checkpoint of this epoch is written; 0 never."""
    file_limit_at_epoch: int = 0
    """From the checkpoint of this epoch on no file may be larger than 20 kB."""


class Nursery:
    """Starts trainings, and ends when it is closed."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.nursery"],
            cwd=ROOT,
            env={**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "PYTHONPATH": str(ROOT)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )  # fmt: skip

    def start(self, start: Start) -> int:
        """Its process id; nobody else gets it before `wait`."""
        return self._ask({"start": asdict(start)})

    def wait(self, pid: int) -> int:
        """Its exit code; negative for the signal that ended it."""
        return self._ask({"wait": pid})

    def close(self) -> None:
        """Let it end."""
        self._process.communicate()

    def _ask(self, request: dict[str, Any]) -> int:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        return int(self._process.stdout.readline())


def _main() -> None:
    # What a training imports on its way, so that no fork has to.
    import transformers.models.videomae.modeling_videomae  # noqa: F401

    import lora_deploy.runtime.eager
    import lora_deploy.train.fit  # noqa: F401

    for line in sys.stdin:
        request = json.loads(line)
        if "wait" in request:
            _, status = os.waitpid(request["wait"], 0)
            answer = os.waitstatus_to_exitcode(status)
        else:
            answer = os.fork()
            if answer == 0:
                _live(Start(**request["start"]))
        print(answer, flush=True)


def _live(start: Start) -> NoReturn:
    log = os.open(start.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(log, 1)
    os.dup2(log, 2)
    from lora_deploy import cli

    events = _Events(start)
    events.watch()
    if start.without:
        _replace(start.without, lambda *_, **__: None)
    if start.kill_in:
        _replace(start.kill_in, lambda *_, **__: os.kill(os.getpid(), signal.SIGKILL))
    _meddle_with_checkpoints(start, events)
    code = 70
    try:
        code = cli.run(start.arguments)
        if start.count_events_to:
            Path(start.count_events_to).write_text(
                json.dumps([events.before_first_step, events.seen])
            )
    except SystemExit as stop:
        code = int(stop.code or 0)
    finally:
        os._exit(code)


class _Events:
    """Counts changes in the RUN folder, and steps; at one of them the process gets a signal."""

    def __init__(self, start: Start) -> None:
        self.seen = 0
        self.before_first_step = 0
        self.steps = 0
        self.is_counting = not start.counts_from_checkpoint
        self._start = start
        self._me = os.getpid()

    def watch(self) -> None:
        from transformers import Trainer

        step = Trainer.training_step

        def counted(*arguments: Any, **named: Any) -> Any:
            self.before_first_step = self.before_first_step or self.seen
            self.steps += 1
            if self.steps == self._start.kill_at_step:
                os.kill(self._me, signal.SIGKILL)
            self._happens("a step")
            return step(*arguments, **named)

        Trainer.training_step = counted  # type: ignore[method-assign]
        sys.addaudithook(self._on_audit)

    def _on_audit(self, name: str, arguments: Sequence[Any]) -> None:
        if name not in CHANGES or not isinstance(arguments[0], (str, os.PathLike)):
            return
        writes = name != "open" or (isinstance(arguments[2], int) and arguments[2] & os.O_ACCMODE)
        if writes and os.fspath(arguments[0]).startswith(self._start.out):
            self._happens(f"{name} {arguments[0]}")

    def _happens(self, what: str) -> None:
        if not self.is_counting or os.getpid() != self._me:  # a loader's process is a fork too
            return
        self.seen += 1
        if self.seen == self._start.kill_at_event:
            os.write(2, f"[signal before {what}]\n".encode())
            os.kill(self._me, self._start.signal)


def _replace(where: str, by: Callable[..., Any]) -> None:
    import importlib

    module, _, name = where.partition(":")
    holder = importlib.import_module(module)
    assert callable(getattr(holder, name)), where
    setattr(holder, name, by)


def _meddle_with_checkpoints(start: Start, events: _Events) -> None:
    import resource

    from lora_deploy.train import checkpoints

    write = checkpoints.write

    def meddled(
        run_folder: Path, checkpoint: Any, fill: Callable[[Path], None], **how: Any
    ) -> None:
        def terminated(folder: Path) -> None:
            if checkpoint.epoch == start.terminate_in_checkpoint:
                os.kill(os.getpid(), signal.SIGTERM)
            fill(folder)

        if checkpoint.epoch == start.file_limit_at_epoch:
            resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, resource.RLIM_INFINITY))
        write(run_folder, checkpoint, terminated, **how)
        events.is_counting = True
        if checkpoint.epoch == start.kill_after_checkpoint:
            os.kill(os.getpid(), signal.SIGKILL)

    checkpoints.write = meddled


if __name__ == "__main__":
    _main()
