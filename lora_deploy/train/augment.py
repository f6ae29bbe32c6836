"""How a training clip is varied: which frames, window, colours and side, drawn from seed, epoch and place."""

import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import numpy as np

from lora_deploy.clips import transforms
from lora_deploy.clips.clip import Frames
from lora_deploy.clips.contract import ResizeFilter
from lora_deploy.config import AugmentationSettings
from lora_deploy.errors import NoClipHasLabelError
from lora_deploy.train.sides import find_sides

logger = logging.getLogger(__name__)

_MOMENTS, _FLIP, _WINDOW, _COLOURS = 1, 2, 3, 4
"""Each kind of change draws from a stream of its own, so that one more leaves the others as they
were; moving the clip has the stream without a number, from before there were others."""


@dataclass(frozen=True)
class Draw:
    """What random numbers are drawn for: one place in one epoch of one training.

    Nothing else has a say in them: not the number of processes that prepare clips, nor the batch
    that the clip comes into, nor what was drawn before.
    """

    seed: int
    epoch: int
    place: int

    def stream(self, *number: int) -> np.random.Generator:
        """Random numbers; others for every number from 1 on."""
        return np.random.default_rng((self.seed, self.epoch, self.place, *number))


@dataclass(frozen=True)
class Augmentation:
    """What may happen to a training clip; by default nothing."""

    settings: AugmentationSettings = field(default_factory=AugmentationSettings)
    random_crop_padding: float = 0.0
    """Part of the frame by which a clip may be moved."""
    label_in_the_mirror: Mapping[str, str] = field(default_factory=dict)
    """Of each label that may be mirrored, what it is then."""

    def vary(
        self, choices: Frames, label: str, resize_filter: ResizeFilter, draw: Draw
    ) -> tuple[Frames, str]:
        """One variation of a clip.

        Args:
            choices: uint8 [frames, moments, height, width, 3], as `FrameCache.choices` gives it.
            label: Of the clip.
            resize_filter: For a window that is resized.
            draw: Decides which variation.

        Returns:
            The frames, uint8 [frames, height, width, 3], and the label that they now have.
        """
        frames = draw_moments(choices, draw.stream(_MOMENTS))
        settings = self.settings
        can_flip = label in self.label_in_the_mirror
        if can_flip and draw.stream(_FLIP).random() < settings.horizontal_flip:
            frames, label = transforms.mirrored(frames), self.label_in_the_mirror[label]
        if settings.random_resized_crop < 1:
            frames = transforms.random_resized_crop(
                frames, settings.random_resized_crop, resize_filter, draw.stream(_WINDOW)
            )
        if self.random_crop_padding:
            frames = transforms.random_crop(frames, self.random_crop_padding, draw.stream())
        if settings.color_jitter:
            frames = transforms.color_jitter(frames, settings.color_jitter, draw.stream(_COLOURS))
        return frames, label


UNCHANGED = Augmentation()


def draw_moments(choices: Frames, generator: np.random.Generator) -> Frames:
    """Of each frame one of its moments, each as likely; [frames, moments, …] becomes [frames, …]."""
    count, moments = choices.shape[:2]
    if moments == 1:
        return choices[:, 0]
    drawn: Frames = choices[np.arange(count), generator.integers(0, moments, count)]
    return drawn


def augmentation_of(
    settings: AugmentationSettings, labels: Iterable[str], *, random_crop_padding: float
) -> Augmentation:
    """What the settings ask for, with these labels; which ones are never mirrored is said aloud.

    Raises:
        NoClipHasLabelError: The settings name a label that is none of these.
    """
    known = tuple(labels)
    # A mirror turns the one into the other, and the other into the one.
    told = {**{after: before for before, after in settings.mirrored_labels.items()},
            **settings.mirrored_labels}  # fmt: skip
    for key, names in (
        ("unflipped_labels", settings.unflipped_labels),
        ("mirrored_labels", told),
    ):
        if strange := [name for name in names if name not in known]:
            raise NoClipHasLabelError(
                f"augmentation.{key} names {strange[0]}, and the clips have {', '.join(known)}"
            )
    sides = find_sides(known)
    found = [label for label in sides.labels if label not in {*told, *settings.unflipped_labels}]
    if settings.horizontal_flip and found:
        _warn(found, sides.pairs)
    never = {*found, *settings.unflipped_labels}
    return Augmentation(
        settings,
        random_crop_padding,
        {label: told.get(label, label) for label in known if label not in never},
    )


def _warn(found: list[str], pairs: Mapping[str, str]) -> None:
    places = {label: place for place, label in enumerate(found)}
    exchanged = [
        f"{label}: {pairs[label]}"
        for label in found
        if places[label] < places.get(pairs.get(label, label), 0)
    ]
    how = f"; if a mirror turns one into the other, say augmentation.mirrored_labels={{{', '.join(exchanged)}}}"
    logger.warning(
        "never mirrored, for their names tell sides apart: %s%s",
        ", ".join(found), how if exchanged else "",
    )  # fmt: skip
