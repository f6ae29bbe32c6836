"""How far a measured figure may be from the true one: Wilson's interval, and resampling."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

RESAMPLES = 1000
"""Enough for percentiles of 95% (Efron and Tibshirani, "An introduction to the bootstrap", 1993)."""

LEVEL = 0.95

_Z95 = 1.959963984540054

Interval = tuple[float, float]


def wilson_interval(right: int, clips: int) -> Interval:
    """95% score interval of a proportion.

    Wilson, "Probable inference, the law of succession, and statistical inference", 1927.

    Args:
        right: Successes.
        clips: Trials, at least 1.
    """
    part = right / clips
    middle = part + _Z95**2 / (2 * clips)
    spread = _Z95 * math.sqrt(part * (1 - part) / clips + _Z95**2 / (4 * clips**2))
    scale = 1 + _Z95**2 / clips
    return max(0.0, (middle - spread) / scale), min(1.0, (middle + spread) / scale)


@dataclass(frozen=True)
class Bootstrap:
    """95% intervals from resampling, as percentiles."""

    resamples: int
    seed: int
    resampled: str
    """``groups`` where the data has them, else ``clips``: what was drawn as a whole."""
    units: int
    """How many there are to draw from."""
    intervals: dict[str, Interval | None]
    """By figure; None where there is only one unit, which tells nothing of others."""


def bootstrap(
    figures: Callable[[NDArray[np.float64]], dict[str, float]],
    groups: Sequence[str | None],
    *,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Bootstrap:
    """Percentile intervals of figures over clips that are drawn again, with replacement.

    Clips of one group (a person, a recording) resemble each other, so a group is drawn as a whole:
    the cluster bootstrap (Davison and Hinkley, "Bootstrap methods and their application", 1997,
    section 3.8). A clip without a group is one of its own.

    Args:
        figures: The figures of the data in which each clip counts as often as its weight, [clips].
        groups: Of each clip.
        resamples: How many times to draw.
        seed: The same one gives the same intervals.
    """
    unit_of = _units(groups)
    units = int(unit_of.max()) + 1
    generator = np.random.default_rng(seed)
    drawn: dict[str, list[float]] = {}
    for _ in range(resamples):
        times = np.bincount(generator.integers(units, size=units), minlength=units)
        for name, value in figures(times[unit_of].astype(np.float64)).items():
            drawn.setdefault(name, []).append(value)
    ends = [(1 - LEVEL) / 2, (1 + LEVEL) / 2]
    intervals: dict[str, Interval | None] = {}
    for name, values in drawn.items():
        low, high = np.quantile(values, ends)
        intervals[name] = (float(low), float(high)) if units > 1 else None
    return Bootstrap(
        resamples=resamples,
        seed=seed,
        resampled="clips" if all(group is None for group in groups) else "groups",
        units=units,
        intervals=intervals,
    )


def _units(groups: Sequence[str | None]) -> NDArray[np.int64]:
    """The number of each clip's unit, from 0 on, in the order in which they come."""
    numbers: dict[object, int] = {}
    keys = [at if group is None else group for at, group in enumerate(groups)]
    return np.array([numbers.setdefault(key, len(numbers)) for key in keys], np.int64)
