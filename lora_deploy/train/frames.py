"""The frames of a training: decoded once, kept in a cache, handed out as samples."""

import logging
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

from pydantic import ValidationError

from lora_deploy.clips.cache import FrameCache, build_cache
from lora_deploy.clips.contract import PixelContract
from lora_deploy.clips.dataset import ClipDataset, LabelledClip, Split
from lora_deploy.clips.pool import DecodePool
from lora_deploy.config import Settings
from lora_deploy.errors import NothingDecodedError, ResumeMismatchError, SettingsClashError
from lora_deploy.progress import Progress
from lora_deploy.train.augment import augmentation_of
from lora_deploy.train.origin import frames_digest
from lora_deploy.train.tensors import ClipSamples, Learning

logger = logging.getLogger(__name__)

FramesOfSplits = Mapping[Split, FrameCache]
"""Of ``train`` and ``val``, and of ``test`` where that was asked for; one and the same cache where all
need the same of a clip."""

_SPLITS: tuple[Split, ...] = ("train", "val")


def frames_of(
    dataset: ClipDataset,
    contract: PixelContract,
    folder: Path,
    *,
    oversample: int,
    with_test: bool = False,
    is_kept: bool,
    digest: str | None,
    pool: DecodePool | None,
    progress: Progress,
) -> tuple[FramesOfSplits, str]:
    """Every training and validation clip decoded, and a hash over all frames.

    Args:
        dataset: What to decode; unreadable clips are named and left out.
        contract: How.
        folder: Where the frames are kept.
        oversample: How many moments are kept for each frame of a training clip.
        with_test: Whether test clips are decoded too; nothing is learned from them.
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

    def decode() -> FramesOfSplits:
        return decode_all(
            dataset, contract, folder,
            oversample=oversample, with_test=with_test, pool=pool, progress=progress,
        )  # fmt: skip

    caches = decode()
    found = frames_digest(dataset, caches)
    if not is_kept and digest not in (None, found):
        shutil.rmtree(folder)
        caches = decode()
        found = frames_digest(dataset, caches)
    if digest not in (None, found):
        raise ResumeMismatchError(
            "the decoded frames are not those that the training was begun with (a video was "
            "changed, or --decoder, or --decode)"
        )
    return caches, found


def decode_all(
    dataset: ClipDataset,
    contract: PixelContract,
    folder: Path,
    *,
    oversample: int,
    with_test: bool,
    pool: DecodePool | None,
    progress: Progress,
) -> FramesOfSplits:
    """Decode every clip once, those to test on if asked; unreadable ones are named and left out."""
    judged: tuple[Split, ...] = ("val", "test") if with_test else ("val",)
    learned_from = dataset.of("train")
    others = [clip for split in judged for clip in dataset.of(split)]
    with progress("decoding clips", len(learned_from) + len(others)) as advance:

        def build(clips: Sequence[LabelledClip], oversample: int) -> FrameCache:
            return build_cache(
                clips, contract, folder,
                oversample=oversample, on_clip=lambda *_: advance(), pool=pool,
            )  # fmt: skip

        if oversample == 1:
            whole = build([*learned_from, *others], 1)
            caches = dict.fromkeys(("train", *judged), whole)
        else:  # clips that are judged need no more frames than ever
            caches = {"train": build(learned_from, oversample)}
            caches |= dict.fromkeys(judged, build(others, 1))
    errors = {
        footage: error for cache in caches.values() for footage, error in cache.errors.items()
    }
    for footage, error in errors.items():
        logger.warning("left out: %s: %s", footage, error)
    for split in _SPLITS:
        readable = [clip for clip in dataset.of(split) if clip.footage not in errors]
        lost = set(dataset.labels) - {clip.label for clip in readable}
        if not readable or (split == "train" and lost):
            what = f"of {', '.join(sorted(lost))} " if readable else ""
            raise NothingDecodedError(
                f"no {split} clip {what}could be decoded; see the warnings above"
            )
    return caches


def oversample_of(settings: Settings, contract: PixelContract) -> int:
    """How many moments temporal jitter draws each frame from; of one frame repeated all are alike.

    Raises:
        SettingsClashError: So many that no clip may have as many frames.
    """
    moments = settings.augmentation.temporal_jitter
    if contract.sampling == "middle_frame":
        return 1
    try:
        PixelContract(**{**dict(contract), "frames": contract.frames * moments})
    except ValidationError as error:
        raise SettingsClashError(
            f"augmentation.temporal_jitter is {moments}, which is {contract.frames * moments} "
            f"frames to keep of each clip for this base: {error.errors()[0]['msg']}"
        ) from None
    return moments


def learning_of(settings: Settings, labels: Sequence[str]) -> Learning:
    """How clips are learned from; to be asked before the first is decoded, since it may refuse.

    Raises:
        NoClipHasLabelError: The settings name a label that is none of these.
    """
    training = settings.training
    return Learning(
        augmentation=augmentation_of(
            settings.augmentation, labels, random_crop_padding=training.random_crop_padding
        ),
        seed=training.seed,
        mixup_alpha=settings.augmentation.mixup_alpha,
        balanced_sampling=training.balanced_sampling,
        class_weights=training.class_weights == "balanced",
        label_smoothing=training.label_smoothing,
    )


def samples_of(
    learning: Learning, dataset: ClipDataset, caches: FramesOfSplits
) -> dict[str, ClipSamples]:
    """The training clips, augmented, and the validation clips as they are."""
    return {
        "train": ClipSamples(
            dataset.of("train"), dataset.labels, caches["train"], learning=learning
        ),
        "val": ClipSamples(dataset.of("val"), dataset.labels, caches["val"]),
    }
