"""A file of a bundle handed to a runtime that opens paths: checked, and never twice in memory.

A runtime that is given bytes copies them before it parses them. Given a path it parses as it
reads; but a file that was checked could be another one when it is opened. So it is given a path
at which only checked bytes come out, in a folder of its own: a graph that names other files,
which a runtime would look for beside it, finds none.
"""

import contextlib
import fcntl
import hashlib
import os
import select
import sys
import tempfile
import termios
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from lora_deploy.artifact.bundle import BundleManifest, FileRecord, changed, record_of
from lora_deploy.errors import FileChangedError, FileMissingError

NAME = "model.onnx"
"""Runtimes tell the format by the ending."""

_CHUNK_BYTES = 1 << 20
_LOOK_AGAIN_SECONDS = 0.002


@contextmanager
def streamed(folder: Path, manifest: BundleManifest, name: str) -> Iterator[Path]:
    """Yield a pipe that gives the file's bytes to whoever opens and reads it from front to back.

    The last bytes come only once all of them were found right, so a reader never has a whole file
    that is not the one of the manifest. Nothing is kept in memory.

    Raises:
        ArtifactError: The file is unknown to the manifest, missing, or has changed; raised at the
            end of the block, instead of what the reader says of a file that breaks off.
    """
    with _opened(folder, manifest, name) as (file, record), _private_folder() as beside:
        pipe = beside / NAME
        os.mkfifo(pipe, 0o600)
        stream = _Stream(file, record, pipe)
        stream.start()
        try:
            yield pipe
        finally:
            stream.stop()
            if stream.has_changed:
                raise FileChangedError(changed(folder, name)) from None


@contextmanager
def copied(folder: Path, manifest: BundleManifest, name: str) -> Iterator[Path]:
    """Yield a path of a checked copy, in memory and read-only, for readers that jump about.

    Raises:
        ArtifactError: The file is unknown to the manifest, missing, or has changed.
    """
    with _opened(folder, manifest, name) as (file, record), _private_folder() as beside:
        copy = os.memfd_create(NAME, os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        try:
            digest = hashlib.sha256()
            while chunk := file.read(_CHUNK_BYTES):
                digest.update(chunk)
                _write_all(copy, chunk)
            if digest.hexdigest() != record.sha256:
                raise FileChangedError(changed(folder, name))
            fcntl.fcntl(
                copy,
                fcntl.F_ADD_SEALS,
                fcntl.F_SEAL_WRITE | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_SEAL,
            )
            link = beside / NAME
            link.symlink_to(f"/proc/self/fd/{copy}")
            yield link
        finally:
            os.close(copy)


class _Stream(threading.Thread):
    """Writes the file into the pipe, once."""

    def __init__(self, file: BinaryIO, record: FileRecord, pipe: Path) -> None:
        super().__init__(name="graph", daemon=True)
        self.has_changed = False
        self._file, self._record = file, record
        # Open at both ends: a reader may look whether it is there, and come again to read.
        self._pipe = os.open(pipe, os.O_RDWR | os.O_NONBLOCK)
        self._stopped = threading.Event()

    def run(self) -> None:
        try:
            self._give()
        except OSError:
            self.has_changed = True  # it can't be read to its end
        finally:
            os.close(self._pipe)  # now the reader sees the end

    def stop(self) -> None:
        self._stopped.set()
        self.join()

    def _give(self) -> None:
        digest = hashlib.sha256()
        held_back = b""
        while (chunk := self._file.read(_CHUNK_BYTES)) and not self._stopped.is_set():
            digest.update(chunk)
            self._write(held_back)
            held_back = chunk
        if self._stopped.is_set():
            return
        if digest.hexdigest() != self._record.sha256:
            self.has_changed = True
            return
        self._write(held_back)
        while self._unread_bytes() and not self._stopped.wait(_LOOK_AGAIN_SECONDS):
            pass  # closed too early, what nobody has opened yet would be gone

    def _write(self, content: bytes) -> None:
        view = memoryview(content)
        while view and not self._stopped.is_set():
            if select.select([], [self._pipe], [], _LOOK_AGAIN_SECONDS)[1]:
                with contextlib.suppress(BlockingIOError):
                    view = view[os.write(self._pipe, view) :]

    def _unread_bytes(self) -> int:
        return int.from_bytes(fcntl.ioctl(self._pipe, termios.FIONREAD, bytes(4)), sys.byteorder)


@contextmanager
def _opened(
    folder: Path, manifest: BundleManifest, name: str
) -> Iterator[tuple[BinaryIO, FileRecord]]:
    record = record_of(folder, manifest, name)
    try:
        file = (folder / name).open("rb", buffering=0)
    except OSError as error:
        raise FileMissingError(f"{folder / name} can't be read: {error.strerror}") from None
    with file:
        if os.fstat(file.fileno()).st_size != record.bytes:
            raise FileChangedError(changed(folder, name))
        yield file, record


@contextmanager
def _private_folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="lora-deploy-") as name:
        yield Path(name)


def _write_all(descriptor: int, content: bytes) -> None:
    view = memoryview(content)
    while view:
        view = view[os.write(descriptor, view) :]
