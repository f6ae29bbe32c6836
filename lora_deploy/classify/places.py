"""Where the rows and the journal of a run lie, and that nobody else is at work on them."""

import contextlib
import glob
import hashlib
import logging
import os
import stat
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from lora_deploy.classify.parts import Shard
from lora_deploy.classify.rows import check_ending
from lora_deploy.disk import is_network
from lora_deploy.errors import BatchBusyError, OutputPlaceError
from lora_deploy.lock import held

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Batch:
    """Where rows are written to, and what becomes of what is known already."""

    outs: tuple[Path, ...]
    """One or more, each in the format of its ending."""
    journal: Path | None = None
    """By default beside the first output, with ``.journal`` behind its name."""
    restart: bool = False
    """Forget what is known."""
    retry_errors: bool = False
    """Ask clips with error rows once more."""
    by_content: bool = False
    """Know files by what they hold, and not by path, size and time."""
    shard: Shard | None = None
    """Take a part of the clips alone; its rows are written beside the output, to be joined."""

    @property
    def files(self) -> tuple[Path, ...]:
        """What is written in the end."""
        return self.outs if self.shard is None else (self.shard.part_of(self.outs[0]),)


def check_outs(batch: Batch) -> None:
    """Refuse outputs that can't be written, before any work.

    Raises:
        OutputPlaceError: None is named, one twice, or one that can't be written.
    """
    if not batch.outs:
        raise OutputPlaceError("no output is named")
    for out in batch.outs:
        check_ending(out)
    if len({out.resolve() for out in batch.outs}) < len(batch.outs):
        raise OutputPlaceError("an output is named twice")
    if batch.shard is not None and len(batch.outs) > 1:
        raise OutputPlaceError(
            f"a shard has one output, and {len(batch.outs)} are named; name all with --join"
        )


def journal_place(batch: Batch) -> Path:
    """Where the journal of a run is.

    Beside the output; of a shard whose output many computers see, on a disk of this one alone.
    """
    if batch.journal is not None:
        batch.journal.parent.mkdir(parents=True, exist_ok=True)
        return batch.journal
    file = batch.files[0]
    beside = file.with_name(f"{file.name}.journal")
    if batch.shard is None or not is_network(file.parent):
        return beside
    folder = Path(tempfile.gettempdir()) / f"lora-deploy-{os.getuid()}"
    if is_network(folder.parent) or not _is_ours(folder):
        return beside
    digest = hashlib.blake2b(os.fsencode(file.resolve()), digest_size=6).hexdigest()
    place = folder / f"{digest}-{beside.name}"
    logger.warning(
        "%s is on a network disk, so the journal of shard %s is %s: only this computer can go on "
        "with it; --journal puts it elsewhere", file.parent, batch.shard, place,
    )  # fmt: skip
    return place


def _is_ours(folder: Path) -> bool:
    """Make a folder where others may make some too, and see that this one is nobody else's."""
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
        status = folder.lstat()
    except OSError:
        return False
    return (
        stat.S_ISDIR(status.st_mode) and status.st_uid == os.getuid() and not status.st_mode & 0o022
    )


@contextlib.contextmanager
def only_here(path: Path) -> Iterator[None]:
    """Hold a file against other runs, and take away what one that was killed left beside it.

    Raises:
        BatchBusyError: Another run holds it.
    """
    busy = BatchBusyError(f"another run is at work on {path}")
    with held(path.with_name(f".{path.name}.lock"), busy):
        for left in path.parent.glob(f".{glob.escape(path.name)}.*.partial"):
            left.unlink(missing_ok=True)
        yield
