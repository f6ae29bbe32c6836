"""The frames of a training: decoded once, kept in a cache, handed out as samples."""

import logging
import shutil
from pathlib import Path

from lora_deploy.clips.cache import FrameCache, build_cache
from lora_deploy.clips.contract import PixelContract
from lora_deploy.clips.dataset import ClipDataset
from lora_deploy.clips.pool import DecodePool
from lora_deploy.config import TrainingSettings
from lora_deploy.errors import NothingDecodedError, ResumeMismatchError
from lora_deploy.progress import Progress
from lora_deploy.train.origin import frames_digest
from lora_deploy.train.tensors import ClipSamples

logger = logging.getLogger(__name__)


def frames_of(
    dataset: ClipDataset,
    contract: PixelContract,
    folder: Path,
    *,
    is_kept: bool,
    digest: str | None,
    pool: DecodePool | None,
    progress: Progress,
) -> tuple[FrameCache, str]:
    """Every training and validation clip decoded, and a hash over all frames.

    Args:
        dataset: What to decode; unreadable clips are named and left out.
        contract: How.
        folder: Where the frames are kept.
        is_kept: For other trainings too. If not, what a killed training left there is taken only
            where its hash is that of ``digest``.
        digest: What the training that is gone on with had; None for a new one.
        pool: Decodes the clips.
        progress: Told of each clip.

    Raises:
        ResumeMismatchError: The frames are others than before.
        NothingDecodedError: Too few clips are readable.
    """
    if not is_kept and digest is None:
        shutil.rmtree(folder, ignore_errors=True)
    cache = decode_all(dataset, contract, folder, pool, progress)
    found = frames_digest(dataset, cache)
    if not is_kept and digest not in (None, found):
        shutil.rmtree(folder)
        cache = decode_all(dataset, contract, folder, pool, progress)
        found = frames_digest(dataset, cache)
    if digest not in (None, found):
        raise ResumeMismatchError(
            "the decoded frames are not those that the training was begun with (a video was "
            "changed, or --decoder, or --decode)"
        )
    return cache, found


def decode_all(
    dataset: ClipDataset,
    contract: PixelContract,
    folder: Path,
    pool: DecodePool | None,
    progress: Progress,
) -> FrameCache:
    """Decode every training and validation clip once; unreadable ones are named and left out."""
    clips = [clip for split in ("train", "val") for clip in dataset.of(split)]
    with progress("decoding clips", len(clips)) as advance:
        cache = build_cache(clips, contract, folder, on_clip=lambda *_: advance(), pool=pool)
    for footage, error in cache.errors.items():
        logger.warning("left out: %s: %s", footage, error)
    for split in ("train", "val"):
        whole = [clip for clip in dataset.of(split) if clip.footage not in cache.errors]
        lost = set(dataset.labels) - {clip.label for clip in whole}
        if not whole or (split == "train" and lost):
            what = f"of {', '.join(sorted(lost))} " if whole else ""
            raise NothingDecodedError(
                f"no {split} clip {what}could be decoded; see the warnings above"
            )
    return cache


def samples_of(
    training: TrainingSettings, dataset: ClipDataset, cache: FrameCache
) -> dict[str, ClipSamples]:
    """The training clips, augmented, and the validation clips as they are."""
    return {
        "train": ClipSamples(
            dataset.of("train"), dataset.labels, cache,
            random_crop_padding=training.random_crop_padding, seed=training.seed,
        ),
        "val": ClipSamples(dataset.of("val"), dataset.labels, cache),
    }  # fmt: skip
