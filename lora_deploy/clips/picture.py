"""One decoded picture as a model's pixels: RGB, SDR, upright, in the proportions that are shown."""

from collections.abc import Mapping
from fractions import Fraction
from typing import Final, cast

import numpy as np
from av.sidedata.sidedata import Type as SideDataType
from av.video.frame import VideoFrame
from av.video.reformatter import ColorPrimaries, ColorTrc, Interpolation
from numpy.typing import NDArray

from lora_deploy.clips.clip import Frames
from lora_deploy.clips.contract import PixelContract, ResizeFilter
from lora_deploy.clips.tone import Transfer, to_sdr
from lora_deploy.clips.transforms import resize_and_crop, resized_size

LONGEST_PIXEL = 10
"""A pixel more than ten times as wide as high, or as high as wide, is a broken header."""

_HDR: Final[dict[int, Transfer]] = {ColorTrc.SMPTE2084: "pq", ColorTrc.ARIB_STD_B67: "hlg"}

_SCALERS: Final[dict[ResizeFilter, Interpolation]] = {
    "nearest": Interpolation.POINT,
    "bilinear": Interpolation.BILINEAR,
    "bicubic": Interpolation.BICUBIC,
}


def picture(
    frame: VideoFrame,
    contract: PixelContract,
    *,
    pixel_aspect: Fraction | None = None,
    scale_first: bool = False,
) -> Frames:
    """Convert, turn, resize and crop one decoded picture.

    The colour matrix and range are those that the frame is tagged with. HDR of 10 bits and more is
    resized by FFmpeg's filter of the contract's name, in 16 bits, and tone-mapped after it.

    Args:
        frame: As it was decoded.
        contract: Gives the sizes and the filter.
        pixel_aspect: Width of a stored pixel by its height; None, zero or nonsense is square.
        scale_first: Let FFmpeg resize while it converts colours, which is faster; the numbers are
            then not those of Pillow.

    Returns:
        uint8 [1, crop_height, crop_width, 3].
    """
    aspect = believed_aspect(pixel_aspect)
    if transfer := hdr_transfer(frame):
        coded = cast(NDArray[np.uint16], _scaled(frame, "rgb48le", contract, aspect))
        wide_gamut = frame.color_primaries != ColorPrimaries.BT709
        pixels, aspect = to_sdr(coded, transfer, wide_gamut=wide_gamut), Fraction(1)
    elif scale_first:
        pixels, aspect = cast(Frames, _scaled(frame, "rgb24", contract, aspect)), Fraction(1)
    else:
        pixels = cast(Frames, frame.to_ndarray(format="rgb24", threads=1))
    turns, mirrored = orientation(frame)
    pixels = np.rot90(pixels, k=turns)
    if mirrored:
        pixels = pixels[:, ::-1]
    return resize_and_crop(pixels, contract, 1 / aspect if turns % 2 else aspect)


def _scaled(
    frame: VideoFrame, pixel_format: str, contract: PixelContract, aspect: Fraction
) -> NDArray[np.uint8] | NDArray[np.uint16]:
    width, height = resized_size(frame.width, frame.height, contract, aspect)
    scaled = frame.to_ndarray(
        format=pixel_format,
        width=width,
        height=height,
        interpolation=_SCALERS[contract.resize_filter],
        threads=1,
    )
    return cast("NDArray[np.uint8] | NDArray[np.uint16]", scaled)


def hdr_transfer(frame: VideoFrame) -> Transfer | None:
    """What the codes of an HDR picture of 10 bits or more mean; None for any other."""
    deep = frame.format.components[0].bits >= 10
    return _HDR.get(frame.color_trc) if deep else None


def believed_aspect(pixel_aspect: Fraction | None) -> Fraction:
    """Width of a pixel by its height; square where the header says nothing, or nonsense."""
    if pixel_aspect and Fraction(1, LONGEST_PIXEL) <= pixel_aspect <= LONGEST_PIXEL:
        return pixel_aspect
    return Fraction(1)


def orientation(frame: VideoFrame) -> tuple[int, bool]:
    """Quarter turns counterclockwise, and whether to mirror left and right after them."""
    side_data = cast(Mapping[SideDataType, bytes], frame.side_data)
    stored = side_data.get(SideDataType.DISPLAYMATRIX)
    if stored is None:
        return 0, False
    # A stored point (x, y), y downwards, is shown at (a·x + c·y, b·x + d·y).
    a, b, _, c, d, *_ = (int(number) for number in np.frombuffer(bytes(stored), np.int32))
    mirrored = a * d - b * c < 0
    if mirrored:
        a, c = -a, -c
    if a == d != 0 and b == c == 0:
        return (0 if a > 0 else 2), mirrored
    if b == -c != 0 and a == d == 0:
        return (3 if b > 0 else 1), mirrored
    # Some files carry nonsense here, or an angle that no rectangle can be turned by.
    return 0, False
