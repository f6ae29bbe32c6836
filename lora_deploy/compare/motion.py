"""How far one gets with no video transformer: a linear layer on where and when things move.

Features: the absolute difference of neighbouring grey frames, averaged to 16×16, one map per pair
of frames. A data set on which this does as well as a trained model shows nothing about the model.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray

from lora_deploy.clips.cache import FrameCache
from lora_deploy.clips.contract import PixelContract
from lora_deploy.clips.dataset import LabelledClip

CONTRACT = PixelContract(frames=8, short_side=64, crop_height=64, crop_width=64)
WEIGHT_DECAYS = (1e-4, 1e-3, 1e-2, 1e-1)

LEARNS_FROM: Literal["train"] = "train"
CHOOSES_BY: Literal["val"] = "val"


@dataclass(frozen=True)
class Answers:
    """What the best layer says of one set of clips."""

    right: int
    answered: int
    left_out: int
    """Clips that could not be decoded."""


def features(frames: NDArray[np.uint8]) -> NDArray[np.float32]:
    """uint8 [frames, 64, 64, 3] to float32 [(frames - 1) · 256]."""
    grey = frames.astype(np.float32).mean(axis=-1) / 255
    moved = np.abs(np.diff(grey, axis=0))  # [frames - 1, 64, 64]
    maps: NDArray[np.float32] = moved.reshape(len(moved), 16, 4, 16, 4).mean(axis=(2, 4))
    return maps.reshape(-1)


def motion_baseline(
    sets: Mapping[str, Sequence[LabelledClip]], labels: Sequence[str], cache: FrameCache
) -> dict[str, Answers]:
    """Fit on ``train``, choose the penalty on ``val``, and answer every set.

    Args:
        sets: Clips by name; labels that no layer was trained for count as wrong answers.
        labels: Of the training clips.
        cache: Their frames, decoded by `CONTRACT`.
    """
    place = {label: index for index, label in enumerate(labels)}
    known = {name: _tensors(clips, place, cache) for name, clips in sets.items()}
    inputs, targets = known[LEARNS_FROM]
    mean, spread = inputs.mean(0), inputs.std(0) + 1e-3
    scaled = {name: ((values - mean) / spread, truth) for name, (values, truth) in known.items()}

    def right(layer: torch.nn.Linear, name: str) -> int:
        values, truth = scaled[name]
        return int((layer(values).argmax(1) == truth).sum()) if len(truth) else 0

    layers = [fit_linear(scaled[LEARNS_FROM][0], targets, len(place), d) for d in WEIGHT_DECAYS]
    best = max(layers, key=lambda layer: right(layer, CHOOSES_BY))
    return {
        name: Answers(right(best, name), len(truth), len(sets[name]) - len(truth))
        for name, (_, truth) in scaled.items()
    }


def _tensors(
    clips: Sequence[LabelledClip], place: Mapping[str, int], cache: FrameCache
) -> tuple[torch.Tensor, torch.Tensor]:
    whole = [clip for clip in clips if clip.footage not in cache.errors]
    width = (CONTRACT.frames - 1) * 256
    rows = [features(cache.frames(clip)) for clip in whole]
    inputs = torch.from_numpy(np.stack(rows)) if rows else torch.zeros(0, width)
    return inputs, torch.tensor([place.get(clip.label, -1) for clip in whole])


def fit_linear(
    inputs: torch.Tensor, labels: torch.Tensor, classes: int, weight_decay: float
) -> torch.nn.Linear:
    """Multinomial logistic regression with an L2 penalty, by L-BFGS."""
    torch.manual_seed(0)
    layer = torch.nn.Linear(inputs.shape[1], classes)
    optimizer = torch.optim.LBFGS(layer.parameters(), max_iter=300, line_search_fn="strong_wolfe")

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        loss = torch.nn.functional.cross_entropy(layer(inputs), labels)
        loss = loss + weight_decay * layer.weight.square().sum()
        loss.backward()
        return loss

    optimizer.step(closure)
    return layer
