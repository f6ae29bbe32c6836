"""Clips of a drawn hand over a smooth texture: from a motion track to frames, with numpy alone.

This module draws; it knows no gesture and no label. Every frame depends on its own row of
the track and on the look of the clip only, never on its neighbours. So playing the rows in
another order gives the same pictures in that order.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Frames = NDArray[np.uint8]

FRAME_SIZE_PX = 64
# Middle points of the palm's ellipse and of the finger capsules are in palm radii, fingers
# pointing up (y grows downwards, as in pictures).
_THUMB_DEGREES = -105.0
_FINGER_DEGREES = (-38.0, -13.0, 12.0, 36.0)
_LENGTHS = (1.35, 1.75, 2.05, 1.95, 1.6)  # thumb first
_REACH_PALM_RADII = 2.45  # no part of the hand is farther from the palm's centre


@dataclass(frozen=True)
class Track:
    """Where the hand and the background are, frame by frame; each field is float32 [frames]."""

    x: Floats
    """Centre of the palm, in frame widths from the left edge."""
    y: Floats
    """Centre of the palm, in frame heights from the top edge."""
    log_scale: Floats
    """Natural logarithm of the palm's size relative to the look's: +0.7 is twice as large."""
    angle: Floats
    """Turn of the hand in radians, clockwise on the screen."""
    drift_x: Floats
    """Shift of the background in frame widths."""
    drift_y: Floats
    """Shift of the background in frame heights."""

    def __len__(self) -> int:
        """Frames in the clip."""
        return int(self.x.shape[0])


@dataclass(frozen=True)
class Look:
    """What stays the same during one clip."""

    palm_radius: float
    """Half the palm's width at log scale 0, in frame widths."""
    skin: Floats
    """Colour of the hand, [3], 0 to 1."""
    shade: float
    """How much darker the hand's lower edge is than its upper one, 0 to 1."""
    fingers: tuple[bool, ...]
    """Which of thumb and four fingers are stretched out."""
    finger_width: float
    """Half the width of a finger in palm radii."""
    coarse: Floats
    """Colours on a coarse grid that the background interpolates, [rows, columns, 3], 0 to 1."""
    fine: Floats
    """A finer grid added to it, zero on average, [rows, columns, 3]."""
    noise: Floats
    """Sensor noise, one field per frame, [frames, size, size, 1], in 0 to 1 grey levels."""


def draw_look(rng: np.random.Generator, frames: int, size_px: int = FRAME_SIZE_PX) -> Look:
    """Draw a look at random; ``frames`` fields of sensor noise belong to it."""
    brightness = rng.uniform(0.12, 0.95)
    skin = brightness * np.array([1.0, rng.uniform(0.65, 0.95), rng.uniform(0.5, 0.9)])
    backdrop = _grey_apart_from(rng, float(skin.mean())) + rng.uniform(-0.12, 0.12, size=3)
    coarse_side, fine_side = int(rng.integers(4, 8)), int(rng.integers(10, 20))
    contrast, tint = rng.uniform(0.04, 0.2), rng.uniform(0.0, 0.1)
    coarse = backdrop + contrast * rng.uniform(-1.0, 1.0, size=(coarse_side, coarse_side, 1))
    coarse = coarse + tint * rng.uniform(-1.0, 1.0, size=(coarse_side, coarse_side, 3))
    fine = rng.uniform(0.0, 0.08) * rng.uniform(-1.0, 1.0, size=(fine_side, fine_side, 1))
    fine = np.repeat(fine, 3, axis=2)
    stretched = rng.random(5) < 0.85
    noise = rng.uniform(0.0, 0.03) * rng.standard_normal((frames, size_px, size_px, 1))
    return Look(
        palm_radius=float(rng.uniform(0.1, 0.145)),
        skin=skin.astype(np.float32),
        shade=float(rng.uniform(0.1, 0.5)),
        fingers=tuple(bool(on) for on in stretched),
        finger_width=float(rng.uniform(0.24, 0.34)),
        coarse=np.clip(coarse, 0.0, 1.0).astype(np.float32),
        fine=fine.astype(np.float32),
        noise=noise.astype(np.float32),
    )


def place(rng: np.random.Generator, path: Floats, margin: float = 0.2) -> Floats:
    """Shift a path along one axis at random, so that it keeps ``margin`` off both edges.

    Path and margin are in frame widths. A path too long for that is centred.
    """
    low, high = margin - float(path.min()), 1.0 - margin - float(path.max())
    offset = rng.uniform(low, high) if low < high else (low + high) / 2
    placed: Floats = (path + offset).astype(np.float32)
    return placed


def draw_drift(rng: np.random.Generator, times: Floats) -> Floats:
    """Draw the background's shift along one axis: a steady pan and a sway, in frame widths.

    ``times`` run from 0 to 1 over the clip. Pan and sway are as likely one way as the other.
    """
    pan = rng.normal(0.0, 0.06) * times
    sway = rng.normal(0.0, 0.025) * np.sin(2 * np.pi * (times + rng.random()))
    drift: Floats = (rng.random() + pan + sway).astype(np.float32)
    return drift


