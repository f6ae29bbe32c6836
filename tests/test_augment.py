"""Training clips are varied by seed, epoch and place alone, and never into what their label is not."""

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lora_deploy.clips import transforms
from lora_deploy.clips.cache import FrameCache, build_cache
from lora_deploy.clips.clip import Footage, Frames
from lora_deploy.clips.contract import PixelContract
from lora_deploy.clips.dataset import read_dataset
from lora_deploy.config import AugmentationSettings, settings_from
from lora_deploy.errors import NoClipHasLabelError
from lora_deploy.train.augment import Augmentation, Draw, augmentation_of, draw_moments

EVERYTHING: dict[str, Any] = {
    "random_resized_crop": 0.5, "horizontal_flip": 0.5, "color_jitter": 0.3, "temporal_jitter": 3,
}  # fmt: skip


def settings(**values: Any) -> AugmentationSettings:
    return settings_from({"augmentation": values}, where="test").augmentation


def clip(frames: int = 4, moments: int = 3, size: int = 16) -> Frames:
    return np.random.default_rng(0).integers(0, 256, (frames, moments, size, size, 3), np.uint8)


def vary(augmentation: Augmentation, choices: Frames, label: str, draw: Draw) -> tuple[Frames, str]:
    return augmentation.vary(choices, label, "bilinear", draw)


def everything() -> Augmentation:
    return augmentation_of(settings(**EVERYTHING), ["jump", "run"], random_crop_padding=0.1)


def test_the_same_draw_gives_the_same_clip_and_any_other_another() -> None:
    def drawn(*numbers: int) -> bytes:
        return vary(everything(), clip(), "jump", Draw(*numbers))[0].tobytes()

    first = drawn(1, 2, 3)
    np.random.default_rng(5).random(7)
    np.random.seed(9)
    assert drawn(1, 2, 3) == first
    others = [drawn(0, 2, 3), drawn(1, 0, 3), drawn(1, 2, 0), drawn(2, 1, 3), drawn(1, 3, 2)]
    assert len({first, *others}) == 6


def test_each_stream_of_a_draw_has_its_own_numbers() -> None:
    draw = Draw(1, 2, 3)
    streams = [draw.stream(), *(draw.stream(number) for number in range(1, 7))]
    assert len({stream.random() for stream in streams}) == 7


def test_with_the_defaults_a_clip_is_moved_as_it_always_was_and_nothing_else() -> None:
    choices = clip(moments=1)
    plain = augmentation_of(AugmentationSettings(), ["jump"], random_crop_padding=0.25)
    for place in range(5):
        frames, label = vary(plain, choices, "jump", Draw(7, 1, place))
        generator = np.random.default_rng((7, 1, place))
        assert np.array_equal(frames, transforms.random_crop(choices[:, 0], 0.25, generator))
        assert label == "jump"
    still = augmentation_of(AugmentationSettings(), ["jump"], random_crop_padding=0)
    assert np.array_equal(vary(still, choices, "jump", Draw(7, 1, 0))[0], choices[:, 0])


@pytest.mark.parametrize("kind", ["random_resized_crop", "color_jitter", "temporal_jitter"])
def test_one_kind_of_change_more_leaves_the_draws_of_the_others_as_they_were(kind: str) -> None:
    """Else two trainings that differ in one setting would differ in all that is drawn."""
    choices = clip(moments=1) if kind != "temporal_jitter" else clip()
    alone = augmentation_of(settings(horizontal_flip=0.5), ["jump"], random_crop_padding=0)
    more = augmentation_of(
        settings(horizontal_flip=0.5, **{kind: EVERYTHING[kind]}), ["jump"], random_crop_padding=0
    )
    # What is left of a clip of which each half has one colour: on which side it is.
    choices[..., :8, :], choices[..., 8:, :] = 0, 255
    for place in range(40):
        one, _ = vary(alone, choices, "jump", Draw(0, 0, place))
        other, _ = vary(more, choices, "jump", Draw(0, 0, place))
        assert (one[0, 0, 0, 0] > 128) == (other[0, 0, 0, 0].mean() > 128)


