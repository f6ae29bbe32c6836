"""Every sampled picture of every truth clip is the right one: its number is read back."""

from collections.abc import Callable
from itertools import product

import numpy as np
import pytest
from PIL import Image

from lora_deploy.clips.clip import Effort
from lora_deploy.clips.decode import decode
from lora_deploy.clips.numbered import read_number, read_number_and_turn
from tests.truth_clips import (
    CONTRACTS,
    PICTURES,
    Recipe,
    TruthClip,
    draw_number,
    recipes,
    write_truth_clip,
)

Written = Callable[[Recipe], TruthClip]


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Written:
    """Writes each recipe once."""
    folder = tmp_path_factory.mktemp("truth")
    clips: dict[Recipe, TruthClip] = {}

    def write(recipe: Recipe) -> TruthClip:
        if recipe not in clips:
            clips[recipe] = write_truth_clip(folder, recipe)
        return clips[recipe]

    return write


def test_the_matrix_is_wide() -> None:
    names = [recipe.name for recipe in recipes()]
    assert len(set(names)) == len(names) >= 60


@pytest.mark.parametrize("recipe", recipes(), ids=lambda recipe: recipe.name)
def test_every_sampled_picture_is_the_right_one(recipe: Recipe, written: Written) -> None:
    clip = written(recipe)
    efforts: list[Effort] = ["whole", "exact"]
    for contract, effort in product(CONTRACTS, efforts):
        decoded = decode(clip.path, contract, effort)
        assert [read_number(frame) for frame in decoded.frames] == clip.expected(contract)
        assert decoded.warning is None
        shown_at = dict(zip(clip.numbers, clip.times, strict=True))
        assert decoded.times_seconds == pytest.approx(
            [float(shown_at[number] - clip.times[0]) for number in clip.expected(contract)],
            abs=0.001,
        )
        if effort == "whole":
            assert decoded.file_frames == len(clip.numbers)
            pixels = decoded.frames
        else:
            assert decoded.file_frames is None
            assert np.array_equal(decoded.frames, pixels)


@pytest.mark.parametrize("recipe", recipes(), ids=lambda recipe: recipe.name)
def test_fast_is_at_most_one_picture_off(recipe: Recipe, written: Written) -> None:
    clip = written(recipe)
    for contract in CONTRACTS[1:]:
        decoded = decode(clip.path, contract, "fast")
        for frame, expected in zip(decoded.frames, clip.expected(contract), strict=True):
            number = read_number(frame)
            assert number is not None
            assert abs(number - expected) <= 1


def test_numbers_survive_scaling_and_tell_which_way_is_up() -> None:
    for number in range(PICTURES):
        picture = draw_number(number)
        small = np.asarray(Image.fromarray(picture).resize((40, 24)))
        assert read_number(small) == number
        for turn in range(1, 4):
            turned = np.rot90(small, -turn)
            assert read_number(turned) is None
            assert read_number_and_turn(turned) == (number, turn)
        assert read_number(picture[:, ::-1]) is None


def test_a_picture_without_a_number_shows_none() -> None:
    assert read_number(np.zeros((48, 64, 3), np.uint8)) is None
    assert read_number(np.full((48, 64, 3), 255, np.uint8)) is None
    halves = draw_number(5)
    halves[48:] = draw_number(6)[48:]
    assert read_number(halves) != 6