def _grey_apart_from(rng: np.random.Generator, hand: float, gap: float = 0.25) -> float:
    """A grey level at least ``gap`` away from the hand's, so that the hand can be seen."""
    below, above = max(hand - gap - 0.1, 0.0), max(0.9 - hand - gap, 0.0)
    pick = rng.uniform(0.0, below + above)
    return float(0.1 + pick if pick < below else hand + gap + pick - below)


def render(track: Track, look: Look, size_px: int = FRAME_SIZE_PX) -> Frames:
    """Draw the clip: uint8 [frames, size, size, 3], RGB.

    Frame ``i`` takes row ``i`` of the track and of the look's noise.
    """
    canvas = _background(track, look, size_px)
    for index in range(len(track)):
        _paint_hand(canvas[index], track, index, look)
    canvas += look.noise
    np.clip(canvas, 0.0, 1.0, out=canvas)
    return (canvas * 255.0 + 0.5).astype(np.uint8)


def _background(track: Track, look: Look, size_px: int) -> Floats:
    """Interpolate both grids at the drifted pixel places: float32 [frames, size, size, 3]."""
    frames = len(track)
    picture = np.zeros((frames, size_px, size_px, 3), np.float32)
    for grid in (look.coarse, look.fine):
        grid_rows, grid_columns, _ = grid.shape
        rows = _grid_weights(track.drift_y, size_px, grid_rows)  # [frames, size, rows]
        columns = _grid_weights(track.drift_x, size_px, grid_columns)  # [frames, size, columns]
        sideways = grid.swapaxes(0, 1).reshape(grid_columns, -1)  # [columns, rows * 3]
        wide = (columns @ sideways).reshape(frames, size_px, grid_rows, 3)
        bands = wide.swapaxes(1, 2).reshape(frames, grid_rows, -1)  # [frames, rows, size * 3]
        picture += (rows @ bands).reshape(picture.shape)
    return picture


def _grid_weights(drift: Floats, size_px: int, cells: int) -> Floats:
    """Weights of ``cells`` grid points at each pixel, [frames, size, cells]; the grid repeats."""
    places = (np.arange(size_px, dtype=np.float32) + 0.5) / size_px
    # The grid spans 1.25 frames, so a drift shows new texture before the pattern repeats.
    grid_places = (places[None, :] + drift[:, None]) / 1.25 * cells
    distance = grid_places[..., None] - np.arange(cells, dtype=np.float32)
    distance = np.abs((distance + cells / 2) % cells - cells / 2)
    hat = np.clip(1.0 - distance, 0.0, 1.0)
    smooth: Floats = (hat * hat * (3.0 - 2.0 * hat)).astype(np.float32)
    return smooth


def _paint_hand(picture: Floats, track: Track, index: int, look: Look) -> None:
    """Blend the hand of row ``index`` into one float32 [size, size, 3] picture."""
    size_px = picture.shape[0]
    radius_px = look.palm_radius * size_px * float(np.exp(track.log_scale[index]))
    centre_x = float(track.x[index]) * size_px
    centre_y = float(track.y[index]) * size_px
    reach = _REACH_PALM_RADII * radius_px + 1.0
    left, right = max(0, int(centre_x - reach)), min(size_px, int(centre_x + reach) + 1)
    top, bottom = max(0, int(centre_y - reach)), min(size_px, int(centre_y + reach) + 1)
    if left >= right or top >= bottom:
        return  # the hand is out of the picture
    across = (np.arange(left, right, dtype=np.float32) + 0.5 - centre_x) / radius_px
    down = (np.arange(top, bottom, dtype=np.float32) + 0.5 - centre_y) / radius_px
    cosine, sine = float(np.cos(track.angle[index])), float(np.sin(track.angle[index]))
    u = cosine * across[None, :] + sine * down[:, None]  # hand coordinates, palm radii
    v = -sine * across[None, :] + cosine * down[:, None]
    distance = _hand_distance(u, v, look)
    cover = np.clip(0.5 - distance * radius_px, 0.0, 1.0)[..., None]
    light = 1.0 - look.shade * np.clip(0.4 + 0.25 * v - 0.35 * distance, 0.0, 1.0)
    colour = light[..., None] * look.skin
    window = picture[top:bottom, left:right]
    window += cover * (colour - window)


def _hand_distance(u: Floats, v: Floats, look: Look) -> Floats:
    """Signed distance to the hand's outline in palm radii, negative inside."""
    palm = np.sqrt(u * u + v * v) - 1.0
    nearest = np.full_like(palm, np.inf)  # squared distance to the middle lines of the fingers
    angles = (_THUMB_DEGREES, *_FINGER_DEGREES)
    for stretched, degrees, length in zip(look.fingers, angles, _LENGTHS, strict=True):
        if not stretched:
            continue
        turn = np.deg2rad(degrees)
        tip_u, tip_v = float(np.sin(turn)), float(-np.cos(turn))
        along = np.clip(u * tip_u + v * tip_v, 0.0, length)
        gap_u, gap_v = u - along * tip_u, v - along * tip_v
        np.minimum(nearest, gap_u * gap_u + gap_v * gap_v, out=nearest)
    fingers = np.sqrt(nearest) - look.finger_width
    return np.minimum(palm, fingers).astype(np.float32, copy=False)
