"""Clips of two splits that show the same: found by how they look and how they move, not by their bytes.

What is tested must not have been seen in training, and a copy that was encoded anew, scaled, made
brighter or mirrored has other bytes and another name.

How a clip looks is a difference hash (Krawetz, "Kind of like that", hackerfactor.com, 2013) of four
of its frames: of each neighbouring pair of cells the brighter one, 64 bits a frame. That alone would
take everything before one fixed camera for one clip. So how it moves is asked too: what is left of
its small grey frames without their mean, and how well that of two clips correlates. A clip that
hardly moves is told by its looks alone, and more strictly.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from lora_deploy.clips.cache import FrameCache
from lora_deploy.clips.clip import Footage, Frames
from lora_deploy.clips.dataset import ClipDataset
from lora_deploy.clips.rows import Split

Array = NDArray[np.float32]

LARGEST_DIFFERENCE = 0.25
"""Part of the bits that may differ in clips that move alike."""

SMALLEST_CORRELATION = 0.85
"""Of the movement of two clips that look alike."""

STILL_LEVELS = 1.0
"""A clip whose cells change by less than this, of 255, is still."""

LARGEST_STILL_DIFFERENCE = 0.05
"""Part of the bits that may differ in still clips."""

_SIDE = 8
_LOOKS = 4
_MOVES = 8
_RED_GREEN_BLUE = np.array([0.299, 0.587, 0.114], np.float32)
_ENOUGH_PIXELS = 64
_ROWS_AT_ONCE = 1024


@dataclass(frozen=True)
class NearDuplicate:
    """Two clips of different splits that show the same."""

    first: Footage
    first_split: Split
    other: Footage
    other_split: Split
    difference: float
    """Part of the bits of their looks that differ, 0 to 1."""
    mirrored: bool
    """Whether one shows the other's left as its right."""

    def __str__(self) -> str:
        """One line that names both."""
        how = "mirrored, " if self.mirrored else ""
        return (
            f"{self.first} ({self.first_split}) and {self.other} ({self.other_split}): {how}"
            f"{self.difference:.0%} of their looks differ"
        )


@dataclass(frozen=True)
class _Looks:
    """What is compared of many clips."""

    bits: Array
    """[clips, 256], each -1 or 1."""
    movement: Array
    """[clips, 512], of length one; zero where nothing moves."""
    is_still: NDArray[np.bool_]
    """[clips]"""


def near_duplicates(
    dataset: ClipDataset, caches: Mapping[Split, FrameCache]
) -> list[NearDuplicate]:
    """Pairs of clips in different splits that show the same, the most alike first.

    Args:
        dataset: Whose clips.
        caches: Hold the frames of the clips of each split; what could not be decoded is passed over.
    """
    splits = {
        split: [clip.footage for clip in dataset.of(split) if clip.footage not in cache.errors]
        for split, cache in caches.items()
    }
    splits = {split: clips for split, clips in splits.items() if clips}
    straight = {split: _looks_of(clips, caches[split]) for split, clips in splits.items()}
    found: dict[tuple[Footage, Footage], NearDuplicate] = {}
    for one, other in combinations(splits, 2):
        for mirrored in (False, True):
            looks = straight[other]
            if mirrored:
                looks = _looks_of(splits[other], caches[other], mirrored=True)
            for row, column, difference in _alike(straight[one], looks):
                pair = NearDuplicate(
                    splits[one][row], one, splits[other][column], other, difference, mirrored
                )
                known = found.get((pair.first, pair.other))
                if known is None or difference < known.difference:
                    found[pair.first, pair.other] = pair
    return sorted(found.values(), key=lambda pair: (pair.difference, str(pair)))


def _looks_of(clips: Sequence[Footage], cache: FrameCache, *, mirrored: bool = False) -> _Looks:
    bits, movement, levels = [], [], []
    for clip in clips:
        frames = cache.frames(clip)
        if mirrored:
            frames = frames[:, :, ::-1]
        cells = _cells(_grey(frames[_spread(len(frames), _LOOKS)]), _SIDE, _SIDE + 1)
        bits.append(np.where(cells[:, :, 1:] > cells[:, :, :-1], 1, -1).ravel())
        cells = _cells(_grey(frames[_spread(len(frames), _MOVES)]), _SIDE, _SIDE)
        moved = (cells - cells.mean(axis=0)).ravel()
        levels.append(np.abs(moved).mean())
        movement.append(moved / max(float(np.linalg.norm(moved)), 1e-6))
    return _Looks(
        np.stack(bits).astype(np.float32), np.stack(movement), np.array(levels) < STILL_LEVELS
    )


def _grey(frames: Frames) -> Array:
    """[frames, height, width], 0 to 255; of large frames not every pixel, as cells are means."""
    step = max(1, min(frames.shape[1:3]) // _ENOUGH_PIXELS)
    grey: Array = frames[:, ::step, ::step].astype(np.float32) @ _RED_GREEN_BLUE
    return grey


def _spread(frames: int, wanted: int) -> NDArray[np.intp]:
    """So many positions evenly from the first frame to the last."""
    return np.linspace(0, frames - 1, wanted).round().astype(np.intp)


def _cells(grey: Array, rows: int, columns: int) -> Array:
    """Means of the cells of a grid, [frames, rows, columns]."""
    _, height, width = grey.shape
    row_edges = np.linspace(0, height, rows + 1).astype(np.intp)
    column_edges = np.linspace(0, width, columns + 1).astype(np.intp)
    sums = np.add.reduceat(np.add.reduceat(grey, row_edges[:-1], 1), column_edges[:-1], 2)
    # Where there are fewer pixels than cells, a cell is the pixel that it lies in.
    sizes = np.outer(np.diff(row_edges).clip(1), np.diff(column_edges).clip(1))
    means: Array = (sums / sizes).astype(np.float32)
    return means


def _alike(one: _Looks, other: _Looks) -> Iterator[tuple[int, int, float]]:
    """Rows of both that show the same, and the part of their bits that differs."""
    for start in range(0, len(one.bits), _ROWS_AT_ONCE):
        rows = slice(start, start + _ROWS_AT_ONCE)
        # Of two vectors of -1 and 1 the product counts what is equal less what differs.
        difference = (1 - one.bits[rows] @ other.bits.T / one.bits.shape[1]) / 2
        for row, column in np.argwhere(difference <= LARGEST_DIFFERENCE):
            at, apart = start + int(row), float(difference[row, column])
            if one.is_still[at] and other.is_still[column]:
                alike = apart <= LARGEST_STILL_DIFFERENCE
            else:
                alike = one.movement[at] @ other.movement[column] >= SMALLEST_CORRELATION
            if alike:
                yield at, int(column), apart
