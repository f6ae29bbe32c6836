"""Files and folders that exist whole or not at all: written beside their place, synced, renamed.

- `replacing`: one file; renaming it is the moment at which it counts.
- `staged_folder`: a new folder; likewise.
- `updating`: several files of a folder, all of them or none. They are staged in one hidden folder,
  and renaming that to ``.update`` is the moment at which they count. Then each is moved to its
  place; if that is cut off, `settle` goes on with it, and whoever reads the files calls it first.
"""

import errno
import fcntl
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from lora_deploy import lock
from lora_deploy.disk import failures_named
from lora_deploy.errors import FileUnknownError, SaveUnfinishedError

UPDATE = ".update"
"""Files that count already, and are on the way to their places one level up."""


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a path beside ``path`` to write to; on success it takes the place of ``path``.

    If the block raises, nothing is left and an older file stays as it was.

    Raises:
        DiskFullError: There is no room for it.
    """
    with failures_named(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor, name = tempfile.mkstemp(
            dir=path.parent, prefix=f".{path.name}.", suffix=".partial"
        )
        os.close(descriptor)
        partial = Path(name)
        try:
            yield partial
            partial.chmod(0o666 & ~_umask())
            _sync(partial)
            partial.replace(path)
        except BaseException:
            partial.unlink(missing_ok=True)
            raise
        _sync(path.parent)


def write_text(path: Path, text: str) -> None:
    """Write a UTF-8 text whole or not at all."""
    with replacing(path) as partial:
        partial.write_text(text, encoding="utf-8")


@contextmanager
def staged_folder(target: Path) -> Iterator[Path]:
    """Yield an empty folder beside ``target``; on success it is renamed to ``target``.

    ``target`` must not exist, or be an empty folder. If the block raises, nothing is left; what a
    killed process left is removed by the next one with the same target.

    Raises:
        DiskFullError: There is no room for it.
    """
    with failures_named(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        with _one_at_a_time(target.parent):  # a stage is never seen without its lock
            _remove_abandoned_stages(target)
            stage = Path(
                tempfile.mkdtemp(dir=target.parent, prefix=f".{target.name}.", suffix=".partial")
            )
            own = _lock(stage)
        try:
            yield stage
            for path in sorted(stage.rglob("*")):
                if path.is_file():
                    path.chmod(0o666 & ~_umask())  # some writers leave files that only we can read
                _sync(path)
            stage.chmod(0o777 & ~_umask())
            _sync(stage)
            stage.replace(target)
        except BaseException:
            shutil.rmtree(stage, ignore_errors=True)
            raise
        finally:
            if own is not None:
                os.close(own)
        _sync(target.parent)


@contextmanager
def updating(folder: Path) -> Iterator[Path]:
    """Yield an empty folder; on success its files replace those of ``folder``, all or none.

    Only one process at a time may update a folder. If the block raises, nothing is left and
    ``folder`` stays as it was; what a killed process left is removed.

    Raises:
        DiskFullError: There is no room for the files.
    """
    settle(folder)
    for left in folder.glob(".*.partial"):
        _remove(left)
    with failures_named(folder), staged_folder(folder / UPDATE) as stage:
        yield stage
    settle(folder)


def settle(folder: Path) -> None:
    """Finish an update of ``folder`` that was cut off; more than one process may do so at once.

    Raises:
        SaveUnfinishedError: There is one, and nothing may be moved here.
        FileUnknownError: A link would lead the files out of ``folder``.
    """
    folder = folder.resolve()  # the folder itself may be reached by a link, nothing in it
    update = folder / UPDATE
    try:
        if update.is_dir():
            _move_contents(update, folder)
    except OSError as error:
        if error.errno not in (errno.EACCES, errno.EPERM, errno.EROFS):
            raise
        if any(not path.is_dir() for path in update.rglob("*")):
            raise SaveUnfinishedError(
                f"the last save into {folder} was cut off, and finishing it needs the right to "
                f"write there ({error.strerror})"
            ) from None


def is_on_the_way(name: str) -> bool:
    """Whether a path in a folder, with forward slashes, belongs to an update of it that is under way."""
    top = name.partition("/")[0]
    return top == UPDATE or (top.startswith(f".{UPDATE}.") and top.endswith(".partial"))


def is_free(target: Path) -> bool:
    """Whether a new folder may be put at ``target``: nothing is there, or an empty folder."""
    return not target.exists() or (target.is_dir() and not any(target.iterdir()))


def _move_contents(source: Path, target: Path) -> None:
    """Move every file to its place; what another process has moved by now is passed over.

    Nothing is ever removed but empty folders, so whatever is still on its way gets there.
    """
    if source.is_symlink() or target.is_symlink():
        raise FileUnknownError(f"{source} or {target} is a link, and a save leaves none")
    target.mkdir(exist_ok=True)
    with suppress(FileNotFoundError):
        for path in sorted(source.iterdir()):
            if path.is_dir() and not path.is_symlink():
                _move_contents(path, target / path.name)
            else:
                with suppress(FileNotFoundError):
                    path.replace(target / path.name)
    _sync(target)
    try:
        source.rmdir()
    except OSError as error:
        if error.errno not in (errno.ENOENT, errno.ENOTEMPTY):
            raise


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink()


def _remove_abandoned_stages(target: Path) -> None:
    for left in target.parent.iterdir():
        if left.name.startswith(f".{target.name}.") and left.suffix == ".partial" and left.is_dir():
            own = _lock(left)
            if own is not None:
                shutil.rmtree(left, ignore_errors=True)
                os.close(own)


@contextmanager
def _one_at_a_time(folder: Path) -> Iterator[None]:
    """Wait for whoever makes or removes a stage in ``folder`` at this moment; for seconds at most."""
    if lock.is_held(folder):  # by ourselves, against all others
        yield
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        for _ in range(500):
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                time.sleep(0.01)
            except OSError:  # the file system knows no locks
                break
            else:
                break
        yield
    finally:
        os.close(descriptor)


def _lock(folder: Path) -> int | None:
    """A descriptor that holds a lock on a folder until it is closed, or the process ends.

    None where another process has the lock, or another user the folder, or where the file system
    knows no locks.
    """
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except OSError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        return None
    return descriptor


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from None
    finally:
        os.close(descriptor)


def _umask() -> int:
    current = os.umask(0)
    os.umask(current)
    return current
