"""Calibrated scores: the temperature of a brute-force search, and a threshold that calls exactly so many unknown."""

import math

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies

from lora_deploy.proof.calibrate import LEAST_CLIPS, TEMPERATURES, calibrate, calibration_error
from lora_deploy.runtime.base import softmax

LABELS = ("bend", "jump", "wave")


def answers(seed: int, clips: int = 60, scale: float = 4.0) -> tuple[np.ndarray, list[str]]:
    """Of a model that is right more often than not, and too sure of it."""
    generator = np.random.default_rng(seed)
    targets = generator.integers(0, 3, clips)
    logits = generator.normal(size=(clips, 3))
    logits[np.arange(clips), targets] += 1
    return (scale * logits).astype(np.float32), [LABELS[target] for target in targets]


def plain_loss(logits: np.ndarray, truths: list[str], temperature: float) -> float:
    total = 0.0
    for row, truth in zip(logits.tolist(), truths, strict=True):
        scaled = [value / temperature for value in row]
        largest = max(scaled)
        total += largest + math.log(sum(math.exp(value - largest) for value in scaled))
        total -= scaled[LABELS.index(truth)]
    return total


@pytest.mark.parametrize("seed", range(4))
def test_the_temperature_is_that_of_a_brute_force_search(seed: int) -> None:
    logits, truths = answers(seed)
    grid = np.geomspace(*TEMPERATURES, 600)
    best = min(grid, key=lambda one: plain_loss(logits, truths, one))
    found = calibrate(logits, truths, LABELS)
    assert found.reason is None
    assert found.temperature == pytest.approx(best, rel=0.006)
    assert plain_loss(logits, truths, found.temperature) <= plain_loss(logits, truths, best) + 1e-6
    assert 1 < found.temperature < 10


@pytest.mark.parametrize(("scale", "expected"), [(0.1, 0.5), (400.0, 10.0)])
def test_it_stays_within_its_bounds(scale: float, expected: float) -> None:
    logits, truths = answers(0, scale=scale)
    assert calibrate(logits, truths, LABELS).temperature == pytest.approx(expected, rel=1e-3)


@pytest.mark.parametrize(
    ("clips", "fit", "right", "reason"),
    [
        (LEAST_CLIPS - 1, True, False, f"{LEAST_CLIPS - 1} clips are too few, 30 are needed"),
        (LEAST_CLIPS, True, True, "without one wrong answer nothing tells how sure it may be"),
        (LEAST_CLIPS, False, False, "it was not asked for"),
    ],
)
def test_where_nothing_can_be_fitted_it_stays_one_and_says_why(
    clips: int, fit: bool, right: bool, reason: str
) -> None:
    logits, truths = answers(1, clips)
    if right:
        truths = [LABELS[row.argmax()] for row in logits]
    found = calibrate(logits, truths, LABELS, fit=fit)
    assert found.temperature == 1.0
    assert found.error_after == found.error_before
    assert found.reason is not None
    assert found.reason.split(",")[0].split(" how")[0] == reason.split(",")[0].split(" how")[0]


@hypothesis.given(
    rate=strategies.floats(0, 1, exclude_max=True),
    clips=strategies.integers(1, 80),
    seed=strategies.integers(0, 99),
)
@hypothesis.settings(max_examples=80, deadline=None)
def test_as_many_as_chosen_are_called_unknown_and_no_more(
    rate: float, clips: int, seed: int
) -> None:
    logits, truths = answers(seed, clips)
    found = calibrate(logits, truths, LABELS, unknown_rate=rate)
    assert found.unknown_threshold is not None
    scores = softmax((logits / found.temperature).astype(np.float32)).max(axis=1)
    called = int((scores < found.unknown_threshold).sum())
    assert called <= rate * clips
    ranked = sorted(scores)
    if min(np.diff(ranked, prepend=0.0)) > 1e-6:  # no two clips are equally sure
        assert called == int(rate * clips)
        # what a form within its float32 budget makes of the same clips is counted alike
        first_known = ranked[called]
        room = min(1e-4, (first_known - (ranked[called - 1] if called else 0.0)) / 2)
        assert found.unknown_threshold == pytest.approx(first_known - room, abs=1e-7)
    assert found.unknown_false_positive_rate == pytest.approx(called / clips)


def test_of_clips_that_are_equally_sure_all_are_known_or_none() -> None:
    logits = np.log(np.array([[0.5, 0.3, 0.2]] * 3 + [[0.8, 0.1, 0.1]] * 7)).astype(np.float32)
    found = calibrate(logits, ["bend"] * 10, LABELS, unknown_rate=0.1)
    assert found.unknown_threshold is not None
    assert found.unknown_threshold < 0.49999
    assert found.unknown_false_positive_rate == 0
    found = calibrate(logits, ["bend"] * 10, LABELS, unknown_rate=0.35)
    assert found.unknown_threshold is not None
    assert 0.5001 < found.unknown_threshold < 0.8
    assert found.unknown_false_positive_rate == pytest.approx(0.3)


def test_no_threshold_without_a_rate_or_where_unknown_is_a_label_of_its_own() -> None:
    logits, truths = answers(0)
    assert calibrate(logits, truths, LABELS).unknown_threshold is None
    found = calibrate(logits, truths, (*LABELS[:2], "wave"), unknown_rate=0.1)
    assert found.unknown_threshold is not None
    own = [truth.replace("wave", "unknown") for truth in truths]
    found = calibrate(logits, own, (*LABELS[:2], "unknown"), unknown_rate=0.1)
    assert (found.unknown_threshold, found.unknown_false_positive_rate) == (None, None)


def test_calibration_error_of_a_small_table() -> None:
    probabilities = np.array([[0.9, 0.1], [0.95, 0.05], [0.65, 0.35], [0.6, 0.4]])
    targets = np.array([0, 1, 1, 0])
    # bin 9: right 1 of 2 at 0.925; bin 6: right 1 of 2 at 0.625
    assert calibration_error(probabilities, targets) == pytest.approx(
        0.5 * (0.925 - 0.5) + 0.5 * (0.625 - 0.5)
    )
    assert calibration_error(np.array([[1.0, 0.0]]), np.array([0])) == 0
