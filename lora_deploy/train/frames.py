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

FramesOfSplits = Mapping[str, FrameCache]
"""Of ``train`` and ``val``; one and the same cache where both need the same of a clip."""

_SPLITS: tuple[Split, ...] = ("train", "val")


def frames_of(
    dataset: ClipDataset,
    contract: PixelContract,
    folder: Path,
    *,
    oversample: int,
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
    caches = decode_all(dataset, contract, folder, oversample, pool, progress)
    found = frames_digest(dataset, caches)
    if not is_kept and digest not in (None, found):
        shutil.rmtree(folder)
        caches = decode_all(dataset, contract, folder, oversample, pool, progress)
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
    oversample: int,
    pool: DecodePool | None,
    progress: Progress,
) -> FramesOfSplits:
    """Decode every training and validation clip once; unreadable ones are named and left out."""
    clips = {split: dataset.of(split) for split in _SPLITS}
    with progress("decoding clips", sum(map(len, clips.values()))) as advance:

        def build(clips: Sequence[LabelledClip], oversample: int) -> FrameCache:
            return build_cache(
                clips, contract, folder,
                oversample=oversample, on_clip=lambda *_: advance(), pool=pool,
            )  # fmt: skip

        if oversample == 1:
            both = build([*clips["train"], *clips["val"]], 1)
            caches = {"train": both, "val": both}
        else:  # clips that are judged need no more frames than ever
            caches = {"train": build(clips["train"], oversample), "val": build(clips["val"], 1)}
    for footage, error in {**caches["train"].errors, **caches["val"].errors}.items():
        logger.warning("left out: %s: %s", footage, error)
    for split in _SPLITS:
        errors = caches[split].errors
        whole = [clip for clip in dataset.of(split) if clip.footage not in errors]
        lost = set(dataset.labels) - {clip.label for clip in whole}
        if not whole or (split == "train" and lost):
            what = f"of {', '.join(sorted(lost))} " if whole else ""
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


def samples_of(
    settings: Settings, dataset: ClipDataset, caches: FramesOfSplits
) -> dict[str, ClipSamples]:
    """The training clips, augmented, and the validation clips as they are.

    Raises:
        NoClipHasLabelError: The settings name a label that the data lacks.
    """
    training = settings.training
    learning = Learning(
        augmentation=augmentation_of(
            settings.augmentation, dataset.labels, random_crop_padding=training.random_crop_padding
        ),
        seed=training.seed,
        mixup_alpha=settings.augmentation.mixup_alpha,
        balanced_sampling=training.balanced_sampling,
        class_weights=training.class_weights == "balanced",
        label_smoothing=training.label_smoothing,
    )
    return {
        "train": ClipSamples(
            dataset.of("train"), dataset.labels, caches["train"], learning=learning
        ),
        "val": ClipSamples(dataset.of("val"), dataset.labels, caches["val"]),
    }
