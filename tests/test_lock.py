"""One process at a time, but for the moment that the child of a killed holder may need."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from lora_deploy import lock
from lora_deploy.errors import BatchBusyError

BUSY = BatchBusyError("somebody is at work")


def holder(path: Path, seconds: float) -> "subprocess.Popen[str]":
    """A process that holds the lock for so long from now on."""
    program = (
        "import fcntl, sys, time\n"
        "file = open(sys.argv[1], 'w')\n"
        "fcntl.flock(file, fcntl.LOCK_EX)\n"
        "print('held', flush=True)\n"
        "time.sleep(float(sys.argv[2]))\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", program, str(path), str(seconds)], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    return process


def test_a_lock_that_is_given_back_in_a_moment_is_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lock, "_PATIENCE_SECONDS", 20.0)  # computers may be slow
    process = holder(tmp_path / "lock", 0.3)
    with lock.held(tmp_path / "lock", BUSY):
        process.communicate(timeout=20)


def test_a_folder_itself_can_be_held(tmp_path: Path) -> None:
    with lock.held_folder(tmp_path, BUSY):
        with pytest.raises(BatchBusyError), lock.held_folder(tmp_path, BUSY):
            pass
        child = os.fork()
        if not child:  # inherits the descriptor, and must not keep the lock
            time.sleep(300)
    try:
        with lock.held_folder(tmp_path, BUSY):
            assert list(tmp_path.iterdir()) == []
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


def test_a_lock_that_somebody_keeps_is_told_soon(tmp_path: Path) -> None:
    process = holder(tmp_path / "lock", 300)
    begun = time.monotonic()
    try:
        with pytest.raises(BatchBusyError), lock.held(tmp_path / "lock", BUSY):
            pass
        assert time.monotonic() - begun < 60
    finally:
        process.kill()
        process.communicate()
