"""Classes of unequal size: how much a clip weighs in the loss, or how often it is drawn."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

_ORDER = 5
"""The stream of random numbers; `augment` has those before it."""


def balanced_weights(classes: Sequence[int], count: int) -> NDArray[np.float64]:
    """What a clip of each class weighs, so that all classes weigh alike and the mean clip weighs 1.

    Args:
        classes: Of each training clip.
        count: Of classes; one without a clip gets weight 0.

    Returns:
        float64 [count]: clips / (classes with clips · clips of the class).
    """
    clips = np.bincount(classes, minlength=count)
    there = clips > 0
    return np.where(there, len(classes) / (there.sum() * np.maximum(clips, 1)), 0.0)


def balanced_order(classes: Sequence[int], *, seed: int, epoch: int) -> NDArray[np.int64]:
    """Which clip stands at each place of an epoch, as many of each class and as many as before.

    The clips of a class are drawn without putting back, over and over: none a second time before
    all were drawn once. Where the places can't be shared out evenly, which classes get one more is
    drawn too. The order itself is left to whoever shuffles the places.

    Args:
        classes: Of each training clip.
        seed: Of the training.
        epoch: From 0; each draws anew.

    Returns:
        Indices into ``classes``, as many.
    """
    generator = np.random.default_rng((seed, epoch, 0, _ORDER))
    of_class = np.asarray(classes)
    present = generator.permutation(np.unique(of_class))
    shares = np.full(len(present), len(of_class) // len(present))
    shares[: len(of_class) % len(present)] += 1
    drawn = []
    for number, share in zip(present, shares, strict=True):
        clips = np.flatnonzero(of_class == number)
        rounds = [generator.permutation(clips) for _ in range(-(-int(share) // len(clips)))]
        drawn.append(np.concatenate(rounds)[:share])
    order: NDArray[np.int64] = np.concatenate(drawn)
    return order
