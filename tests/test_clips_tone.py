"""HDR becomes the SDR that it was made to look like."""

from fractions import Fraction
from pathlib import Path
from typing import cast

import av
import numpy as np
import pytest
from numpy.typing import NDArray

from lora_deploy.clips.contract import PixelContract
from lora_deploy.clips.decode import decode
from lora_deploy.clips.tone import PEAK_NITS, Transfer, to_sdr

MEDIA = Path(__file__).parents[2] / "shared" / "media"

PQ_OF_NITS = {0.0: 0.0, 100.0: 0.5081, 203.0: 0.5807, 1000.0: 0.7518, 10000.0: 1.0}
"""ITU-R BT.2408, table 1 and BT.2100: well-known points of the curve."""


def greys(codes: NDArray[np.float64], transfer: Transfer) -> NDArray[np.uint8]:
    coded = np.rint(codes * 65535).astype(np.uint16)
    return to_sdr(np.repeat(coded[:, None], 3, axis=1), transfer)


@pytest.mark.parametrize("transfer", ["pq", "hlg"])
def test_greys_stay_grey_and_in_order(transfer: Transfer) -> None:
    mapped = greys(np.linspace(0, 1, 2000), transfer)
    assert (mapped == mapped[:, :1]).all()
    assert (np.diff(mapped[:, 0].astype(int)) >= 0).all()
    assert mapped[0, 0] == 0
    assert mapped[-1, 0] == 255
    assert len(np.unique(mapped[:, 0])) > 200  # no bands


@pytest.mark.parametrize(("transfer", "code"), [("pq", PQ_OF_NITS[203.0]), ("hlg", 0.75)])
def test_diffuse_white_is_light_and_leaves_room_for_highlights(
    transfer: Transfer, code: float
) -> None:
    white = int(greys(np.array([code]), transfer)[0, 0])
    assert 0.75 * 255 <= white <= 0.95 * 255


def test_the_grey_card_is_equally_dark_in_both() -> None:
    # BT.2408 table 1: 0.38 of the code in PQ and in HLG, 26 cd/m².
    pq, hlg = (int(greys(np.array([0.38]), transfer)[0, 0]) for transfer in ("pq", "hlg"))
    assert pq == pytest.approx(hlg, abs=2)
    assert 0.4 * 255 < pq < 0.5 * 255


def test_what_is_brighter_than_the_peak_is_white() -> None:
    codes = np.array([PQ_OF_NITS[PEAK_NITS], PQ_OF_NITS[10000.0]])
    assert (greys(codes, "pq") == 255).all()


def test_a_colour_of_bt709_keeps_its_hue() -> None:
    # BT.709 red of 100 cd/m² in BT.2020 light, by the matrix of BT.2087.
    light = np.array([0.6274, 0.0691, 0.0164]) * 100
    coded = np.rint(pq_code(light) * 65535).astype(np.uint16)
    red, green, blue = to_sdr(coded, "pq").tolist()
    assert red > 150
    assert max(green, blue) < 25
    kept = to_sdr(coded, "pq", wide_gamut=False)
    assert kept[1] > 60  # the same codes, were they of BT.709, are a paler red


def pq_code(nits: NDArray[np.float64]) -> NDArray[np.float64]:
    power = (nits / 10000) ** 0.1593017578125
    coded: NDArray[np.float64] = (
        (0.8359375 + 18.8515625 * power) / (1 + 18.6875 * power)
    ) ** 78.84375
    return coded


def write_hdr(path: Path, bits: int, transfer: int) -> NDArray[np.uint8]:
    """An SDR picture put into PQ at 203 cd/m² of white, lossless; gives the picture back."""
    slope = np.linspace(0, 200, 96)
    sdr = np.stack(
        [np.tile(slope, (64, 1)), np.tile(slope[::-1], (64, 1)), np.full((64, 96), 90.0)], axis=-1
    )
    light = (sdr / 255) ** 2.4 * 203
    to_bt2020 = np.array(
        [[0.6274, 0.3293, 0.0433], [0.0691, 0.9195, 0.0114], [0.0164, 0.0880, 0.8956]]
    )
    coded = np.rint(pq_code(light @ to_bt2020.T) * 65535).astype(np.uint16)
    with av.open(str(path), "w") as out:
        stream = out.add_stream("libx265", rate=Fraction(25))
        stream.width, stream.height = 96, 64
        stream.pix_fmt = "yuv444p10le" if bits == 10 else "yuv444p"
        stream.codec_context.color_trc = transfer
        stream.codec_context.color_primaries = 9
        stream.codec_context.colorspace = 9
        stream.codec_context.color_range = 1
        stream.codec_context.options = {"x265-params": "lossless=1:log-level=none:pools=none"}
        for at in range(4):
            frame = av.VideoFrame.from_ndarray(coded, format="rgb48le").reformat(
                format=stream.pix_fmt, dst_colorspace=9, dst_color_range="MPEG"
            )
            frame.pts, frame.time_base = at, Fraction(1, 25)
            frame.color_trc, frame.color_primaries, frame.colorspace = transfer, 9, 9
            out.mux(stream.encode(frame))
        out.mux(stream.encode(None))
    return cast("NDArray[np.uint8]", np.rint(sdr).astype(np.uint8))


CONTRACT = PixelContract(frames=2, short_side=64, crop_height=64, crop_width=96)


def test_sdr_that_was_put_into_pq_comes_back(tmp_path: Path) -> None:
    sdr = write_hdr(tmp_path / "hdr.mp4", bits=10, transfer=16)
    difference = np.abs(decode(tmp_path / "hdr.mp4", CONTRACT).frames[0].astype(int) - sdr)
    assert difference[10:-10, 10:-10].max() <= 25  # highlights make room
    assert np.median(difference) <= 3


def test_what_is_not_tagged_as_hdr_is_left_alone(tmp_path: Path) -> None:
    for bits, transfer in ((10, 1), (8, 16)):
        path = tmp_path / f"{bits}_{transfer}.mp4"
        write_hdr(path, bits, transfer)
        with av.open(str(path)) as container:
            frame = next(container.decode(video=0))
            assert frame.color_trc == transfer
            plain = frame.to_ndarray(format="rgb24")
        assert np.array_equal(decode(path, CONTRACT).frames[0], plain)


@pytest.mark.skipif(not MEDIA.is_dir(), reason="needs ../shared/media")
@pytest.mark.parametrize(
    "name", ["formats/nasa_hdr10_hevc.mp4", "derived/book_hevc10_pq_tagged.mp4"]
)
def test_real_hdr_uses_the_range_of_sdr(name: str) -> None:
    frames = decode(MEDIA / name, CONTRACT.model_copy(update={"frames": 16})).frames
    assert frames.min() == 0
    assert frames.max() > 240
    middle = float(np.median(frames.max(axis=-1)))
    assert 0 < middle < 255
