"""Scores that mean what they say: a temperature fitted on labelled clips, and where "unknown" begins."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from lora_deploy.evaluate import calibration
from lora_deploy.proof.certificate import Calibration
from lora_deploy.runtime.base import UNKNOWN, softmax

LEAST_CLIPS = 30
"""Fewer say too little of how sure a model may be."""

TEMPERATURES = (0.5, 10.0)
"""What a fit may give: a trained network is too sure far more often than not sure enough."""

_ROOM = 1e-4
"""In probability: what float32 forms may differ by."""


def calibrate(
    logits: NDArray[np.float32],
    truths: Sequence[str],
    labels: Sequence[str],
    *,
    fit: bool = True,
    unknown_rate: float | None = None,
) -> Calibration:
    """Fit the temperature on labelled clips, then place the threshold below which is "unknown".

    Guo et al., "On calibration of modern neural networks", 2017.

    Args:
        logits: [clips, labels] of the trained model, on clips that it did not learn from.
        truths: Their true labels.
        labels: In the order of the columns.
        fit: False leaves the temperature at 1.
        unknown_rate: Part of these clips, all of known labels, that may be called unknown; None
            calls none so.
    """
    targets = np.array([list(labels).index(truth) for truth in truths])
    reason = _why_not(logits, targets) if fit else "it was not asked for"
    temperature = _fitted(logits, targets) if reason is None else 1.0
    before = calibration_error(softmax(logits), targets)
    after = calibration_error(softmax(logits / temperature), targets)
    if after > before:
        reason = (
            f"fitted to {temperature:g}, scores were off by {after:.1%} and not by {before:.1%}"
        )
        temperature, after = 1.0, before
    probabilities = softmax(logits / temperature)
    threshold = None
    if unknown_rate is not None and UNKNOWN not in labels:
        threshold = _threshold(np.sort(probabilities.max(axis=1)), unknown_rate)
    return Calibration(
        temperature=temperature,
        clips=len(targets),
        error_before=before,
        error_after=after,
        reason=reason,
        unknown_threshold=threshold,
        unknown_false_positive_rate=None
        if threshold is None
        else float((probabilities.max(axis=1) < threshold).mean()),
    )


def _threshold(scores: NDArray[np.float64], rate: float) -> float:
    """A score below which at most that part of the clips lies, and no clip right at it.

    Else the clip that it was read off would be unknown to every runtime that rounds it down.

    Args:
        scores: [clips], rising.
        rate: Below 1.
    """
    first_known = scores[int(rate * len(scores))]
    below = scores[scores < first_known].max(initial=0.0)  # of equal scores all are known
    return float(first_known - min(_ROOM, (first_known - below) / 2))


def _why_not(logits: NDArray[np.float32], targets: NDArray[np.int64]) -> str | None:
    if len(targets) < LEAST_CLIPS:
        return f"{len(targets)} clips are too few, {LEAST_CLIPS} are needed"
    if (logits.argmax(axis=1) == targets).all():
        return "without one wrong answer nothing tells how sure the model may be"
    return None


def _fitted(logits: NDArray[np.float32], targets: NDArray[np.int64]) -> float:
    """The temperature of the least negative log likelihood: convex in its inverse, so searched.

    Golden section over the logarithm of the temperature, to 1e-4.
    """
    low, high = map(float, np.log(TEMPERATURES))
    golden = (np.sqrt(5.0) - 1) / 2
    while high - low > 1e-4:
        one, other = high - golden * (high - low), low + golden * (high - low)
        if _likelihood_loss(logits, targets, np.exp(one)) < _likelihood_loss(
            logits, targets, np.exp(other)
        ):
            high = other
        else:
            low = one
    return round(float(np.exp((low + high) / 2)), 4)


def _likelihood_loss(
    logits: NDArray[np.float32], targets: NDArray[np.int64], temperature: float
) -> float:
    """Mean negative log likelihood of the true labels, in nats."""
    scaled = logits.astype(np.float64) / temperature
    largest = scaled.max(axis=1, keepdims=True)
    log_sum = largest[:, 0] + np.log(np.exp(scaled - largest).sum(axis=1))
    return float((log_sum - scaled[np.arange(len(targets)), targets]).mean())


def calibration_error(probabilities: NDArray[np.float64], targets: NDArray[np.int64]) -> float:
    """Expected calibration error, 0 to 1, as `lora_deploy.evaluate` has it.

    Args:
        probabilities: [clips, labels].
        targets: Columns of the true labels, [clips].
    """
    right = probabilities.argmax(axis=1) == targets
    return calibration.calibration_error(
        probabilities.max(axis=1).tolist(), [bool(one) for one in right]
    )
