"""Cached frames as training samples: augmented the same way whenever epoch and index are the same."""

from collections.abc import Sequence
from typing import TypedDict

import numpy as np
import torch
from torch.utils.data import Dataset

from lora_deploy.clips import transforms
from lora_deploy.clips.cache import FrameCache
from lora_deploy.clips.dataset import LabelledClip
from lora_deploy.model.architectures import architecture_of


class Sample(TypedDict):
    """One clip as the model is given it."""

    pixel_values: torch.Tensor
    """[frames, 3, height, width], float32."""
    labels: int


class ClipSamples(Dataset[Sample]):
    """Clips of one split, read from the frame cache."""

    def __init__(
        self,
        clips: Sequence[LabelledClip],
        labels: Sequence[str],
        cache: FrameCache,
        *,
        random_crop_padding: float = 0.0,
        seed: int = 0,
    ) -> None:
        """Keep the clips whose file could be decoded.

        Args:
            clips: Of one split.
            labels: All labels, in the order of the logits.
            cache: Holds the frames of every clip, or the reason why not.
            random_crop_padding: Part of the frame by which a clip may be moved; 0 for evaluation.
            seed: Of the augmentation.
        """
        self.clips = [clip for clip in clips if clip.footage not in cache.errors]
        self._index_of = {label: index for index, label in enumerate(labels)}
        self._cache = cache
        self._padding = random_crop_padding
        self._seed = seed
        self._epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Called by accelerate before each epoch."""
        self._epoch = epoch

    def __len__(self) -> int:
        """Number of clips."""
        return len(self.clips)

    def __getitem__(self, index: int) -> Sample:
        """One sample; the same for the same seed, epoch and index, whoever asks."""
        clip = self.clips[index]
        frames = self._cache.frames(clip)
        if self._padding:
            generator = np.random.default_rng((self._seed, self._epoch, index))
            frames = transforms.random_crop(frames, self._padding, generator)
        pixel_values = transforms.normalise(frames, self._cache.contract)
        return {
            "pixel_values": torch.from_numpy(pixel_values),
            "labels": self._index_of[clip.label],
        }


class Collate:
    """Stacks samples into a batch, the video under the name that the model's ``forward`` takes."""

    def __init__(self, model_type: str) -> None:
        """``model_type`` is that of the model's configuration."""
        self._input_name = architecture_of(model_type).input_name

    def __call__(self, samples: Sequence[Sample]) -> dict[str, torch.Tensor]:
        """The video [batch, frames, 3, height, width] float32, and ``labels`` [batch] int64."""
        return {
            self._input_name: torch.stack([sample["pixel_values"] for sample in samples]),
            "labels": torch.tensor([sample["labels"] for sample in samples]),
        }
