"""The numbers a model sees, against transformers' own."""

from fractions import Fraction
from pathlib import Path
from typing import cast

import av
import numpy as np
import pytest
from PIL import Image, ImageEnhance

from lora_deploy.clips.clip import Frames
from lora_deploy.clips.contract import PixelContract
from lora_deploy.clips.processor import contract_to_processor
from lora_deploy.clips.transforms import (
    color_jitter,
    crop_box,
    mirrored,
    normalise,
    random_crop,
    random_resized_crop,
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
    whole = np.full((3, *values.shape[1:]), 7.0, np.float32)
    normalise(batch[0], contract, out=whole[1])
    assert np.array_equal(whole[1], values[0])
    assert (whole[[0, 2]] == 7.0).all()


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


def noise_clip(frames: int, height: int, width: int, low: int = 0, high: int = 256) -> Frames:
    return np.random.default_rng(0).integers(low, high, (frames, height, width, 3), np.uint8)


def test_a_window_lies_in_the_frame_and_keeps_the_area_and_shape_that_were_asked_for() -> None:
    generator = np.random.default_rng(0)
    areas, shapes = [], []
    for _ in range(3000):
        top, left, height, width = crop_box(90, 120, 0.2, generator)
        assert 0 <= top <= top + height <= 90
        assert 0 <= left <= left + width <= 120
        areas.append(height * width / (90 * 120))
        shapes.append(width / height / (120 / 90))
    assert 0.2 * 0.97 < min(areas) < 0.21  # sides are whole pixels
    assert 0.95 < max(areas) <= 1
    assert 3 / 4 * 0.97 < min(shapes) < 0.8
    assert 1.25 < max(shapes) < 4 / 3 * 1.03
    # Where every shape fits, each area is as likely: half of the draws below the middle.
    small = [area for area in areas if area < 0.6]
    assert abs(sum(area < 0.4 for area in small) / len(small) - 0.5) < 0.05


def test_a_window_that_never_fits_is_the_whole_frame() -> None:
    class AlwaysWide:
        def uniform(self, low: float, high: float) -> float:
            return high

    generator = cast(np.random.Generator, AlwaysWide())
    assert crop_box(40, 40, 1.0, generator) == (0, 0, 40, 40)


def bilinear(picture: Frames, height: int, width: int) -> list[list[list[float]]]:
    """Enlarged slowly, pixel by pixel, each the middle of its square."""

    def places(size: int, old: int, at: int) -> list[tuple[int, float]]:
        middle = (at + 0.5) * old / size - 0.5
        first = int(np.floor(middle))
        part = middle - first
        return [(min(max(first, 0), old - 1), 1 - part), (min(max(first + 1, 0), old - 1), part)]

    return [
        [
            [
                sum(
                    float(picture[y, x, channel]) * part_y * part_x
                    for y, part_y in places(height, picture.shape[0], row)
                    for x, part_x in places(width, picture.shape[1], column)
                )
                for channel in range(3)
            ]
            for column in range(width)
        ]
        for row in range(height)
    ]


def test_a_random_resized_crop_is_one_window_of_all_frames_enlarged() -> None:
    frames = noise_clip(2, 14, 18)
    for seed in range(6):
        crop = random_resized_crop(frames, 0.3, "bilinear", np.random.default_rng(seed))
        assert crop.shape == frames.shape
        top, left, height, width = crop_box(14, 18, 0.3, np.random.default_rng(seed))
        for frame, changed in zip(frames, crop, strict=True):
            slow = np.array(bilinear(frame[top : top + height, left : left + width], 14, 18))
            assert np.abs(changed - slow).max() <= 1


def test_a_random_resized_crop_of_everything_changes_nothing() -> None:
    frames = noise_clip(2, 12, 12)

    class Whole:
        def uniform(self, low: float, high: float) -> float:
            return 1.0 if high == 1 else 0.0

        def integers(self, *_: object, **__: object) -> int:
            return 0

    generator = cast(np.random.Generator, Whole())
    assert np.array_equal(random_resized_crop(frames, 0.1, "bilinear", generator), frames)


def test_a_mirrored_clip_is_the_one_that_was_filmed_in_a_mirror() -> None:
    frames = noise_clip(2, 5, 7)
    assert np.array_equal(mirrored(frames)[:, :, 0], frames[:, :, -1])
    assert np.array_equal(mirrored(mirrored(frames)), frames)
    assert not np.array_equal(mirrored(frames), frames)


def jittered_slowly(
    frames: Frames, brightness: float, contrast: float, saturation: float
) -> Frames:
    """Pixel by pixel, one change after the other."""

    def grey(pixel: list[float]) -> float:
        return 0.299 * pixel[0] + 0.587 * pixel[1] + 0.114 * pixel[2]

    pixels = [[float(value) * brightness for value in pixel] for pixel in frames.reshape(-1, 3)]
    mean = sum(map(grey, pixels)) / len(pixels)
    pixels = [[contrast * value + (1 - contrast) * mean for value in pixel] for pixel in pixels]
    pixels = [
        [saturation * value + (1 - saturation) * grey(pixel) for value in pixel] for pixel in pixels
    ]
    values = [[min(max(round(value), 0), 255) for value in pixel] for pixel in pixels]
    return np.array(values, np.uint8).reshape(frames.shape)


def test_color_jitter_is_that_of_a_slow_loop_and_the_same_in_all_frames() -> None:
    frames = noise_clip(3, 6, 5)
    for seed in range(10):
        fast = color_jitter(frames, 0.7, np.random.default_rng(seed))
        factors = np.random.default_rng(seed).uniform(0.3, 1.7, 3)
        slow = jittered_slowly(frames, *map(float, factors))
        # One rounding instead of none at all may fall to the other side.
        assert np.abs(fast.astype(int) - slow.astype(int)).max() <= 1
        assert np.mean(fast != slow) < 0.01
        # A frame that is there twice stays there twice: nothing is drawn or measured frame by frame.
        twice = color_jitter(frames[[0, 1, 2, 0]], 0.7, np.random.default_rng(seed))
        assert np.array_equal(twice[0], twice[3])


def test_color_jitter_is_what_pillow_calls_brightness_contrast_and_color() -> None:
    frames = noise_clip(1, 16, 16, 100, 150)  # nothing reaches black or white
    for seed in range(10):
        ours = color_jitter(frames, 0.3, np.random.default_rng(seed))
        brightness, contrast, saturation = np.random.default_rng(seed).uniform(0.7, 1.3, 3)
        picture = Image.fromarray(frames[0])
        picture = ImageEnhance.Brightness(picture).enhance(float(brightness))
        picture = ImageEnhance.Contrast(picture).enhance(float(contrast))
        picture = ImageEnhance.Color(picture).enhance(float(saturation))
        # Pillow rounds three times, and the mean grey too.
        assert np.abs(ours[0].astype(int) - np.asarray(picture).astype(int)).max() <= 4


def test_color_jitter_of_no_strength_changes_nothing() -> None:
    frames = noise_clip(2, 6, 5)
    assert np.array_equal(color_jitter(frames, 0.0, np.random.default_rng(0)), frames)
    assert not np.array_equal(color_jitter(frames, 0.2, np.random.default_rng(0)), frames)
