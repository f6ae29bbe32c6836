"""The numbers a model sees, against transformers' own."""

from fractions import Fraction
from pathlib import Path
from typing import cast

import av
import numpy as np
import pytest
from PIL import Image

from lora_deploy.clips.clip import Frames
from lora_deploy.clips.contract import PixelContract
from lora_deploy.clips.processor import contract_to_processor
from lora_deploy.clips.transforms import (
    normalise,
    random_crop,
    resize_and_crop,
    resized_size,
)
from lora_deploy.errors import ClipError

MEDIA = Path(__file__).parents[2] / "shared" / "media"

CLIPS = [
    "derived/book_odd_161x119.webm",
    "derived/book_tall_90x640.mp4",
    "derived/book_wide_1280x32.mp4",
    "formats/mjpeg_5x3.avi",
    "clips/asl/book.mkv",
]

CONTRACTS = {
    "usual": PixelContract(frames=3, short_side=224, crop_height=224, crop_width=224),
    "small": PixelContract(frames=3, short_side=64, crop_height=56, crop_width=56),
    "bicubic": PixelContract(
        frames=3, short_side=65, crop_height=33, crop_width=61, resize_filter="bicubic"
    ),
    "nearest": PixelContract(
        frames=3, short_side=50, crop_height=50, crop_width=50, resize_filter="nearest"
    ),
    "smaller than the crop": PixelContract(
        frames=3,
        short_side=31,
        crop_height=96,
        crop_width=97,
        mean=(0.5, 0.4, 0.3),
        std=(0.1, 0.2, 1.0),
    ),
}


def real_frames(name: str) -> list[Frames]:
    if not MEDIA.is_dir():
        pytest.skip("needs ../shared/media")
    with av.open(str(MEDIA / name)) as container:
        decoded = container.decode(video=0)
        return [cast(Frames, next(decoded).to_ndarray(format="rgb24")) for _ in range(3)]


@pytest.mark.parametrize("contract", CONTRACTS.values(), ids=CONTRACTS.keys())
@pytest.mark.parametrize("name", CLIPS)
def test_numbers_equal_those_of_transformers(name: str, contract: PixelContract) -> None:
    transformers = pytest.importorskip("transformers")
    frames = real_frames(name)
    processor = transformers.VideoMAEImageProcessorPil(**contract_to_processor(contract))
    theirs = processor(frames, return_tensors="np", input_data_format="channels_last")[
        "pixel_values"
    ]
    ours = normalise(resize_and_crop(np.stack(frames), contract), contract)
    assert ours.dtype == theirs.dtype == np.float32
    assert ours.shape == contract.pixel_values_shape
    assert np.array_equal(ours, theirs[0])


def test_frames_of_different_sizes_become_one_clip() -> None:
    contract = CONTRACTS["small"]
    frames = [np.full((height, 90, 3), height, np.uint8) for height in (60, 120)]
    sized = resize_and_crop(iter(frames), contract)
    assert sized.shape == (2, 56, 56, 3)
    assert np.array_equal(sized[1], resize_and_crop(frames[1], contract)[0])


def test_pixels_that_are_not_square_are_shown_in_their_proportions() -> None:
    contract = CONTRACTS["small"]
    assert resized_size(160, 120, contract) == (85, 64)
    assert resized_size(80, 120, contract, Fraction(2)) == (85, 64)
    assert resized_size(120, 80, contract, Fraction(1, 2)) == (64, 85)
    # Half as wide and shown twice as wide: what was resized to begin with.
    frame = real_frames("clips/asl/book.mkv")[0]
    narrow = np.asarray(
        Image.fromarray(frame).resize((frame.shape[1] // 2, frame.shape[0]), Image.Resampling.BOX)
    )
    whole = resize_and_crop(frame, contract).astype(int)
    shown = resize_and_crop(narrow, contract, Fraction(2)).astype(int)
    stored = resize_and_crop(narrow, contract).astype(int)
    assert np.abs(shown - whole).mean() < 3 < np.abs(stored - whole).mean()


@pytest.mark.parametrize(("width", "height"), [(161, 119), (90, 640), (1280, 32), (5, 3), (77, 77)])
def test_square_pixels_are_resized_as_without_an_aspect(width: int, height: int) -> None:
    for contract in CONTRACTS.values():
        short, long = min(width, height), max(width, height)
        new_long = int(contract.short_side * long / short)  # the words of transformers
        size = resized_size(width, height, contract)
        assert size == (
            (contract.short_side, new_long) if width <= height else (new_long, contract.short_side)
        )


def test_no_frames_give_an_empty_clip() -> None:
    assert resize_and_crop([], CONTRACTS["small"]).shape == (0, 56, 56, 3)


def test_a_thin_strip_is_refused_before_it_grows() -> None:
    with pytest.raises(ClipError, match="20000×1") as caught:
        resize_and_crop(np.zeros((1, 20000, 3), np.uint8), CONTRACTS["usual"])
    assert caught.value.kind == "too_large"


def test_a_batch_is_normalised_clip_by_clip() -> None:
    contract = CONTRACTS["small"]
    batch = np.random.default_rng(0).integers(0, 256, (2, 3, 8, 9, 3), np.uint8)
    values = normalise(batch, contract)
    assert values.shape == (2, 3, 3, 8, 9)
    assert values.flags.c_contiguous
    assert np.array_equal(values[1], normalise(batch[1], contract))


def test_random_crop_is_a_window_of_the_padded_clip_and_the_same_in_all_frames() -> None:
    frames = np.random.default_rng(0).integers(0, 256, (3, 20, 30, 3), np.uint8)
    padded = np.pad(frames, ((0, 0), (2, 2), (3, 3), (0, 0)), mode="edge")
    seen = set()
    for seed in range(300):
        crop = random_crop(frames, 0.1, np.random.default_rng(seed))
        places = [
            (top, left)
            for top in range(5)
            for left in range(7)
            if np.array_equal(padded[:, top : top + 20, left : left + 30], crop)
        ]
        assert len(places) == 1
        seen.add(places[0])
    assert len(seen) == 5 * 7


def test_random_crop_without_padding_changes_nothing_and_repeats_with_its_seed() -> None:
    frames = np.random.default_rng(0).integers(0, 256, (2, 20, 30, 3), np.uint8)
    assert np.array_equal(random_crop(frames, 0.0, np.random.default_rng(1)), frames)
    one, other = (random_crop(frames, 0.2, np.random.default_rng(7)) for _ in range(2))
    assert np.array_equal(one, other)
