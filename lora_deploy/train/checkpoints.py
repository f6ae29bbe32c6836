"""``checkpoints/`` of a RUN: each one whole or absent, vouched for by a manifest that is written last.

What is in one is known to `state`; here it is only files with sizes and hashes.
"""

import hashlib
import logging
import re
import shutil
from collections.abc import Callable
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from lora_deploy import atomic
from lora_deploy.artifact.manifest import Manifest, read_manifest, sha256_of_file
from lora_deploy.errors import ArtifactError, NothingToResumeError, TornCheckpointError
from lora_deploy.train.callbacks import EpochFigures
from lora_deploy.train.interruption import uninterrupted
from lora_deploy.train.origin import Origin

logger = logging.getLogger(__name__)

FOLDER = "checkpoints"
MANIFEST = "checkpoint.json"


class FileIdentity(BaseModel):
    """What a file must be."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    size_bytes: int
    sha256: str


class Checkpoint(Manifest):
    """``checkpoint.json``: where a training stood at the end of an epoch."""

    epoch: int
    """Finished epochs, from 1."""
    step: int
    """Finished steps of the optimizer."""
    complete: bool
    """No epoch follows: it was the last one, or nothing had become better for too long."""
    best: EpochFigures | None
    """Of the epoch that the RUN holds; what early stopping counts from."""
    training_seconds: float
    origin: Origin
    frames: str
    """Hash over the decoded frames."""
    files: dict[str, FileIdentity]
    manifest_sha256: str = ""
    """Over this manifest with nothing at this place."""

    def sealed(self) -> "Checkpoint":
        """The same with its own hash in it."""
        bare = self.model_copy(update={"manifest_sha256": ""})
        digest = hashlib.sha256(bare.model_dump_json(indent=1).encode()).hexdigest()
        return self.model_copy(update={"manifest_sha256": digest})


def write(
    run_folder: Path, checkpoint: Checkpoint, fill: Callable[[Path], None], *, keep: int
) -> None:
    """Write a checkpoint, and only when it stands take the oldest ones away.

    Ctrl-C and a termination wait until it stands.

    Args:
        run_folder: The RUN.
        checkpoint: Without its files.
        fill: Writes the files into the folder that it is given.
        keep: How many checkpoints stay.

    Raises:
        DiskFullError: There is no room; the older checkpoints are as they were.
    """
    folder = run_folder / FOLDER
    with uninterrupted():
        with atomic.staged_folder(folder / f"epoch-{checkpoint.epoch:05}") as stage:
            fill(stage)
            files = {path.name: _identity(path) for path in sorted(stage.iterdir())}
            manifest = checkpoint.model_copy(update={"files": files}).sealed()
            (stage / MANIFEST).write_text(manifest.model_dump_json(indent=1) + "\n")
        for old in _newest_first(folder)[keep:]:
            remove(old)


def read(path: Path) -> Checkpoint:
    """Read a checkpoint's manifest and compare every file with it.

    Raises:
        TornCheckpointError: Something of it is missing, torn or changed; the text says what.
    """
    if not (path / MANIFEST).is_file():
        raise TornCheckpointError(f"it has no {MANIFEST}, which is written last")
    checkpoint = read_manifest(path / MANIFEST, Checkpoint)
    if checkpoint.sealed() != checkpoint:
        raise TornCheckpointError(f"{MANIFEST} was changed")
    for name, identity in checkpoint.files.items():
        file = path / name
        if not file.is_file():
            raise TornCheckpointError(f"{name} is missing")
        if _identity(file) != identity:
            raise TornCheckpointError(f"{name} is torn or was changed")
    return checkpoint


def newest_whole(run_folder: Path) -> tuple[Path, Checkpoint] | None:
    """The last checkpoint of which every byte is as it was written; None if none was ever written.

    Later ones that are not whole are passed over aloud.

    Raises:
        NothingToResumeError: There are checkpoints, and none of them is whole.
    """
    passed_over = []
    for path in _newest_first(run_folder / FOLDER):
        try:
            return path, read(path)
        except (ArtifactError, TornCheckpointError, OSError) as error:
            found = getattr(error, "found", error)
            logger.warning("passed over: the checkpoint %s: %s", path, found)
            passed_over.append(f"{path.name}: {found}")
    if passed_over:
        raise NothingToResumeError(
            f"no checkpoint in {run_folder / FOLDER} is whole ({'; '.join(passed_over)})"
        )
    return None


def newest_epoch(run_folder: Path) -> int | None:
    """The epoch of the last checkpoint, unread; None where there is none."""
    return next(map(_epoch, _newest_first(run_folder / FOLDER)), None)


def tidy(run_folder: Path, *, after_epoch: int) -> None:
    """Take away what a killed training left half done, and checkpoints of later epochs.

    Those are not whole, or they would have been chosen; the epochs are trained again.
    """
    folder = run_folder / FOLDER
    for path in [*folder.glob(".*.partial"), *_newest_first(folder)]:
        if path.suffix == ".partial" or _epoch(path) > after_epoch:
            remove(path)


def remove(path: Path) -> None:
    """Take a checkpoint away; at no moment a half one stands under its name."""
    gone = path
    if path.suffix != ".partial":
        gone = path.with_name(f".{path.name}.partial")
        shutil.rmtree(gone, ignore_errors=True)
        path.replace(gone)
    shutil.rmtree(gone, ignore_errors=True)


def _newest_first(folder: Path) -> list[Path]:
    found = [path for path in folder.glob("epoch-*") if re.fullmatch(r"epoch-\d+", path.name)]
    return sorted(found, key=_epoch, reverse=True)


def _epoch(path: Path) -> int:
    return int(path.name.partition("-")[2])


def _identity(path: Path) -> FileIdentity:
    return FileIdentity(size_bytes=path.stat().st_size, sha256=sha256_of_file(path))
