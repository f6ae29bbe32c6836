"""Two forms' answers on the same clips: agreement, flips, differences, divergence, class by class."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from lora_deploy.artifact.bundle import Precision
from lora_deploy.proof.certificate import Budget, ClassDifference, Flip, Link
from lora_deploy.runtime.base import UNKNOWN, softmax

_LEAST_PROBABILITY = 1e-12
"""Smaller ones are raised to it in a divergence, which would be infinite at 0."""


def compare(
    forms: tuple[str, str],
    one: NDArray[np.float32],
    other: NDArray[np.float32],
    *,
    labels: Sequence[str],
    clips: Sequence[tuple[str, str]],
    precision: Precision,
    budget: Budget,
    temperature: float = 1.0,
    unknown_threshold: float | None = None,
) -> Link:
    """Hold the second form's answers against the first's.

    Args:
        forms: Their names.
        one: Logits [clips, labels] of the first.
        other: Of the second, columns in the same order.
        labels: In the order of the columns.
        clips: Name and true label of each clip.
        precision: Of the second form.
        budget: What it may differ by.
        temperature: That users' probabilities are made with.
        unknown_threshold: Below which users are told no label; then that is what must agree.
    """
    probabilities, others = softmax(one / temperature), softmax(other / temperature)
    named = _told(probabilities, labels, unknown_threshold)
    other_named = _told(others, labels, unknown_threshold)
    differs = [first != second for first, second in zip(named, other_named, strict=True)]
    differences = np.abs(probabilities - others)  # [clips, labels]
    divergences = kl_divergence(probabilities, others)  # [clips]
    flips = tuple(
        Flip(
            clip=clips[row][0],
            truth=clips[row][1],
            labels=(named[row], other_named[row]),
            margin=_margin(probabilities[row], others[row], unknown_threshold),
        )
        for row in map(int, np.flatnonzero(differs))
    )
    agreement = 1 - len(flips) / len(clips)
    largest = float(differences.max())
    mean_kl = float(divergences.mean())
    return Link(
        forms=forms,
        precision=precision,
        agreement=agreement,
        flips=flips,
        largest_logit_difference=_largest_logit_difference(one, other),
        largest_probability_difference=largest,
        mean_probability_difference=float(differences.mean()),
        mean_kl=mean_kl,
        largest_kl=float(divergences.max()),
        per_class=_per_class(~np.array(differs), differences, [label for _, label in clips]),
        budget=budget,
        # each written so that NaN does not pass; minus infinity makes a probability of 0, and does
        passed=bool(np.isfinite(one).all() and np.isfinite(other).all())
        and agreement >= budget.agreement
        and largest <= budget.largest_difference
        and mean_kl <= budget.mean_kl,
    )


def _told(
    probabilities: NDArray[np.float64], labels: Sequence[str], unknown_threshold: float | None
) -> list[str]:
    """What users are told of each clip."""
    return [
        UNKNOWN
        if unknown_threshold is not None and not row.max() >= unknown_threshold
        else labels[int(row.argmax())]
        for row in probabilities
    ]


def _margin(
    one: NDArray[np.float64], other: NDArray[np.float64], unknown_threshold: float | None
) -> float:
    """By how much the first form preferred what it says, in probability."""
    best, second = int(one.argmax()), int(other.argmax())
    if best == second and unknown_threshold is not None:  # one of them says unknown
        return abs(float(one[best]) - unknown_threshold)
    return float(one[best] - one[second])


def _largest_logit_difference(one: NDArray[np.float32], other: NDArray[np.float32]) -> float:
    """Over clips and labels, but for a constant of each clip: no probability depends on it.

    A graph that gives probabilities has lost it.
    """
    with np.errstate(invalid="ignore"):  # infinity less infinity is no number, and is told as such
        differences = one.astype(np.float64) - other
        middle = (differences.max(axis=1) + differences.min(axis=1)) / 2
        return float(np.abs(differences - middle[:, None]).max())


def _per_class(
    same: NDArray[np.bool_], differences: NDArray[np.float64], truths: Sequence[str]
) -> tuple[ClassDifference, ...]:
    found = []
    for label in sorted(set(truths)):
        rows = np.array([truth == label for truth in truths])
        found.append(
            ClassDifference(
                label=label,
                clips=int(rows.sum()),
                agreement=float(same[rows].mean()),
                largest_difference=float(differences[rows].max()),
                mean_difference=float(differences[rows].mean()),
            )
        )
    return tuple(found)


def kl_divergence(
    probabilities: NDArray[np.float64], others: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Kullback-Leibler divergence of ``others`` from ``probabilities``, in nats; at least 0.

    Kullback and Leibler, "On information and sufficiency", 1951.

    Args:
        probabilities: [clips, labels], rows that sum to 1; what is taken for true.
        others: The same shape.

    Returns:
        [clips].
    """
    p = np.maximum(probabilities, _LEAST_PROBABILITY)
    q = np.maximum(others, _LEAST_PROBABILITY)
    result: NDArray[np.float64] = np.maximum((p * np.log(p / q)).sum(axis=1), 0.0)
    # A maximum with NaN is NaN, and NaN is within no budget.
    return result
