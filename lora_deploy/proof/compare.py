"""Two forms' answers on the same clips: agreement, flips, differences, divergence, class by class."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from lora_deploy.artifact.bundle import Precision
from lora_deploy.proof.certificate import Budget, ClassDifference, Flip, Link
from lora_deploy.runtime.base import softmax

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
        unknown_threshold: Below which users are told no label; None tells one of each clip.
    """
    probabilities, others = softmax(one / temperature), softmax(other / temperature)
    named, other_named = probabilities.argmax(axis=1), others.argmax(axis=1)
    differences = np.abs(probabilities - others)  # [clips, labels]
    divergences = kl_divergence(probabilities, others)  # [clips]
    flips = tuple(
        Flip(
            clip=clips[row][0],
            truth=clips[row][1],
            labels=(labels[named[row]], labels[other_named[row]]),
            margin=float(probabilities[row, named[row]] - probabilities[row, other_named[row]]),
        )
        for row in map(int, np.flatnonzero(named != other_named))
    )
    unknown, other_unknown = (_unknown(one, unknown_threshold) for one in (probabilities, others))
    changes = int((unknown != other_unknown).sum())
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
        unknown_changes=changes,
        per_class=_per_class(named == other_named, differences, [label for _, label in clips]),
        budget=budget,
        # each written so that NaN does not pass; minus infinity makes a probability of 0, and does
        passed=bool(np.isfinite(one).all() and np.isfinite(other).all())
        and agreement >= budget.agreement
        and largest <= budget.largest_difference
        and mean_kl <= budget.mean_kl
        and changes <= _changes_allowed(budget, unknown),
    )


def _changes_allowed(budget: Budget, unknown: NDArray[np.bool_]) -> float:
    """How many clips may turn from known to unknown or back: those that may flip, or as many as
    are unknown by choice, since the threshold lies among the scores. In float32 none."""
    if budget.agreement == 1:
        return 0
    return max((1 - budget.agreement) * len(unknown), float(unknown.sum()))


def _unknown(
    probabilities: NDArray[np.float64], unknown_threshold: float | None
) -> NDArray[np.bool_]:
    """Which clips users are told no label of, [clips]."""
    if unknown_threshold is None:
        return np.zeros(len(probabilities), np.bool_)
    result: NDArray[np.bool_] = ~(probabilities.max(axis=1) >= unknown_threshold)
    return result


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
