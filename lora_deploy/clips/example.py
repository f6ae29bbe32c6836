"""The example data: short drawn clips of hand gestures, written as H.264 files.

The gestures come in pairs. The second of a pair is the first played backwards: the same
frames in another order, so only the order can tell the two apart. None of them is among
the motions that the embedded base was pre-trained on (``train/embedded_base``).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Literal

import av
import numpy as np

from lora_deploy.clips.drawn import Frames, Track, draw_drift, draw_look, place, render

PAIRS: tuple[tuple[str, str], ...] = (
    ("circle_left", "circle_right"),
    ("nod_up", "nod_down"),
    ("wave_left", "wave_right"),
)
"""Each pair's second gesture is the first one backwards."""

GESTURES: tuple[str, ...] = tuple(label for pair in PAIRS for label in pair)

SPLITS: tuple[Literal["train", "val", "test"], ...] = ("train", "val", "test")
FRAMES_PER_SECOND = 12
_FRAMES = (16, 24)  # a clip has between these many frames: 1.3 to 2 seconds

SECONDS_IN_SEQUENCE = 2

_REACH = (0.09, 0.18)  # how far a gesture goes from its middle, in frame widths


def render_gesture(label: str, rng: np.random.Generator) -> Frames:
    """Draw one clip of a gesture: uint8 [frames, height, width, 3], RGB.

    The two gestures of a pair, drawn with generators of the same seed, give the same frames
    in opposite order.

    Raises:
        KeyError: No gesture is called so.
    """
    for forwards, backwards in PAIRS:
        if label in (forwards, backwards):
            track = _draw_track(forwards, rng)
            frames = render(track, draw_look(rng, len(track)))
            return frames if label == forwards else frames[::-1].copy()
    raise KeyError(f"no gesture is called {label!r}; there is: {', '.join(GESTURES)}")


def _draw_track(gesture: str, rng: np.random.Generator) -> Track:
    """Draw where the hand goes; whatever the gesture leaves open drifts a little."""
    count = int(rng.integers(_FRAMES[0], _FRAMES[1] + 1))
    times = ((np.arange(count) + 0.5) / count).astype(np.float32)
    centred = times - 0.5
    x = centred * rng.uniform(-0.15, 0.15)
    y = centred * rng.uniform(-0.15, 0.15)
    log_scale = centred * rng.uniform(-0.15, 0.15) + rng.uniform(-0.25, 0.25)
    angle = centred * rng.uniform(-0.3, 0.3) + rng.uniform(-0.6, 0.6)
    # Before and after the gesture the hand rests, so that when something moves says little.
    rest = rng.uniform(0.0, 0.25, size=2)
    done = np.clip((times - rest[0]) / (1.0 - rest[0] - rest[1]), 0.0, 1.0)
    there_and_back = np.sin(2 * np.pi * done)
    if gesture == "circle_left":
        # Anticlockwise on the screen, where y grows downwards. About one turn, lowest in the
        # middle of the gesture, give or take a quarter of a turn.
        lowest = np.pi / 2 + rng.uniform(-np.pi / 2, np.pi / 2)
        turn = lowest - 2 * np.pi * rng.uniform(0.85, 1.15) * (done - 0.5)
        x = x + rng.uniform(*_REACH) * np.cos(turn)
        y = y + rng.uniform(*_REACH) * np.sin(turn)
    elif gesture == "nod_up":
        y = y - rng.uniform(*_REACH) * there_and_back
    elif gesture == "wave_left":
        x = x - rng.uniform(*_REACH) * there_and_back
    return Track(
        x=place(rng, x, margin=0.15),
        y=place(rng, y, margin=0.15),
        log_scale=log_scale.astype(np.float32),
        angle=angle.astype(np.float32),
        drift_x=draw_drift(rng, times),
        drift_y=draw_drift(rng, times),
    )


@dataclass(frozen=True)
class _Planned:
    """One clip that is to be written."""

    path: Path
    label: str
    seed: tuple[int, ...]


def write_example(
    folder: Path,
    *,
    seed: int = 0,
    train_clips: int = 100,
    val_clips: int = 30,
    test_clips: int = 60,
    on_clip: Callable[[int, int], None] | None = None,
) -> Path:
    """Write ``folder/{train,val,test}/<label>/<name>.mp4``; counts are per gesture.

    The same seed writes the same pictures, and a clip's pictures depend on nothing but the
    seed, its split, its gesture and its number. No two clips share a draw, not even the two
    of a pair. ``on_clip`` is told after each clip how many are written, and of how many.

    Returns:
        The folder.
    """
    counts = {"train": train_clips, "val": val_clips, "test": test_clips}
    planned = [
        _Planned(
            path=folder / split / label / f"{label}_{number:04d}.mp4",
            label=label,
            seed=(seed, split_place, label_place, number),
        )
        for split_place, split in enumerate(SPLITS)
        for label_place, label in enumerate(GESTURES)
        for number in range(counts[split])
    ]
    for written, clip in enumerate(planned, start=1):
        clip.path.parent.mkdir(parents=True, exist_ok=True)
        frames = render_gesture(clip.label, np.random.default_rng(clip.seed))
        _write_h264(clip.path, frames)
        if on_clip is not None:
            on_clip(written, len(planned))
    return folder


def write_sequence(path: Path, gestures: Sequence[str], *, seed: int = 0) -> None:
    """Write one longer clip: gestures after each other, each filling `SECONDS_IN_SEQUENCE`.

    A shorter one rests in its last picture.
    """
    count = SECONDS_IN_SEQUENCE * FRAMES_PER_SECOND
    drawn = []
    for place_in_sequence, gesture in enumerate(gestures):
        frames = render_gesture(gesture, np.random.default_rng((seed, place_in_sequence)))
        drawn += [frames, np.repeat(frames[-1:], count - len(frames), axis=0)]
    _write_h264(path, np.concatenate(drawn))


def _write_h264(path: Path, frames: Frames) -> None:
    """Encode with one thread, so that the bytes depend on the frames and the encoder alone."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=Fraction(FRAMES_PER_SECOND))
        stream.width, stream.height = frames.shape[2], frames.shape[1]
        stream.pix_fmt = "yuv420p"
        stream.codec_context.thread_count = 1
        stream.options = {"crf": "18", "preset": "superfast"}
        for picture in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode(None))
