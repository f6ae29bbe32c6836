"""A file of a bundle handed to a runtime that opens paths: checked first, and alone in its folder.

A runtime that is given bytes copies them before it parses them; given a path it parses as it reads.
The path is a link to the file that was opened and checked, whatever is put in its place meanwhile,
in a folder of its own: a graph that names other files finds none beside it.
"""

import hashlib
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath

from lora_deploy.artifact.bundle import (
    BundleManifest,
    changed,
    check_content,
    check_nothing_added,
    open_own,
    record_of,
)
from lora_deploy.errors import FileChangedError

NAME = "model.onnx"
"""Runtimes tell the format by the ending."""


@contextmanager
def handed(folder: Path, manifest: BundleManifest, name: str) -> Iterator[Path]:
    """Yield a path at which the checked file is read, for as long as the block lasts.

    Raises:
        ArtifactError: The file is unknown to the manifest, missing, a link, or has changed, be it
            while the block read it; or a file lies beside it that the manifest does not know.
    """
    record = record_of(folder, manifest, name)
    top = PurePosixPath(name).parts[0]
    check_nothing_added(folder, manifest, "" if top == name else top)
    with (
        open_own(folder, name) as file,
        tempfile.TemporaryDirectory(prefix="lora-deploy-") as alone,
    ):
        before = _state(file.fileno())
        check_content(folder, name, file, record)
        link = Path(alone) / NAME
        link.symlink_to(f"/proc/{os.getpid()}/fd/{file.fileno()}")
        yield link
        if _state(file.fileno()) != before:
            raise FileChangedError(changed(folder, name))


def content_of(folder: Path, manifest: BundleManifest, name: str) -> bytes:
    """The bytes of a file, themselves checked: for what runs as native code, whatever is written meanwhile.

    Raises:
        ArtifactError: The file is unknown to the manifest, missing, a link, or has changed; or a file
            lies beside it that the manifest does not know.
    """
    record = record_of(folder, manifest, name)
    check_nothing_added(folder, manifest, PurePosixPath(name).parent.as_posix())
    with open_own(folder, name) as file:
        content = file.read(record.bytes + 1)
        while content and len(content) <= record.bytes and (more := file.read(record.bytes + 1)):
            content += more
    if len(content) != record.bytes or hashlib.sha256(content).hexdigest() != record.sha256:
        raise FileChangedError(changed(folder, name))
    return content


@contextmanager
def alone(graph: bytes | Path) -> Iterator[Path]:
    """Yield a path of a graph that has a folder of its own: given bytes, OpenVINO looks for other
    files in the working directory.

    Args:
        graph: Its bytes, or a path that `handed` gave.
    """
    if isinstance(graph, Path):
        yield graph
        return
    with tempfile.TemporaryDirectory(prefix="lora-deploy-") as folder:
        path = Path(folder) / NAME
        path.write_bytes(graph)
        yield path


def _state(descriptor: int) -> tuple[int, int, int]:
    """What the kernel changes with every writing: nobody can set the time of the last change back."""
    state = os.fstat(descriptor)
    return state.st_size, state.st_mtime_ns, state.st_ctime_ns
