"""What happens when in a long video: windows that slide over it, smoothed into segments."""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from lora_deploy.clips.clip import DecodedClip, Stretch
from lora_deploy.clips.contract import PixelContract
from lora_deploy.clips.pool import DecodePool, shared
from lora_deploy.errors import ClipError, TimelineOptionsError
from lora_deploy.progress import Progress, silent
from lora_deploy.runtime.base import UNKNOWN, Recogniser

_ONE_PICTURE = PixelContract(frames=1, short_side=16, crop_height=16, crop_width=16)
"""The least that tells how long a file is."""

Floats = NDArray[np.float64]
T = TypeVar("T")


@dataclass(frozen=True)
class TimelineOptions:
    """How a video is looked through.

    Raises:
        TimelineOptionsError: A value that no window can have.
    """

    window_seconds: float = 2.0
    """How long each window is: about as long as the clips that the model learnt from."""
    stride_seconds: float = 1.0
    """From the beginning of one window to that of the next."""
    at_most_windows: int = 1000
    """Where there would be more, the stride is widened."""
    smoothing_windows: int = 3
    """Each window's probabilities become the mean of so many around it; odd."""
    lead: float = 0.1
    """By how much another label must be more probable than the one that stands, to take its place;
    and how far a label that stands may fall below the threshold for `UNKNOWN`."""

    def __post_init__(self) -> None:
        for name, seconds in (("window", self.window_seconds), ("stride", self.stride_seconds)):
            if not 0 < seconds < math.inf:
                raise TimelineOptionsError(
                    f"the {name} is {seconds:g} seconds long; allowed: more than 0"
                )
        if self.at_most_windows < 2:
            raise TimelineOptionsError(
                f"at most {self.at_most_windows} windows were asked for; allowed: 2 or more"
            )
        if self.smoothing_windows < 1 or self.smoothing_windows % 2 == 0:
            raise TimelineOptionsError(
                f"{self.smoothing_windows} windows are to be smoothed into one; allowed: 1, 3, 5 …"
            )
        if not 0 <= self.lead < 1:
            raise TimelineOptionsError(f"the lead is {self.lead:g}; allowed: 0 to less than 1")


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


@dataclass(frozen=True)
class Timeline:
    """What happens when in one video. `dataclasses.asdict` makes JSON's types of it."""

    duration_seconds: float
    windows: tuple[Window, ...]
    segments: tuple[Segment, ...]
    """Without gaps from the beginning of the video to its end."""
    warning: str | None
    """What was lost, or looked at less closely than asked."""
    labels: tuple[str, ...]
    stride_seconds: float
    """That was used."""
    model: str
    """Its digest."""


def timeline(
    recogniser: Recogniser,
    path: str | Path,
    *,
    pool: DecodePool | None = None,
    options: TimelineOptions | None = None,
    progress: Progress = silent,
) -> Timeline:
    """Slide a window over a video, and say from when to when what happens.

    Windows are decoded a few ahead and their frames are let go, so the memory needed does not grow
    with the video. A window that can't be decoded is left out, and told in the warning.

    Raises:
        ClipError: The file gives no clip at all; the error's ``kind`` says why.
        AnswersNotFiniteError: The model answers with what is no number.
    """
    options, pool, path = options or TimelineOptions(), pool or shared(), Path(path)
    whole = pool.decode(path, _ONE_PICTURE)
    stride_seconds, stretches = window_stretches(whole.duration_seconds, options)
    lost: list[ClipError] = []
    warnings = dict.fromkeys([whole.warning, _widened(len(stretches), stride_seconds, options)])
    windows: list[Window] = []
    with progress("windows", len(stretches)) as advance:
        clips = pool.stretches_in_order(path, recogniser.contract, stretches)
        for clip, probabilities in _answers(recogniser, clips, lost, advance):
            windows.append(_window(clip, probabilities))
            warnings[clip.warning] = None
    if not windows:
        raise lost[-1]
    if lost:
        warnings[f"{len(lost)} of {len(stretches)} windows could not be decoded: {lost[-1]}"] = None
    return Timeline(
        duration_seconds=whole.duration_seconds,
        windows=tuple(windows),
        segments=tuple(segments(windows, recogniser, whole.duration_seconds, options)),
        warning="; ".join(text for text in warnings if text) or None,
        labels=recogniser.labels,
        stride_seconds=stride_seconds,
        model=recogniser.digest,
    )


def window_stretches(
    duration_seconds: float, options: TimelineOptions
) -> tuple[float, list[Stretch]]:
    """The windows of a video of this length, and the stride that was taken.

    The last one ends with the video; the one before it may be less than a stride earlier.
    """
    room_seconds = duration_seconds - options.window_seconds
    if room_seconds <= 0:
        return options.stride_seconds, [Stretch(0.0, duration_seconds)]
    stride_seconds = max(options.stride_seconds, room_seconds / (options.at_most_windows - 1))
    # A thousandth, so that no last window begins where the one before it does but for rounding.
    count = math.ceil(room_seconds / stride_seconds - 1e-3)
    starts = [number * stride_seconds for number in range(count)] + [room_seconds]
    return stride_seconds, [Stretch(start, start + options.window_seconds) for start in starts]


def _widened(windows: int, stride_seconds: float, options: TimelineOptions) -> str | None:
    if stride_seconds <= options.stride_seconds:
        return None
    return (
        f"the video is long: {windows} windows of {options.window_seconds:g} seconds were looked "
        f"at, one every {stride_seconds:.2f} seconds in place of {options.stride_seconds:g}"
    )


def _answers(
    recogniser: Recogniser,
    outcomes: Iterable[DecodedClip | ClipError],
    lost: list[ClipError],
    advance: Callable[[], None],
) -> Iterator[tuple[DecodedClip, Floats]]:
    """Each clip and its probabilities [labels], a batch at a time; errors go into ``lost``."""
    held: list[DecodedClip] = []

    def answered() -> Iterator[tuple[DecodedClip, Floats]]:
        if held:
            logits = recogniser.logits(np.stack([clip.frames for clip in held]))
            yield from zip(held, recogniser.probabilities(logits), strict=True)
            held.clear()

    for outcome in outcomes:
        if isinstance(outcome, ClipError):
            lost.append(outcome)
        else:
            held.append(outcome)
        if len(held) == recogniser.backend.batch_size:
            yield from answered()
        advance()
    yield from answered()


def _window(clip: DecodedClip, probabilities: Floats) -> Window:
    return Window(
        start_seconds=clip.start_seconds,
        end_seconds=clip.start_seconds + clip.duration_seconds,
        probabilities=tuple(probabilities.tolist()),
    )


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
    """Means over ``windows`` neighbours, fewer at both ends: [windows, labels]."""
    reach = windows // 2
    count = len(probabilities)
    return np.array(
        [probabilities[max(at - reach, 0) : at + reach + 1].mean(axis=0) for at in range(count)]
    )


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
