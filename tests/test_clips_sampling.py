"""Times of a clip and the frames shown at them."""

import math
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lora_deploy.clips.contract import PixelContract
from lora_deploy.clips.sampling import (
    mend_timeline,
    middle_frame,
    nearest_frames,
    sample_times,
    uniform,
)
from lora_deploy.errors import ClipError


def test_uniform_times_are_the_middles_of_equal_stretches() -> None:
    assert uniform(8.0, 4) == [1.0, 3.0, 5.0, 7.0]
    assert uniform(3.0, 1) == [1.5]


def test_middle_frame_repeats_one_time() -> None:
    assert middle_frame(3.0, 4) == [1.5] * 4


def test_the_contract_chooses_how_times_are_spread() -> None:
    contract = PixelContract(frames=2, short_side=8, crop_height=8, crop_width=8)
    assert sample_times(contract, 4.0) == [1.0, 3.0]
    assert sample_times(contract.model_copy(update={"sampling": "middle_frame"}), 4.0) == [2.0, 2.0]


@pytest.mark.parametrize("duration_seconds", [0.0, -1.0, math.nan, math.inf])
def test_a_clip_without_length_is_refused(duration_seconds: float) -> None:
    with pytest.raises(ClipError, match="no length") as caught:
        uniform(duration_seconds, 4)
    assert caught.value.kind == "unreadable"


def test_the_frame_on_the_screen_is_the_last_one_that_has_begun() -> None:
    assert nearest_frames([-1.0, 0.0, 0.9, 1.0, 99.0], [0.0, 1.0, 2.0]) == [0, 0, 0, 1, 2]


def test_a_time_that_falls_on_a_rounded_timestamp_gets_that_frame() -> None:
    assert nearest_frames([0.1 + 0.2, 1 / 30 * 2], [0.0, 0.067, 0.3]) == [2, 1]


def test_frames_are_found_when_timestamps_run_backwards() -> None:
    assert nearest_frames([0.5, 1.5, 2.5], [2.0, 0.0, 1.0]) == [1, 2, 0]


def test_honest_timestamps_keep_their_distances_and_start_at_zero() -> None:
    assert mend_timeline([8.5, 8.75, 13.75, 14.0]) == [0.0, 0.25, 5.25, 5.5]


def test_swapped_neighbours_are_given_their_times_in_order() -> None:
    assert mend_timeline([1.0, 2.0, 4.0, 3.0, 5.0]) == [0.0, 1.0, 2.0, 3.0, 4.0]


def test_a_clock_that_starts_anew_goes_on_in_the_usual_step() -> None:
    twice = [float(second) for second in range(40)] * 2
    assert mend_timeline(twice) == [float(second) for second in range(80)]


def test_absurd_and_missing_timestamps_become_the_usual_step() -> None:
    assert mend_timeline([0.0, 1.0, 9e15, 2.0, 3.0]) == [0.0, 1.0, 2.0, 3.0, 4.0]
    assert mend_timeline([0.0, None, 2.0, 3.0]) == [0.0, 1.0, 2.0, 3.0]
    assert mend_timeline([None, None]) == [0.0, 0.04]
    assert mend_timeline([]) == []


@given(st.lists(st.none() | st.floats(-1e18, 1e18), max_size=60))
def test_every_timeline_rises_from_zero(pts_seconds: list[float | None]) -> None:
    timeline = mend_timeline(pts_seconds)
    assert len(timeline) == len(pts_seconds)
    assert timeline[:1] in ([], [0.0])
    assert all(before <= after for before, after in pairwise(timeline))
