"""How far scores are from the truth: of the clips that got 0.8, about 80% should be right."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

BINS = 10
"""Of equal width."""


@dataclass(frozen=True)
class Bin:
    """The clips whose answer got a score in one tenth of the scale."""

    low: float
    high: float
    clips: int
    score: float | None
    """Mean of the scores; None without clips."""
    accuracy: float | None
    """Part that is right; None without clips."""


def calibration_bins(scores: Sequence[float], right: Sequence[bool]) -> tuple[Bin, ...]:
    """Clips by the score of their answer, in `BINS` bins; a score at a border belongs to the upper.

    Args:
        scores: Probability of each clip's answer, 0 to 1.
        right: Whether it is the true label.
    """
    values, hits = np.asarray(scores, np.float64), np.asarray(right, bool)
    of_bin = np.minimum((values * BINS).astype(int), BINS - 1)
    bins = []
    for number in range(BINS):
        inside = of_bin == number
        count = int(inside.sum())
        bins.append(
            Bin(
                low=number / BINS,
                high=(number + 1) / BINS,
                clips=count,
                score=float(values[inside].mean()) if count else None,
                accuracy=float(hits[inside].mean()) if count else None,
            )
        )
    return tuple(bins)


def calibration_error(scores: Sequence[float], right: Sequence[bool]) -> float:
    """Expected calibration error, 0 to 1: the mean gap of score and accuracy over the bins.

    Weighted by their clips: Naeini et al., "Obtaining well calibrated probabilities using Bayesian
    binning", 2015; equation 3 of Guo et al., "On calibration of modern neural networks", 2017.

    Args:
        scores: Probability of each clip's answer, at least one.
        right: Whether it is the true label.
    """
    bins = calibration_bins(scores, right)
    gaps = [
        one.clips * abs(one.accuracy - one.score)
        for one in bins
        if one.accuracy is not None and one.score is not None
    ]
    return sum(gaps) / sum(one.clips for one in bins)
