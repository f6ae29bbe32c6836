"""What the base learns to tell apart: straight motions of a drawn hand, drawn, varied and kept at hand.

Nothing here goes there and back and nothing is curved: those are the gestures of the example
data (``lora_deploy.clips.example``), which the base must not have seen.
"""

from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray
from settings import Settings

from lora_deploy.clips.drawn import Floats, Frames, Track, draw_drift, draw_look, place, render

# Motions by kind; a name and its partner undo each other.
KINDS: dict[str, tuple[str, str]] = {
    "x": ("left", "right"),
    "y": ("up", "down"),
    "log_scale": ("farther", "nearer"),
    "angle": ("turn_left", "turn_right"),
}
MOTIONS: tuple[str, ...] = tuple(name for pair in KINDS.values() for name in pair)
_KIND_OF = {name: kind for kind, pair in KINDS.items() for name in pair}
_SIGN_OF = {name: sign for pair in KINDS.values() for name, sign in zip(pair, (-1, 1), strict=True)}
# How far a motion goes when it has the clip to itself; each of two goes 0.75 as far.
_EXTENT = {"x": (0.22, 0.55), "y": (0.22, 0.55), "log_scale": (0.4, 1.0), "angle": (0.6, 1.8)}
_CHUNK_CLIPS = 256


def vocabulary() -> tuple[str, ...]:
    """Names of all classes: each motion alone, then each ordered pair of different kinds."""
    pairs = [f"{a}_then_{b}" for a in MOTIONS for b in MOTIONS if _KIND_OF[a] != _KIND_OF[b]]
    return (*MOTIONS, *pairs)


VOCABULARY = vocabulary()


@dataclass(frozen=True)
class Clips:
    """Some drawn clips."""

    frames: Frames
    """uint8 [clips, frames, size, size, 3]."""
    labels: NDArray[np.int64]
    """Places in the vocabulary, [clips]."""
    states: Floats
    """x, y, log scale and angle of the hand, [clips, frames, 4]."""


def _progress(times: Floats, start: float, end: float, ease: float) -> Floats:
    """Share of a motion done at each time: 0 before ``start``, 1 after ``end``."""
    linear = np.clip((times - start) / (end - start), 0.0, 1.0)
    smooth = linear * linear * (3.0 - 2.0 * linear)
    done: Floats = ((1.0 - ease) * linear + ease * smooth).astype(np.float32)
    return done


def draw_track(rng: np.random.Generator, label: str, frames: int) -> Track:
    """Draw a track that shows ``label``, with little drifts in all that the label leaves open."""
    times = ((np.arange(frames) + 0.5) / frames).astype(np.float32)
    centred = times - 0.5
    path = {
        "x": centred * rng.uniform(-0.06, 0.06),
        "y": centred * rng.uniform(-0.06, 0.06),
        "log_scale": centred * rng.uniform(-0.12, 0.12),
        "angle": centred * rng.uniform(-0.25, 0.25),
    }
    motions = label.split("_then_")
    start, end = rng.uniform(-0.1, 0.12), rng.uniform(0.88, 1.1)
    cuts = [start, end] if len(motions) == 1 else [start, rng.uniform(0.38, 0.62), end]
    for motion, begin, stop in zip(motions, cuts[:-1], cuts[1:], strict=True):
        low, high = _EXTENT[_KIND_OF[motion]]
        extent = rng.uniform(low, high) * (1.0 if len(motions) == 1 else 0.75)
        done = _progress(times, begin, stop, rng.uniform(0.0, 1.0)) - 0.5
        path[_KIND_OF[motion]] = path[_KIND_OF[motion]] + _SIGN_OF[motion] * extent * done
    return Track(
        x=place(rng, path["x"]),
        y=place(rng, path["y"]),
        log_scale=(path["log_scale"] + rng.uniform(-0.25, 0.25)).astype(np.float32),
        angle=(path["angle"] + rng.uniform(-0.6, 0.6)).astype(np.float32),
        drift_x=draw_drift(rng, times),
        drift_y=draw_drift(rng, times),
    )


