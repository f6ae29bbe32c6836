"""Stands for a decoder inside a real worker: does what the file's content says, from a sound clip to an escape."""

import ctypes
import errno
import json
import mmap
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from lora_deploy.clips import wire
from lora_deploy.clips.clip import WHOLE_FILE, DecodedClip, Effort, Stretch
from lora_deploy.clips.contract import PixelContract
from lora_deploy.errors import ClipError

CLONE3 = 435

"localhost".encode("idna")  # sockets want this codec; inside the fence it is too late to load it


def decode_file(
    file: BinaryIO, contract: PixelContract, effort: Effort, stretch: Stretch = WHOLE_FILE
) -> DecodedClip:
    """Obey ``{"do": NAME, …}``; a refused escape is told as forbidden, one that worked as too_long."""
    try:
        order: dict[str, Any] = json.loads(file.read())
    except ValueError:
        raise ClipError("unreadable", "no order") from None
    name = order.pop("do")
    if name in ESCAPES:
        try:
            ESCAPES[name](**order)
        except (OSError, MemoryError) as error:
            raise ClipError("forbidden", type(error).__name__) from None
        raise ClipError("too_long", "escaped")
    ORDERS[name](**order)
    return DecodedClip(
        frames=np.full(contract.frames_shape, os.getpid() % 251, np.uint8),
        times_seconds=tuple(float(index) for index in range(contract.frames)),
        duration_seconds=float(contract.frames),
        warning=str(os.getpid()),
    )


def _sleep(seconds: float = 3600) -> None:
    time.sleep(seconds)


def _sleep_in_native_code() -> None:
    ctypes.PyDLL(None).sleep(3600)


def _die() -> None:
    os.abort()


def _run_out_of_memory() -> None:
    raise ClipError("too_large", "Too large")


def _nothing() -> None:
    pass


def _say(content: str) -> None:
    """Write bytes that are no answer to the pool's socket, whichever of the open files that is."""
    for descriptor in range(3, 1024):
        with suppress(OSError):
            os.write(descriptor, content.encode("latin-1"))


def _drip() -> None:
    """An answer that never comes to its end, a byte at a time."""
    _say("\x00\x00\x10\x00")
    while True:
        _say(" ")
        time.sleep(0.2)


def _answer_twice() -> None:
    text = wire.Answer(status="error", error_kind="not_found", error="Stale").model_dump_json()
    _say(len(text).to_bytes(4, "big").decode("latin-1") + text)


def _die_at_the_second_clip() -> None:
    global _clips
    _clips += 1
    if _clips > 1:
        os.abort()


_clips = 0

ORDERS: dict[str, Callable[..., None]] = {
    "nothing": _nothing,
    "run_out_of_memory": _run_out_of_memory,
    "sleep": _sleep,
    "sleep_in_native_code": _sleep_in_native_code,
    "die": _die,
    "say": _say,
    "drip": _drip,
    "answer_twice": _answer_twice,
    "die_at_the_second_clip": _die_at_the_second_clip,
}


def _read(path: str) -> None:
    Path(path).read_bytes()


def _write(path: str) -> None:
    Path(path).write_bytes(b"escaped")


def _remove(path: str) -> None:
    Path(path).unlink()


def _change_mode(path: str) -> None:
    Path(path).chmod(0o777)


def _start_program() -> None:
    subprocess.run(["/bin/true"], check=True)


def _replace_itself() -> None:
    os.execv("/bin/true", ["true"])


def _start_process() -> None:
    if (pid := os.fork()) == 0:
        os._exit(0)
    os.waitpid(pid, 0)


def _connect(port: int) -> None:
    with socket.create_connection(("127.0.0.1", port), timeout=2) as connection:
        connection.sendall(b"escaped")


def _send_datagram(port: int) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        sender.sendto(b"escaped", ("127.0.0.1", port))


def _connect_abstract(name: str) -> None:
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(f"\0{name}")


def _signal(pid: int) -> None:
    os.kill(pid, signal.SIGCONT)


def _take_memory(size: int) -> None:
    mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS).close()


def _share_memory() -> None:
    mmap.mmap(-1, 4096, flags=mmap.MAP_SHARED | mmap.MAP_ANONYMOUS).close()


def _call(number: int) -> None:
    """A system call with nonsense for arguments: with no fence it gets as far as looking at them."""
    libc = ctypes.CDLL(None, use_errno=True)
    libc.syscall(ctypes.c_long(number), *[ctypes.c_long(-1)] * 6)
    refused = errno.ENOSYS if number == CLONE3 else errno.EPERM
    if ctypes.get_errno() == refused:
        raise OSError(refused, "refused")


def _trace(pid: int) -> None:
    attach = 16
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.ptrace(attach, pid, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "refused")
    libc.ptrace(17, pid, 0, 0)


ESCAPES: dict[str, Callable[..., None]] = {
    "read": _read,
    "write": _write,
    "remove": _remove,
    "change_mode": _change_mode,
    "start_program": _start_program,
    "replace_itself": _replace_itself,
    "start_process": _start_process,
    "connect": _connect,
    "send_datagram": _send_datagram,
    "connect_abstract": _connect_abstract,
    "signal": _signal,
    "take_memory": _take_memory,
    "share_memory": _share_memory,
    "call": _call,
    "trace": _trace,
}


def worker_command(*changes: str) -> tuple[str, ...]:
    """The command of a real worker whose decoder is this file, with lines that change the fence."""
    lines = (
        "import sys",
        f"sys.path.insert(0, {str(Path(__file__).parent)!r})",
        "from lora_deploy.clips import fence, seccomp, worker",
        "worker.DECODERS['av'] = 'stub_decoder'",
        *changes,
        "worker.main()",
    )
    return (sys.executable, "-c", "\n".join(lines))
