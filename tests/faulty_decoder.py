"""A decoder inside a real worker that commits one fault: the one that its worker's command names."""

import time
from collections.abc import Callable, Sequence
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from lora_deploy.clips.clip import WHOLE_FILE, DecodedClip, Effort, Stretch
from lora_deploy.clips.contract import PixelContract
from lora_deploy.clips.packets import only_clip_errors, opened
from lora_deploy.clips.picture import orientation
from lora_deploy.clips.sampling import last_step_seconds, nearest_frames, sample_times
from lora_deploy.clips.transforms import resize_and_crop
from lora_deploy.errors import ClipError

FAULT = "none"

Times = Sequence[float]


def decode_file(
    file: BinaryIO, contract: PixelContract, effort: Effort, stretch: Stretch = WHOLE_FILE
) -> DecodedClip:
    """Decode every picture with PyAV, then go wrong as `FAULT` says."""
    del effort
    data = file.read()
    if FAULT == "refuses" or (FAULT == "refuses Matroska" and b"matroska" in data):
        raise ClipError("unreadable", "Not today")
    if FAULT == "never returns from Matroska" and b"matroska" in data:
        time.sleep(3600)
    file.seek(0)
    with only_clip_errors(), opened(file) as (container, stream):
        frames = list(container.decode(stream))
    times = [float(frame.time or 0) - float(frames[0].time or 0) for frame in frames]
    choose = CHOICES.get(FAULT, by_time)
    pictures = [frame.to_ndarray(format="rgb24", threads=1) for frame in frames]
    if FAULT != "pictures as stored":
        turns, _ = orientation(frames[0])
        pictures = [np.rot90(picture, turns) for picture in pictures]
    chosen = [np.ascontiguousarray(pictures[at]) for at in choose(times, contract)]
    pixels = resize_and_crop(np.stack(chosen), contract)
    if FAULT in SPOILED:
        pixels = np.ascontiguousarray(SPOILED[FAULT](pixels))
    return DecodedClip(
        frames=pixels,
        times_seconds=tuple(map(float, range(contract.frames))),
        duration_seconds=float(contract.frames),
        warning=None,
    )


def by_time(times: Times, contract: PixelContract) -> list[int]:
    """As it should be."""
    return nearest_frames(sample_times(contract, times[-1] + last_step_seconds(0, times)), times)


def _stuck_half_way(times: Times, contract: PixelContract) -> list[int]:
    right = by_time(times, contract)
    return [min(at, right[contract.frames // 2]) for at in right]


def _every_other_twice(times: Times, contract: PixelContract) -> list[int]:
    right = by_time(times, contract)
    return [right[at // 2 * 2] for at in range(contract.frames)]


CHOICES: dict[str, Callable[[Times, PixelContract], Sequence[int]]] = {
    "stuck half way": _stuck_half_way,
    "every other twice": _every_other_twice,
    "one picture": lambda _, contract: [0] * contract.frames,
    "begin of stretches": lambda t, c: [at * len(t) // c.frames for at in range(c.frames)],
    "middle of stretches": lambda t, c: [
        (2 * at + 1) * len(t) // (2 * c.frames) for at in range(c.frames)
    ],
    "both ends": lambda t, c: [round(at * (len(t) - 1) / (c.frames - 1)) for at in range(c.frames)],
    "first frames": lambda _, contract: range(contract.frames),
    "first quarter of a second": lambda t, c: nearest_frames(
        [at / c.frames / 4 for at in range(c.frames)], t
    ),
    "one late": lambda t, c: [min(at + 1, len(t) - 1) for at in by_time(t, c)],
    "backwards": lambda t, c: by_time(t, c)[::-1],
}
"""Which pictures of a file, given their times."""

SPOILED: dict[str, Callable[[NDArray[np.uint8]], NDArray[np.uint8]]] = {
    "blue for red": lambda frames: frames[..., ::-1],
    "mirrored": lambda frames: frames[:, :, ::-1],
    "upside down": lambda frames: np.rot90(frames, 2, axes=(1, 2)),
    "black": np.zeros_like,
    "blended": lambda frames: frames // 2 + np.roll(frames, 1, axis=0) // 2,
}
"""What becomes of the right pictures."""