def test_all_frames_of_a_clip_are_changed_alike() -> None:
    still = np.repeat(clip(frames=1, moments=1), 4, axis=0)
    augmentation = augmentation_of(
        settings(**{**EVERYTHING, "temporal_jitter": 1}), ["jump"], random_crop_padding=0.1
    )
    seen = set()
    for place in range(20):
        frames, _ = vary(augmentation, still, "jump", Draw(0, 0, place))
        assert all(np.array_equal(frame, frames[0]) for frame in frames)
        seen.add(frames.tobytes())
    assert len(seen) == 20


# Which moments ----------------------------------------------------------------------------------


def test_each_frame_is_one_of_its_own_moments_and_time_never_runs_backwards() -> None:
    times = np.arange(12, dtype=np.uint8).reshape(4, 3, 1, 1, 1)
    seen = set()
    for place in range(2000):
        drawn = draw_moments(times, np.random.default_rng(place)).ravel()
        assert (np.diff(drawn.astype(int)) > 0).all()
        assert (drawn // 3 == np.arange(4)).all()
        seen.add(tuple(drawn.tolist()))
    assert len(seen) == 3**4  # and each frame is drawn for itself


# A mirror ----------------------------------------------------------------------------------------

SIDES = ["bend_left", "bend_right", "jump"]


def flips(augmentation: Augmentation, label: str, count: int = 200) -> tuple[int, set[str]]:
    """How many of so many clips were mirrored, and what they are called then."""
    choices, mirrored, labels = clip(moments=1), 0, set()
    for place in range(count):
        frames, name = vary(augmentation, choices, label, Draw(0, 0, place))
        is_mirrored = np.array_equal(frames, transforms.mirrored(choices[:, 0]))
        assert is_mirrored or np.array_equal(frames, choices[:, 0])
        mirrored += is_mirrored
        if is_mirrored:
            labels.add(name)
        else:
            assert name == label
    return mirrored, labels


def test_the_part_that_was_asked_for_is_mirrored() -> None:
    for part in (0.25, 0.5, 1.0):
        augmentation = augmentation_of(settings(horizontal_flip=part), SIDES, random_crop_padding=0)
        count, labels = flips(augmentation, "jump")
        assert abs(count / 200 - part) < 0.08
        assert labels == {"jump"}
    assert flips(augmentation_of(settings(), SIDES, random_crop_padding=0), "jump")[0] == 0


def test_labels_with_a_side_in_their_name_are_never_mirrored_and_that_is_said(
    caplog: pytest.LogCaptureFixture,
) -> None:
    augmentation = augmentation_of(settings(horizontal_flip=1.0), SIDES, random_crop_padding=0)
    assert flips(augmentation, "bend_left")[0] == flips(augmentation, "bend_right")[0] == 0
    assert flips(augmentation, "jump")[0] == 200
    [record] = caplog.records
    assert record.levelno == logging.WARNING
    assert record.getMessage() == (
        "never mirrored, for their names tell sides apart: bend_left, bend_right; if a mirror turns "
        "one into the other, say augmentation.mirrored_labels={bend_left: bend_right}"
    )


def test_where_nothing_is_mirrored_or_no_side_is_named_nothing_is_said(
    caplog: pytest.LogCaptureFixture,
) -> None:
    augmentation_of(settings(), SIDES, random_crop_padding=0)
    augmentation_of(settings(horizontal_flip=0.5), ["jump", "run"], random_crop_padding=0)
    augmentation_of(
        settings(horizontal_flip=0.5, unflipped_labels=SIDES[:2]), SIDES, random_crop_padding=0
    )
    assert caplog.messages == []


def test_a_label_that_is_named_is_never_mirrored() -> None:
    augmentation = augmentation_of(
        settings(horizontal_flip=1.0, unflipped_labels=["jump"]), [*SIDES, "run"], random_crop_padding=0
    )  # fmt: skip
    assert [flips(augmentation, label)[0] for label in [*SIDES, "run"]] == [0, 0, 0, 200]


def test_a_pair_that_the_settings_name_is_exchanged_both_ways(
    caplog: pytest.LogCaptureFixture,
) -> None:
    augmentation = augmentation_of(
        settings(horizontal_flip=1.0, mirrored_labels={"bend_left": "bend_right"}), SIDES,
        random_crop_padding=0,
    )  # fmt: skip
    assert flips(augmentation, "bend_left") == (200, {"bend_right"})
    assert flips(augmentation, "bend_right") == (200, {"bend_left"})
    assert caplog.messages == []


def test_the_settings_may_say_that_a_word_names_no_side() -> None:
    augmentation = augmentation_of(
        settings(horizontal_flip=1.0, mirrored_labels={"left_the_room": "left_the_room"}),
        ["left_the_room", "turn_left"], random_crop_padding=0,
    )  # fmt: skip
    assert flips(augmentation, "left_the_room") == (200, {"left_the_room"})
    assert flips(augmentation, "turn_left")[0] == 0


@pytest.mark.parametrize(
    "values",
    [
        {"unflipped_labels": ["bend_lef"]},
        {"mirrored_labels": {"bend_left": "bend_rihgt"}},
        {"mirrored_labels": {"bend_lfet": "bend_right"}},
    ],
)
def test_a_label_that_no_clip_has_is_refused(values: dict[str, Any]) -> None:
    with pytest.raises(
        NoClipHasLabelError,
        match=rf"augmentation\.{next(iter(values))} names bend_\w+, and the clips have bend_left, ",
    ):
        augmentation_of(settings(**values), SIDES, random_crop_padding=0)


# Real clips ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def weizmann6(
    media: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[list[tuple[Path, str]], FrameCache]:
    """Each clip is there as it was filmed and in a mirror; for some that is another label."""
    dataset = read_dataset(
        media / "dataset/weizmann6.csv", val_fraction=0.15, test_fraction=0.15, seed=0
    )
    contract = PixelContract(frames=4, short_side=64, crop_height=64, crop_width=64)
    clips = [(clip.path, clip.label) for clip in dataset.of("train")]
    cache = build_cache(
        [Footage(path) for path, _ in clips], contract, tmp_path_factory.mktemp("frames")
    )
    return clips, cache


def test_on_real_clips_only_what_keeps_its_label_is_mirrored(
    weizmann6: tuple[list[tuple[Path, str]], FrameCache], caplog: pytest.LogCaptureFixture
) -> None:
    clips, cache = weizmann6
    labels = sorted({label for _, label in clips})
    augmentation = augmentation_of(settings(horizontal_flip=1.0), labels, random_crop_padding=0)
    for label in (
        "bend_to_image_left",
        "bend_to_image_right",
        "wave_image_left",
        "wave_image_right",
    ):
        assert label in caplog.text
    mirrored = {
        label
        for path, label in clips
        if not np.array_equal(
            vary(augmentation, cache.choices(Footage(path)), label, Draw(0, 0, 0))[0],
            cache.frames(Footage(path)),
        )
    }
    assert mirrored == {"jumping_jack", "wave_two_hands"}


def test_on_real_clips_a_pair_exchanged_is_what_was_filmed_in_a_mirror(
    weizmann6: tuple[list[tuple[Path, str]], FrameCache],
) -> None:
    clips, cache = weizmann6
    pairs = {"bend_to_image_left": "bend_to_image_right", "wave_image_left": "wave_image_right"}
    augmentation = augmentation_of(
        settings(horizontal_flip=1.0, mirrored_labels=pairs),
        sorted({label for _, label in clips}), random_crop_padding=0,
    )  # fmt: skip
    label_of = dict(clips)
    for path, label in clips:
        frames, name = vary(augmentation, cache.choices(Footage(path)), label, Draw(0, 0, 0))
        twin = path.with_name(
            path.name.replace("orig", "MIRROR")
            .replace("mirror", "orig")
            .replace("MIRROR", "mirror")
        )
        assert name == label_of[twin]
        filmed = cache.frames(Footage(twin)).astype(int)
        # Compression tells the twins apart, and little else.
        assert np.abs(frames.astype(int) - filmed).mean() < 2
        assert np.abs(cache.frames(Footage(path)).astype(int) - filmed).mean() > 5
