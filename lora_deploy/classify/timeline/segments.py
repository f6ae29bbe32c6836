"""What windows say, smoothed into segments: which label stands from when to when."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from lora_deploy.classify.timeline.windows import TimelineOptions
from lora_deploy.runtime.base import UNKNOWN, Recogniser

Floats = NDArray[np.float64]
T = TypeVar("T")


@dataclass(frozen=True)
class Window:
    """A few seconds of the video and what the model says of them alone."""

    start_seconds: float
    end_seconds: float
    probabilities: tuple[float, ...]
    """In the order of `Timeline.labels`."""


@dataclass(frozen=True)
class Segment:
    """A time in which one thing happens."""

    start_seconds: float
    end_seconds: float
    label: str
    """Or `UNKNOWN`."""
    score: float
    """Mean probability of the label over the segment's windows; of the best one, for `UNKNOWN`."""
    best_start_seconds: float
    """Of that one of its windows in which this probability is highest."""
    best_end_seconds: float
    is_unknown: bool
    """Whether ``label`` is `UNKNOWN`, and no label of the model that is called so."""


def segments(
    windows: Sequence[Window],
    recogniser: Recogniser,
    duration_seconds: float,
    options: TimelineOptions,
) -> Iterator[Segment]:
    """Windows of one label after the other made into one segment, from 0 to the video's end.

    A border lies half way between the middles of the two windows that it parts.
    """
    probabilities = np.array([window.probabilities for window in windows])  # [windows, labels]
    named = _named(probabilities, recogniser.unknown_threshold or 0.0, options)
    middles = [(window.start_seconds + window.end_seconds) / 2 for window in windows]
    start_seconds = 0.0
    for label, (first, behind) in _runs(named):
        last = behind == len(windows)
        end_seconds = duration_seconds if last else (middles[behind - 1] + middles[behind]) / 2
        of_group = probabilities[first:behind]
        score = of_group.max(axis=1) if label is None else of_group[:, label]
        best = windows[first + int(score.argmax())]
        yield Segment(
            start_seconds=start_seconds,
            end_seconds=end_seconds,
            label=UNKNOWN if label is None else recogniser.labels[label],
            score=float(score.mean()),
            best_start_seconds=best.start_seconds,
            best_end_seconds=best.end_seconds,
            is_unknown=label is None,
        )
        start_seconds = end_seconds


def _smoothed(probabilities: Floats, windows: int) -> Floats:
    """Weighted means over ``windows`` neighbours, fewer at both ends: [windows, labels].

    The weights fall evenly from the middle on. With equal ones, windows that say one thing and
    another by turns would come out as the opposite of what each of them says.
    """
    reach = windows // 2
    weights = 1.0 + reach - np.abs(np.arange(-reach, reach + 1))
    count = len(probabilities)
    smoothed = np.empty_like(probabilities)
    for at in range(count):
        first, behind = max(at - reach, 0), min(at + reach + 1, count)
        within = weights[first - at + reach : behind - at + reach]
        smoothed[at] = within @ probabilities[first:behind] / within.sum()
    return smoothed


def _chosen(smoothed: Floats, lead: float) -> list[int]:
    """The label of each window: the one before stays until another is ahead by ``lead``.

    Then the other one has been there since it came ahead, so a border is late by nothing.
    """
    chosen = [int(smoothed[0].argmax())]
    for at in range(1, len(smoothed)):
        stands, best = chosen[-1], int(smoothed[at].argmax())
        chosen.append(stands)
        if best != stands and smoothed[at, best] - smoothed[at, stands] >= lead:
            since = at
            while chosen[since] == stands and smoothed[since, best] > smoothed[since, stands]:
                chosen[since] = best
                since -= 1
                if since < 0:
                    break
    return chosen


def _named(
    probabilities: Floats, threshold: float, options: TimelineOptions
) -> Sequence[int | None]:
    """The label of each window; None where it is not known.

    Windows below ``threshold`` are known still where they fall by no more than ``lead`` and better
    ones of their label beside them make up for it in the mean: no segment is named for less than a
    clip would be.
    """
    smoothed = _smoothed(probabilities, options.smoothing_windows)
    chosen = _chosen(smoothed, options.lead)
    named: list[int | None] = list(chosen)
    for label, (first, behind) in _runs(chosen):
        scores = smoothed[first:behind, label]
        for is_below, (begin, end) in _runs((scores < threshold).tolist()):
            if is_below and scores[begin:end].min() < threshold - options.lead:
                named[first + begin : first + end] = [None] * (end - begin)
    for known, (first, behind) in _runs(tuple(named)):
        if known is not None and probabilities[first:behind, known].mean() < threshold:
            named[first:behind] = [None] * (behind - first)
    return named


def _runs(values: Sequence[T]) -> Iterator[tuple[T, tuple[int, int]]]:
    """Each run of equal values: the value, its first position and the one behind its last."""
    first = 0
    for value, group in groupby(values):
        behind = first + len(list(group))
        yield value, (first, behind)
        first = behind
