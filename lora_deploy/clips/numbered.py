"""Pictures that say which one they are: a number in a grid of 4×4 light and dark cells.

Three light corners and a dark one tell which way is up, eight cells hold the number, four a
checksum, so a picture that is blended, torn or turned is not taken for another one.
"""

import numpy as np
from numpy.typing import NDArray

from lora_deploy.clips.clip import Frames

_CORNERS = {0: 1, 3: 1, 12: 1, 15: 0}
_NUMBER_CELLS = (1, 2, 4, 5, 6, 7, 8, 9)
_CHECK_CELLS = (10, 11, 13, 14)

_DARKEST_LIGHT, _LIGHTEST_DARK = 150, 90
"""What lies between is neither: two pictures at once, or none of ours."""


def cells_of(number: int) -> NDArray[np.uint8]:
    """The grid of a number from 0 to 255, uint8 [4, 4]: 1 where a cell is light."""
    check = (number * 7 + 5) % 13
    cells = np.zeros(16, np.uint8)
    for cell, bit in _CORNERS.items():
        cells[cell] = bit
    for at, cell in enumerate(_NUMBER_CELLS):
        cells[cell] = number >> at & 1
    for at, cell in enumerate(_CHECK_CELLS):
        cells[cell] = check >> at & 1
    return cells.reshape(4, 4)


def read_number(frame: Frames) -> int | None:
    """The number in an upright RGB picture of any size; None where it shows none."""
    read = read_number_and_turn(frame)
    return read[0] if read and read[1] == 0 else None


def read_number_and_turn(frame: Frames) -> tuple[int, int] | None:
    """The number, and by how many quarter turns counterclockwise the picture must be put right."""
    for turn in range(4):
        cells = _light_cells(np.rot90(frame, turn))
        if cells is not None:
            number = sum(int(cells.flat[cell]) << at for at, cell in enumerate(_NUMBER_CELLS))
            if np.array_equal(cells, cells_of(number)):
                return number, turn
    return None


def _light_cells(frame: Frames) -> NDArray[np.uint8] | None:
    height, width, _ = frame.shape
    cells = np.zeros((4, 4), np.uint8)
    for row in range(4):
        for column in range(4):
            # The middle of the cell: its edges are blurred by scaling and by the codec.
            rows = slice(height * (4 * row + 1) // 16, max(height * (4 * row + 3) // 16, 1))
            columns = slice(width * (4 * column + 1) // 16, max(width * (4 * column + 3) // 16, 1))
            light = float(frame[rows, columns].mean())
            if _LIGHTEST_DARK < light < _DARKEST_LIGHT:
                return None
            cells[row, column] = light >= _DARKEST_LIGHT
    return cells
