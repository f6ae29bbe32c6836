"""Files and folders that exist whole or not at all: written beside their place, synced, renamed."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a path beside ``path`` to write to; on success it takes the place of ``path``.

    If the block raises, nothing is left and an older file stays as it was.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".partial")
    os.close(descriptor)
    partial = Path(name)
    try:
        yield partial
        _sync(partial)
        partial.chmod(0o666 & ~_umask())
        partial.replace(path)
        _sync(path.parent)
    finally:
        partial.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write a UTF-8 text whole or not at all."""
    with replacing(path) as partial:
        partial.write_text(text, encoding="utf-8")


@contextmanager
def staged_folder(target: Path) -> Iterator[Path]:
    """Yield an empty folder beside ``target``; on success it is renamed to ``target``.

    ``target`` must not exist, or be an empty folder. If the block raises, nothing is left.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    stage = Path(tempfile.mkdtemp(dir=target.parent, prefix=f".{target.name}.", suffix=".partial"))
    try:
        yield stage
        for path in stage.rglob("*"):
            if path.is_file():
                path.chmod(0o666 & ~_umask())  # some writers leave files that only we can read
            _sync(path)
        _sync(stage)
        stage.chmod(0o777 & ~_umask())
        stage.replace(target)
        _sync(target.parent)
    finally:
        shutil.rmtree(stage, ignore_errors=True)


@contextmanager
def replacing_folder(target: Path) -> Iterator[Path]:
    """As `staged_folder`, but an older folder at ``target`` is replaced.

    For the moment between two renames nothing stands at ``target``.
    """
    with staged_folder(target.with_name(f".{target.name}.new")) as stage:
        yield stage
    old = target.with_name(f".{target.name}.old")
    shutil.rmtree(old, ignore_errors=True)
    if target.exists():
        target.replace(old)
    target.with_name(f".{target.name}.new").replace(target)
    _sync(target.parent)
    shutil.rmtree(old, ignore_errors=True)


def is_free(target: Path) -> bool:
    """Whether a new folder may be put at ``target``: nothing is there, or an empty folder."""
    return not target.exists() or (target.is_dir() and not any(target.iterdir()))


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _umask() -> int:
    current = os.umask(0)
    os.umask(current)
    return current
