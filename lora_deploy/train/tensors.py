"""Cached frames as samples: augmented the same way whenever seed, epoch and place are the same."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypedDict

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import Dataset

from lora_deploy.clips import transforms
from lora_deploy.clips.cache import FrameCache
from lora_deploy.clips.dataset import LabelledClip
from lora_deploy.model.architectures import architecture_of
from lora_deploy.train.augment import UNCHANGED, Augmentation, Draw
from lora_deploy.train.balance import balanced_order, balanced_weights
from lora_deploy.train.mixing import draw_partner, mixed, target


class Sample(TypedDict):
    """One clip as the model is given it."""

    pixel_values: torch.Tensor
    """[frames, 3, height, width], float32."""
    labels: int | torch.Tensor
    """Its index; where labels have shares or weights, `mixing.target` of it."""


@dataclass(frozen=True)
class Learning:
    """What sets a clip that is learned from apart from one that is judged."""

    augmentation: Augmentation = UNCHANGED
    seed: int = 0
    mixup_alpha: float = 0.0
    balanced_sampling: bool = False
    class_weights: bool = False
    label_smoothing: float = 0.0
    """Counts only where labels have shares or weights; else the loss sees to it."""

    @property
    def has_targets(self) -> bool:
        """Whether labels have shares or weights."""
        return self.mixup_alpha > 0 or self.class_weights


class ClipSamples(Dataset[Sample]):
    """Clips of one split, read from the frame cache."""

    def __init__(
        self,
        clips: Sequence[LabelledClip],
        labels: Sequence[str],
        cache: FrameCache,
        *,
        learning: Learning | None = None,
    ) -> None:
        """Keep the clips whose file could be decoded.

        Args:
            clips: Of one split.
            labels: All labels, in the order of the logits.
            cache: Holds the frames of every clip, or the reason why not.
            learning: None for clips that are judged: each as it is, at its own place.
        """
        self.clips = [clip for clip in clips if clip.footage not in cache.errors]
        self._index_of = {label: index for index, label in enumerate(labels)}
        self._classes = [self._index_of[clip.label] for clip in self.clips]
        self._cache = cache
        self._learning = learning
        self._weights = np.ones(len(labels))
        if learning and learning.class_weights:
            self._weights = balanced_weights(self._classes, len(labels))
        self.set_epoch(0)

    def set_epoch(self, epoch: int) -> None:
        """Called before each epoch; decides what is drawn in it."""
        self._epoch = epoch
        self._order = np.arange(len(self.clips))
        if self._learning and self._learning.balanced_sampling:
            self._order = balanced_order(self._classes, seed=self._learning.seed, epoch=epoch)

    @property
    def has_targets(self) -> bool:
        """Whether labels have shares or weights, as `mixing.target` makes them."""
        return self._learning is not None and self._learning.has_targets

    def __len__(self) -> int:
        """Number of clips, which is that of places in an epoch."""
        return len(self.clips)

    def __getitem__(self, index: int) -> Sample:
        """The sample at one place; the same for the same seed, epoch and place, whoever asks."""
        learning = self._learning
        if learning is None:
            clip = self.clips[index]
            pixels = transforms.normalise(self._cache.frames(clip), self._cache.contract)
            return {
                "pixel_values": torch.from_numpy(pixels), "labels": self._index_of[clip.label]
            }  # fmt: skip
        draw = Draw(learning.seed, self._epoch, index)
        pixels, label = self._varied(index, learning.augmentation, draw)
        if not learning.has_targets:
            return {"pixel_values": torch.from_numpy(pixels), "labels": label}
        shares = {label: 1.0}
        if learning.mixup_alpha:
            place, share = draw_partner(learning.mixup_alpha, len(self), draw)
            # The partner as it is at its own place in this epoch.
            partner = Draw(learning.seed, self._epoch, place)
            other_pixels, other = self._varied(place, learning.augmentation, partner)
            pixels = mixed(pixels, other_pixels, share)
            shares = {label: share}
            shares[other] = shares.get(other, 0.0) + 1 - share
        return {
            "pixel_values": torch.from_numpy(pixels),
            "labels": target(shares, self._weights, label_smoothing=learning.label_smoothing),
        }

    def _varied(
        self, place: int, augmentation: Augmentation, draw: Draw
    ) -> tuple[NDArray[np.float32], int]:
        clip = self.clips[self._order[place]]
        contract = self._cache.contract
        frames, label = augmentation.vary(
            self._cache.choices(clip), clip.label, contract.resize_filter, draw
        )
        return transforms.normalise(frames, contract), self._index_of[label]


class Collate:
    """Stacks samples into a batch, the video under the name that the model's ``forward`` takes."""

    def __init__(self, model_type: str) -> None:
        """``model_type`` is that of the model's configuration."""
        self._input_name = architecture_of(model_type).input_name

    def __call__(self, samples: Sequence[Sample]) -> dict[str, torch.Tensor]:
        """The video [batch, frames, 3, height, width] float32, and ``labels`` [batch] int64 or [batch, labels] float32."""
        return {
            self._input_name: torch.stack([sample["pixel_values"] for sample in samples]),
            "labels": torch.stack([torch.as_tensor(sample["labels"]) for sample in samples]),
        }