def draw_clips(seed: tuple[int, ...], count: int, frames: int, size_px: int) -> Clips:
    """Draw ``count`` clips of random classes; the same seed gives the same clips."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(len(VOCABULARY), size=count)
    pictures = np.empty((count, frames, size_px, size_px, 3), np.uint8)
    states = np.empty((count, frames, 4), np.float32)
    for index, label in enumerate(labels):
        track = draw_track(rng, VOCABULARY[int(label)], frames)
        pictures[index] = render(track, draw_look(rng, frames, size_px), size_px)
        states[index] = np.stack([track.x, track.y, track.log_scale, track.angle], axis=1)
    return Clips(pictures, labels.astype(np.int64), states)


def _label_table(swaps: dict[str, str], *, backwards: bool) -> NDArray[np.int64]:
    """Where each class goes when motions are renamed and, if ``backwards``, undone in reverse."""
    partner = {a: b for one, two in KINDS.values() for a, b in ((one, two), (two, one))}
    places = {name: place for place, name in enumerate(VOCABULARY)}
    table = []
    for name in VOCABULARY:
        motions = [swaps.get(motion, motion) for motion in name.split("_then_")]
        if backwards:
            motions = [partner[motion] for motion in reversed(motions)]
        table.append(places["_then_".join(motions)])
    return np.array(table, np.int64)


_TURNED = {"turn_left": "turn_right", "turn_right": "turn_left"}
_MIRRORED_X = _label_table({"left": "right", "right": "left", **_TURNED}, backwards=False)
_MIRRORED_Y = _label_table({"up": "down", "down": "up", **_TURNED}, backwards=False)
_TRANSPOSED = _label_table(
    {"left": "up", "up": "left", "right": "down", "down": "right", **_TURNED}, backwards=False
)
_BACKWARDS = _label_table({}, backwards=True)


def varied(rng: np.random.Generator, clips: Clips, chosen: NDArray[np.int64]) -> Clips:
    """Take clips mirrored, transposed, backwards, shifted and recoloured at random.

    Labels and states follow what was done to the pictures.
    """
    frames = np.empty((len(chosen), *clips.frames.shape[1:]), np.uint8)
    labels = clips.labels[chosen].copy()
    states = clips.states[chosen].copy()
    size_px = frames.shape[2]
    for row, source in enumerate(chosen):
        flip_x, flip_y, transpose, backwards = rng.random(4) < 0.5
        shift_x, shift_y = rng.integers(-4, 5, size=2)
        picture = _shifted(_shifted(clips.frames[source], -int(shift_x), 2), -int(shift_y), 1)
        states[row, :, 0] -= shift_x / size_px
        states[row, :, 1] -= shift_y / size_px
        if flip_x:
            picture = picture[:, :, ::-1]
            labels[row] = _MIRRORED_X[labels[row]]
            states[row, :, 0] = 1.0 - states[row, :, 0]
            states[row, :, 3] *= -1.0
        if flip_y:
            picture = picture[:, ::-1]
            labels[row] = _MIRRORED_Y[labels[row]]
            states[row, :, 1] = 1.0 - states[row, :, 1]
            states[row, :, 3] = np.pi - states[row, :, 3]
        if transpose:
            picture = picture.swapaxes(1, 2)
            labels[row] = _TRANSPOSED[labels[row]]
            states[row, :, :2] = states[row, :, 1::-1]
            # Fingers point along (sin a, -cos a); exchanged axes give (-cos a, sin a).
            states[row, :, 3] = -np.pi / 2 - states[row, :, 3]
        if backwards:
            picture = picture[::-1]
            labels[row] = _BACKWARDS[labels[row]]
            states[row] = states[row, ::-1].copy()
        frames[row] = picture
    return Clips(frames, labels, states)


def _shifted(picture: Frames, by_px: int, axis: int) -> Frames:
    """Move a clip along an axis; what comes into view repeats the edge."""
    if by_px == 0:
        return picture
    source = picture.swapaxes(0, axis)
    moved = np.empty_like(picture).swapaxes(0, axis)
    if by_px > 0:
        moved[by_px:], moved[:by_px] = source[:-by_px], source[:1]
    else:
        moved[:by_px], moved[by_px:] = source[-by_px:], source[-1:]
    return moved.swapaxes(0, axis)


class ClipPool:
    """The newest clips, drawn by another process; the oldest chunk is replaced by each new one."""

    def __init__(self, settings: Settings, workers: ProcessPoolExecutor) -> None:
        """Reserve the pool's memory, order its first chunks and wait for enough to begin."""
        model = settings.model
        self._draw = partial(draw_clips, frames=model.frames, size_px=model.image_size)
        self._seed = settings.seed
        self._workers = workers
        self._chunks = max(2, settings.clips.pool // _CHUNK_CLIPS)
        capacity = self._chunks * _CHUNK_CLIPS
        shape = (capacity, model.frames, model.image_size, model.image_size, 3)
        self.clips = Clips(
            frames=np.zeros(shape, np.uint8),
            labels=np.zeros(capacity, np.int64),
            states=np.zeros((capacity, model.frames, 4), np.float32),
        )
        self._steps_per_chunk = settings.clips.uses * _CHUNK_CLIPS // settings.training.batch_size
        self._taken = 0
        self._waiting = [self._order(number) for number in range(self._chunks)]
        while self._taken < max(2, self._chunks // 6):
            self._take()

    def __len__(self) -> int:
        """Clips that can be drawn from now."""
        return min(self._taken, self._chunks) * _CHUNK_CLIPS

    def refresh(self, step: int) -> None:
        """Take in a new chunk, if one is due and drawn; call it once a training step."""
        growing = self._taken < self._chunks
        if self._waiting[0].done() and (growing or step % self._steps_per_chunk == 0):
            self._take()

    def _order(self, number: int) -> "Future[Clips]":
        return self._workers.submit(self._draw, (self._seed, 1, number), _CHUNK_CLIPS)

    def _take(self) -> None:
        fresh = self._waiting.pop(0).result()
        start = self._taken % self._chunks * _CHUNK_CLIPS
        part = slice(start, start + _CHUNK_CLIPS)
        self.clips.frames[part] = fresh.frames
        self.clips.labels[part] = fresh.labels
        self.clips.states[part] = fresh.states
        self._taken += 1
        if self._taken + len(self._waiting) < self._chunks + 2 or len(self._waiting) < 2:
            self._waiting.append(self._order(self._taken + len(self._waiting)))
