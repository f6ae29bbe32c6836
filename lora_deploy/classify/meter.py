"""What bounded a run of many clips: how long decoders and model worked, and how long each waited.

For people and logs only: none of it goes into rows, which are the same however long they took.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol

ALIKE = 0.9
"""Who is busy for so much of the time bounds the run; several may."""


class Busy(Protocol):
    """A decode pool, as far as a meter looks at it."""

    @property
    def workers(self) -> int:
        """Clips that it decodes at once, at most."""

    @property
    def busy_seconds(self) -> float:
        """Seconds of all its workers together that went into clips."""


@dataclass
class Meter:
    """Times of one run, in seconds by the clock on the wall."""

    clips: int = 0
    """Of which something is known, errors among them."""
    wall_seconds: float = 0.0
    workers: int = 0
    """That decode."""
    decoding_seconds: float = 0.0
    """Of all workers together."""
    model_seconds: float = 0.0
    """That the model worked."""
    model_waited_seconds: float = 0.0
    """That the model had no frames to work on."""
    reading_seconds: float = 0.0
    """That the list of inputs was waited for."""
    elsewhere_seconds: float = 0.0
    """That whoever takes the rows took over them: written to a journal, most of it."""

    @property
    def decoders_waited_seconds(self) -> float:
        """Of all workers together: no room for what they would have decoded, or nothing to decode."""
        return max(0.0, self.workers * self.wall_seconds - self.decoding_seconds)

    @property
    def decoders_busy(self) -> float:
        """Part of the time, 0 to 1."""
        return _part(self.decoding_seconds, self.workers * self.wall_seconds)

    @property
    def model_busy(self) -> float:
        """Part of the time, 0 to 1."""
        return _part(self.model_seconds, self.wall_seconds)

    def bounded_by(self) -> str:
        """Whoever worked most of the time; in words."""
        shares = {
            "decoding": self.decoders_busy,
            "the model": self.model_busy,
            "reading the list of inputs": _part(self.reading_seconds, self.wall_seconds),
            "writing rows": _part(self.elsewhere_seconds, self.wall_seconds),
        }
        busiest = max(shares, key=lambda name: shares[name])
        both = ("decoding", "the model")
        if all(shares[name] >= ALIKE for name in both):
            return "decoding and the model alike"
        return busiest

    def sentence(self) -> str:
        """The closing line of a run: how many clips, how long, and why not sooner."""
        if not self.clips or not self.wall_seconds:
            return "no clips"
        rate = self.clips / self.wall_seconds
        return (
            f"{self.clips:,} {'clip' if self.clips == 1 else 'clips'} in "
            f"{_duration(self.wall_seconds)} ({rate:.3g} a second): bounded by "
            f"{self.bounded_by()}; decoders {self.decoders_busy:.0%} busy, "
            f"model {self.model_busy:.0%}"
        )

    @contextmanager
    def running(self, pool: Busy) -> Iterator[None]:
        """A run begins, and ends."""
        begun, busy_before = time.monotonic(), pool.busy_seconds
        self.workers = pool.workers
        try:
            yield
        finally:
            self.wall_seconds += time.monotonic() - begun
            self.decoding_seconds += pool.busy_seconds - busy_before

    @contextmanager
    def reading(self) -> Iterator[None]:
        """The list of inputs is asked for the next one."""
        begun = time.monotonic()
        try:
            yield
        finally:
            self.reading_seconds += time.monotonic() - begun

    @contextmanager
    def elsewhere(self) -> Iterator[None]:
        """A clip is known, and whoever asked has it."""
        self.clips += 1
        begun = time.monotonic()
        try:
            yield
        finally:
            self.elsewhere_seconds += time.monotonic() - begun


def _part(seconds: float, whole: float) -> float:
    return min(1.0, seconds / whole) if whole else 0.0


def _duration(seconds: float) -> str:
    """As people say it: 4.2 s, 312 s, 2 h 05 min."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    if seconds < 600:
        return f"{seconds:.0f} s"
    hours, minutes = divmod(round(seconds / 60), 60)
    return f"{hours} h {minutes:02} min" if hours else f"{minutes} min"
