"""A file of a bundle handed to a runtime that opens paths: a checked copy, gone once it was read.

A runtime that is given bytes copies them before it parses them, and OpenVINO then looks for
external data in the current folder. Given a path it parses as it reads; but a file that was
checked could be another one when it is opened. So it is given the path of a copy that can't be
written to, in a folder of its own: a graph that names other files finds none.
"""

import fcntl
import hashlib
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from lora_deploy.artifact.bundle import BundleManifest, FileRecord, changed, record_of
from lora_deploy.errors import FileChangedError, FileMissingError

NAME = "model.onnx"
"""Runtimes tell the format by the ending."""

_CHUNK_BYTES = 1 << 20


@contextmanager
def copied(folder: Path, manifest: BundleManifest, name: str) -> Iterator[Path]:
    """Yield a path of a checked copy, in memory and read-only.

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
