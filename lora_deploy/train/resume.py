"""Is a RUN folder free, finished, or to be gone on with? And what is put in order before going on."""

import logging
import shutil
from pathlib import Path

from lora_deploy import atomic
from lora_deploy.artifact import run
from lora_deploy.artifact.run import RunManifest
from lora_deploy.config import Settings, load_settings
from lora_deploy.errors import NothingToResumeError, OutputExistsError, ResumeMismatchError
from lora_deploy.train import checkpoints
from lora_deploy.train.changes import settings_differences
from lora_deploy.train.checkpoints import Checkpoint
from lora_deploy.train.lock import LOCK, claimed
from lora_deploy.train.origin import (
    Origin,
    changed_surroundings,
    differences,
)

logger = logging.getLogger(__name__)

FRAMES = ".frames"
"""Decoded clips, as long as a training lasts."""
TENSORBOARD = "tensorboard"

_LEFTOVER = ".partial"
"""Ending of hidden names: what a killed process leaves of something that it was about to finish."""


def refuse_if_busy(out: Path) -> None:
    """See that nobody trains into ``out`` now, before anything is read that may still be moving.

    Raises:
        RunBusyError: Another process does.
    """
    if (out / LOCK).exists():
        with claimed(out):
            pass


def refuse_if_taken(out: Path) -> None:
    """See that a new training may be put at ``out``; remains without any value don't count.

    Raises:
        OutputExistsError: Something else is there.
    """
    if _is_free(out):
        return
    raise OutputExistsError(
        f"{out} exists already"
        + (
            ", and holds a training that was interrupted: the same command with --resume goes on"
            if (out / run.SETTINGS).is_file() and not _is_finished(out)
            else ""
        )
    )


def finished_run(out: Path, settings: Settings) -> RunManifest | None:
    """The manifest of a RUN whose training came to its end; None where it did not.

    Raises:
        ResumeMismatchError: It did, with other settings.
    """
    if not _is_finished(out):
        return None
    then = load_settings(out / run.SETTINGS).model_dump(mode="json")
    if differ := settings_differences(then, settings.model_dump(mode="json")):
        raise ResumeMismatchError(f"{out} is finished, and {'; '.join(differ)}")
    return _sound_best(out)


def find(out: Path) -> tuple[Path, Checkpoint] | None:
    """Where to go on from; None is the beginning, which is said.

    Raises:
        NothingToResumeError: The folder is none of a training, or its checkpoints are lost.
        FileChangedError: The best model so far was damaged meanwhile.
    """
    found = checkpoints.newest_whole(out)
    if found is not None:
        if run.is_run(out):
            _sound_best(out)  # seen to now, and not after hours of work
        logger.info("going on after epoch %d, from %s", found[1].epoch, found[0])
        return found
    if not _is_free(out):
        if not (out / run.SETTINGS).is_file():
            raise NothingToResumeError(f"{out} is no folder of a training")
        if run.is_run(out) and (epoch := run.read_run_manifest(out).best.epoch) > 1:
            raise NothingToResumeError(
                f"{out} holds no checkpoint at all, and its best model is of epoch {epoch}"
            )
    logger.warning("%s holds no checkpoint yet; starting from the beginning", out)
    return None


def last_of_finished(out: Path) -> tuple[Path, Checkpoint] | None:
    """The last checkpoint of a finished training, to be compared with; it may have been deleted."""
    try:
        return checkpoints.newest_whole(out)
    except NothingToResumeError:
        return None


def check_same_as_finished(
    out: Path, finished: RunManifest, labels: tuple[str, ...], base_fingerprint: str
) -> None:
    """Compare what a finished RUN itself says, where no checkpoint says more.

    Raises:
        ResumeMismatchError: Labels or base are others.
    """
    if finished.labels != labels:
        raise ResumeMismatchError(
            f"{out} is finished, and was trained for {list(finished.labels)}, not {list(labels)}"
        )
    if finished.base.fingerprint != base_fingerprint:
        raise ResumeMismatchError(f"{out} is finished, and was trained on another base")


def _sound_best(out: Path) -> RunManifest:
    """The manifest of a RUN whose every file of weights is as it was written."""
    manifest = run.read_run_manifest(out)
    for name in manifest.weights:
        run.verify_weights(out, manifest, name)
    return manifest


def check_same(out: Path, checkpoint: Checkpoint, origin: Origin) -> None:
    """Compare what is given now with what the training was begun with.

    Raises:
        ResumeMismatchError: Something differs that changes the figures.
    """
    if differ := differences(checkpoint.origin, origin):
        raise ResumeMismatchError(f"{out} was begun otherwise: {'; '.join(differ)}")
    if changed := changed_surroundings(checkpoint.origin, origin):
        if run.is_run(out) and run.read_run_manifest(out).best.epoch > checkpoint.epoch:
            raise ResumeMismatchError(
                f"the best model of {out} is of a later epoch than its last whole checkpoint, which "
                f"would not come out the same again: {'; '.join(changed)}"
            )
        logger.warning(
            "%s; the last bits of the figures may differ from those of a training without an "
            "interruption",
            "; ".join(changed),
        )


def put_in_order(out: Path, found: tuple[Path, Checkpoint] | None) -> None:
    """Bring the folder back to where the checkpoint was written; None brings it to the beginning.

    The best model stays: the epoch that it is of was before, or is trained again.
    """
    remove_leftovers(out)
    checkpoints.tidy(out, after_epoch=found[1].epoch if found else 0)
    if found:
        metrics = (found[0] / run.METRICS).read_text(encoding="utf-8")
        atomic.write_text(out / run.METRICS, metrics)
    else:
        (out / run.METRICS).unlink(missing_ok=True)
        shutil.rmtree(out / TENSORBOARD, ignore_errors=True)


def remove_leftovers(out: Path) -> None:
    """Take away what a killed training was about to put in place."""
    for path in out.glob(".*"):
        if path.is_dir() and path.suffix == _LEFTOVER:
            shutil.rmtree(path, ignore_errors=True)
        elif path.suffix == _LEFTOVER:
            path.unlink()


def _is_finished(out: Path) -> bool:
    return run.is_run(out) and run.read_run_manifest(out).finished


def _is_free(out: Path) -> bool:
    """Nothing is there, or only what a training leaves that was killed before its first epoch."""
    if not out.is_dir():
        return not out.exists()
    return all(
        path.name in (LOCK, FRAMES) or (path.name[0] == "." and path.suffix == _LEFTOVER)
        for path in out.iterdir()
    )
