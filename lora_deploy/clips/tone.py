"""From HDR (PQ or HLG) to the SDR that models were trained on: numpy on one picture, no video.

The way of a pixel, each step with its source:

1. Code value to light of the display in cd/m². PQ: the EOTF of SMPTE ST 2084, as in ITU-R BT.2100
   table 4. HLG: the inverse OETF and the OOTF of BT.2100 table 5, for a display of 1000 cd/m²
   (gamma 1.2).
2. Light is counted in diffuse whites of 203 cd/m² (ITU-R BT.2408, table 1), so that skin and grass
   keep the brightness that they have in SDR.
3. The largest of red, green and blue is bent by the EETF of ITU-R BT.2390-10, 5.4.1, from a peak of
   1000 cd/m² down to one white, and the other two in proportion: greys stay grey and hues stay.
   Below 0.4 whites nothing is changed; brighter than 1000 cd/m² is white.
4. BT.2020 primaries become BT.709 by the matrix of ITU-R BT.2407, 2; what lies outside is cut off.
5. Light to code value by the inverse of the EOTF of ITU-R BT.1886 with black at zero: gamma 2.4.
"""

from functools import lru_cache
from typing import Literal, cast

import numpy as np
from numpy.typing import NDArray

from lora_deploy.clips.clip import Frames

Transfer = Literal["pq", "hlg"]

DIFFUSE_WHITE_NITS = 203.0
PEAK_NITS = 1000.0
"""Of the display that HDR is taken to be made for; mastering data in files is often nonsense."""

_DISPLAY_GAMMA = 2.4

_TO_BT709 = np.array(
    [
        [1.660491, -0.587641, -0.072850],
        [-0.124550, 1.132900, -0.008350],
        [-0.018151, -0.100579, 1.118730],
    ],
    np.float32,
)

# SMPTE ST 2084
_M1, _M2 = 2610 / 16384, 2523 / 4096 * 128
_C1, _C2, _C3 = 3424 / 4096, 2413 / 4096 * 32, 2392 / 4096 * 32


def to_sdr(pixels: NDArray[np.uint16], transfer: Transfer, *, wide_gamut: bool = True) -> Frames:
    """Tone-map one HDR picture to BT.709 SDR.

    Args:
        pixels: R'G'B' as coded, full range, uint16 [..., 3].
        transfer: What the codes mean.
        wide_gamut: The primaries are those of BT.2020 and not of BT.709.

    Returns:
        uint8 [..., 3].
    """
    light = _light_table(transfer)[pixels]  # float32, in diffuse whites
    if transfer == "hlg":
        # The OOTF depends on all three channels. Weights of BT.2100.
        luminance = light @ np.array([0.2627, 0.6780, 0.0593], np.float32)
        light = light * np.power(luminance, 0.2, dtype=np.float32)[..., None]
        light *= np.float32(PEAK_NITS / DIFFUSE_WHITE_NITS)
    brightest = light.max(axis=-1, keepdims=True)
    bent = _bent(brightest)
    light = light * (bent / np.maximum(brightest, np.float32(1e-6)))
    if wide_gamut:
        # As the rows of the matrix add up to one, this is the same, and a grey stays exactly grey.
        light = bent + (light - bent) @ _TO_BT709.T
    codes = np.power(np.clip(light, 0, 1), 1 / _DISPLAY_GAMMA)
    return cast(Frames, np.rint(codes * 255).astype(np.uint8))


def _bent(whites: NDArray[np.float32]) -> NDArray[np.float32]:
    """The EETF of BT.2390 on light in diffuse whites, in the notation of its clause 5.4.1."""
    top = _pq_code(np.float64(PEAK_NITS))
    max_lum = _pq_code(np.float64(DIFFUSE_WHITE_NITS)) / top
    knee = 1.5 * max_lum - 0.5
    e1 = np.minimum(_pq_code(whites.astype(np.float64) * DIFFUSE_WHITE_NITS) / top, 1.0)
    t = (e1 - knee) / (1 - knee)
    spline = (
        (2 * t**3 - 3 * t**2 + 1) * knee
        + (t**3 - 2 * t**2 + t) * (1 - knee)
        + (-2 * t**3 + 3 * t**2) * max_lum
    )
    bent = np.where(e1 < knee, whites, _pq_nits(spline * top) / DIFFUSE_WHITE_NITS)
    return bent.astype(np.float32)


def _pq_nits(code: NDArray[np.float64]) -> NDArray[np.float64]:
    power = np.power(np.maximum(code, 0), 1 / _M2)
    nits: NDArray[np.float64] = 10000 * np.power(
        np.maximum(power - _C1, 0) / (_C2 - _C3 * power), 1 / _M1
    )
    return nits


def _pq_code(nits: NDArray[np.float64] | np.float64) -> NDArray[np.float64]:
    power = np.power(np.asarray(nits, np.float64) / 10000, _M1)
    code: NDArray[np.float64] = np.power((_C1 + _C2 * power) / (1 + _C3 * power), _M2)
    return code


@lru_cache(maxsize=2)
def _light_table(transfer: Transfer) -> NDArray[np.float32]:
    """float32 [65536]: diffuse whites of each PQ code; scene light from 0 to 1 of each HLG code."""
    code = np.arange(65536) / 65535
    if transfer == "pq":
        return (_pq_nits(code) / DIFFUSE_WHITE_NITS).astype(np.float32)
    a, b, c = 0.17883277, 0.28466892, 0.55991073
    return np.where(code <= 0.5, code**2 / 3, (np.exp((code - c) / a) + b) / 12).astype(np.float32)
